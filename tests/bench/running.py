"""Whole commands and their time; network namespaces of this run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

T = TypeVar("T")

CACHE = Path(__file__).parents[2] / ".cache"
"""What may be kept from run to run."""

PYTHON = sys.executable
NFTBRIDGE = (PYTHON, "-m", "nftbridge")
PREFIX = f"nftb-bench-{os.getpid()}"
"""How everything is named that this run makes on the machine."""


class BenchError(Exception):
    """The benchmark cannot go on; says why in one line."""


@dataclass(frozen=True, slots=True)
class Run:
    """One whole command: seconds of wall time, peak resident memory in MB."""

    seconds: float
    peak: float


def timed(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    env: dict[str, str] | None = None,
) -> Run:
    """Run a command to its end, without its output. Raises `BenchError` if it fails."""
    with TemporaryFile("w+") as said:  # CNI plugins complain on standard output
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=env,
            text=True,
        )
        if process.stdin is not None:
            process.stdin.write(stdin or "")
            process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise BenchError(_failure(command, said.read()))
    return Run(seconds, usage.ru_maxrss * 1024 / 1e6)


def output(command: Sequence[str], *, stdin: str | None = None) -> str:
    """What a command prints. Raises `BenchError` if it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(_failure(command, done.stderr))
    return done.stdout


def _failure(command: Sequence[str], said: str) -> str:
    """One of a thousand arguments may be too many to show."""
    return f"{' '.join(command)[:300]} failed: {said.strip()[-600:]}"


@contextmanager
def namespace(name: str) -> Generator[str]:
    """An empty network namespace, with its loopback up."""
    output(["ip", "netns", "add", name])
    try:
        output(["ip", "-n", name, "link", "set", "lo", "up"])
        yield name
    finally:
        output(["ip", "netns", "delete", name])


def interleaved(rounds: int, contenders: Sequence[Callable[[], T]]) -> list[list[T]]:
    """For each contender the results of `rounds` rounds; each round begins with another one.

    A first round does not count: it fills caches.
    """
    results: list[list[T]] = [[] for _ in contenders]
    for number in range(rounds + 1):
        for place in range(len(contenders)):
            which = (place + number) % len(contenders)
            result = contenders[which]()
            if number:
                results[which].append(result)
    return results


def sweep() -> None:
    """Remove the namespaces of runs that were killed before they could."""
    for name in output(["ip", "netns", "list"]).split():
        found = re.match(r"nftb-bench-(\d+)-", name)
        if found and not Path("/proc", found[1]).exists():
            output(["ip", "netns", "delete", name])


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
