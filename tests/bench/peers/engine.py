"""The part `peers-docker`: one Docker Engine under its own firewall, and one under nftbridge.

Both start the same containers by the same requests. What counts is when a client outside the host
is answered, not when Docker believes that it would be. Without the userland proxy, which is a
process for each port and answers before there is any rule.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from nftbridge.netns import inside
from tests.bench import packets
from tests.bench.figures import Series, Size
from tests.bench.hosts import Hosting
from tests.bench.packets import NAMES
from tests.bench.peers.box import IPTABLES, Box
from tests.bench.peers.docker import Docker, docker
from tests.bench.running import NFTBRIDGE, BenchError, say
from tests.bench.traffic import Way

PORTS = (1, 100, 1000)
CONTAINERS = 100

OPTIONS = ("--userland-proxy=false",)
WITHOUT_FIREWALL = ("--iptables=false", "--ip6tables=false")
_WITHOUT_PROXY = "version = 1\n[host]\nuserland_proxy = false\n"  # no Engine tells

_FIRST_PORT = 20000
_PATIENCE = 300.0  # seconds; Docker's own firewall needs some 50 for 1,000 ports
_PAUSE = 0.002  # seconds between two attempts to connect
_AT_ONCE = 16  # clients of the daemon; more wait for the machine's CPUs, not for it


@dataclass(frozen=True, slots=True)
class Engine:
    """A daemon, and the way to it from outside.

    No port is published twice: rules that were late to go would look like those that came early.
    """

    name: str
    driver: Docker
    way: Way
    unused: Iterator[int] = field(default_factory=lambda: count(_FIRST_PORT))

    def publish(self, number: int) -> float:
        """Seconds from ``docker run`` with that many ports until the first and last answer."""
        ports = list(islice(self.unused, number))
        publish = [f"--publish={port}:80" for port in ports]
        start = time.perf_counter()
        self.driver.serve("web", publish)
        self._wait_for({ports[0], ports[-1]})
        seconds = time.perf_counter() - start
        self.driver.remove(["web"])
        return seconds

    def burst(self, number: int) -> float:
        """Seconds from the start of that many containers at once until the last one answers."""
        ports = list(islice(self.unused, number))
        names = [f"c{port}" for port in ports]
        for name, port in zip(names, ports, strict=True):
            self.driver.create(name, [f"--publish={port}:80"])
        start = time.perf_counter()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self.driver.start, names))
        self._wait_for(ports)
        seconds = time.perf_counter() - start
        self.driver.remove(names)
        return seconds

    def _wait_for(self, ports: Iterable[int]) -> None:
        end = time.monotonic() + _PATIENCE
        waiting = set(ports)
        with inside(self.way.client):
            while waiting:
                waiting = {port for port in waiting if not _answers(self.way.address, port)}
                if time.monotonic() > end:
                    raise BenchError(f"{self.name}: nobody answers on {sorted(waiting)[:5]}")
                if waiting:
                    time.sleep(_PAUSE)


def run(box: Box, rounds: int) -> list[Series]:
    """Every engine in turn, `rounds` times, each round beginning with another one."""
    values: defaultdict[tuple[str, str, Size], list[float]] = defaultdict(list)
    with ExitStack() as stack:
        engines = [_own(stack, box, iptables) for iptables in IPTABLES]
        engines.append(_nftbridges(stack, box))
        for engine in engines:
            engine.publish(1)  # files come into memory
        for number in range(rounds):
            for place in range(len(engines)):
                engine = engines[(place + number) % len(engines)]
                say(f"docker: round {number + 1} of {rounds}, {engine.name}")
                for ports in PORTS:
                    values["run", engine.name, Size(1, ports)].append(engine.publish(ports))
                size = Size(1, CONTAINERS)
                values["burst", engine.name, size].append(engine.burst(CONTAINERS))
    return [Series(*key, tuple(found)) for key, found in values.items()]


def _own(stack: ExitStack, box: Box, iptables: str) -> Engine:
    way = packets.outside(stack, Hosting(Size(1, 1)), next(NAMES))
    driver = stack.enter_context(docker(box, way.host, iptables, OPTIONS))
    return Engine(driver.name, driver, way)


def _nftbridges(stack: ExitStack, box: Box) -> Engine:
    way = packets.outside(stack, Hosting(Size(1, 1)), next(NAMES))
    options = (*OPTIONS, *WITHOUT_FIREWALL)
    driver = stack.enter_context(docker(box, way.host, IPTABLES[0], options))
    stack.enter_context(_watched(driver, way))
    return Engine("docker-nftbridge", driver, way)


@contextmanager
def _watched(driver: Docker, way: Way) -> Generator[None]:
    """``nftbridge watch --docker`` on that daemon, as a service would run it."""
    with TemporaryDirectory() as folder, TemporaryFile("w+") as log:
        file, state = Path(folder, "host.toml"), Path(folder, "state")
        file.write_text(_WITHOUT_PROXY)
        place = ("--netns", way.host, "--state-dir", str(state))
        service = subprocess.Popen(
            [*NFTBRIDGE, "watch", str(file), f"--docker={driver.socket()}", *place],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield
            if service.poll() is not None:
                log.seek(0)
                raise BenchError(f"nftbridge watch has ended: {log.read()[-600:]}")
        finally:
            service.terminate()
            service.wait()


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False
