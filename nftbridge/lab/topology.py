"""Which namespaces, bridges, veth pairs and addresses make up the laboratory of a host. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)
from itertools import chain, count
from typing import TypeAlias

from nftbridge.errors import InputError, Problem
from nftbridge.model import (
    Address,
    Container,
    Family,
    GatewayMode,
    Host,
    Network,
    Prefix,
    interface_name_problem,
)

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

HOST = "host"
"""The node that stands for the host itself."""

OUTSIDE = "outside"
"""The node at the far end of the first uplink; the others are ``outside-UPLINK``."""

NODE_INTERFACE = "eth0"
"""What every node but the host calls its only interface."""

_HOST_PORTS = (22, 53)
_OUTSIDE_PORTS = (53, 80, 443)
_UNPUBLISHED_FROM = 81

# RFC 5737 and, should somebody want a fourth uplink, the benchmark range of RFC 2544.
_UPLINKS_IPV4 = ("198.51.100.0/24", "203.0.113.0/24", "192.0.2.0/24")
_MORE_UPLINKS_IPV4 = IPv4Network("198.18.0.0/15")
_FIRST_UPLINK_IPV6 = int(IPv6Network("2001:db8:100::/64").network_address)


@dataclass(frozen=True, slots=True)
class Link:
    """A veth pair: `name` is its end in the host's namespace, a port of `bridge` if given."""

    name: str
    bridge: str | None = None
    addresses: tuple[InterfaceAddress, ...] = ()
    route_localnet: bool = False


@dataclass(frozen=True, slots=True)
class Bridge:
    """One model network's bridge in the host's namespace; `ipv6` False switches the family off."""

    name: str
    addresses: tuple[InterfaceAddress, ...]
    ipv6: bool = True


@dataclass(frozen=True, slots=True)
class Node:
    """One namespace. The host has no `link` of its own, its `addresses` are on ``lo``."""

    name: str
    namespace: str
    ports: tuple[int, ...]
    link: Link | None = None
    addresses: tuple[InterfaceAddress, ...] = ()
    gateways: tuple[Address, ...] = ()
    sends_loopback: bool = False
    """Whether it routes 127.0.0.0/8 to the host, as WSL2's mirrored mode and attackers do."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything to be built; node names are unique."""

    host: Node
    nodes: tuple[Node, ...]
    bridges: tuple[Bridge, ...]
    hairpin: bool
    unpublished_port: int
    """A port that every node answers on and that nothing publishes."""

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """The host first, then the outside nodes, then the containers."""
        return (self.host, *self.nodes)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the laboratory shall have beyond the host model."""

    uplinks: tuple[str, ...] = (NODE_INTERFACE,)
    loopback_links: tuple[str, ...] = ()
    internal_routes: bool = True
    ports: Mapping[str, Collection[int]] | None = None


def plan_topology(host: Host, prefix: str, wishes: Wishes) -> Topology:
    """The laboratory for `host`; every namespace name starts with `prefix`."""
    _check_names(host, wishes)
    unpublished = _unpublished_port(host)
    outside = tuple(_outside_nodes(host, wishes))
    bridges = tuple(_bridge(network) for network in host.networks)
    nodes = (*outside, *_container_nodes(host, wishes, unpublished))
    nodes, elsewhere = _with_named_addresses(host, nodes, bridges)
    center = Node(HOST, "", _HOST_PORTS, addresses=elsewhere)
    named = tuple(_finished((center, *nodes), prefix, unpublished, wishes.ports or {}))
    return Topology(named[0], named[1:], bridges, not host.userland_proxy, unpublished)


def _check_names(host: Host, wishes: Wishes) -> None:
    problems: list[Problem] = []
    taken = {network.bridge for network in host.networks}
    for name in (*wishes.uplinks, *wishes.loopback_links):
        if problem := interface_name_problem(name):
            problems.append(Problem("uplink", problem))
        if name in taken:
            problems.append(Problem("uplink", f"interface name '{name}' is taken already"))
        taken.add(name)
    if problems:
        raise InputError(tuple(problems))


def gateway(network: Network, family: Family) -> InterfaceAddress | None:
    """The bridge's address: the first usable one that no container has; None if isolated."""
    subnet = network.subnet(family)
    if subnet is None or network.gateway_mode(family) is GatewayMode.ISOLATED:
        return None
    taken = {container.address(family) for container in network.containers}
    free = next((address for address in subnet.hosts() if address not in taken), None)
    return None if free is None else ip_interface(f"{free}/{subnet.prefixlen}")


def _bridge(network: Network) -> Bridge:
    addresses = tuple(found for family in Family if (found := gateway(network, family)))
    # As Docker does: without disable_ipv6 the bridge would keep a link-local address.
    isolated = network.gateway_mode_ipv6 is GatewayMode.ISOLATED
    return Bridge(network.bridge, addresses, ipv6=not isolated)


def _outside_nodes(host: Host, wishes: Wishes) -> Iterator[Node]:
    subnets = [subnet for network in host.networks for subnet in network.subnets]
    prefixes = zip(_free(_ipv4_prefixes(), subnets), _free(_ipv6_prefixes(), subnets), strict=False)
    links = (*wishes.uplinks, *wishes.loopback_links)
    for index, (link, pair) in enumerate(zip(links, prefixes, strict=False)):
        loopback = link in wishes.loopback_links
        near = tuple(ip_interface(f"{p[1]}/{p.prefixlen}") for p in pair)
        first = index == 0 and not loopback
        yield Node(
            name=OUTSIDE if first else f"{OUTSIDE}-{link}",
            namespace="",
            ports=_OUTSIDE_PORTS,
            link=Link(link, addresses=near, route_localnet=loopback),
            addresses=tuple(ip_interface(f"{p[9]}/{p.prefixlen}") for p in pair),
            gateways=tuple(interface.ip for interface in near),
            sends_loopback=loopback,
        )


