"""The part `peers-changes`: publish ports, re-create a container with many, make networks."""

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Series, Size
from tests.bench.hosts import Hosting
from tests.bench.layouts import LAYOUTS
from tests.bench.packets import NAMES
from tests.bench.peers.box import IPTABLES, Box
from tests.bench.peers.cni import Cni
from tests.bench.peers.docker import docker
from tests.bench.peers.driver import Driver
from tests.bench.peers.netavark import Netavark
from tests.bench.peers.ours import Ours
from tests.bench.running import namespace, output, say

PORTS = (0, 1, 100, 1000)
NETWORKS = 100

_Values = defaultdict[tuple[str, str, Size], list[float]]


def run(box: Box, rounds: int) -> list[Series]:
    """Every driver in turn, `rounds` times, each round beginning with another one."""
    values: _Values = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        drivers = _drivers(stack, box, folder)
        for driver in drivers:
            _warm(driver)
        for number in range(rounds):
            for place in range(len(drivers)):
                driver = drivers[(place + number) % len(drivers)]
                say(f"changes: round {number + 1} of {rounds}, {driver.name}")
                _round(driver, values)
    return [Series(*key, tuple(found)) for key, found in values.items()]


def _drivers(stack: ExitStack, box: Box, folder: Path) -> list[Driver]:
    drivers: list[Driver] = []
    for layout in LAYOUTS:
        host, _ = _host(stack)
        ours = Ours(layout, host, folder)
        ours.prepare()
        drivers.append(ours)
    drivers += [Cni(box, *_host(stack), backend) for backend in ("nftables", "iptables")]
    drivers.append(Netavark(box, *_host(stack)))
    drivers.append(Netavark(box, *_host(stack), name="netavark-range", ranged=True))
    for iptables in IPTABLES:
        host, _ = _host(stack)
        drivers.append(stack.enter_context(docker(box, host, iptables)))
    return drivers


def _host(stack: ExitStack) -> tuple[str, str]:
    """A host and a container: paths of two namespaces that nothing joins yet."""
    name = next(NAMES)
    host, container = (stack.enter_context(namespace(f"{name}-{part}")) for part in ("h", "s"))
    output(["ip", "netns", "exec", host, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    return f"/run/netns/{host}", f"/run/netns/{container}"


def _warm(driver: Driver) -> None:
    """Once without a clock: files come into memory, chains are made that stay."""
    hosting = Hosting(Size(1, 1))
    driver.publish(hosting)
    driver.withdraw(hosting)


def _round(driver: Driver, values: _Values) -> None:
    found: _Values = defaultdict(list)
    for _ in range(driver.runs):
        for ports in PORTS:
            size = Size(1, ports)
            hosting = Hosting(size)
            found["publish", driver.name, size].append(driver.publish(hosting))
            if ports == max(PORTS):
                found["republish", driver.name, size].append(driver.recreate(hosting))
            driver.withdraw(hosting)
        size = Size(NETWORKS, 0)
        found["networks", driver.name, size].append(driver.make_networks(NETWORKS))
        driver.remove_networks(NETWORKS)
    for key, seconds in found.items():
        values[key].append(statistics.median(seconds))
