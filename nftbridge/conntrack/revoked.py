"""What an apply took away, and which of the flows that the kernel follows live by it.

Told from the rows that went and came, so that it costs what has changed. What rows do not tell of
one flow alone (a network that is internal now, its gateway mode, its masquerading) is for `judge`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias, cast

from nftbridge.model import Address, Family, Host, Network
from nftbridge.policy import catalogue as known
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import Relation

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
_NUMBERS = {"tcp": int(TCP), "udp": int(UDP), "sctp": int(socket.IPPROTO_SCTP)}
_FAMILIES = {Family.IPV4.value: socket.AF_INET, Family.IPV6.value: socket.AF_INET6}

Packed: TypeAlias = bytes
"""An address as it stands in a packet: 4 or 16 bytes."""


class Flow(NamedTuple):
    """One flow: its first packet as it came, and where that went, which is where answers come from.

    Addresses are packed, `protocol` is IP's number, ports are 0 where the protocol has none.
    """

    protocol: int
    source: Packed
    destination: Packed
    port: int
    reply_source: Packed
    reply_port: int

    @property
    def translated(self) -> bool:
        """Whether it goes elsewhere than it was addressed to."""
        return (self.destination, self.port) != (self.reply_source, self.reply_port)


class Selection(NamedTuple):
    """Flows that have these traits, as `Flow` names them; None is any, and so is `size` 0.

    `size` is that of the family's addresses. There are no addresses here, and nothing of answers,
    though Linux has both: it compares addresses of IPv6 the wrong way round (6.18, since 5.8), and
    finds nothing by answers before 5.17.
    """

    size: int = 0
    protocol: int | None = None
    port: int | None = None

    def includes(self, other: Selection) -> bool:
        """Whether every flow of `other` is one of these."""
        pairs = zip(self, other, strict=True)
        return all(mine == theirs or not mine for mine, theirs in pairs)


_MOST = 6
"""So many ports are looked for one by one: the kernel walks its whole table each time (5 ms)."""


@dataclass(frozen=True, slots=True)
class Links:
    """The host's own addresses, and on which interface's link an address is ("": on none)."""

    own: frozenset[Packed]
    interface: Callable[[Packed], str]

    def is_own(self, address: Packed) -> bool:
        """Whether `address` is the host's own; loopback is, with or without an entry."""
        loopback = address[0] == 127 if len(address) == 4 else address == bytes(15) + b"\1"
        return loopback or address in self.own


class _Translation(NamedTuple):
    """What stands behind a host port; `bound` is the host address it is for (None: every one)."""

    bound: Packed | None
    target: tuple[Packed, int]


_Slot: TypeAlias = tuple[int, int, int]
"""Length of the family's addresses, protocol, host port."""

_Translations: TypeAlias = Mapping[_Slot, tuple[_Translation, ...]]
_Port: TypeAlias = tuple[int, Packed, int]
"""Protocol, container address, container port."""

Judgement: TypeAlias = Callable[[Flow, Links], bool]
"""Whether the rules decide otherwise about a flow than before."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What no longer holds. True if there is any; `concerns` says whether a flow lived by it.

    lost    translations that are gone or lead elsewhere
    come    translations that are there now
    closed  container ports that nobody may reach any more from elsewhere; value: their bridge
    left    container addresses that are gone
    judge   of networks that are another kind now

    `tcp` says whether TCP is meant as well: connections that somebody will notice.
    """

    lost: _Translations = field(default_factory=dict[_Slot, tuple[_Translation, ...]])
    come: _Translations = field(default_factory=dict[_Slot, tuple[_Translation, ...]])
    closed: Mapping[_Port, str] = field(default_factory=dict[_Port, str])
    left: frozenset[Packed] = frozenset()
    judge: Judgement | None = None
    tcp: bool = False

    def __bool__(self) -> bool:
        arrived = any(protocol == UDP for _, protocol, _ in self.come)
        return bool(self.lost or arrived or self.closed or self.left or self.judge)

    def selections(self) -> tuple[Selection, ...]:
        """What has to be looked at to find every flow that it can concern."""
        if self.judge is not None:
            return (Selection(),)
        arrived = {slot for slot in self.come if slot[1] == UDP}
        found = {Selection(*slot) for slot in self.lost.keys() | arrived}
        found |= {Selection(len(address), number) for number, address, _ in self.closed}
        found |= {Selection(len(address)) for address in self.left}
        if len(found) > _MOST:
            found |= {selection._replace(port=None) for selection in found}
        return tuple(s for s in found if not any(o != s and o.includes(s) for o in found))

    def concerns(self, flow: Flow, links: Links) -> bool:
        """Whether `flow` must not go on as it is."""
        if flow.protocol == TCP and not self.tcp:
            return False
        return (
            not self.left.isdisjoint((flow.source, flow.destination, flow.reply_source))
            or self._leads_astray(flow)
            or self._leads_past(flow, links)
            or self._is_closed(flow, links)
            or (self.judge is not None and self.judge(flow, links))
        )

    def _leads_astray(self, flow: Flow) -> bool:
        """Whether it is translated as nothing of today would."""
        return _through(self.lost, flow) and not _through(self.come, flow)

    def _leads_past(self, flow: Flow, links: Links) -> bool:
        """Whether it is UDP to a host port that was published only after its first packet."""
        if flow.protocol != UDP or not links.is_own(flow.destination):
            return False
        there = [t for t in self.come.get(_slot(flow), ()) if t.bound in (None, flow.destination)]
        return any(t.target != (flow.reply_source, flow.reply_port) for t in there)

    def _is_closed(self, flow: Flow, links: Links) -> bool:
        """Whether it goes to a closed port, and neither from the host nor from its own bridge."""
        bridge = self.closed.get((flow.protocol, flow.reply_source, flow.reply_port))
        if bridge is None:
            return False
        return flow.translated or not (
            links.is_own(flow.source) or links.interface(flow.source) == bridge
        )


