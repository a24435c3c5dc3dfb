"""A packet through one base chain of anybody's: what is decided, and by which rule.

A rule that cannot be understood is taken not to match, and is a doubt if its verdict would change
the outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from ipaddress import ip_address
from typing import Any

from nftbridge.doctor.ruleset import Chain, Place, Rule, Table
from nftbridge.explain.matching import Seen, Truth, holds
from nftbridge.model import Address
from nftbridge.nft.syntax import Json, is_list, is_object, unprefixed
from nftbridge.policy.evaluate import Packet

_SILENT = frozenset(
    {"counter", "log", "mangle", "dup", "flow", "meter", "comment", "last", "nftrace"}
)
"""Statements after which the packet goes on as if they were not there."""

_MARK, _CONNECTION_MARK = {"meta": {"key": "mark"}}, {"ct": {"key": "mark"}}

_DEEPEST = 64  # the kernel's own limit is 16 jumps (NFT_JUMP_STACK_SIZE)


class Verdict(Enum):
    """How a base chain ends for a packet."""

    ACCEPT = auto()
    DROP = auto()
    TRANSLATE = auto()
    UNTRACKED = auto()
    """Connection tracking is told to leave it alone: no translation, no established state."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A rule that gives a field of the packet another `value`; "" if it cannot be told which."""

    place: Place
    field: str
    value: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome, where it was decided, and the rules that might have decided otherwise.

    `statement` is the one that translates, for `Verdict.TRANSLATE`; `rewrites` happened before, and
    `via` are the rules that led into the chain, the nearest first.
    """

    verdict: Verdict
    place: Place
    doubts: tuple[Place, ...] = ()
    statement: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rewrites: tuple[Rewrite, ...] = ()
    via: tuple[Place, ...] = ()


_FINAL = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "fwd": Verdict.DROP,
    "notrack": Verdict.UNTRACKED,
}
_TRANSLATIONS = frozenset({"dnat", "snat", "masquerade", "redirect"})


@dataclass(frozen=True, slots=True)
class Bits:
    """What is known of a packet's mark: the bits of `known` are as in `value`."""

    value: int = 0
    known: int = 0xFFFFFFFF

    def hold(self, mask: int, wanted: int) -> Truth:
        """Whether the mark under that mask is `wanted`."""
        if wanted & ~mask or (self.value ^ wanted) & self.known & mask:
            return False
        return None if mask & ~self.known else True


UNMARKED, UNKNOWN = Bits(), Bits(known=0)


def decide(table: Table, base: Chain, seen: Seen, *, mark: Bits = UNMARKED) -> Decision:
    """What `base` does to the packet with that mark."""
    walk = _Walk(table, seen, mark)
    end = walk.through(base, 0)
    if end is None:
        verdict = Verdict.DROP if base.policy == "drop" else Verdict.ACCEPT
        end = Decision(verdict, Place(table, base))
    passing = end.verdict is not Verdict.DROP
    doubts = tuple(place for place, passes in walk.doubts if passes is not passing)
    return replace(end, doubts=doubts, rewrites=tuple(walk.rewrites))


def sets_marks(tables: Iterable[Table]) -> bool:
    """Whether any rule gives packets a mark."""
    return any(
        "mangle" in statement and "mark" in str(statement["mangle"])
        for table in tables
        for chain in table.chains.values()
        for rule in chain.rules
        for statement in rule.statements
    )


