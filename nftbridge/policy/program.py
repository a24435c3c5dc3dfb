"""The vocabulary of the program: packet fields, relations, conditions, verdicts, rules, chains.

A rule says: these fields are in this relation, those are not in that one, a few constants, then a
verdict. Its meaning for a packet is the same whether a backend looks rows up (nftables: one set per
relation) or writes a line per row (iptables).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple, TypeAlias

from nftbridge.model import Address, Family, Mark, Prefix


class Kind(Enum):
    """What a column of a relation holds."""

    INTERFACE = "interface"
    ADDRESS = "address"
    PREFIX = "prefix"
    PROTOCOL = "protocol"
    PORT = "port"


class Field(Enum):
    """What a rule can ask about a packet; the value is nftables' name of it."""

    __hash__ = object.__hash__  # Enum's is written in Python; this is a key for each row of a host

    IIF = "iifname"
    OIF = "oifname"
    SADDR = "saddr"
    DADDR = "daddr"
    PROTOCOL = "l4proto"
    DPORT = "dport"
    CT_STATE = "ct state"
    MARK = "mark"
    SADDR_TYPE = "saddr type"
    DADDR_TYPE = "daddr type"


Value: TypeAlias = str | int | Address | Prefix
Key: TypeAlias = tuple[Value, ...]
Constant: TypeAlias = str | IPv4Network | IPv6Network | Mark
"""What a rule itself can name. A prefix or a mark stands for every value that it is in or on."""


class Owner(NamedTuple):
    """Whose row it is: network, container, publication, by name; "" for the host's own."""

    network: str = ""
    container: str = ""
    publication: str = ""


class Row(NamedTuple):
    """One tuple of a relation, in one family."""

    family: Family
    key: Key
    value: Key
    owner: Owner


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """A named finite set of typed tuples, or with `value` columns a function from its key to them.

    Family is a column of every relation. `families` limits it to those it can have rows of; a
    condition on it vanishes from the rules of the other family.
    """

    name: str
    key: tuple[Kind, ...]
    value: tuple[Kind, ...] = ()
    families: tuple[Family, ...] = tuple(Family)
    meaning: str = ""

    @property
    def addressed(self) -> bool:
        """Whether a column holds addresses or prefixes: each family then needs a set of its own."""
        return not {Kind.ADDRESS, Kind.PREFIX}.isdisjoint(self.key + self.value)

    @property
    def has_prefixes(self) -> bool:
        """Whether looking a key up means finding the prefix that contains it."""
        return Kind.PREFIX in self.key


Facts: TypeAlias = Mapping[Relation, tuple[Row, ...]]
"""All rows of a host, by relation, in the order in which their owners were created."""


