"""A host to which changes are made one by one, at a cost that does not grow with the host.

It answers for a change: which rows go, which come, and whether the host stays consistent. The
latter is decided by the same rules as for a whole host. Those about a part alone are tried on that
part; those between parts (names, bridges, subnets, addresses, ports, each may be taken only once)
have an index here. An index says "this may collide", never what the matter is: whoever asked then
builds the whole host, whose findings are the answer.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from nftbridge.errors import InputError
from nftbridge.model import Address, Container, Family, Host, Network, Publication
from nftbridge.model.changes import (
    Attach,
    Change,
    Create,
    Delete,
    Detach,
    Publish,
    Withdraw,
    missing_container,
    missing_network,
    missing_publication,
)
from nftbridge.policy.derive import OPENING
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import Relation

_K = TypeVar("_K")

_Slot: TypeAlias = tuple[Family, str]
"""A family and a protocol."""

_Claim: TypeAlias = tuple[_Slot, int, Address | None]
"""A published port: slot, number, and the host address it is bound to (None: every one)."""

_ANYWHERE: frozenset[Address | None] = frozenset({None})


class DoubtfulError(Exception):
    """The change may make the host inconsistent; nothing was changed."""


@dataclass(slots=True)
class _Box:
    """A container without its publications, and how often it has each of these.

    `opened` counts per slot and container port the publications that open it.
    """

    shell: Container
    published: dict[Publication, int] = field(default_factory=dict[Publication, int])
    opened: dict[_Slot, dict[int, int]] = field(default_factory=dict[_Slot, dict[int, int]])

    def whole(self) -> Container:
        repeated = (p for p, number in self.published.items() for _ in range(number))
        return replace(self.shell, publish=tuple(repeated))

    def openings(self, publication: Publication) -> Iterator[tuple[_Slot, int]]:
        first = publication.container_port
        for family in Family:
            if publication.covers(family) and self.shell.address(family) is not None:
                slot = family, publication.protocol.value
                yield from ((slot, port) for port in range(first, first + publication.count))

    def count(self, publication: Publication, step: int) -> None:
        _step(self.published, publication, step)
        for slot, port in self.openings(publication):
            _step(self.opened.setdefault(slot, {}), port, step)


@dataclass(slots=True)
class _Bridge:
    """A network without its containers, these by name, and which addresses they have."""

    shell: Network
    boxes: dict[str, _Box] = field(default_factory=dict[str, _Box])
    addresses: set[Address] = field(default_factory=set[Address])

    def whole(self) -> Network:
        return replace(self.shell, containers=tuple(box.whole() for box in self.boxes.values()))


class Inventory:
    """The networks, containers and publications of one consistent host; `rows` derives a host's."""

    def __init__(self, host: Host, rows: Callable[[Host], FlatRows]) -> None:
        self._options = replace(host, networks=())
        self._rows = rows
        self._bridges: dict[str, _Bridge] = {}
        self._interfaces: set[str] = set()
        self._subnets: dict[Family, list[tuple[int, int]]] = {family: [] for family in Family}
        self._claims: dict[_Slot, dict[int, frozenset[Address | None]]] = {}
        for network in host.networks:
            self._put_network(network)

    def host(self) -> Host:
        """All of it; costs as much as the host is large."""
        networks = tuple(bridge.whole() for bridge in self._bridges.values())
        return replace(self._options, networks=networks)

    @property
    def cut_revoked(self) -> bool:
        """The option of that name."""
        return self._options.cut_revoked

    def leaving(self, changes: Iterable[Change]) -> set[Address]:
        """The container addresses that these changes, not made yet, leave to nobody.

        Those of a network that goes are among them even if it comes again: as another, perhaps.
        """
        detached, deleted, attached = set[Address](), set[Address](), set[Address]()
        for change in changes:
            match change:
                case Detach(name, container) if name in self._bridges:
                    box = self._bridges[name].boxes.get(container)
                    detached |= set[Address]() if box is None else _addresses(box.shell)
                case Delete(name) if name in self._bridges:
                    deleted |= self._bridges[name].addresses
                case Attach(_, container):
                    attached |= _addresses(container)
                case _:
                    pass
        return (detached - attached) | deleted

    def change(self, changes: Iterable[Change]) -> tuple[FlatRows, FlatRows]:
        """Make the changes in this order; returns the rows that go and those that come.

        Raises `InputError` if what is to go is not there, and `DoubtfulError` if the host may not
        be consistent afterwards. The inventory is of no more use then if it was not the first of
        the changes.
        """
        removed: FlatRows = {}
        added: FlatRows = {}
        for change in changes:
            goes, comes = self._one(change)
            _move(goes, added, removed)
            _move(comes, removed, added)
        return removed, added

    def _one(self, change: Change) -> tuple[FlatRows, FlatRows]:
        match change:
            case Create(network):
                return {}, self._create(network)
            case Delete(name):
                return self._delete(self._bridge(name)), {}
            case Attach(name, container):
                return {}, self._attach(self._bridge(name), container)
            case Detach(name, container):
                return self._detach(self._bridge(name), container), {}
            case Publish(name, container, publication):
                bridge = self._bridge(name)
                return {}, self._publish(bridge, _box(bridge, container), publication)
            case Withdraw(name, container, publication):
                bridge = self._bridge(name)
                box = _box(bridge, container)
                if publication not in box.published:
                    raise missing_publication(change)
                return self._withdraw(bridge, box, publication), {}

    def _bridge(self, name: str) -> _Bridge:
        if name not in self._bridges:
            raise missing_network(name)
        return self._bridges[name]

    def _create(self, network: Network) -> FlatRows:
        part = self._part(network)
        if network.name in self._bridges or network.bridge in self._interfaces:
            raise DoubtfulError
        if any(self._overlaps(family, span) for family, span in _spans(network)):
            raise DoubtfulError
        self._refuse_taken(claim for c in network.containers for claim in _claims_of(network, c))
        self._put_network(network)
        return _without(self._rows(part), self._rows(self._options))

    def _delete(self, bridge: _Bridge) -> FlatRows:
        network = bridge.whole()
        for container in network.containers:
            self._release(_claims_of(network, container))
        for family, span in _spans(network):
            self._subnets[family].remove(span)
        self._interfaces.discard(network.bridge)
        del self._bridges[network.name]
        return _without(self._rows(self._part(network)), self._rows(self._options))

    def _attach(self, bridge: _Bridge, container: Container) -> FlatRows:
        part = self._part(replace(bridge.shell, containers=(container,)))
        if container.name in bridge.boxes or bridge.addresses & _addresses(container):
            raise DoubtfulError
        self._refuse_taken(_claims_of(bridge.shell, container))
        self._put_container(bridge, container)
        return _without(self._rows(part), self._rows(self._part(bridge.shell)))

    def _detach(self, bridge: _Bridge, name: str) -> FlatRows:
        container = _box(bridge, name).whole()
        part = self._part(replace(bridge.shell, containers=(container,)))
        self._release(_claims_of(bridge.shell, container))
        bridge.addresses -= _addresses(container)
        del bridge.boxes[name]
        return _without(self._rows(part), self._rows(self._part(bridge.shell)))

    def _publish(self, bridge: _Bridge, box: _Box, publication: Publication) -> FlatRows:
        rows = self._rows_of(bridge, box, publication)
        claims = list(_claims(bridge.shell, box.shell, publication))
        self._refuse_taken(claims)
        self._take(claims)
        box.count(publication, +1)
        return rows

    def _withdraw(self, bridge: _Bridge, box: _Box, publication: Publication) -> FlatRows:
        box.count(publication, -1)
        self._release(_claims(bridge.shell, box.shell, publication))
        return self._rows_of(bridge, box, publication)

    def _rows_of(self, bridge: _Bridge, box: _Box, publication: Publication) -> FlatRows:
        """The rows that exist because of this publication and no other of its container."""
        whole, bare = (
            self._part(replace(bridge.shell, containers=(replace(box.shell, publish=publish),)))
            for publish in ((publication,), ())
        )
        shared = {
            (slot[0].value, slot[1], port)
            for slot, port in box.openings(publication)
            if port in box.opened.get(slot, ())
        }
        rows = _without(self._rows(whole), self._rows(bare))
        if not shared:
            return rows
        return {
            relation: its
            if relation not in OPENING
            else {k: v for k, v in its.items() if (k[0], *k[-2:]) not in shared}
            for relation, its in rows.items()
        }

    def _part(self, network: Network) -> Host:
        """A host with that network alone; raises `DoubtfulError` if that is not consistent."""
        try:
            return replace(self._options, networks=(network,))
        except InputError:
            raise DoubtfulError from None

    def _put_network(self, network: Network) -> None:
        bridge = self._bridges[network.name] = _Bridge(replace(network, containers=()))
        self._interfaces.add(network.bridge)
        for family, span in _spans(network):
            insort(self._subnets[family], span)
        for container in network.containers:
            self._put_container(bridge, container)

    def _put_container(self, bridge: _Bridge, container: Container) -> None:
        box = bridge.boxes[container.name] = _Box(replace(container, publish=()))
        bridge.addresses |= _addresses(container)
        self._take(_claims_of(bridge.shell, container))
        for publication in container.publish:
            box.count(publication, +1)

    def _overlaps(self, family: Family, span: tuple[int, int]) -> bool:
        """Whether a subnet shares an address with one that is there."""
        spans = self._subnets[family]
        place = bisect_left(spans, span)
        before = spans[place - 1 : place]
        return any(other[1] >= span[0] for other in before) or any(
            other[0] <= span[1] for other in spans[place : place + 1]
        )

    def _refuse_taken(self, claims: Iterable[_Claim]) -> None:
        for slot, port, address in claims:
            holders = self._claims.get(slot, {}).get(port)
            if holders and (address is None or address in holders or None in holders):
                raise DoubtfulError

    def _take(self, claims: Iterable[_Claim]) -> None:
        for slot, port, address in claims:
            ports = self._claims.setdefault(slot, {})
            held = ports.get(port)
            ports[port] = _ANYWHERE if address is None else (held or frozenset()) | {address}

    def _release(self, claims: Iterable[_Claim]) -> None:
        for slot, port, address in claims:
            left = self._claims[slot][port] - {address}
            if left:
                self._claims[slot][port] = left
            else:
                del self._claims[slot][port]


