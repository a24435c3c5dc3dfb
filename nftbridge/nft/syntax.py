"""The part of nft's language that nftbridge speaks, as types that know both its notations.

`json()` gives libnftables' JSON (libnftables-json(5)), `text()` the line for ``nft -f``. Nothing
outside this module knows how either is spelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeGuard

_ALL_BITS = 0xFFFFFFFF

Json: TypeAlias = dict[str, Any]
"""One node of a JSON document; its shape is libnftables' business."""


def is_object(node: object) -> TypeGuard[Json]:
    """Whether a node of a document is a JSON object."""
    return isinstance(node, dict)


def is_list(node: object) -> TypeGuard[list[Any]]:
    """Whether a node of a document is a JSON array."""
    return isinstance(node, list)


class Expression(Protocol):
    """Something with a value in a packet's context."""

    def json(self) -> Json | str: ...
    def text(self) -> str: ...


class Statement(Protocol):
    """Something that a rule does."""

    def json(self) -> Json: ...
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Meta:
    """Packet meta data: ``nfproto``, ``iifname``, ``oifname``, ``l4proto``."""

    key: str

    def json(self) -> Json:
        return {"meta": {"key": self.key}}

    def text(self) -> str:
        return self.key if self.key.endswith("name") else f"meta {self.key}"


@dataclass(frozen=True, slots=True)
class Payload:
    """A header field, e.g. ``ip daddr`` or ``th dport``."""

    protocol: str
    field: str

    def json(self) -> Json:
        return {"payload": {"protocol": self.protocol, "field": self.field}}

    def text(self) -> str:
        return f"{self.protocol} {self.field}"


@dataclass(frozen=True, slots=True)
class AddressType:
    """What the routing table says of an address: ``fib daddr type``."""

    selector: str

    def json(self) -> Json:
        return {"fib": {"result": "type", "flags": [self.selector]}}

    def text(self) -> str:
        return f"fib {self.selector} type"


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Connection tracking meta data: ``ct state``."""

    key: str

    def json(self) -> Json:
        return {"ct": {"key": self.key}}

    def text(self) -> str:
        return f"ct {self.key}"


@dataclass(frozen=True, slots=True)
class Bits:
    """A packet's mark with some bits kept and then some set, as the kernel lists it.

    Keeping or setting what changes nothing is left out, and so it is in a listing. What is set is
    kept as well, for the same reason.
    """

    kept: int
    set: int = 0

    def json(self) -> Json:
        node: Json = Meta("mark").json()
        if self._kept != _ALL_BITS:
            node = {"&": [node, self._kept]}
        return {"|": [node, self.set]} if self.set else node

    def text(self) -> str:
        kept = f" & {self._kept:#010x}" if self._kept != _ALL_BITS else ""
        return f"meta mark{kept}" + (f" | {self.set:#010x}" if self.set else "")

    @property
    def _kept(self) -> int:
        return self.kept | self.set


@dataclass(frozen=True, slots=True)
class Concatenation:
    """Several expressions as one look-up key; one alone stands for itself."""

    parts: tuple[Expression, ...]

    def json(self) -> Json | str:
        if len(self.parts) == 1:
            return self.parts[0].json()
        return {"concat": [part.json() for part in self.parts]}

    def text(self) -> str:
        return " . ".join(part.text() for part in self.parts)


@dataclass(frozen=True, slots=True)
class MapLookup:
    """The value that a named map holds under a key; a miss ends the rule."""

    key: Concatenation
    map: str

    def json(self) -> Json:
        return {"map": {"key": self.key.json(), "data": f"@{self.map}"}}

    def text(self) -> str:
        return f"{self.key.text()} map @{self.map}"


@dataclass(frozen=True, slots=True)
class Match:
    """Compare an expression with a constant; several constants mean any of them."""

    left: Expression
    values: tuple[str, ...]
    negated: bool = False

    def json(self) -> Json:
        # "in" is bit-wise for flags (ct state); a set of other values is an ordinary comparison
        flags = isinstance(self.left, Conntrack)
        if len(self.values) > 1:
            right: object = list(self.values) if flags else {"set": list(self.values)}
        else:
            value = "".join(self.values)
            right = prefix(value) if "/" in value else value
        op = "!=" if self.negated else "in" if flags else "=="
        return {"match": {"op": op, "left": self.left.json(), "right": right}}

    def text(self) -> str:
        values = [f'"{v}"' if self._quoted else v for v in self.values]
        right = values[0] if len(values) == 1 else self._several(values)
        return f"{self.left.text()} {'!= ' if self.negated else ''}{right}"

    @property
    def _quoted(self) -> bool:
        return isinstance(self.left, Meta) and self.left.key.endswith("name")

    def _several(self, values: list[str]) -> str:
        listed = isinstance(self.left, Conntrack)
        return ",".join(values) if listed else "{ " + ", ".join(values) + " }"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Whether the key is in a named set."""

    key: Concatenation
    set: str
    negated: bool = False

    def json(self) -> Json:
        op = "!=" if self.negated else "=="
        return {"match": {"op": op, "left": self.key.json(), "right": f"@{self.set}"}}

    def text(self) -> str:
        return f"{self.key.text()} {'!= ' if self.negated else ''}@{self.set}"


