"""The meaning of the program: what it does to a packet at a hook.

Written from the definitions of conditions and verdicts, not from what any backend makes of them, so
that backends can be held against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property

from nftbridge.model import Address, Family, Host, Mark, Prefix
from nftbridge.policy.derive import derive
from nftbridge.policy.program import (
    Chain,
    Condition,
    Constant,
    Dnat,
    Facts,
    Field,
    Final,
    Gate,
    In,
    Is,
    IsNot,
    Jump,
    Key,
    Leave,
    MarkedAccept,
    NotIn,
    Relation,
    Rule,
    Snat,
    Value,
)
from nftbridge.policy.rules import CHAINS, program_of


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet at some hook. Interfaces are "" where there is none (or none yet).

    `state` is connection tracking's: "new", "established", "related". `from_host` and `to_host` say
    whether its addresses are the host's own; masquerading sets `from_host` and leaves `saddr`,
    since which address the kernel takes is not the rules' business. `mark` is 0 unless somebody has
    set it.
    """

    saddr: Address
    daddr: Address
    protocol: str
    dport: int = 0
    iif: str = ""
    oif: str = ""
    state: str = "new"
    from_host: bool = False
    to_host: bool = False
    mark: int = 0

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return Family.of(self.daddr)


@dataclass(frozen=True, slots=True)
class Step:
    """A rule that matched, in its chain."""

    chain: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.chain}, {self.rule.name}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a hook did: the rules that matched on the way, the last being the one that decided.

    `packet` is the packet afterwards; None if it was dropped.
    """

    hook: str
    steps: tuple[Step, ...]
    packet: Packet | None

    @property
    def decided(self) -> Step | None:
        """The rule that decided; None if the chain's policy (accept) did."""
        if not self.steps:
            return None
        verdict = self.steps[-1].rule.verdict
        return None if isinstance(verdict, Jump) or verdict is Final.RETURN else self.steps[-1]


