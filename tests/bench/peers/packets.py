"""The part `peers-packets`: the traffic of the part `packets` under everybody's own rules.

One container publishes all ports, because a thousand of Docker's would take long to start.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import packets
from tests.bench.figures import Series, Size
from tests.bench.hosts import Hosting
from tests.bench.layouts import LAYOUTS
from tests.bench.packets import NAMES, Contender
from tests.bench.peers.box import IPTABLES, Box
from tests.bench.peers.cni import Cni
from tests.bench.peers.docker import docker
from tests.bench.peers.netavark import Netavark
from tests.bench.running import say
from tests.bench.traffic import compiled

SIZES = tuple(Size(1, ports) for ports in (10, 1000, 10000))
_SLOW = 1000
"""Ports; for more, Docker and portmap with iptables need minutes, as they add rule after rule."""


def run(box: Box, rounds: int, milliseconds: int) -> list[Series]:
    """Every peer at every size that it reaches in seconds, beside nftbridge and the limits."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        contenders = [packets.floor(stack), packets.plain(stack)]
        for size in SIZES:
            say(f"peers-packets: {size}")
            contenders += _contenders(stack, box, folder, Hosting(size))
        return packets.measured(compiled(folder), contenders, rounds, milliseconds)


def _contenders(stack: ExitStack, box: Box, folder: Path, hosting: Hosting) -> list[Contender]:
    found = [packets.programmed(stack, folder, layout, hosting) for layout in LAYOUTS]
    found.append(_netavark(stack, box, hosting))
    found.append(_portmap(stack, box, hosting, "nftables"))
    if hosting.size.ports <= _SLOW:
        found.append(_portmap(stack, box, hosting, "iptables"))
        found += [_docker(stack, box, hosting, iptables) for iptables in IPTABLES]
    return found


def _netavark(stack: ExitStack, box: Box, hosting: Hosting) -> Contender:
    """It makes bridge and container interface itself."""
    way = packets.outside(stack, hosting, next(NAMES))
    assert way.server is not None
    driver = Netavark(box, way.host, way.server)
    driver.publish(hosting)
    return Contender(driver.name, hosting.size, way)


def _portmap(stack: ExitStack, box: Box, hosting: Hosting, backend: str) -> Contender:
    way = packets.laboratory(stack, hosting, next(NAMES))
    assert way.server is not None
    driver = Cni(box, way.host, way.server, backend)
    driver.publish(hosting)
    return Contender(driver.name, hosting.size, way)


def _docker(stack: ExitStack, box: Box, hosting: Hosting, iptables: str) -> Contender:
    """A daemon and a container of its own."""
    way = packets.outside(stack, hosting, next(NAMES))
    driver = stack.enter_context(docker(box, way.host, iptables))
    driver.publish(hosting)
    driver.end_proxies()
    return Contender(driver.name, hosting.size, replace(way, server=driver.container_netns()))
