"""From a host to the rows of every relation; options decide which rows exist, never which rules.

One function per noun, each with Docker 28.5.2's condition beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, TypeAlias

from nftbridge.model import (
    Address,
    Container,
    Family,
    GatewayMode,
    Host,
    Network,
    Prefix,
    Publication,
)
from nftbridge.policy import catalogue as known
from nftbridge.policy.program import Facts, Key, Owner, Relation, Row, Value

MIRRORED_INTERFACE = "loopback0"
"""What WSL2 calls the interface that mirrors Windows' loopback."""

_LOOPBACK: dict[Family, Prefix] = {
    Family.IPV4: IPv4Network("127.0.0.0/8"),
    Family.IPV6: IPv6Network("::1/128"),
}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}

OPENING = frozenset({known.OPEN_PORTS, known.SELF_PUBLISHED})
"""Relations with one row per open port of a container, however many publications open it."""

Fact: TypeAlias = tuple[Relation, Key, Key]
"""A row without its family and owner: relation, key, value."""


Writer: TypeAlias = Callable[[Address | Prefix], Value]
"""How addresses stand in facts: as they are, or as text."""


def _as_it_is(thing: Address | Prefix) -> Value:
    return thing


class _Bridge(NamedTuple):
    """One network in one family, with what the host options mean for it."""

    host: Host
    network: Network
    family: Family
    subnet: Value
    name: str
    mode: GatewayMode
    written: Writer

    @property
    def proxied(self) -> bool:
        """Whether the bridge's own containers reach published ports by the proxy."""
        return self.host.userland_proxy and self.network.masquerade


def derive(host: Host) -> Facts:
    """All rows of `host`, relation by relation, oldest owner first.

    `host.wsl2_mirrored` must be settled; None counts as False.
    """
    found: dict[Relation, list[Row]] = {relation: [] for relation in known.RELATIONS}
    for family, source, facts in walk(host):
        owner = source.owner()
        for relation, key, value in facts:
            found[relation].append(Row(family, key, value, owner))
    return {relation: tuple(rows) for relation, rows in found.items()}


class Source(NamedTuple):
    """Where facts come from: the host, a network, a container or a publication."""

    network: Network | None = None
    container: Container | None = None
    publication: Publication | None = None

    def owner(self) -> Owner:
        """The owner of the rows that these facts become."""
        network = "" if self.network is None else self.network.name
        container = "" if self.container is None else self.container.name
        return Owner(network, container, "" if self.publication is None else str(self.publication))


def walk(
    host: Host, written: Writer = _as_it_is
) -> Iterator[tuple[Family, Source, Iterator[Fact]]]:
    """The facts of a host (relation, key, value), source by source in the order of creation."""
    for family in host.families():
        yield family, Source(), _host_facts(host, family, written)
    for network in host.networks:
        for family in host.families():
            subnet = network.subnet(family)
            if subnet is not None:
                mode = network.gateway_mode(family)
                named = written(subnet)
                bridge = _Bridge(host, network, family, named, network.bridge, mode, written)
                yield from _walk_network(bridge)


def _walk_network(bridge: _Bridge) -> Iterator[tuple[Family, Source, Iterator[Fact]]]:
    family, network = bridge.family, bridge.network
    yield family, Source(network), _network_facts(bridge)
    if network.internal:
        return
    for container in network.containers:
        address = container.address(family)
        if address is None:
            continue
        name = bridge.written(address)
        yield family, Source(network, container), _endpoint_facts(bridge, name)
        opened: set[tuple[str, int]] = set()  # a container port published twice is opened once
        for publication in container.publish:
            if publication.covers(family):
                facts = _publication_facts(bridge, name, publication, opened)
                yield family, Source(network, container, publication), facts


def _host_facts(host: Host, family: Family, written: Writer) -> Iterator[Fact]:
    if host.userland_proxy:
        yield known.PROXIED_LOOPBACK, (written(_LOOPBACK[family]),), ()
    else:
        yield known.HAIRPINS, (), ()
    if host.userland_proxy and host.wsl2_mirrored and family is Family.IPV4:
        yield known.MIRRORED_INTERFACES, (MIRRORED_INTERFACE,), ()


def _network_facts(bridge: _Bridge) -> Iterator[Fact]:
    yield known.ALL_BRIDGES, (bridge.name,), ()
    if bridge.network.internal:
        yield from _internal_facts(bridge)
        return
    name = bridge.name
    yield known.BRIDGES, (name,), ()
    yield known.SAME_BRIDGE, (name, name), ()
    if not bridge.network.icc:
        yield known.ICC_DENIED, (name, name), ()
    if bridge.mode is GatewayMode.NAT_UNPROTECTED:
        yield known.UNPROTECTED_BRIDGES, (name,), ()
    else:
        yield known.PROTECTED_BRIDGES, (name,), ()
    if bridge.mode is GatewayMode.ROUTED:
        yield known.ROUTED_BRIDGES, (name,), ()
        yield known.ROUTED_ICMP, (name, _ICMP[bridge.family]), ()
    if bridge.proxied:  # Docker: masquerading and a proxy, in routed mode as well
        yield known.PROXIED_BRIDGES, (name,), ()
    yield from _source_facts(bridge)


