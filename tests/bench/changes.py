"""The part `changes`: one port more or less, as a whole command and in process; memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from nftbridge import config, session
from nftbridge.choice import Target
from nftbridge.model import Publication
from nftbridge.model.changes import Publish, Withdraw
from nftbridge.session import Session
from tests.bench.figures import Series, Size
from tests.bench.hosts import dual_stack
from tests.bench.layouts import NFTABLES
from tests.bench.running import NFTBRIDGE, PREFIX, PYTHON, interleaved, namespace, output, timed

COMMANDS = (Size(1, 10_000), Size(1000, 10_000))
"""The hosts that whole commands are run on."""

SESSIONS = (Size(1, 10), Size(1, 10_000), Size(1, 50_000), Size(1000, 10_000))
"""The hosts that a port is added to in process."""

LARGEST = Size(1, 50_000)
"""The host whose memory is measured."""

_ONE_MORE = Publication(79, 9999)
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - as /run is: what a disk adds is not ours


def run(rounds: int) -> list[Series]:
    """All of it."""
    return [
        *(series for size in COMMANDS for series in _commands(rounds, size)),
        *_in_process(rounds * 20),
        *_memory(),
    ]


@dataclass(frozen=True, slots=True)
class _Place:
    """A network namespace, a folder with host files, and a record."""

    netns: str
    folder: Path

    @property
    def options(self) -> list[str]:
        return ["--netns", self.netns, "--state-dir", str(self.folder / "state")]

    def apply(self, name: str) -> float:
        """Milliseconds that the whole command takes on one of the files."""
        return timed([*NFTBRIDGE, "apply", str(self.folder / name), *self.options]).seconds * 1000

    def apply_cold(self, name: str) -> float:
        """The same without a record of the last apply."""
        shutil.rmtree(self.folder / "state")
        return self.apply(name)


def _commands(rounds: int, size: Size) -> list[Series]:
    with _place() as place:
        text = dual_stack(size.networks, size.ports)
        (place.folder / "host.toml").write_text(text)
        more = text.replace('publish = ["', f'publish = ["{_ONE_MORE.host_port}:79", "', 1)
        (place.folder / "more.toml").write_text(more)
        place.apply("host.toml")
        runs = interleaved(
            rounds,
            [
                partial(place.apply, "host.toml"),
                partial(place.apply, "more.toml"),
                partial(place.apply_cold, "host.toml"),
            ],
        )
    topics = ("nothing", "one-more", "one-less-cold")
    return [
        Series(topic, NFTABLES.name, size, tuple(values))
        for topic, values in zip(topics, runs, strict=True)
    ]


def _in_process(rounds: int) -> list[Series]:
    """A port more and a port less in a session, round-robin over hosts of all sizes."""
    with ExitStack() as stack:
        sessions = [stack.enter_context(_opened(size)) for size in SESSIONS]
        for opened in sessions:
            _changed(opened)  # makes the index of the host
        runs = interleaved(rounds, [partial(_changed, opened) for opened in sessions])
    return [
        Series("session", NFTABLES.name, size, tuple(values))
        for size, values in zip(SESSIONS, runs, strict=True)
    ]


def _changed(opened: Session) -> float:
    """Milliseconds for one of the two changes."""
    started = time.perf_counter()
    opened.change(Publish("net0", "c0", _ONE_MORE))
    opened.change(Withdraw("net0", "c0", _ONE_MORE))
    return (time.perf_counter() - started) * 1000 / 2


@contextmanager
def _opened(size: Size) -> Generator[Session]:
    """A session in a namespace of its own, with that host applied."""
    with _place() as place:
        file = place.folder / "host.toml"
        file.write_text(dual_stack(size.networks, size.ports))
        target = Target(netns=place.netns, state_directory=place.folder / "state")
        with session.open(target, "nftables") as opened:
            opened.apply(config.load(str(file)).host)
            yield opened


def _memory() -> list[Series]:
    """The largest memory of a session that applies, and what it keeps."""
    with _place() as place:
        file = place.folder / "host.toml"
        file.write_text(dual_stack(LARGEST.networks, LARGEST.ports))
        command = (PYTHON, "-m", "tests.bench.memory", file, place.folder / "state")
        answer = output(["nsenter", f"--net=/run/netns/{place.netns}", *map(str, command)])
    peak, after = json.loads(answer)
    return [
        Series("session-peak", NFTABLES.name, LARGEST, (peak,)),
        Series("session-rest", NFTABLES.name, LARGEST, (after,)),
    ]


def imports(limit: int = 12) -> list[str]:
    """What an apply with nothing to do imports: the modules that take longest by themselves."""
    with _place() as place:
        (place.folder / "host.toml").write_text(dual_stack(1, 10))
        place.apply("host.toml")
        command = [*NFTBRIDGE, "apply", str(place.folder / "host.toml"), *place.options]
        command[1:1] = ["-X", "importtime"]
        log = output(["sh", "-c", 'exec "$@" 2>&1', "sh", *command])
    found = re.findall(r"^import time:\s*(\d+) \|\s*\d+ \| +(\S+)$", log, re.MULTILINE)
    times = sorted(((int(own), name) for own, name in found), reverse=True)
    total = sum(own for own, _ in times) / 1000
    shown = [f"{own / 1000:6.1f} ms  {name}" for own, name in times[:limit]]
    return [f"{total:6.1f} ms  all {len(times)} modules of an apply with nothing to do", *shown]


@contextmanager
def _place() -> Generator[_Place]:
    name = f"{PREFIX}-changes-{os.getpid()}-{time.monotonic_ns() % 10**6}"
    with TemporaryDirectory(dir=_IN_MEMORY) as folder, namespace(name):
        switches = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        output(["nsenter", f"--net=/run/netns/{name}", "sysctl", "-qw", *switches])
        yield _Place(name, Path(folder))
