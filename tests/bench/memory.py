"""What a session needs that applies one host file: ``python -m tests.bench.memory FILE STATE``.

A process of its own, with nothing of the benchmark in it: its modules would be counted too.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from nftbridge import config, session
from nftbridge.choice import Target


def used(file: str, state: str) -> tuple[float, float]:
    """Largest so far, and after the apply; in MB, of this process."""
    with session.open(Target(state_directory=Path(state)), "nftables") as opened:
        opened.apply(config.load(file).host)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return peak / 1e6, pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    print(json.dumps(used(*sys.argv[1:])))
