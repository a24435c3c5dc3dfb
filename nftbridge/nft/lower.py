"""From the program to nft: a rule becomes one nft rule, a relation one set or map.

One per family and value column, that is. Everything here is constant; the host appears only as
elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile
from operator import itemgetter
from typing import Any, cast

from nftbridge.model import Family, Host, Mark, Prefix, Priorities
from nftbridge.model.parts import DOCKERS_PRIORITIES
from nftbridge.nft import syntax
from nftbridge.nft.syntax import Concatenation, Expression, Lookup, Match, Meta, Payload, Statement
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.flat import FlatKey, FlatRows, Scalar, Shadows, flat_rows
from nftbridge.policy.program import (
    Chain,
    Condition,
    Dnat,
    Field,
    Final,
    Gate,
    Hook,
    In,
    Is,
    IsNot,
    Jump,
    Kind,
    Leave,
    MarkedAccept,
    NotIn,
    Relation,
    Rule,
    Snat,
    admits,
    returns,
)
from nftbridge.policy.rules import CHAINS, program

_TYPES = {Kind.INTERFACE: "ifname", Kind.PROTOCOL: "inet_proto", Kind.PORT: "inet_service"}
_ADDRESS_TYPES = {Family.IPV4: "ipv4_addr", Family.IPV6: "ipv6_addr"}
_PAYLOADS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_FIXED_FIELDS: dict[Field, Expression] = {
    Field.IIF: Meta("iifname"),
    Field.OIF: Meta("oifname"),
    Field.PROTOCOL: Meta("l4proto"),
    Field.DPORT: Payload("th", "dport"),
    Field.CT_STATE: syntax.Conntrack("state"),
    Field.SADDR_TYPE: syntax.AddressType("saddr"),
    Field.DADDR_TYPE: syntax.AddressType("daddr"),
}
_ROUTED = (Field.SADDR_TYPE, Field.DADDR_TYPE)
_TRANSPORTS = Match(Meta("l4proto"), ("tcp", "udp", "sctp"))


@dataclass(frozen=True, slots=True)
class KernelSet:
    """One set or map in the kernel: the rows of `relation` in `family`, value column `column`.

    `family` None: rows of both families. `column` None: a set. `order` is where the columns of its
    keys are in a row; the first column of a row is its family.
    """

    relation: Relation
    family: Family | None
    column: int | None
    order: tuple[int, ...]
    declaration: syntax.SetDeclaration

    @property
    def name(self) -> str:
        """Its name in the kernel."""
        return self.declaration.name


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """Chains, sets and rules: everything but elements, the same for every host of one setting.

    Told apart by identity, since `skeleton` makes one for each setting.
    """

    chains: tuple[syntax.ChainDeclaration, ...]
    users_chain: str
    sets: tuple[KernelSet, ...]
    rules: tuple[syntax.RuleLine, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """The options of a host that stand in chains and rules. By default none is set."""

    accept_mark: Mark | None = None
    trust_mark: Mark | None = None
    priorities: Priorities = DOCKERS_PRIORITIES

    @classmethod
    def of(cls, host: Host) -> Setting:
        """Those of `host`."""
        return cls(host.accept_mark, host.trust_mark, host.priorities)


PLAIN = Setting()


@cache
def skeleton(setting: Setting = PLAIN) -> Skeleton:
    """The program in nft's terms. Names of chains and sets do not depend on the setting."""
    wanted = program(setting.accept_mark, setting.trust_mark)
    chains = tuple(declared for chain in wanted for declared in _declared(chain, setting))
    users = next(chain.name for chain in wanted if chain.users)
    order = {chain.name: number for number, chain in enumerate(chains)}
    # once each: two ways can lead to a chain behind a gate
    mixed = dict.fromkeys(line for chain in wanted for line in chain_lines(chain))
    rules = tuple(sorted(mixed, key=lambda line: order[line.chain]))
    sets = tuple(kernel_set for relation in RELATIONS for kernel_set in sets_of(relation))
    return Skeleton(chains, users, sets, rules)


@cache
def sets_of(relation: Relation) -> tuple[KernelSet, ...]:
    """The sets or maps that hold `relation`: per family if it has addresses, per value column."""
    families: tuple[Family | None, ...] = relation.families if relation.addressed else (None,)
    columns = tuple(range(len(relation.value))) or (None,)
    return tuple(_declare(relation, f, column) for f in families for column in columns)


def rows_in_kernel(host: Host) -> FlatRows:
    """The rows that nftables needs: all but those which no packet gets to ask for.

    Of each `Leave` that is those whose interface an earlier rule has returned for.
    """
    return flat_rows(host, _shadows())


@cache
def _shadows() -> Shadows:
    return {
        leave.relation: (leave.reached_unless, leave.fields.index(Field.IIF)) for leave in _leaves()
    }