def unprefixed(match: Json) -> Json:
    """A match of a mark with its bits under a mask, as it was written.

    Up to nft 1.0.6 a mask of the highest bits is listed as a prefix: ``meta mark 0x80000000/1``.
    """
    left, right = match.get("left"), match.get("right")
    if left != Meta("mark").json() or not is_object(right) or "prefix" not in right:
        return match
    bits = _ALL_BITS & ~(_ALL_BITS >> right["prefix"]["len"])
    return {**match, "left": Bits(bits).json(), "right": right["prefix"]["addr"]}


@dataclass(frozen=True, slots=True)
class MatchMark:
    """Whether the bits of `mask` in a packet's mark are those of `value`."""

    value: int
    mask: int

    def json(self) -> Json:
        return {"match": {"op": "==", "left": Bits(self.mask).json(), "right": self.value}}

    def text(self) -> str:
        return f"{Bits(self.mask).text()} == {self.value:#010x}"


@dataclass(frozen=True, slots=True)
class SetMark:
    """Put `value` on the bits of `mask` in a packet's mark and leave the others."""

    value: int
    mask: int

    def json(self) -> Json:
        return {"mangle": {"key": Meta("mark").json(), "value": self._bits.json()}}

    def text(self) -> str:
        return f"meta mark set {self._bits.text()}"

    @property
    def _bits(self) -> Bits:
        return Bits(_ALL_BITS & ~self.mask, self.value)


@dataclass(frozen=True, slots=True)
class Counter:
    """Count packets and bytes that get as far as here in the rule."""

    def json(self) -> Json:
        return {"counter": None}

    def text(self) -> str:
        return "counter"


@dataclass(frozen=True, slots=True)
class Verdict:
    """accept, drop, return, masquerade, or jump or goto with a target chain."""

    kind: str
    target: str = ""

    def json(self) -> Json:
        return {self.kind: {"target": self.target} if self.target else None}

    def text(self) -> str:
        return f"{self.kind} {self.target}".rstrip()


@dataclass(frozen=True, slots=True)
class Translate:
    """dnat or snat of one family (``ip`` or ``ip6``) to an address and perhaps a port."""

    kind: str
    family: str
    address: MapLookup
    port: MapLookup | None = None

    def json(self) -> Json:
        to: Json = {"family": self.family, "addr": self.address.json()}
        if self.port is not None:
            to["port"] = self.port.json()
        return {self.kind: to}

    def text(self) -> str:
        port = f" : {self.port.text()}" if self.port is not None else ""
        return f"{self.kind} {self.family} to {self.address.text()}{port}"


@dataclass(frozen=True, slots=True)
class RuleLine:
    """One nft rule. `comment` is the name of the program's rule (at most 128 bytes)."""

    chain: str
    statements: tuple[Statement, ...]
    comment: str

    def json(self, table: str) -> Json:
        body = {"chain": self.chain, "expr": [s.json() for s in self.statements]}
        return {"rule": _in(table, body) | {"comment": self.comment}}

    def text(self) -> str:
        return f'{" ".join(s.text() for s in self.statements)} comment "{self.comment}"'


@dataclass(frozen=True, slots=True)
class BaseHook:
    """Where a base chain is attached."""

    kind: str
    hook: str
    priority: int


@dataclass(frozen=True, slots=True)
class ChainDeclaration:
    """A chain; without a hook a regular one. The policy of base chains is always accept."""

    name: str
    base: BaseHook | None = None

    def json(self, table: str) -> Json:
        body: Json = {"name": self.name}
        if self.base is not None:
            hook: Json = {"type": self.base.kind, "hook": self.base.hook}
            body |= hook | {"prio": self.base.priority, "policy": "accept"}
        return {"chain": _in(table, body)}

    def text(self) -> str:
        if self.base is None:
            return ""
        where = f"type {self.base.kind} hook {self.base.hook}"
        return f"{where} priority {self.base.priority}; policy accept;"


@dataclass(frozen=True, slots=True)
class SetDeclaration:
    """A named set, or a map if `value` names a data type; a hash, or intervals for prefixes."""

    name: str
    key: tuple[str, ...]
    value: str = ""
    interval: bool = False

    @property
    def noun(self) -> str:
        """``set`` or ``map``."""
        return "map" if self.value else "set"

    def json(self, table: str) -> Json:
        # a list of one type is refused, a single type is a plain string
        kind: object = self.key[0] if len(self.key) == 1 else list(self.key)
        body: Json = {"name": self.name, "type": kind}
        if self.value:
            body["map"] = self.value
        if self.interval:
            body["flags"] = ["interval"]
        return {self.noun: _in(table, body)}

    def text(self) -> str:
        value = f" : {self.value}" if self.value else ""
        flags = " flags interval;" if self.interval else ""
        return f"type {' . '.join(self.key)}{value};{flags}"


def prefix(text: str) -> Json:
    """``172.20.0.0/16`` as JSON."""
    address, _, length = text.partition("/")
    return {"prefix": {"addr": address, "len": int(length)}}


def _in(table: str, body: Json) -> Json:
    return {"family": "inet", "table": table} | body
