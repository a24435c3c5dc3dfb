"""Who is who in the model: networks by bridge and address, containers, publications by port."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from nftbridge.model import Address, Container, Family, GatewayMode, Host, Network, Publication

_EASY_PORT = 8000
"""What is added to a container port below 1024 to propose a host port for it."""


class Published(NamedTuple):
    """A publication with the container and the network that it belongs to."""

    network: Network
    container: Container
    publication: Publication


class Names:
    """The names that `host` gives to interfaces, addresses and ports."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._bridges = {network.bridge: network for network in host.networks}

    def network_on(self, interface: str) -> Network | None:
        """The network whose bridge that is."""
        return self._bridges.get(interface)

    def network_around(self, address: Address) -> Network | None:
        """The network in whose subnet the address lies."""
        nets = self.host.networks
        return next((n for n in nets if any(address in s for s in n.subnets)), None)

    def container_at(self, address: Address) -> Container | None:
        """The container that has the address."""
        network = self.network_around(address)
        found = network.containers if network else ()
        return next((c for c in found if c.address(Family.of(address)) == address), None)

    def published_at(self, address: Address, protocol: str, port: int) -> Published | None:
        """What the host answers for on that address of its own; nothing of routed networks."""
        family = Family.of(address)
        for found in self._publications(family):
            bound = found.publication.bound_address(family)
            answers = bound in (None, address) and not found.network.is_routed(family)
            if answers and _outside(found.publication, protocol, port):
                return found
        return None

    def routed_at(self, family: Family, protocol: str, port: int) -> Published | None:
        """A publication of a routed network whose host port would be this, if it were used."""
        return next(
            (
                found
                for found in self._publications(family)
                if found.network.is_routed(family) and _outside(found.publication, protocol, port)
            ),
            None,
        )

    def opening(self, address: Address, protocol: str, port: int) -> Published | None:
        """What publishes that port of the container with that address, best one for others."""
        network, container = self.network_around(address), self.container_at(address)
        if network is None or container is None:
            return None
        family = Family.of(address)
        found = [p for p in container.publish if p.covers(family) and _inside(p, protocol, port)]
        found.sort(key=lambda p: bool(p.host_address and p.host_address.is_loopback))
        return Published(network, container, found[0]) if found else None

    @cached_property
    def gateways(self) -> frozenset[Address]:
        """The usual address of each bridge: the first of its subnet, if no container has it."""
        return frozenset(self._first_addresses())

    @cached_property
    def own(self) -> frozenset[Address]:
        """Addresses that are the host's: those, and those that the model names as such."""
        return self.gateways.union(self._named_addresses())

    def _first_addresses(self) -> Iterator[Address]:
        for network in self.host.networks:
            for subnet in network.subnets:
                family = Family.of(subnet)
                first = next(subnet.hosts(), None)
                if network.gateway_mode(family) is GatewayMode.ISOLATED or first is None:
                    continue
                if all(container.address(family) != first for container in network.containers):
                    yield first

    def _named_addresses(self) -> Iterator[Address]:
        """Bound to publications, or fixed sources."""
        for network in self.host.networks:
            for family in Family:
                fixed = network.snat_address(family)
                if fixed is not None:
                    yield fixed
            for container in network.containers:
                for publication in container.publish:
                    bound = publication.host_address
                    if bound is not None and not bound.is_unspecified:
                        yield bound

    def proposal(self, network: Network, family: Family, protocol: str, port: int) -> str:
        """What to write to publish that container port, on a host port that is free."""
        suffix = "" if protocol == "tcp" else f"/{protocol}"
        if network.is_routed(family):
            return f'publish = ["{port}{suffix}"]'
        wanted = port + _EASY_PORT if port < 1024 else port
        taken = set(self._host_ports(protocol))
        free = (p for p in (*range(wanted, 65536), *range(1024, wanted)) if p not in taken)
        return f'publish = ["{next(free, wanted)}:{port}{suffix}"]'

    def _host_ports(self, protocol: str) -> Iterator[int]:
        for family in Family:
            for found in self._publications(family):
                first, publication = found.publication.host_port, found.publication
                if first is not None and publication.protocol.value == protocol:
                    yield from range(first, first + publication.count)

    def _publications(self, family: Family) -> Iterator[Published]:
        """All that publish something in that family."""
        if family not in self.host.families():
            return
        for network in self.host.networks:
            for container in network.containers:
                if container.address(family) is not None:
                    for publication in container.publish:
                        if publication.covers(family):
                            yield Published(network, container, publication)


def _outside(publication: Publication, protocol: str, port: int) -> bool:
    first = publication.host_port
    ours = first is not None and first <= port < first + publication.count
    return ours and publication.protocol.value == protocol


def _inside(publication: Publication, protocol: str, port: int) -> bool:
    offset = port - publication.container_port
    return 0 <= offset < publication.count and publication.protocol.value == protocol