def revoked(
    removed: FlatRows, added: FlatRows, *, tcp: bool, left: Iterable[Address] = ()
) -> Revoked:
    """What these rows, and containers with the addresses in `left`, take away by going or coming.

    Without `tcp` nothing is counted as revoked that only TCP could use.
    """
    unnoticed = "" if tcp else "tcp"
    return Revoked(
        _translations(removed, unnoticed),
        _translations(added, unnoticed),
        _closed(removed, added, unnoticed),
        frozenset(address.packed for address in left),
        tcp=tcp,
    )


def either(judgements: Iterable[Judgement | None]) -> Judgement:
    """Whether one of them says so."""
    found = [judgement for judgement in judgements if judgement is not None]
    return lambda flow, links: any(judgement(flow, links) for judgement in found)


def merged(rows: FlatRows, others: FlatRows) -> FlatRows:
    """The rows of either; those of `others` count where both have a value."""
    return {r: {**rows.get(r, {}), **others.get(r, {})} for r in {**rows, **others}}


def departed(held: Host | None, wanted: Host, removed: FlatRows) -> set[Address]:
    """Addresses that no container of `wanted` has, and one of `held` has had.

    Without `held`, those of the containers that were guarded. Parts of two hosts will do, if the
    networks that are missing are the same in both.
    """
    guarded = removed.get(known.GUARDED, ())
    if held is None and not guarded:
        return set()
    now = {str(address) for address in _addresses(wanted)}
    if held is not None:
        return {address for address in _addresses(held) if str(address) not in now}
    gone = (str(key[1]) for key in guarded)
    return {ip_address(text) for text in gone if text not in now}


def reshaped(held: Host, wanted: Host) -> tuple[Network, ...]:
    """The networks of `held` that are no more, or are of another kind, whatever is on them.

    All of them if the options of the host differ.
    """
    if _rules_of(held) != _rules_of(wanted):
        return held.networks
    kinds = {network.name: replace(network, containers=()) for network in wanted.networks}
    return tuple(n for n in held.networks if kinds.get(n.name) != replace(n, containers=()))


def _rules_of(host: Host) -> Host:
    """The options of `host` on which its rules depend."""
    return replace(host, networks=(), accept_missing=(), cut_revoked=False)


def _addresses(host: Host) -> Iterator[Address]:
    for network in host.networks:
        for container in network.containers:
            yield from (a for a in map(container.address, Family) if a is not None)


def _slot(flow: Flow) -> _Slot:
    return len(flow.destination), flow.protocol, flow.port


def _through(translations: _Translations, flow: Flow) -> bool:
    """Whether one of them has made the flow what it is."""
    return any(
        found.bound in (None, flow.destination)
        and found.target == (flow.reply_source, flow.reply_port)
        for found in translations.get(_slot(flow), ())
    )


def _translations(rows: FlatRows, but: str) -> dict[_Slot, tuple[_Translation, ...]]:
    """The translations of all protocols but one."""
    found: dict[_Slot, tuple[_Translation, ...]] = {}
    for relation in (known.PUBLISHED, known.PUBLISHED_ANYWHERE):
        for key, value in rows.get(relation, {}).items():
            if key[-2] != but:
                slot, translation = _translation(relation, key, value)
                found[slot] = (*found.get(slot, ()), translation)
    return found


def _translation(relation: Relation, key: FlatKey, value: FlatKey) -> tuple[_Slot, _Translation]:
    family, *bound, protocol, port = key
    address, target_port = value
    target = _packed(family, address)
    at = _packed(family, bound[0]) if relation is known.PUBLISHED else None
    slot = len(target), _NUMBERS[str(protocol)], cast("int", port)
    return slot, _Translation(at, (target, cast("int", target_port)))


def _closed(removed: FlatRows, added: FlatRows, but: str) -> dict[_Port, str]:
    """The ports that were open and are not; nat-unprotected opens all without a row for each."""
    gone = removed.get(known.OPEN_PORTS)
    if not gone:
        return {}
    opened = {key[2:] for key in added.get(known.OPEN_PORTS, ())}
    unprotected = added.get(known.UNPROTECTED_BRIDGES, {})
    return {
        (_NUMBERS[str(protocol)], _packed(family, address), cast("int", port)): str(bridge)
        for family, bridge, address, protocol, port in gone
        if protocol != but
        and (address, protocol, port) not in opened
        and (family, bridge) not in unprotected
    }


def _packed(family: object, address: object) -> Packed:
    return socket.inet_pton(_FAMILIES[str(family)], str(address))