def _box(bridge: _Bridge, name: str) -> _Box:
    if name not in bridge.boxes:
        raise missing_container(bridge.shell.name, name)
    return bridge.boxes[name]


def _addresses(container: Container) -> set[Address]:
    return {address for address in map(container.address, Family) if address is not None}


def _spans(network: Network) -> Iterator[tuple[Family, tuple[int, int]]]:
    """First and last address of each subnet, as numbers."""
    for subnet in network.subnets:
        span = int(subnet.network_address), int(subnet.broadcast_address)
        yield Family.of(subnet), span


def _claims_of(network: Network, container: Container) -> Iterator[_Claim]:
    for publication in container.publish:
        yield from _claims(network, container, publication)


def _claims(network: Network, container: Container, publication: Publication) -> Iterator[_Claim]:
    first = publication.host_port
    if first is None:
        return
    for family in Family:
        covered = publication.covers(family) and container.address(family) is not None
        if covered and not network.is_routed(family):
            slot, bound = (family, publication.protocol.value), publication.bound_address(family)
            yield from ((slot, port, bound) for port in range(first, first + publication.count))


def _step(counts: dict[_K, int], key: _K, step: int) -> None:
    counts[key] = counts.get(key, 0) + step
    if not counts[key]:
        del counts[key]


def _without(rows: FlatRows, others: FlatRows) -> FlatRows:
    """The rows that are not among `others`; relations without such rows are left out."""
    found: FlatRows = {}
    for relation, its in rows.items():
        known = others.get(relation, {})
        fresh = {key: value for key, value in its.items() if key not in known}
        if fresh:
            found[relation] = fresh
    return found


def _move(rows: FlatRows, source: FlatRows, target: FlatRows) -> None:
    """Put rows into `target`; one that is in `source` with the same value only leaves that."""
    for relation, its in rows.items():
        there = source.get(relation, {})
        here: dict[FlatKey, FlatKey] = target.setdefault(relation, {})
        for key, value in its.items():
            if there.get(key) == value:
                del there[key]
            else:
                here[key] = value
    _drop_empty(source)
    _drop_empty(target)


def _drop_empty(rows: FlatRows) -> None:
    empty: list[Relation] = [relation for relation, its in rows.items() if not its]
    for relation in empty:
        del rows[relation]