def elements(kernel_set: KernelSet, rows: dict[FlatKey, FlatKey]) -> list[object]:
    """The elements of `kernel_set` in JSON, from flat rows of its relation and family."""
    in_order = cast("Callable[[FlatKey], Any]", itemgetter(*kernel_set.order))
    keys = map(in_order, rows)
    written: Iterable[object] = keys
    if kernel_set.declaration.interval:
        written = ({"concat": [_interval(part) for part in key]} for key in keys)
    elif len(kernel_set.order) > 1:
        written = ({"concat": key} for key in keys)
    column = kernel_set.column
    if column is None:
        return list(written)
    return [[key, value[column]] for key, value in zip(written, rows.values(), strict=True)]


def _interval(part: Scalar) -> object:
    return syntax.prefix(str(part)) if "/" in str(part) else part


def _declared(chain: Chain, setting: Setting) -> Iterator[syntax.ChainDeclaration]:
    """The chain, and those behind its gates."""
    yield syntax.ChainDeclaration(chain.name, _base(chain.hook, setting.priorities))
    yield from (syntax.ChainDeclaration(gate.chain) for gate in chain.gates())


def _base(hook: Hook | None, priorities: Priorities) -> syntax.BaseHook | None:
    if hook is None:
        return None
    return syntax.BaseHook(hook.kind, hook.name, getattr(priorities, hook.priority))


def _declare(relation: Relation, family: Family | None, column: int | None) -> KernelSet:
    types = ("nf_proto", *(_type(kind, family) for kind in relation.key))
    order = _order(relation, family)
    suffix = "" if family is None else str(family.version)
    named = "" if column is None or len(relation.value) == 1 else f"_{relation.value[column].value}"
    declaration = syntax.SetDeclaration(
        f"{relation.name}{named}{suffix}",
        tuple(types[place] for place in order),
        "" if column is None else _type(relation.value[column], family),
        relation.has_prefixes,
    )
    return KernelSet(relation, family, column, order, declaration)


def _order(relation: Relation, family: Family | None) -> tuple[int, ...]:
    """Rows of both families begin with theirs; it also stands behind a prefix that would be alone.

    libnftables lists every set of single prefixes before it changes an element of any set (nft
    1.0.6, NFT_CACHE_SETELEM_MAYBE), but no concatenations.
    """
    if relation.key == (Kind.PREFIX,):
        return 1, 0
    return tuple(range(0 if family is None else 1, len(relation.key) + 1))


def _type(kind: Kind, family: Family | None) -> str:
    return _TYPES[kind] if family is None or kind in _TYPES else _ADDRESS_TYPES[family]


def _leaves() -> Iterator[Leave]:
    for chain in CHAINS:
        for rule in chain.rules():
            yield from (c for c in rule.conditions if isinstance(c, Leave))


def chain_lines(chain: Chain) -> Iterator[syntax.RuleLine]:
    """The nft rules for a chain of the program, with those of the chains behind its gates."""
    return _lines(chain.name, tuple(chain.rules()), frozenset())


def _lines(chain: str, rules: tuple[Rule, ...], shut: frozenset[Gate]) -> Iterator[syntax.RuleLine]:
    """These rules as nft rules in `chain`, where no packet fulfils the conditions of `shut`.

    A return behind a gate has to leave the whole chain, and a gate is asked once even where other
    rules stand between those behind it: in both cases the way through it is one of no return, and
    the rest of the chain stands on both sides.
    """
    while rules:
        gate, behind = rules[0].gate, _together(rules)
        rest = rules[len(behind) :]
        if gate is None:
            yield from (line for rule in behind for line in lines(chain, rule, shut))
            rules = rest
            continue
        once = any(rule.gate is gate for rule in rest) or (rest and any(map(returns, behind)))
        yield from _through(chain, gate, "goto" if once else "jump")
        inside = (_inside(rule, gate) for rule in (rules if once else behind))
        yield from _lines(gate.chain, tuple(inside), shut)
        rules = tuple(rule for rule in rest if rule.gate is not gate)
        shut |= {gate} if once else frozenset()