class _Walk:
    """One packet in one table; `doubts` are places with what they would do: pass, drop, either."""

    def __init__(self, table: Table, seen: Seen, mark: Bits) -> None:
        self._table = table
        self._seen = seen
        self._mark = mark
        self._port = None if seen.is_answer else seen.packet.dport
        self.doubts: list[tuple[Place, bool | None]] = []
        self.rewrites: list[Rewrite] = []

    def through(self, chain: Chain, depth: int) -> Decision | None:
        """The decision in a chain and those below; None if the packet comes out at its end."""
        for rule in chain.rules:
            if rule.ports is not None and self._port is not None and self._port not in rule.ports:
                continue
            place = Place(self._table, chain, rule)
            statement = self._carried_out(place, rule)
            if statement is None:
                continue
            kind, body = _kind(statement)
            if kind == "return":
                return None
            if kind not in ("jump", "goto"):
                return _decision(kind, body, place)
            target = body.get("target") if is_object(body) else None
            below = self._table.chains.get(str(target))
            if below is None or depth == _DEEPEST:
                self.doubts.append((place, None))
                continue
            decided = self.through(below, depth + 1)
            if decided is not None:
                return replace(decided, via=(*decided.via, place))
            if kind == "goto":
                return None
        return None

    def _carried_out(self, place: Place, rule: Rule) -> Json | None:
        """The deciding statement of a rule that matches; None if it does not match or has none."""
        certain = True
        for statement in rule.statements:
            kind, body = _kind(statement)
            if kind == "match":
                truth = self._holds(body)
                if truth is False:
                    return None
                certain = certain and truth is True
            elif kind == "vmap":
                found = self._looked_up(body)
                if found is False:
                    continue
                statement = found if is_object(found) else {}  # noqa: PLW2901 - its verdict
                kind = _kind(statement)[0]
            if not self._is_meant(place, kind, body, certain=certain):
                return None
            if _decides(kind):
                if certain:
                    return statement
                self.doubts.append((place, _passes(kind)))
                return None
            if kind not in _SILENT and kind not in ("match", "continue"):
                certain = False
        return None

    def _is_meant(self, place: Place, kind: str, body: Any, *, certain: bool) -> bool:
        """Whether a statement is for packets of this kind; if it rewrites them, it has done so."""
        if not _concerns(kind, body, self._seen.packet):
            return False
        if kind == "mangle" and _field(body.get("key")) in _ADDRESSES | _PORTS:
            self._rewrite(place, body, certain=certain)
        return True

    def _rewrite(self, place: Place, body: Json, *, certain: bool) -> None:
        """Go on with the packet as the rule makes it, as far as that can be told."""
        name, value = _field(body.get("key")), body.get("value")
        if not certain:
            self.doubts.append((place, None))
            return
        packet = self._seen.packet
        changed = _changed(packet, name, value)
        if changed is None:
            self.rewrites.append(Rewrite(place, name, ""))
        elif changed != packet or name == "sport":
            self.rewrites.append(Rewrite(place, name, str(value)))
            end = replace(self._seen.delivered, dport=changed.dport)
            self._seen = replace(self._seen, packet=changed, delivered=end)
            self._port = changed.dport if self._port is not None else None

    def _holds(self, body: Any) -> Truth:
        """`holds`, but nothing that a foreign rule says can make it fail."""
        try:
            known = self._known(body)
            return holds(body, self._seen, self._table.sets) if known is _ASK else known
        except (AttributeError, LookupError, TypeError, ValueError):
            return None

    def _known(self, body: Json) -> Truth | _Ask:
        """Matches that concern the packet's surroundings and not its headers."""
        body = unprefixed(body)
        left, right, negated = body["left"], body["right"], body["op"] == "!="
        if is_object(left) and "fib" in left:
            return _negated(self._type(left["fib"], right), negated)
        field, mask = _masked(left)
        if field == _MARK:
            return _negated(self._mark.hold(mask, int(right)), negated)
        if field == _CONNECTION_MARK:  # nothing of ours sets it
            known = UNMARKED if self._mark.known == UNMARKED.known else UNKNOWN
            return _negated(known.hold(mask, int(right)), negated)
        if left == {"meta": {"key": "pkttype"}}:
            return _negated(right in ("host", "unicast"), negated)
        return _ASK

    def _type(self, fib: Json, right: Any) -> Truth:
        """``fib daddr type local`` and the like, of addresses that are the host's or not."""
        packet, flags = self._seen.packet, fib.get("flags")
        if fib.get("result") != "type":
            return None
        if flags in (["daddr"], "daddr"):
            found = "local" if packet.to_host else "unicast"
        elif flags in (["saddr"], "saddr"):
            found = "local" if packet.from_host else "unicast"
        else:
            return None
        return found in (right if is_list(right) else [right])

    def _looked_up(self, body: Any) -> Json | bool | None:
        """The verdict that a map has for the packet; False: none; None: it cannot be told."""
        try:
            data, unsure = body["data"], False
            named = isinstance(data, str)
            rows = self._table.sets[data[1:]].get("elem", []) if named else data["set"]
            for key, verdict in rows:
                truth = self._holds({"op": "==", "left": body["key"], "right": key})
                if truth:
                    return None if unsure else dict(verdict)
                unsure = unsure or truth is None
        except (AttributeError, LookupError, TypeError, ValueError):
            return None
        return None if unsure else False


