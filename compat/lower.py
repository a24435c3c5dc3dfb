"""From the program to iptables: a rule becomes a line for each row of the relation that drives it.

The other relations are evaluated against that row. "Not in" looks at the columns that the row has
settled: no row left, and the term vanishes; one column open, and it is a negated match; nothing
open, and there is no line. For one network this is line for line what Docker 28.5.2 writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from nftbridge.compat.syntax import Jump as Target
from nftbridge.compat.syntax import Line, Match, constant, numeric
from nftbridge.model import Family, Host, Mark
from nftbridge.policy.derive import derive, owners
from nftbridge.policy.program import (
    Block,
    Chain,
    Dnat,
    Facts,
    Field,
    Final,
    In,
    Is,
    IsNot,
    Jump,
    Key,
    Leave,
    MarkedAccept,
    NotIn,
    Order,
    Owner,
    Relation,
    Row,
    Rule,
    Snat,
    Value,
    admits,
)
from nftbridge.policy.rules import CHAINS, DOCKER_NAT, program_of

_TARGETS = {
    Final.ACCEPT: "ACCEPT",
    Final.DROP: "DROP",
    Final.RETURN: "RETURN",
    Final.MASQUERADE: "MASQUERADE",
}


MARK_ACCEPT = "DOCKER-MARK-ACCEPT"
"""The chain that puts a host's accept mark on packets and accepts them: a line has one target."""


class InexpressibleError(Exception):
    """A rule that one line per row cannot say; a fault of the program, not of the host."""


@dataclass(frozen=True, slots=True)
class TableChain:
    """A chain of one iptables table with its lines; built-in chains may hold other people's too."""

    table: str
    name: str
    builtin: bool
    users: bool
    lines: tuple[Line, ...]


def chains(
    host: Host, family: Family, program: Sequence[Chain] | None = None
) -> tuple[TableChain, ...]:
    """The chains of `family` with their lines, in the program's order; none if the family is off.

    `program` are those wanted; unless told all of them and, where there is a mark to put on what is
    accepted, behind them the chain that does it.
    """
    if family not in host.families():
        return ()
    lowering = Lowering(derive(host), owners(host), family)
    helpers = [marking(host.accept_mark)] if host.accept_mark and program is None else []
    made = (
        TableChain(
            chain.table,
            chain_name(chain),
            chain.hook is not None,
            chain.users,
            tuple(lowering.lines(chain)),
        )
        for chain in (program_of(host) if program is None else program)
    )
    return (*made, *helpers)


def marking(mark: Mark) -> TableChain:
    """The chain that accept rules jump to; it never returns."""
    put = Line((), Target("MARK", ("--set-xmark", str(mark))))
    lines = (put, Line((), Target("ACCEPT")))
    return TableChain("filter", MARK_ACCEPT, builtin=False, users=False, lines=lines)


def chain_name(chain: Chain) -> str:
    """What iptables calls a chain of the program: each of its tables has names of its own."""
    if chain.hook is not None:
        return chain.name.removeprefix(f"{chain.table}-")
    return "DOCKER" if chain.name == DOCKER_NAT else chain.name