@dataclass(frozen=True, slots=True)
class In:
    """The fields, in this order, are a key of the relation."""

    relation: Relation
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class NotIn:
    """The fields, in this order, are no key of the relation."""

    relation: Relation
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Is:
    """A field has one of these constant values. A prefix limits the rule to its family."""

    field: Field
    values: tuple[Constant, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """A condition that neighbouring rules have in common, so that other packets skip them all.

    It follows from the conditions of each of these rules and from how rows are derived, so it never
    decides anything: it only spares look-ups. nftables asks it once and keeps the rules in `chain`,
    a chain of its own; iptables has no line for a rule without rows and does without.
    """

    chain: str
    condition: In | Is
    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Packets whose fields are a key of the relation go no further in this chain.

    It stands for `NotIn` where no later rule of the chain could match such a packet, so that "not
    this rule" and "return" mean the same. iptables says ``! -i BR`` in the rule itself. nftables
    looks the key up in a rule before it, because in OUTPUT there is no input interface: kernels
    before 5.3 break off a negated look-up there too, and the rule would never match.
    `reached_unless` names the relation whose earlier rule in the chain already returned for that
    interface; nftables leaves those rows out. Packets with such a key go through `gate`, an earlier
    one of the chain.
    """

    relation: Relation
    fields: tuple[Field, ...]
    reached_unless: Relation
    gate: Gate


@dataclass(frozen=True, slots=True)
class IsNot:
    """A field has not this constant value. A prefix of the other family is never the value."""

    field: Field
    value: Constant


Condition: TypeAlias = In | NotIn | Leave | Is | IsNot


class Final(Enum):
    """Verdicts without a parameter; the value is nftables' word."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    MASQUERADE = "masquerade"


@dataclass(frozen=True, slots=True)
class MarkedAccept:
    """Put the mark on the packet, whose other bits stay, and accept it."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Jump:
    """Continue in that chain; come back here when it ends or returns."""

    chain: str


@dataclass(frozen=True, slots=True)
class Dnat:
    """Translate the destination to the function's value for these fields; no value, no match."""

    function: Relation
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Snat:
    """Translate the source to the function's value for these fields; no value, no match."""

    function: Relation
    fields: tuple[Field, ...]


Verdict: TypeAlias = Final | MarkedAccept | Jump | Dnat | Snat


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Conditions that must all hold, and what happens then. `reason` is for people.

    `gate` is the one that it stands behind, if any. Rules between two behind the same gate are for
    packets on both sides of it.
    """

    name: str
    conditions: tuple[Condition, ...]
    verdict: Verdict
    reason: str
    gate: Gate | None = None

    @property
    def driver(self) -> Relation | None:
        """The relation whose rows are lines of iptables text; None for a rule of the skeleton."""
        for condition in self.conditions:
            if isinstance(condition, In):
                return condition.relation
        return self.verdict.function if isinstance(self.verdict, Dnat | Snat) else None

    def relations(self) -> Iterator[Relation]:
        """Every relation that it consults."""
        for condition in self.conditions:
            if isinstance(condition, In | NotIn | Leave):
                yield condition.relation
        if isinstance(self.verdict, Dnat | Snat):
            yield self.verdict.function

    def families(self) -> tuple[Family, ...]:
        """The families whose packets it can match at all."""
        return tuple(family for family in Family if all(self._admits(family)))

    def _admits(self, family: Family) -> Iterator[bool]:
        for condition in self.conditions:
            if isinstance(condition, In):
                yield family in condition.relation.families
            elif isinstance(condition, Is):
                yield all(admits(value, family) for value in condition.values)
        if isinstance(self.verdict, Dnat | Snat):
            yield family in self.verdict.function.families


class Order(Enum):
    """How iptables sorts a block's lines by owner; nftables has one rule whatever the owners."""

    OLDEST_FIRST = "appended"
    NEWEST_FIRST = "inserted at the head"


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring rules whose iptables lines are sorted together by owner."""

    rules: tuple[Rule, ...]
    order: Order = Order.OLDEST_FIRST


def appended(*rules: Rule) -> Block:
    """A block to whose end Docker adds: the oldest owner's lines come first."""
    return Block(rules)


def inserted(*rules: Rule) -> Block:
    """A block at whose head Docker inserts: the newest owner's lines come first."""
    return Block(rules, Order.NEWEST_FIRST)


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a base chain is attached; `priority` names one of `Priorities`."""

    kind: str
    name: str
    priority: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain: `table` is the iptables table it lives in, `hook` None makes it a regular chain."""

    name: str
    table: str
    blocks: tuple[Block, ...] = ()
    hook: Hook | None = None
    users: bool = False

    def rules(self) -> Iterator[Rule]:
        """Its rules in order."""
        for block in self.blocks:
            yield from block.rules

    def gates(self) -> tuple[Gate, ...]:
        """Those that rules of it stand behind, each once, in order."""
        return tuple(dict.fromkeys(rule.gate for rule in self.rules() if rule.gate is not None))


def returns(rule: Rule) -> bool:
    """Whether a packet may go back to the calling chain from here."""
    leaves = any(isinstance(condition, Leave) for condition in rule.conditions)
    return leaves or rule.verdict is Final.RETURN


def chain(
    name: str, table: str, *blocks: Block, hook: Hook | None = None, users: bool = False
) -> Chain:
    """A chain of these blocks; `users` marks the one whose rules are the user's."""
    return Chain(name, table, blocks, hook, users)


def admits(value: Constant, family: Family) -> bool:
    """Whether a packet of `family` can have this constant value."""
    return not isinstance(value, Prefix) or Family.of(value) is family
