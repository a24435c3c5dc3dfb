"""What the benchmark ran on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from tests.bench.running import output


def machine() -> dict[str, str]:
    """Processor, kernel, versions, date."""
    return {
        "CPUs": f"{os.cpu_count()} ({_processor()})",
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "nft": output(["nft", "--version"]).split()[1],
        "iptables": output(["iptables-legacy", "--version"]).split()[1],
        "on": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