def _together(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Those at the beginning that stand behind one gate, or all of them behind none."""
    gate = rules[0].gate
    return tuple(takewhile(lambda rule: rule.gate is gate, rules))


def _through(chain: str, gate: Gate, verb: str) -> Iterator[syntax.RuleLine]:
    """The look-up before a gate's chain."""
    rule = Rule(f"to {gate.chain}", (gate.condition,), Jump(gate.chain), gate.reason)
    for line in lines(chain, rule):
        way = syntax.Verdict(verb, gate.chain)
        yield replace(line, statements=(*line.statements[:-1], way))


def _inside(rule: Rule, gate: Gate) -> Rule:
    """The rule as it stands behind the gate: what was asked there is not asked again."""
    if rule.gate is not gate:
        return rule
    asked = tuple(c for c in rule.conditions if c != gate.condition)
    return replace(rule, conditions=asked, gate=None)


def lines(chain: str, rule: Rule, shut: frozenset[Gate] = frozenset()) -> Iterator[syntax.RuleLine]:
    """The nft rules for one rule of the program: one, or one per family if it sees addresses."""
    families: tuple[Family | None, ...] = rule.families() if _addressed(rule) else (None,)
    for family in families:
        guard: tuple[Statement, ...] = ()
        if family is not None:  # look-ups check the family only where a payload is loaded
            guard = (Match(Meta("nfproto"), (family.value,)),)
        for leave in (c for c in rule.conditions if isinstance(c, Leave) and c.gate not in shut):
            away = Lookup(_key(leave.relation, leave.fields, family), _set(leave.relation, family))
            returned = (*guard, away, syntax.Verdict("return"))
            yield syntax.RuleLine(chain, returned, f"{rule.name}, not to its own network")
        matches = tuple(_conditions(rule, family))
        yield syntax.RuleLine(chain, (*guard, *matches, *_outcome(rule, family)), rule.name)


def _addressed(rule: Rule) -> bool:
    constants = (c for c in rule.conditions if isinstance(c, Is))
    if any(isinstance(value, Prefix) for constant in constants for value in constant.values):
        return True
    return any(relation.addressed for relation in rule.relations())


def _conditions(rule: Rule, family: Family | None) -> Iterator[Statement]:
    for condition in sorted(rule.conditions, key=_effort):
        statement = _condition(condition, family)
        if statement is not None:
            yield statement


def _effort(condition: Condition) -> int:
    """What it costs: a comparison next to nothing, a look-up of ours little, a routing one much."""
    if isinstance(condition, Is | IsNot):
        return 2 if condition.field in _ROUTED else 0
    return 1


def _condition(condition: Condition, family: Family | None) -> Statement | None:
    """The statement for a condition; None where it always holds in that family."""
    statement: Statement | None = None
    match condition:
        case In(relation, fields):
            statement = Lookup(_key(relation, fields, family), _set(relation, family))
        case NotIn(relation, fields):
            if family is None or family in relation.families:
                name = _set(relation, family)
                statement = Lookup(_key(relation, fields, family), name, negated=True)
        case Leave():
            pass  # a rule before this one has returned
        case Is(Field.MARK, (Mark() as mark,)):
            statement = syntax.MatchMark(mark.value, mark.mask)
        case Is(field, values):
            statement = Match(_field(field, family), tuple(map(str, values)))
        case IsNot(field, value):
            if family is None or admits(value, family):
                statement = Match(_field(field, family), (str(value),), negated=True)
    return statement


def _outcome(rule: Rule, family: Family | None) -> tuple[Statement, ...]:
    match rule.verdict:
        case Final.RETURN:
            return (syntax.Verdict("return"),)
        case Final() as final:
            return (syntax.Counter(), syntax.Verdict(final.value))
        case MarkedAccept(mark):
            marked = syntax.SetMark(mark.value, mark.mask)
            return (syntax.Counter(), marked, syntax.Verdict(Final.ACCEPT.value))
        case Jump(chain):
            return (syntax.Verdict("jump", chain),)
        case Dnat(function, fields):
            # nft 0.9.8 wants the transport protocol settled before a translation that names a port
            return (_TRANSPORTS, _translate("dnat", function, fields, family))
        case Snat(function, fields):
            return (_translate("snat", function, fields, family),)


def _translate(
    kind: str, function: Relation, fields: tuple[Field, ...], family: Family | None
) -> syntax.Translate:
    if family is None:
        raise AssertionError(f"{function.name} translates addresses, so it is lowered per family")
    key = _key(function, fields, family)
    maps = [s.name for s in sets_of(function) if s.family is family]
    port = syntax.MapLookup(key, maps[1]) if len(maps) > 1 else None
    return syntax.Translate(kind, _PAYLOADS[family], syntax.MapLookup(key, maps[0]), port)


def _key(relation: Relation, fields: tuple[Field, ...], family: Family | None) -> Concatenation:
    row = (Meta("nfproto"), *(_field(field, family) for field in fields))
    return Concatenation(tuple(row[place] for place in sets_of(relation)[0].order))


def _set(relation: Relation, family: Family | None) -> str:
    """The set to look the relation up in; functions are never looked up as sets."""
    return next(s.name for s in sets_of(relation) if s.family in (family, None))


def _field(field: Field, family: Family | None) -> Expression:
    if field in _FIXED_FIELDS:
        return _FIXED_FIELDS[field]
    if family is None:
        raise AssertionError(f"{field.name} is an address, so its rule is lowered per family")
    return Payload(_PAYLOADS[family], field.value)
