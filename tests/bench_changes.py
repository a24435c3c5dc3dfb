"""What changes cost: ``python -m tests.bench_changes``. Needs root.

Whole commands (one more port, nothing to do, with the record and without it) beside ``python3 -c
pass``, changes in process with 10 to 50,000 ports, and memory. Everything is interleaved; medians
are quoted with their spread. `figures` gives the table, `imports` the summary of ``-X importtime``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nftbridge import config, session
from nftbridge.choice import Target
from nftbridge.model import Publication
from nftbridge.model.changes import Publish, Withdraw
from nftbridge.session import Session
from tests.bench import (
    NFTBRIDGE,
    PYTHON,
    Figure,
    Run,
    host_file,
    interleaved,
    namespace,
    timed,
)

ONE_MORE = Publication(79, 9999)
SIZES = ((1, 10), (1, 10_000), (1, 50_000), (1000, 10_000))
"""Networks and ports of the hosts that a port is added to in process."""

MEMORY_PORTS = 50_000


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace, a folder with host files, and a record."""

    netns: str
    folder: Path

    @property
    def options(self) -> list[str]:
        """The command's options for it."""
        return ["--netns", self.netns, "--state-dir", str(self.folder / "state")]

    def apply(self, name: str) -> Run:
        """The whole command on one of the files."""
        return timed([*NFTBRIDGE, "apply", str(self.folder / name), *self.options])

    def forget(self) -> None:
        """Throw the record away."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)


def figures(repetitions: int) -> list[Figure]:
    """The whole table."""
    return [*commands(repetitions), *in_process(repetitions), *memory()]


def commands(repetitions: int) -> list[Figure]:
    """Whole commands on a host with 1,000 networks and 10,000 ports."""
    with TemporaryDirectory(dir="/dev/shm") as folder, namespace(_name(0)) as netns:
        place = Place(netns, Path(folder))
        text = host_file(1000, 10_000)
        (place.folder / "host.toml").write_text(text)
        more = text.replace('publish = ["', f'publish = ["{ONE_MORE.host_port}:79", "', 1)
        (place.folder / "more.toml").write_text(more)
        place.apply("host.toml")

        def cold() -> Run:
            place.forget()
            return place.apply("more.toml")

        names = (
            "nothing to do, 10,000 ports",
            "one more port on 10,000",
            "nothing to do, after that",
            "one port less",
            "one more port, no record of the last apply",
            "python3 -c pass",
        )
        runs = interleaved(
            repetitions,
            lambda: place.apply("host.toml"),
            lambda: place.apply("more.toml"),
            lambda: place.apply("more.toml"),
            lambda: place.apply("host.toml"),
            cold,
            lambda: _before(place, timed([PYTHON, "-c", "pass"])),
        )
    wanted: tuple[float | None, ...] = (100, 150, 100, 150, None, None)
    return [
        _milliseconds(f"apply: {name}" if "python3" not in name else name, its, target)
        for name, its, target in zip(
            names, [[r.seconds for r in run] for run in runs], wanted, strict=True
        )
    ]


def _before(place: Place, run: Run) -> Run:
    """Put things back for the next round."""
    place.apply("host.toml")
    return run


def in_process(repetitions: int) -> list[Figure]:
    """A port more and a port less in a session, round-robin over hosts of all sizes."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(_opened(i, *size)) for i, size in enumerate(SIZES)]
        rounds = [[_changed(s) for s in sessions] for _ in range(repetitions * 20 + 5)][5:]
    columns = [list(column) for column in zip(*rounds, strict=True)]
    found: list[Figure] = []
    for (networks, ports), pairs in zip(SIZES, columns, strict=True):
        size = f"{networks:,} networks, {ports:,} ports"
        for what, place in (("more", 0), ("less", 1)):
            seconds = [pair[place] for pair in pairs]
            found.append(_milliseconds(f"session: one port {what}, {size}", seconds, 2))
    smallest, largest = columns[0], columns[2]
    ratios = [sum(b) / sum(a) for a, b in zip(smallest, largest, strict=True)]
    found.append(
        Figure(
            "session: 50,000 ports over 10",
            statistics.median(ratios),
            "times",
            _spread(ratios),
            1.5,
        )
    )
    return found


@contextmanager
def _opened(number: int, networks: int, ports: int) -> Generator[Session]:
    """A session in a namespace of its own, with that host applied."""
    with TemporaryDirectory(dir="/dev/shm") as folder, namespace(_name(number)) as netns:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(networks, ports))
        target = Target(netns=netns, state_directory=Path(folder) / "state")
        with session.open(target, "nftables") as opened:
            opened.apply(config.load(str(file)).host)
            yield opened


def _changed(opened: Session) -> tuple[float, float]:
    times = [time.perf_counter()]
    for change in (Publish("net0", "c0", ONE_MORE), Withdraw("net0", "c0", ONE_MORE)):
        opened.change(change)
        times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


def memory() -> list[Figure]:
    """Peak of an apply of 50,000 ports in a process that stays, and what it keeps."""
    program = [PYTHON, "-m", "tests.bench_changes", "--memory"]
    with namespace(_name(0)) as netns:
        command = ["nsenter", f"--net=/run/netns/{netns}", *program]
        answer = subprocess.run(command, capture_output=True, check=True).stdout
    peak, after, changing = json.loads(answer)
    what = f"{MEMORY_PORTS:,} ports in a session"
    return [
        Figure(f"peak memory, {what}", peak, "MB", "", 300),
        Figure(f"memory after the apply, {what}", after, "MB", "", 60),
        Figure(f"memory after a change, {what}", changing, "MB", ""),
    ]


def _memory_used() -> list[float]:
    """Peak, after an apply, after a change; in MB, of this process."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        file = Path(folder) / "host.toml"
        file.write_text(host_file(1, MEMORY_PORTS))
        with session.open(Target(state_directory=Path(folder) / "state"), "nftables") as opened:
            opened.apply(config.load(str(file)).host)
            after = _resident()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
            opened.change(Publish("net0", "c0", ONE_MORE))
            return [peak, after, _resident()]


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def imports(limit: int = 12) -> list[str]:
    """The modules that take longest to import for an apply with nothing to do, themselves only."""
    with TemporaryDirectory() as folder, namespace(_name(0)) as netns:
        place = Place(netns, Path(folder))
        (place.folder / "host.toml").write_text(host_file(1, 10))
        place.apply("host.toml")
        command = [*NFTBRIDGE, "apply", str(place.folder / "host.toml"), *place.options]
        command[1:1] = ["-X", "importtime"]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"^import time:\s*(\d+) \|\s*\d+ \| +(\S+)$", log, re.MULTILINE)
    times = sorted(((int(own), name) for own, name in found), reverse=True)
    total = sum(own for own, _ in times)
    shown = [f"{own / 1000:6.1f} ms  {name}" for own, name in times[:limit]]
    return [f"{total / 1000:6.1f} ms  {len(times)} modules", *shown]


def _milliseconds(name: str, seconds: list[float], target: float | None) -> Figure:
    values = [1000 * s for s in seconds]
    return Figure(name, statistics.median(values), "ms", _spread(values), target)


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def _name(number: int) -> str:
    return f"nftb-changes-{os.getpid()}-{number}"


def _main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="only that, as JSON, here")
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(_memory_used()))
        return 0
    print("| what | median | from, to | wanted | reached |\n|---|---|---|---|---|")
    for figure in figures(options.repetitions):
        print(figure.row())
    print("\nimports of an apply with nothing to do:", *imports(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
