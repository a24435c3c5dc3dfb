"""The benchmark: ``./run bench``. Ratios within one run, medians over interleaved repetitions.

It prints a table and judges nothing by absolute time, since machines differ and drift. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

PYTHON = sys.executable
NFTBRIDGE = [PYTHON, "-m", "nftbridge"]


@dataclass(frozen=True, slots=True)
class Run:
    """One whole command: seconds of wall time, peak resident memory in MB."""

    seconds: float
    peak: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result; `target` is the largest value that the project wants."""

    name: str
    value: float
    unit: str
    spread: str
    target: float | None = None

    def row(self) -> str:
        """As a line of a Markdown table."""
        wanted = "" if self.target is None else f"at most {self.target:g}"
        verdict = "" if self.target is None else ("yes" if self.value <= self.target else "**no**")
        cells = (self.name, f"{self.value:.2f} {self.unit}", self.spread, wanted, verdict)
        return f"| {' | '.join(cells)} |"


def host_file(networks: int, ports: int) -> str:
    """A dual-stack host in TOML: `ports` publications, over two containers a network."""
    lines = ["version = 1"]
    each = ports // networks // 2
    for i in range(networks):
        lines += [
            "[[network]]",
            f'name = "net{i}"',
            f'bridge = "br-{i}"',
            f'subnets = ["10.{i >> 8}.{i & 255}.0/24", "fd00:{i:x}::/64"]',
        ]
        for j in range(2):
            first = 10000 + (2 * i + j) * each
            publish = ", ".join(f'"{first + k}:{80 + k}"' for k in range(each))
            lines += [
                "[[network.container]]",
                f'name = "c{j}"',
                f'ipv4 = "10.{i >> 8}.{i & 255}.{j + 2}"',
                f'ipv6 = "fd00:{i:x}::{j + 2}"',
                f"publish = [{publish}]",
            ]
    return "\n".join(lines) + "\n"


def timed(command: list[str]) -> Run:
    """Run a command to its end; its output is thrown away, its failure is ours."""
    start = time.perf_counter()
    with open(os.devnull, "wb") as sink:
        process = subprocess.Popen(command, stdout=sink)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode != 0:
        raise SystemExit(f"failed with {process.returncode}: {' '.join(command)}")
    return Run(seconds, usage.ru_maxrss * 1024 / 1e6)


@contextmanager
def namespace(name: str) -> Generator[str]:
    """An empty network namespace."""
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def interleaved(repetitions: int, *contenders: Callable[[], Run]) -> list[list[Run]]:
    """Each contender in turn, `repetitions` times, after a first round that does not count."""
    rounds = [[contender() for contender in contenders] for _ in range(repetitions + 1)]
    return [list(runs) for runs in zip(*rounds[1:], strict=True)]


def ratio(name: str, ours: list[Run], theirs: list[Run], target: float) -> Figure:
    """The median of the ratios of runs that stood side by side."""
    pairs = [a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)]
    return Figure(name, statistics.median(pairs), "times", _spread(pairs), target)


def big_apply(folder: Path, repetitions: int, networks: int, ports: int) -> list[Figure]:
    """`apply` on an empty kernel beside `nft -j -f` of the same document."""
    size = f"{networks:,} networks, {ports:,} ports"
    host, document = folder / "host.toml", folder / "document.json"
    host.write_text(host_file(networks, ports))
    with document.open("w") as file:
        subprocess.run([*NFTBRIDGE, "render", str(host)], stdout=file, check=True)
    name, state = f"nftb-bench-{os.getpid()}", folder / "state"

    def nft() -> Run:
        with namespace(name):
            return timed(["nsenter", f"--net=/run/netns/{name}", "nft", "-j", "-f", str(document)])

    def apply() -> Run:
        shutil.rmtree(state, ignore_errors=True)
        target = ["--netns", name, "--state-dir", str(state)]
        with namespace(name):
            return timed([*NFTBRIDGE, "apply", str(host), *target])

    ours, theirs = interleaved(repetitions, apply, nft)
    peaks = [run.peak for run in ours]
    return [
        ratio(f"apply of {size}, over nft -j -f of the document", ours, theirs, 2.5),
        _seconds(f"apply of {size}", ours),
        _seconds("nft -j -f of the document", theirs),
        Figure(f"peak memory of that apply ({size})", max(peaks), "MB", _spread(peaks), 250),
    ]


def small_check(folder: Path, repetitions: int) -> list[Figure]:
    """A bare `check` beside the interpreter's own start."""
    host = folder / "small.toml"
    host.write_text(host_file(2, 8))
    checks, starts = interleaved(
        repetitions * 4,
        lambda: timed([*NFTBRIDGE, "check", str(host)]),
        lambda: timed([PYTHON, "-c", "pass"]),
    )
    over = [(a.seconds - b.seconds) * 1000 for a, b in zip(checks, starts, strict=True)]
    figure = Figure(
        "check of a small file, over the interpreter's start",
        statistics.median(over),
        "ms",
        _spread(over),
        100,
    )
    return [figure, _seconds("python3 -c pass", starts)]


def _seconds(name: str, runs: list[Run]) -> Figure:
    seconds = [run.seconds for run in runs]
    return Figure(name, statistics.median(seconds), "s", _spread(seconds))


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _machine() -> dict[str, str]:
    version = subprocess.run(["nft", "--version"], capture_output=True, text=True, check=True)
    return {
        "kernel": platform.release(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
        "nft": version.stdout.split()[1],
    }


def _main() -> int:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--networks", type=int, default=1000)
    parser.add_argument("--ports", type=int, default=10000)
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("needs root: it applies rules in network namespaces of its own")
    with TemporaryDirectory() as folder:
        figures = small_check(Path(folder), options.repetitions)
        figures += big_apply(Path(folder), options.repetitions, options.networks, options.ports)
    if options.json:
        report = {"machine": _machine(), "figures": [asdict(figure) for figure in figures]}
        print(json.dumps(report, indent=2))
        return 0
    print(", ".join(f"{key} {value}" for key, value in _machine().items()))
    print(f"medians of {options.repetitions} interleaved repetitions\n")
    print("| what | median | from, to | wanted | reached |\n|---|---|---|---|---|")
    for figure in figures:
        print(figure.row())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
