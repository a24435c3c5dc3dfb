"""A laboratory with nftbridge applied in it, and every probe that is worth sending there."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from nftbridge.choice import Target, choose
from nftbridge.effects import bridges_filtered
from nftbridge.engine import Engine
from nftbridge.lab import HOST, Laboratory, Probe, ProbeProtocol
from nftbridge.lab.forecast import Forecaster
from nftbridge.model import Address, Container, Family, Host

PROTOCOLS: tuple[ProbeProtocol, ...] = ("tcp", "udp", "sctp")
LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))


@dataclass(frozen=True, slots=True)
class Site:
    """A host in a laboratory, under nftbridge's rules."""

    host: Host
    lab: Laboratory
    target: Target
    engine: Engine

    @property
    def forecaster(self) -> Forecaster:
        """The evaluator's opinion of this laboratory."""
        filtered = len(bridges_filtered(self.lab.netns)) == len(Family)
        return Forecaster(self.host, self.lab.topology, bridges_filtered=filtered)


@contextmanager
def site(
    host: Host,
    state: Path,
    *,
    uplinks: Sequence[str] = ("eth0", "eth1"),
    loopback_links: Sequence[str] = ("loopback0",),
    proxy_ports: Sequence[int] = (),
    backend: str = "nftables",
) -> Generator[Site]:
    """Build `host` in namespaces and apply it; the host itself answers on `proxy_ports` too."""
    ports = {HOST: (22, *proxy_ports)}
    with Laboratory(host, uplinks=uplinks, loopback_links=loopback_links, ports=ports) as lab:
        target = Target(netns=lab.netns, state_directory=state)
        engine = Engine(target, choose(backend, target).backend)
        engine.apply(host)
        yield Site(host, lab, target, engine)


def every_probe(place: Site) -> Iterator[Probe]:
    """From every node to every address, on every port with a meaning and one without."""
    lab = place.lab
    destinations = dict.fromkeys(_addresses(place))
    ports = sorted({22, lab.topology.unpublished_port, *_ports(place.host)})
    for node in lab.topology.all_nodes:
        reachable = [*destinations, *(LOOPBACK if node.name == HOST or node.sends_loopback else ())]
        for address in reachable:
            if node.sends_loopback and address == LOOPBACK[1]:
                continue  # the kernel never forwards ::1
            yield Probe(node.name, address, "icmp")
            for protocol in PROTOCOLS:
                for port in ports:
                    yield Probe(node.name, address, protocol, port)


def batched(probes: Sequence[Probe], size: int) -> Iterator[Sequence[Probe]]:
    """The probes in portions of at most `size`."""
    return (probes[start : start + size] for start in range(0, len(probes), size))


def containers(host: Host) -> Iterator[Container]:
    """All containers of all networks."""
    for network in host.networks:
        yield from network.containers


def _addresses(place: Site) -> Iterator[Address]:
    yield from (interface.ip for interface in place.lab.topology.host.addresses)
    for node in place.lab.topology.nodes:
        yield from (interface.ip for interface in node.addresses)
        if node.link:
            yield from (interface.ip for interface in node.link.addresses)
    for bridge in place.lab.topology.bridges:
        yield from (interface.ip for interface in bridge.addresses)


def _ports(host: Host) -> Iterator[int]:
    for container in containers(host):
        for publication in container.publish:
            for first in (publication.container_port, publication.host_port):
                if first is not None:
                    yield from (first, first + publication.count - 1)