def _ipv4_prefixes() -> Iterator[Prefix]:
    yield from map(IPv4Network, _UPLINKS_IPV4)
    yield from _MORE_UPLINKS_IPV4.subnets(new_prefix=24)


def _ipv6_prefixes() -> Iterator[Prefix]:
    """2001:db8:100::/64, 2001:db8:101::/64 and so on (RFC 3849)."""
    for index in range(0x1000):
        yield IPv6Network((_FIRST_UPLINK_IPV6 + (index << 80), 64))


def _free(prefixes: Iterable[Prefix], taken: Collection[Prefix]) -> Iterator[Prefix]:
    for prefix in prefixes:
        if not any(prefix.version == t.version and _overlap(prefix, t) for t in taken):
            yield prefix


def _overlap(one: Prefix, other: Prefix) -> bool:
    return one[0] in other or other[0] in one


def _container_nodes(host: Host, wishes: Wishes, unpublished: int) -> Iterator[Node]:
    reserved = {HOST, OUTSIDE, *(f"{OUTSIDE}-{link}" for link in wishes.uplinks)}
    reserved |= {f"{OUTSIDE}-{link}" for link in wishes.loopback_links}
    names = Counter(container.name for network in host.networks for container in network.containers)
    links = _link_names(host, wishes)
    for network in host.networks:
        routed = wishes.internal_routes or not network.internal
        gateways = [found for family in Family if routed and (found := gateway(network, family))]
        for container in network.containers:
            name = container.name
            if name in reserved or names[name] > 1:
                name = f"{network.name}/{name}"
            addresses = tuple(_container_addresses(network, container))
            versions = {address.version for address in addresses}
            yield Node(
                name=name,
                namespace="",
                ports=(*_container_ports(container), unpublished),
                link=Link(next(links), network.bridge),
                addresses=addresses,
                gateways=tuple(g.ip for g in gateways if g.version in versions),
            )


def _container_addresses(network: Network, container: Container) -> Iterator[InterfaceAddress]:
    for family in Family:
        address, subnet = container.address(family), network.subnet(family)
        if address is not None and subnet is not None:
            yield ip_interface(f"{address}/{subnet.prefixlen}")


def _container_ports(container: Container) -> Iterator[int]:
    for publication in container.publish:
        first = publication.container_port
        yield from range(first, first + publication.count)


def _link_names(host: Host, wishes: Wishes) -> Iterator[str]:
    taken = {*wishes.uplinks, *wishes.loopback_links, *(n.bridge for n in host.networks)}
    return (name for index in count() if (name := f"veth{index}") not in taken)


def _unpublished_port(host: Host) -> int:
    used: set[int] = set()
    for network in host.networks:
        for publication in chain.from_iterable(c.publish for c in network.containers):
            for first in (publication.container_port, publication.host_port):
                if first is not None:
                    used.update(range(first, first + publication.count))
    return next(port for port in count(_UNPUBLISHED_FROM) if port not in used)


def _with_named_addresses(
    host: Host, nodes: tuple[Node, ...], bridges: tuple[Bridge, ...]
) -> tuple[tuple[Node, ...], tuple[InterfaceAddress, ...]]:
    """The host owns every address that the model says it has; those of no uplink's prefix go to lo.

    An uplink's must be on the uplink: IPv6 answers solicitations only for the interface's own.
    """
    present = {a.ip for bridge in bridges for a in bridge.addresses}
    present |= {a.ip for node in nodes for a in (*node.addresses, *_near_addresses(node))}
    subnets = [subnet for network in host.networks for subnet in network.subnets]
    missing = [
        address
        for address in dict.fromkeys(_named_addresses(host))
        if address not in present and not any(address in subnet for subnet in subnets)
    ]
    result: list[Node] = []
    for node in nodes:
        mine = [(a, p) for p in _near_addresses(node) for a in missing if a in p.network]
        missing = [a for a in missing if a not in [found for found, _ in mine]]
        added = tuple(ip_interface(f"{a}/{p.network.prefixlen}") for a, p in mine)
        link = node.link and replace(node.link, addresses=(*node.link.addresses, *added))
        result.append(replace(node, link=link))
    return tuple(result), tuple(ip_interface(address) for address in missing)


def _near_addresses(node: Node) -> tuple[InterfaceAddress, ...]:
    return node.link.addresses if node.link else ()


def _named_addresses(host: Host) -> Iterator[Address]:
    for network in host.networks:
        named = [network.snat_address(family) for family in Family]
        for container in network.containers:
            named += [publication.host_address for publication in container.publish]
        for address in named:
            if address and not (
                address.is_unspecified or address.is_loopback or address.is_link_local
            ):
                yield address


def _finished(
    nodes: Iterable[Node], prefix: str, unpublished: int, ports: Mapping[str, Collection[int]]
) -> Iterator[Node]:
    """Each node with its namespace's name and with the ports it answers on."""
    used: Counter[str] = Counter()
    for node in nodes:
        label = re.sub(r"[^A-Za-z0-9_.-]", "-", node.name)[:40]
        used[label] += 1
        suffix = f"-{used[label]}" if used[label] > 1 else ""
        wanted = ports.get(node.name, (*node.ports, unpublished))
        namespace = f"{prefix}{label}{suffix}"
        yield replace(node, namespace=namespace, ports=tuple(sorted(set(wanted))))
