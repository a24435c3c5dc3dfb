"""The packets that a host file wants to pass, and those that it forbids: one of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from nftbridge.doctor.facts import Facts
from nftbridge.doctor.ruleset import Table
from nftbridge.explain.names import Names, Published
from nftbridge.explain.question import Question
from nftbridge.explain.way import Fate, Way, follow
from nftbridge.model import Address, Family, Host, Network, Protocol
from nftbridge.nft.syntax import is_list, is_object
from nftbridge.policy.evaluate import Evaluator

# Someone out there. Addresses for documentation would meet the bogon lists of real firewalls.
_SOMEONE = {Family.IPV4: ip_address("9.9.9.9"), Family.IPV6: ip_address("2620:fe::9")}


@dataclass(frozen=True, slots=True)
class Ports:
    """Port numbers that stand somewhere: single ones, and ranges."""

    single: frozenset[int]
    ranges: tuple[range, ...]

    def meet(self, ports: range) -> bool:
        """Whether any of `ports` is among them."""
        if any(port in self.single for port in ports):
            return True
        return any(r.start < ports.stop and ports.start < r.stop for r in self.ranges)


def translated_ports(tables: Iterable[Table]) -> Ports:
    """Every number in tables that translate: only publications of these can be in conflict."""
    single: set[int] = set()
    ranges: list[range] = []
    waiting: list[object] = []
    for table in tables:
        if any(chain.kind == "nat" for chain in table.bases()):
            waiting += [s for c in table.chains.values() for r in c.rules for s in r.statements]
            waiting += table.sets.values()
    while waiting:
        node = waiting.pop()
        if isinstance(node, int):
            single.add(node)
        elif is_list(node):
            waiting += node
        elif is_object(node):
            ends = node.get("range")
            if is_list(ends) and all(isinstance(end, int) for end in ends):
                ranges.append(range(ends[0], ends[-1] + 1))
            else:
                waiting += node.values()
    return Ports(frozenset(single), tuple(ranges))


@dataclass(frozen=True, slots=True)
class Traffic:
    """Packets of one kind, and an example of them with its way through our rules.

    `kind` is said of the network: "connections to the outside". It is `wanted` if the host file
    lets it pass.
    """

    network: str
    family: Family
    kind: str
    way: Way

    @property
    def wanted(self) -> bool:
        """Whether our rules let it pass."""
        return self.way.passes

    def __str__(self) -> str:
        return f"{self.network}: {self.kind}"


def traffic(host: Host, facts: Facts, named: Ports) -> Iterator[Traffic]:
    """An example of all that concerns the networks of `host`, whose WSL mode is settled."""
    evaluator, names = Evaluator.of(host), Names(host)
    for network in host.networks:
        for family in host.families():
            if network.subnet(family) is None:
                continue
            for kind, question in _questions(network, family, host, facts, named):
                bridged = family in facts.bridged()
                way = follow(host, question, evaluator, bridged=bridged, names=names)
                if way.fate is not Fate.BRIDGED:
                    yield Traffic(network.name, family, f"{kind}, {family.label}", way)


def asked(host: Host, facts: Facts, question: Question) -> Traffic:
    """The packet that somebody asks about."""
    way = follow(host, question, bridged=question.family in facts.bridged())
    names = way.names
    around = names.network_on(question.iif) or names.network_around(way.end.daddr)
    network = around.name if around else "no network"
    return Traffic(network, question.family, "the packet asked about", way)


def sender(question: Question, host: Host, facts: Facts) -> Address:
    """Somebody who would send such a packet: a container, the host itself, or one out there."""
    family = question.family
    network = Names(host).network_on(question.iif)
    inside = None if network is None else _inhabitant(network, family)
    if inside is not None:
        return inside
    if question.iif:
        return _someone(family, facts, question.iif)
    if question.destination.is_loopback:
        return question.destination
    return _own(family, facts, facts.route_to(question.destination)) or _SOMEONE[family]


def _questions(
    network: Network, family: Family, host: Host, facts: Facts, named: Ports
) -> Iterator[tuple[str, Question]]:
    inside = _inhabitant(network, family)
    if inside is None:
        return
    own = frozenset(facts.addresses)
    uplink = facts.uplink(family) or _some_uplink(host, facts)
    someone = _someone(family, facts, uplink)
    yield (
        "connections of its containers to the outside",
        Question(network.bridge, inside, someone, "tcp", 443, uplink, own),
    )
    neighbours = [a for c in network.containers if (a := c.address(family)) and a != inside]
    if neighbours:
        yield (
            "connections among its containers",
            Question(network.bridge, inside, neighbours[0], "tcp", 80, "", own),
        )
    yield from _published(network, family, facts, uplink, named)
    for other in host.networks:
        there = _inhabitant(other, family)
        if other is not network and there is not None:
            yield (
                f"connections to network {other.name}",
                Question(network.bridge, inside, there, "tcp", 80, "", own),
            )


def _published(
    network: Network, family: Family, facts: Facts, uplink: str, named: Ports
) -> Iterator[tuple[str, Question]]:
    """One publication for each protocol, and those that somebody else might translate."""
    told: set[Protocol] = set()
    own, someone = frozenset(facts.addresses), _someone(family, facts, uplink)
    for found in _publications(network, family):
        publication = found.publication
        protocol, first = publication.protocol, publication.host_port
        ports = range(0) if first is None else range(first, first + publication.count)
        if protocol in told and not named.meet(ports):
            continue
        told.add(protocol)
        target = _published_address(found, family, facts, uplink)
        if target is None or not uplink:
            continue
        routed = network.is_routed(family)
        what = f"published port {publication}" if not routed else f"open port {publication}"
        port = publication.container_port if routed or first is None else first
        yield what, Question(uplink, someone, target, protocol.value, port, "", own)


def _publications(network: Network, family: Family) -> Iterator[Published]:
    for container in network.containers:
        for publication in container.publish:
            if container.address(family) is not None and publication.covers(family):
                yield Published(network, container, publication)


def _published_address(
    found: Published, family: Family, facts: Facts, uplink: str
) -> Address | None:
    """Where others ask for it; None if only the host itself can, or the host has no address."""
    if found.network.is_routed(family):
        return found.container.address(family)
    bound = found.publication.bound_address(family)
    if bound is not None:
        return None if bound.is_loopback else bound
    return _own(family, facts, uplink)


def _own(family: Family, facts: Facts, interface: str) -> Address | None:
    """An address of the host, on that interface if possible; None if it has none."""
    own = [
        address
        for address in facts.addresses
        if Family.of(address) is family and not (address.is_loopback or address.is_link_local)
    ]
    near = (address for address in own if facts.route_to(address) == interface)
    return next(near, own[0] if own else None)


def _inhabitant(network: Network, family: Family) -> Address | None:
    """A container's address; the last one of the subnet if there are no containers."""
    subnet = network.subnet(family)
    found = (a for c in network.containers if (a := c.address(family)) is not None)
    last = subnet[-2] if subnet is not None and subnet.num_addresses > 2 else None
    return next(found, last)


def _someone(family: Family, facts: Facts, uplink: str) -> Address:
    """Who is out there; where no default route leads to them, a neighbour of the host."""
    if facts.uplink(family) == uplink:
        return _SOMEONE[family]
    for route in facts.plain:
        prefix = route.prefix
        if route.interface == uplink and Family.of(prefix) is family and not prefix.is_link_local:
            found = (prefix[i] for i in range(min(prefix.num_addresses, 256)))
            return next((a for a in found if a not in (*facts.addresses, prefix[0])), prefix[-1])
    return _SOMEONE[family]


def _some_uplink(host: Host, facts: Facts) -> str:
    """Without a default route: the interface of any other route that is no network's."""
    bridges = {network.bridge for network in host.networks}
    found = (r.interface for r in facts.plain if r.interface not in (*bridges, "lo"))
    return next(found, "")