class _Ask(Enum):
    """Says that the packet's headers have to be asked."""

    HEADERS = auto()


_ASK = _Ask.HEADERS


def _kind(statement: Json) -> tuple[str, Any]:
    return next(iter(statement.items()), ("", None))


_ADDRESSES = frozenset({"saddr", "daddr"})
_PORTS = frozenset({"sport", "dport"})


def _field(key: Any) -> str:
    """The name of a header field without its header's; "" if that is none."""
    body = key.get("payload") if is_object(key) else None
    return str(body.get("field", "")) if is_object(body) else ""


def _concerns(kind: str, body: Any, packet: Packet) -> bool:
    """Whether a statement is carried out for packets of that family and protocol.

    nft asks for those before it rewrites a header or translates to an address.
    """
    if not is_object(body):
        return True
    if kind in _TRANSLATIONS:
        asked = body.get("family")
    else:
        key = body.get("key") if kind == "mangle" else None
        header = key.get("payload") if is_object(key) else None
        asked = header.get("protocol") if is_object(header) else None
    if asked in ("ip", "ip6"):
        return (asked == "ip") is (packet.saddr.version == 4)
    return asked not in ("tcp", "udp", "sctp") or asked == packet.protocol


def _changed(packet: Packet, field: str, value: Any) -> Packet | None:
    """The packet with that value in a field; None if it cannot be told. The source port is any."""
    try:
        if field in _ADDRESSES:
            address = ip_address(value)
            return replace(packet, saddr=address) if field == "saddr" else _sent_to(packet, address)
        return packet if field == "sport" else replace(packet, dport=int(value))
    except (TypeError, ValueError):
        return None


def _sent_to(packet: Packet, address: Address) -> Packet:
    return packet if address == packet.daddr else replace(packet, daddr=address, to_host=False)


def _decides(kind: str) -> bool:
    return kind in _FINAL or kind in _TRANSLATIONS or kind in ("jump", "goto", "return")


def _passes(kind: str) -> bool | None:
    """Whether a verdict lets the packet pass; None if that depends."""
    if kind in ("accept", *_TRANSLATIONS):
        return True
    return False if kind in ("drop", "reject", "fwd") else None


def _decision(kind: str, body: Any, place: Place) -> Decision:
    if kind in _TRANSLATIONS:
        said: Json = {"kind": kind} | (body if is_object(body) else {})
        return Decision(Verdict.TRANSLATE, place, (), said)
    return Decision(_FINAL[kind], place)


def _masked(left: Any) -> tuple[Any, int]:
    """A field, and the bits of it that are asked for; of other fields than marks that is no use."""
    if not (is_object(left) and "&" in left):
        return left, UNMARKED.known
    field, mask = left["&"]
    return (field, int(mask)) if field in (_MARK, _CONNECTION_MARK) else (left, 0)


def _negated(truth: Truth, negated: bool) -> Truth:  # noqa: FBT001 - an operator
    return truth if truth is None or not negated else not truth
