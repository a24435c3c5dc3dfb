"""From an iptables-save listing back to lines, and from lines to the rows of relations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network

from nftbridge.compat.lower import MARK_ACCEPT, Lowering, chain_name
from nftbridge.compat.syntax import Jump as Target
from nftbridge.compat.syntax import Line, Match, constant, parse
from nftbridge.model import Address, Family
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import (
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
    Kind,
    Leave,
    MarkedAccept,
    NotIn,
    Owner,
    Relation,
    Row,
    Rule,
    Snat,
    Value,
    admits,
)
from nftbridge.policy.rules import CHAINS

_COUNTED = re.compile(r"(?:\[(\d+):(\d+)\] )?-A (\S+) ?(.*)", re.DOTALL)
_QUOTE = re.compile(r'\\.|(")', re.DOTALL)


@dataclass(frozen=True, slots=True)
class ListedLine:
    """One line of a chain, behind ``-A CHAIN``, and what it has counted."""

    text: str
    packets: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return self.text


def listed(text: str) -> dict[str, list[ListedLine]]:
    """The output of iptables-save for one table."""
    chains: dict[str, list[ListedLine]] = {}
    for line in _whole_lines(text):
        if line.startswith(":"):
            chains[line[1:].split(" ", 1)[0]] = []
        elif found := _COUNTED.fullmatch(line):
            packets, size, chain, rest = found.groups()
            chains.setdefault(chain, []).append(ListedLine(rest, int(packets or 0), int(size or 0)))
    return chains


def policies(text: str) -> dict[str, str]:
    """The policies of the built-in chains in the output of iptables-save for one table."""
    heads = (line[1:].split(" ") for line in _whole_lines(text) if line.startswith(":"))
    return {chain: policy for chain, policy, *_ in heads if policy != "-"}


def _whole_lines(text: str) -> Iterator[str]:
    """The lines; one that ends inside of quotes, as in a comment, goes on in the next one."""
    begun = ""
    for line in text.split("\n"):
        begun += line
        if sum(1 for found in _QUOTE.finditer(begun) if found[1]) % 2:
            begun += "\n"
        else:
            yield begun
            begun = ""


@dataclass(slots=True)
class Understood:
    """What the lines of our chains say: rows, and a phrase for whatever rows cannot explain.

    `made` has for each line what it was made of, None if it is not ours.
    """

    rows: FlatRows = field(default_factory=dict[Relation, dict[FlatKey, FlatKey]])
    made: dict[Chain, list[Instance | None]] = field(
        default_factory=dict[Chain, "list[Instance | None]"]
    )
    differences: list[str] = field(default_factory=list[str])


def understand(family: Family, lines: Mapping[Chain, Sequence[str]]) -> Understood:
    """Read the lines of each of our chains; in built-in chains these are only our own."""
    said = Understood()
    instances: dict[Chain, list[Instance]] = {}
    for chain, texts in lines.items():
        said.made[chain] = [made_of(chain, family, text) for text in texts]
        instances[chain] = [found for found in said.made[chain] if found is not None]
        for number, (text, found) in enumerate(zip(texts, said.made[chain], strict=True), start=1):
            if found is None:
                said.differences.append(f"{_place(chain, number)} is not ours: {_shown(text)}")
            else:
                _add(said.rows, family, found)
    check = Lowering(_as_facts(family, instances), {Owner(): 0}, family)
    for chain, made in instances.items():
        said.differences += _incomplete(chain, made, check)
        said.differences += _disordered(chain, made)
    return said


def _add(rows: FlatRows, family: Family, found: Instance) -> None:
    for relation, key, value in found.facts:
        flat = (family, *_flat(relation.key, key))
        rows.setdefault(relation, {})[flat] = _flat(relation.value, value)


def _incomplete(chain: Chain, found: Sequence[Instance], check: Lowering) -> Iterator[str]:
    """Lines that lack a negation, which the rows say belongs there, or that come twice."""
    seen: set[str] = set()
    for number, line in enumerate(found, start=1):
        if line.text in seen:
            yield f"{_place(chain, number)} comes twice: {line.text}"
        seen.add(line.text)
        expected = check.line(line.rule, line.settled, line.value)
        if expected is None or str(expected) != line.text:
            yield f"{_place(chain, number)} is not as it should be: {line.text}"


def _disordered(chain: Chain, found: Sequence[Instance]) -> Iterator[str]:
    """Lines of a later block before an earlier one's, or those of one address reversed."""
    places = {
        rule: (number, position)
        for number, block in enumerate(chain.blocks)
        for position, rule in enumerate(block.rules)
    }
    highest, by_subject = 0, dict[tuple[int, Value], int]()
    for line in found:
        block, position = places[line.rule]
        subject = (block, line.facts[0][1][0] if line.facts else "")
        if block < highest or position < by_subject.get(subject, 0):
            yield f"chain {chain_name(chain)} has its lines in another order: {line.text}"
            return
        highest, by_subject[subject] = block, position