class _Onward(Enum):
    """How an evaluation goes on when a rule has not ended it."""

    NEXT_RULE = "next"
    CALLING_CHAIN = "back"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of an evaluation: the packet as it became, None if it was dropped."""

    packet: Packet | None


class Evaluator:
    """Evaluates packets against the rows of one host, under the rules that it has.

    `gated`: packets have to pass the gates too. For a host's own rows that makes no difference; for
    rows that were read back, of which some may be missing, it does.
    """

    def __init__(
        self, facts: Facts, program: tuple[Chain, ...] = CHAINS, *, gated: bool = False
    ) -> None:
        self._program = program
        self._gated = gated
        self._exact: dict[Relation, dict[tuple[Family, Key], Key]] = {}
        self._prefixes: dict[Relation, list[tuple[Family, Key, Key]]] = {}
        for relation, rows in facts.items():
            if relation.has_prefixes:
                self._prefixes[relation] = [(r.family, r.key, r.value) for r in rows]
            else:
                self._exact[relation] = {(r.family, r.key): r.value for r in rows}

    @classmethod
    def of(cls, host: Host) -> Evaluator:
        """The meaning of all that `host` declares."""
        return Evaluator(derive(host), program_of(host))

    @cached_property
    def _chains(self) -> dict[str, Chain]:
        return {chain.name: chain for chain in self._program}

    def hook(self, chain: Chain, packet: Packet) -> Result:
        """Run the packet through a base chain; its policy is accept."""
        steps: list[Step] = []
        end = self._run(chain, packet, steps)
        return Result(chain.name, tuple(steps), end.packet if isinstance(end, _End) else packet)

    def _run(self, chain: Chain, packet: Packet, steps: list[Step]) -> _End | _Onward:
        for rule in chain.rules():
            if self._leaves(rule, packet):
                break
            if not self._matches(rule, packet):
                continue
            step = Step(chain.name, rule)
            onward = self._apply(step, packet, steps)
            if isinstance(onward, _End):
                return onward
            if onward is _Onward.CALLING_CHAIN:
                break
        return _Onward.NEXT_RULE

    def _apply(self, step: Step, packet: Packet, steps: list[Step]) -> _End | _Onward:
        """Do what a matching rule says; a translation without a row for the packet does nothing."""
        match step.rule.verdict:
            case Jump(chain):
                steps.append(step)
                return self._run(self._chains[chain], packet, steps)
            case Dnat(function, fields) | Snat(function, fields):
                value = self._find(function, packet, fields)
                if value is None:
                    return _Onward.NEXT_RULE
                end: _End | _Onward = _End(_translated(step.rule.verdict, packet, value))
            case Final.RETURN:
                end = _Onward.CALLING_CHAIN
            case Final.DROP:
                end = _End(None)
            case Final.MASQUERADE:
                end = _End(replace(packet, from_host=True))
            case MarkedAccept(mark):
                end = _End(replace(packet, mark=mark.put_on(packet.mark)))
            case _:
                end = _End(packet)
        steps.append(step)
        return end

    def _leaves(self, rule: Rule, packet: Packet) -> bool:
        leaves = (c for c in rule.conditions if isinstance(c, Leave))
        return any(
            self._passes(c.gate, packet) and self._find(c.relation, packet, c.fields) is not None
            for c in leaves
        )

    def _passes(self, gate: Gate | None, packet: Packet) -> bool:
        return gate is None or not self._gated or self._holds(gate.condition, packet)

    def _matches(self, rule: Rule, packet: Packet) -> bool:
        return self._passes(rule.gate, packet) and all(
            self._holds(condition, packet) for condition in rule.conditions
        )

    def _holds(self, condition: Condition, packet: Packet) -> bool:
        match condition:
            case In(relation, fields):
                return self._find(relation, packet, fields) is not None
            case NotIn(relation, fields) | Leave(relation, fields):
                return self._find(relation, packet, fields) is None
            case Is(field, values):
                return any(_equals(_value(packet, field), value) for value in values)
            case IsNot(field, value):
                return not _equals(_value(packet, field), value)

    def _find(self, relation: Relation, packet: Packet, fields: tuple[Field, ...]) -> Key | None:
        """The value columns of the packet's row, () in a plain set; None if it has no row."""
        wanted = tuple(_value(packet, field) for field in fields)
        if not relation.has_prefixes:
            return self._exact.get(relation, {}).get((packet.family, wanted))
        for family, key, value in self._prefixes.get(relation, ()):
            if family is packet.family and all(map(_equals, wanted, key)):
                return value
        return None


def _translated(verdict: Dnat | Snat, packet: Packet, value: Key) -> Packet:
    address, *ports = value
    if not isinstance(address, Address):
        raise TypeError(f"{verdict.function.name} translates to {address!r}, no address")
    if isinstance(verdict, Snat):
        return replace(packet, saddr=address, from_host=True)
    (port,) = ports
    if not isinstance(port, int):
        raise TypeError(f"{verdict.function.name} translates to port {port!r}")
    return replace(packet, daddr=address, dport=port, to_host=False)


_VALUES: dict[Field, Callable[[Packet], Value]] = {
    Field.IIF: lambda packet: packet.iif,
    Field.OIF: lambda packet: packet.oif,
    Field.SADDR: lambda packet: packet.saddr,
    Field.DADDR: lambda packet: packet.daddr,
    Field.PROTOCOL: lambda packet: packet.protocol,
    Field.DPORT: lambda packet: packet.dport,
    Field.CT_STATE: lambda packet: packet.state,
    Field.MARK: lambda packet: packet.mark,
    Field.SADDR_TYPE: lambda packet: "local" if packet.from_host else "unicast",
    Field.DADDR_TYPE: lambda packet: "local" if packet.to_host else "unicast",
}


def _value(packet: Packet, field: Field) -> Value:
    return _VALUES[field](packet)


def _equals(value: Value, column: Value | Constant) -> bool:
    """Whether a packet's value is what stands in a column or a rule."""
    if isinstance(column, Mark) and isinstance(value, int):
        return column.is_on(value)
    if isinstance(column, Prefix) and isinstance(value, Address):
        return value.version == column.version and value in column
    return value == column