def _internal_facts(bridge: _Bridge) -> Iterator[Fact]:
    name = bridge.name
    yield known.INTERNAL_BRIDGES, (name,), ()
    yield known.INTERNAL_SUBNETS, (name, bridge.subnet), ()
    if bridge.family is Family.IPV6:
        yield known.INTERNAL_PAIRS, (name, name), ()
    within = known.ICC_INTERNAL if bridge.network.icc else known.ICC_DENIED
    yield within, (name, name), ()


def _source_facts(bridge: _Bridge) -> Iterator[Fact]:
    address = bridge.network.snat_address(bridge.family)
    fixed = None if address is None else bridge.written(address)
    if not bridge.host.userland_proxy:  # Docker: whatever the mode and masquerading
        if fixed is None:
            yield known.HAIRPIN_MASQUERADE, (bridge.name,), ()
        else:
            yield known.HAIRPIN_SNAT, (bridge.name,), (fixed,)
    if bridge.network.masquerade and bridge.mode is not GatewayMode.ROUTED:
        yield known.TRANSLATED_SUBNETS, (bridge.subnet,), ()
        yield known.SUBNET_BRIDGES, (bridge.subnet, bridge.name), ()
        if fixed is None:
            yield known.MASQUERADED_SUBNETS, (bridge.subnet,), ()
        else:
            yield known.SNAT_SUBNETS, (bridge.subnet,), (fixed,)


def _endpoint_facts(bridge: _Bridge, address: Value) -> Iterator[Fact]:
    if bridge.host.allow_direct_routing or bridge.mode is not GatewayMode.NAT:
        return
    for interface in dict.fromkeys(bridge.network.trusted_host_interfaces):
        yield known.TRUSTED_ACCESS, (address, interface), ()
    yield known.GUARDED, (address,), ()
    yield known.GUARDED_INTERFACES, (address, bridge.name), ()


def _publication_facts(
    bridge: _Bridge, address: Value, publication: Publication, opened: set[tuple[str, int]]
) -> Iterator[Fact]:
    protocol, first = publication.protocol.value, publication.container_port
    for port in range(first, first + publication.count):
        if (protocol, port) not in opened:
            opened.add((protocol, port))
            if bridge.mode is not GatewayMode.NAT_UNPROTECTED:
                yield known.OPEN_PORTS, (bridge.name, address, protocol, port), ()
            if bridge.mode is not GatewayMode.ROUTED and not bridge.host.userland_proxy:
                yield known.SELF_PUBLISHED, (address, address, protocol, port), ()
    if publication.host_port is None or bridge.mode is GatewayMode.ROUTED:
        return  # routed: nothing of the host is translated to the container
    bound, shift = publication.bound_address(bridge.family), first - publication.host_port
    for port in range(publication.host_port, publication.host_port + publication.count):
        inside = (address, port + shift)
        if bound is not None:
            yield from _bound_facts(bridge, bound, (protocol, port), inside)
            continue
        yield known.PUBLISHED_ANYWHERE, (protocol, port), inside
        if bridge.host.userland_proxy:
            yield known.OWN_PUBLISHED_ANYWHERE, (bridge.name, protocol, port), ()


def _bound_facts(
    bridge: _Bridge, bound: Address, outside: tuple[str, int], inside: tuple[Value, int]
) -> Iterator[Fact]:
    """Of a port that is published on one address of the host."""
    socket = (bridge.written(bound), *outside)
    yield known.PUBLISHED, socket, inside
    if bridge.host.userland_proxy:
        yield known.OWN_PUBLISHED, (bridge.name, *socket), ()
    if bound.is_loopback and bridge.family is Family.IPV4:
        yield known.LOOPBACK_PUBLISHED, socket, ()
        if bridge.host.wsl2_mirrored:
            yield known.MIRRORED_PUBLISHED, (*socket, MIRRORED_INTERFACE), ()


def owners(host: Host) -> dict[Owner, int]:
    """Everything that can own a row, numbered in the order of creation; first the host itself."""
    found = [Owner()]
    for network in host.networks:
        found.append(Owner(network.name))
        for container in network.containers:
            found.append(Owner(network.name, container.name))
            found.extend(Owner(network.name, container.name, str(p)) for p in container.publish)
    return {owner: number for number, owner in reversed(list(enumerate(found)))}
