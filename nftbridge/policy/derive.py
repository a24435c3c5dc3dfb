"""From a host to the rows of every relation; options decide which rows exist, never which rules.

One function per noun, each with Docker 28.5.2's condition beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from nftbridge.policy.program import Facts, Key, Owner, Relation, Row

MIRRORED_INTERFACE = "loopback0"
"""What WSL2 calls the interface that mirrors Windows' loopback."""

_LOOPBACK: dict[Family, Prefix] = {
    Family.IPV4: IPv4Network("127.0.0.0/8"),
    Family.IPV6: IPv6Network("::1/128"),
}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}

_Fact: TypeAlias = tuple[Relation, Key, Key]


class _Bridge(NamedTuple):
    """One network in one family, with what the host options mean for it."""

    host: Host
    network: Network
    family: Family
    subnet: Prefix

    @property
    def name(self) -> str:
        return self.network.bridge

    @property
    def mode(self) -> GatewayMode:
        return self.network.gateway_mode(self.family)

    @property
    def proxied(self) -> bool:
        """Whether the bridge's own containers reach published ports by the proxy."""
        return self.host.userland_proxy and self.network.masquerade


def derive(host: Host) -> Facts:
    """All rows of `host`, relation by relation, oldest owner first.

    `host.wsl2_mirrored` must be settled; None counts as False.
    """
    facts: dict[Relation, list[Row]] = {relation: [] for relation in known.RELATIONS}
    for family in host.families():
        for relation, key, value in _host_facts(host, family):
            facts[relation].append(Row(family, key, value, Owner()))
    for network in host.networks:
        for family in host.families():
            subnet = network.subnet(family)
            if subnet is not None:
                _add_network(facts, _Bridge(host, network, family, subnet))
    return {relation: tuple(rows) for relation, rows in facts.items()}


def _add_network(facts: dict[Relation, list[Row]], bridge: _Bridge) -> None:
    family, network = bridge.family, bridge.network
    owner = Owner(network.name)
    for relation, key, value in _network_facts(bridge):
        facts[relation].append(Row(family, key, value, owner))
    if network.internal:
        return
    for container in network.containers:
        address = container.address(family)
        if address is not None:
            owner = Owner(network.name, container.name)
            for relation, key, value in _endpoint_facts(bridge, address):
                facts[relation].append(Row(family, key, value, owner))
            _add_publications(facts, bridge, container, address)


def _add_publications(
    facts: dict[Relation, list[Row]], bridge: _Bridge, container: Container, address: Address
) -> None:
    family = bridge.family
    opened: set[tuple[str, int]] = set()  # a container port published twice is opened once
    for publication in container.publish:
        if publication.covers(family):
            owner = Owner(bridge.network.name, container.name, str(publication))
            for relation, key, value in _publication_facts(bridge, address, publication, opened):
                facts[relation].append(Row(family, key, value, owner))


def _host_facts(host: Host, family: Family) -> Iterator[_Fact]:
    if host.userland_proxy:
        yield known.PROXIED_LOOPBACK, (_LOOPBACK[family],), ()
    if host.userland_proxy and host.wsl2_mirrored and family is Family.IPV4:
        yield known.MIRRORED_INTERFACES, (MIRRORED_INTERFACE,), ()


def _network_facts(bridge: _Bridge) -> Iterator[_Fact]:
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


def _internal_facts(bridge: _Bridge) -> Iterator[_Fact]:
    name = bridge.name
    yield known.INTERNAL_BRIDGES, (name,), ()
    yield known.INTERNAL_SUBNETS, (name, bridge.subnet), ()
    if bridge.family is Family.IPV6:
        yield known.INTERNAL_PAIRS, (name, name), ()
    within = known.ICC_INTERNAL if bridge.network.icc else known.ICC_DENIED
    yield within, (name, name), ()


def _source_facts(bridge: _Bridge) -> Iterator[_Fact]:
    fixed = bridge.network.snat_address(bridge.family)
    if not bridge.host.userland_proxy:  # Docker: whatever the mode and masquerading
        if fixed is None:
            yield known.HAIRPIN_MASQUERADE, (bridge.name,), ()
        else:
            yield known.HAIRPIN_SNAT, (bridge.name,), (fixed,)
    if bridge.network.masquerade and bridge.mode is not GatewayMode.ROUTED:
        yield known.SUBNET_BRIDGES, (bridge.subnet, bridge.name), ()
        if fixed is None:
            yield known.MASQUERADED_SUBNETS, (bridge.subnet,), ()
        else:
            yield known.SNAT_SUBNETS, (bridge.subnet,), (fixed,)


def _endpoint_facts(bridge: _Bridge, address: Address) -> Iterator[_Fact]:
    if bridge.host.allow_direct_routing or bridge.mode is not GatewayMode.NAT:
        return
    for interface in dict.fromkeys(bridge.network.trusted_host_interfaces):
        yield known.TRUSTED_ACCESS, (address, interface), ()
    yield known.GUARDED, (address,), ()
    yield known.GUARDED_INTERFACES, (address, bridge.name), ()


def _publication_facts(
    bridge: _Bridge, address: Address, publication: Publication, opened: set[tuple[str, int]]
) -> Iterator[_Fact]:
    protocol = publication.protocol.value
    for offset in range(publication.count):
        port = publication.container_port + offset
        if (protocol, port) not in opened:
            opened.add((protocol, port))
            yield from _opening_facts(bridge, address, protocol, port)
        if publication.host_port is None or bridge.mode is GatewayMode.ROUTED:
            continue  # routed: nothing of the host is translated to the container
        outside = (protocol, publication.host_port + offset)
        bound = publication.bound_address(bridge.family)
        yield from _translation_facts(bridge, bound, outside, (address, port))


def _opening_facts(bridge: _Bridge, address: Address, protocol: str, port: int) -> Iterator[_Fact]:
    if bridge.mode is not GatewayMode.NAT_UNPROTECTED:
        yield known.OPEN_PORTS, (bridge.name, address, protocol, port), ()
    if bridge.mode is not GatewayMode.ROUTED and not bridge.host.userland_proxy:
        yield known.SELF_PUBLISHED, (address, address, protocol, port), ()


def _translation_facts(
    bridge: _Bridge, bound: Address | None, outside: tuple[str, int], inside: tuple[Address, int]
) -> Iterator[_Fact]:
    proxy = bridge.host.userland_proxy
    if bound is None:
        yield known.PUBLISHED_ANYWHERE, outside, inside
        if proxy:
            yield known.OWN_PUBLISHED_ANYWHERE, (bridge.name, *outside), ()
        return
    yield known.PUBLISHED, (bound, *outside), inside
    if proxy:
        yield known.OWN_PUBLISHED, (bridge.name, bound, *outside), ()
    if bound.is_loopback and bridge.family is Family.IPV4:
        yield known.LOOPBACK_PUBLISHED, (bound, *outside), ()
        if bridge.host.wsl2_mirrored:
            yield known.MIRRORED_PUBLISHED, (bound, *outside, MIRRORED_INTERFACE), ()


def owners(host: Host) -> dict[Owner, int]:
    """Everything that can own a row, numbered in the order of creation; first the host itself."""
    found = [Owner()]
    for network in host.networks:
        found.append(Owner(network.name))
        for container in network.containers:
            found.append(Owner(network.name, container.name))
            found.extend(Owner(network.name, container.name, str(p)) for p in container.publish)
    return {owner: number for number, owner in reversed(list(enumerate(found)))}
