"""The table as nftbridge installed it before it had gates, for what has to cope with an update."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.nft.lower import lines, sets_of
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.program import In, Relation
from nftbridge.policy.rules import CHAINS

_TABLE = "inet nftbridge"


def without_gates() -> str:
    """A script for nft that turns the table of a plain host into what it was without gates."""
    return "\n".join((*_cleared(), *_filled(), *_deleted()))


def _cleared() -> Iterator[str]:
    for chain in CHAINS:
        gates = chain.gates()
        names = [chain.name, *(gate.chain for gate in gates)] if gates else []
        yield from (f"flush chain {_TABLE} {name}" for name in names)


def _filled() -> Iterator[str]:
    for chain in CHAINS:
        if chain.gates():
            rules = (line for rule in chain.rules() for line in lines(chain.name, rule))
            yield from (f"add rule {_TABLE} {chain.name} {line.text()}" for line in rules)


def _deleted() -> Iterator[str]:
    gates = [gate for chain in CHAINS for gate in chain.gates()]
    yield from (f"delete chain {_TABLE} {gate.chain}" for gate in gates)
    for relation in gate_relations():
        yield from (f"delete set {_TABLE} {known.name}" for known in sets_of(relation))


def gate_relations() -> list[Relation]:
    """Those that only gates ask for."""
    asked = {r for chain in CHAINS for rule in chain.rules() for r in rule.relations()}
    return [relation for relation in RELATIONS if relation not in asked]


def gate_sets() -> set[str]:
    """The names of all sets that gates ask for."""
    gates = [gate for chain in CHAINS for gate in chain.gates()]
    asked = [g.condition.relation for g in gates if isinstance(g.condition, In)]
    return {known.name for relation in asked for known in sets_of(relation)}