class Lowering:
    """Unrolls rules over the rows of one family; `order` is the age of each owner."""

    def __init__(self, facts: Facts, order: dict[Owner, int], family: Family) -> None:
        self._order = order
        self._family = family
        self._rows: dict[Relation, list[Row]] = {
            relation: [row for row in rows if row.family is family]
            for relation, rows in facts.items()
        }

    def lines(self, chain: Chain) -> Iterator[Line]:
        """The lines of a chain in order."""
        for block in chain.blocks:
            yield from self._block(block)

    def _block(self, block: Block) -> Iterator[Line]:
        """The lines of neighbouring rules, sorted by owner; one owner's are in the rules' order."""
        newest = block.order is Order.NEWEST_FIRST
        found: list[tuple[tuple[int, int, int], Line]] = []
        for position, rule in enumerate(block.rules):
            for number, (owner, line) in enumerate(self._rule(rule)):
                age = self._order[owner]
                place = (-age, position, -number) if newest else (age, position, number)
                found.append((place, line))
        yield from (line for _, line in sorted(found, key=lambda item: item[0]))

    def _rule(self, rule: Rule) -> Iterator[tuple[Owner, Line]]:
        if self._family not in rule.families():
            return
        driver = rule.driver
        if driver is None:
            line = self.line(rule, {}, ())
            if line is not None:
                yield Owner(), line
            return
        fields = _driving_fields(rule, driver)
        for row in self._rows[driver]:
            line = self.line(rule, dict(zip(fields, row.key, strict=True)), row.value)
            if line is not None:
                yield row.owner, line

    def line(self, rule: Rule, settled: Mapping[Field, Value], value: Key) -> Line | None:
        """The line for one row, None if a condition can never hold for it."""
        matches = {field: Match(field, (column,)) for field, column in settled.items()}
        for condition in rule.conditions:
            match condition:
                case In():
                    continue  # the driver: its row is settled
                case Is(field, values):
                    _add(rule, matches, Match(field, tuple(map(constant, values))))
                case IsNot(field, unwanted):
                    if admits(unwanted, self._family):
                        _add(rule, matches, Match(field, (constant(unwanted),), negated=True))
                case NotIn(relation, fields) | Leave(relation, fields):
                    excluded = self._excluded(rule, relation, fields, settled)
                    if excluded is True:
                        return None
                    if isinstance(excluded, Match):
                        _add(rule, matches, excluded)
        return Line(tuple(matches.values()), _target(rule, value))

    def _excluded(
        self,
        rule: Rule,
        relation: Relation,
        fields: Sequence[Field],
        settled: Mapping[Field, Value],
    ) -> Match | bool:
        """What "not in" leaves of a relation beside a row: a negated match, or always, or never."""
        closed = [i for i, field in enumerate(fields) if field in settled]
        open_ = [i for i, field in enumerate(fields) if field not in settled]
        wanted = tuple(settled[fields[i]] for i in closed)
        left = {
            tuple(row.key[i] for i in open_)
            for row in self._index(relation, tuple(closed)).get(wanted, ())
        }
        if not left:
            return False
        if not open_:
            return True
        if len(left) > 1 or len(open_) > 1:
            raise InexpressibleError(f"{rule.name}: not in {relation.name} is more than one match")
        ((value,),) = left
        return Match(fields[open_[0]], (value,), negated=True)

    def _index(self, relation: Relation, columns: tuple[int, ...]) -> dict[Key, list[Row]]:
        """The rows of a relation by the values of some columns; made once."""
        index = self._indices.get((relation, columns))
        if index is None:
            index = self._indices[relation, columns] = {}
            for row in self._rows[relation]:
                index.setdefault(tuple(row.key[i] for i in columns), []).append(row)
        return index

    @cached_property
    def _indices(self) -> dict[tuple[Relation, tuple[int, ...]], dict[Key, list[Row]]]:
        return {}


def _driving_fields(rule: Rule, driver: Relation) -> tuple[Field, ...]:
    for condition in rule.conditions:
        if isinstance(condition, In) and condition.relation is driver:
            return condition.fields
    if isinstance(rule.verdict, Dnat | Snat):
        return rule.verdict.fields
    raise InexpressibleError(f"{rule.name}: {driver.name} is driven by no condition")


def _add(rule: Rule, matches: dict[Field, Match], match: Match) -> None:
    if match.field in matches:
        raise InexpressibleError(f"{rule.name}: two matches on {match.field.value}")
    matches[match.field] = match


def _numeric(value: Value) -> str:
    return numeric(value) if isinstance(value, IPv4Address | IPv6Address) else str(value)


def _target(rule: Rule, value: Key) -> Target:
    match rule.verdict:
        case Jump(name):
            return Target(chain_name(next(chain for chain in CHAINS if chain.name == name)))
        case Dnat():
            address, port = value
            host = f"[{_numeric(address)}]" if ":" in str(address) else str(address)
            return Target("DNAT", ("--to-destination", f"{host}:{port}"))
        case Snat():
            return Target("SNAT", ("--to-source", _numeric(value[0])))
        case MarkedAccept():
            return Target(MARK_ACCEPT)
        case final:
            return Target(_TARGETS[final])