def _as_facts(family: Family, instances: Mapping[Chain, Sequence[Instance]]) -> Facts:
    found: dict[Relation, dict[Key, Row]] = {relation: {} for relation in RELATIONS}
    for lines in instances.values():
        for line in lines:
            for relation, key, value in line.facts:
                found[relation][key] = Row(family, key, value, Owner())
    return {relation: tuple(rows.values()) for relation, rows in found.items()}


def _shown(text: str) -> str:
    """A line that others wrote, in characters that can be printed, on one line."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return shown.replace("\n", "\\n")


def _place(chain: Chain, number: int) -> str:
    return f"line {number} of chain {chain_name(chain)}"


@dataclass(frozen=True, slots=True)
class Instance:
    """A line as what it was made of: a rule, and the rows that it speaks of."""

    text: str
    rule: Rule
    settled: Mapping[Field, Value]
    value: Key
    facts: tuple[tuple[Relation, Key, Key], ...]


def made_of(chain: Chain, family: Family, text: str) -> Instance | None:
    """The rule of `chain` that the line was made of; None if it is none of ours."""
    line = parse(text.split())  # what iptables-save puts in quotes is in no line of ours
    if line is None:
        return None
    rules = (rule for rule in chain.rules() if family in rule.families())
    return next((i for rule in rules if (i := _instance(rule, family, line, text))), None)


def _instance(rule: Rule, family: Family, line: Line, text: str) -> Instance | None:
    """The rows behind a line, if it is the rule unrolled; None if it is something else."""
    value = _target_value(rule, line.jump)
    if value is None:
        return None
    left = {match.field: match for match in line.matches}
    facts: list[tuple[Relation, Key, Key]] = []
    settled: dict[Field, Value] = {}
    driver = _driver(rule)
    if driver is not None:
        relation, fields = driver
        key = _taken(left, relation, fields)
        if key is None:
            return None
        facts.append((relation, key, value))
        settled = dict(zip(fields, key, strict=True))
    for condition in rule.conditions:
        if isinstance(condition, Is | IsNot):
            if not _constant_holds(condition, family, left):
                return None
        elif isinstance(condition, NotIn | Leave):
            facts.extend(_excluded(condition, settled, left))
    return None if left else Instance(text, rule, settled, value, tuple(facts))


def _driver(rule: Rule) -> tuple[Relation, tuple[Field, ...]] | None:
    for condition in rule.conditions:
        if isinstance(condition, In):
            return condition.relation, condition.fields
    verdict = rule.verdict
    return (verdict.function, verdict.fields) if isinstance(verdict, Dnat | Snat) else None


def _taken(left: dict[Field, Match], relation: Relation, fields: Sequence[Field]) -> Key | None:
    """The values that the line has for these fields, taken out of `left`."""
    found: list[Value] = []
    for wanted, kind in zip(fields, relation.key, strict=True):
        match = left.get(wanted)
        if match is None or match.negated:
            return None
        found.append(_of_kind(match.values[0], kind))
    for wanted in fields:
        del left[wanted]
    return tuple(found)


def _constant_holds(condition: Is | IsNot, family: Family, left: dict[Field, Match]) -> bool:
    if isinstance(condition, Is):
        expected = Match(condition.field, tuple(map(constant, condition.values)))
    elif admits(condition.value, family):
        expected = Match(condition.field, (constant(condition.value),), negated=True)
    else:
        return True
    return left.pop(condition.field, None) == expected


def _excluded(
    condition: NotIn | Leave, settled: dict[Field, Value], left: dict[Field, Match]
) -> Iterator[tuple[Relation, Key, Key]]:
    """The row that a negated match names, beside what the driver's row has settled."""
    missing = [field for field in condition.fields if field not in settled]
    if len(missing) != 1:
        return
    match = left.get(missing[0])
    if match is not None and match.negated:
        del left[missing[0]]
        values = settled | {missing[0]: match.values[0]}
        pairs = zip(condition.fields, condition.relation.key, strict=True)
        yield condition.relation, tuple(_of_kind(values[f], kind) for f, kind in pairs), ()


def _target_value(rule: Rule, target: Target) -> Key | None:
    """The value columns in a line's target; None if the rule has another target."""
    match rule.verdict:
        case Dnat():
            return target.translated() if target.name == "DNAT" else None
        case Snat():
            return target.translated() if target.name == "SNAT" else None
        case MarkedAccept():
            return () if target == Target(MARK_ACCEPT) else None
        case Jump(chain):
            return () if target == Target(_legacy_name(chain)) else None
        case Final() as final:
            return () if target == Target(final.name) else None


@cache
def _legacy_name(chain: str) -> str:
    return chain_name(next(c for c in CHAINS if c.name == chain))


def _of_kind(value: Value, kind: Kind) -> Value:
    """A prefix of full length is listed like an address."""
    if kind is Kind.PREFIX and isinstance(value, Address):
        return ip_network(value)
    return value


def _flat(kinds: Sequence[Kind], columns: Key) -> FlatKey:
    pairs = zip(columns, kinds, strict=True)
    return tuple(c if isinstance(c, str | int) else str(_of_kind(c, kind)) for c, kind in pairs)
