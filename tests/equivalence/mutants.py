"""Planted faults: what a backend would say if a rule of the program were lost, moved or weakened.

The evaluator keeps the program as it is; only the lowering sees the mutated one. A fault in the
program itself would be in all three alike: that is what the goldens and test_modes are for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from nftbridge.compat import lower as iptables_lower
from nftbridge.model import Family, Host
from nftbridge.nft import lower as nft_lower
from nftbridge.policy.program import (
    Block,
    Chain,
    Condition,
    Final,
    In,
    Is,
    IsNot,
    Leave,
    NotIn,
    Order,
    Rule,
)
from nftbridge.policy.rules import CHAINS, program_of
from tests.equivalence.compare import READINGS
from tests.equivalence.meaning import Hook, Reading

_HOOKS: dict[str, tuple[Hook, ...]] = {
    **{hook.value: (hook,) for hook in Hook},
    "DOCKER-NAT": (Hook.INBOUND, Hook.OUTPUT),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault by name: `read` gives the faulty reading, None where a host shows nothing of it.

    `hooks` are those that the fault can change; the others are as they were. `marks` is whether it
    is about hosts that have marks, or about those that have none.
    """

    name: str
    hooks: tuple[Hook, ...]
    read: Callable[[Host, Family], Reading | None]
    marks: bool = False


def hooks_of(name: str) -> tuple[Hook, ...]:
    """The hooks whose packets can come through a chain of the program or of one of its gates."""
    behind = {gate.chain: chain.name for chain in CHAINS for gate in chain.gates()}
    return _HOOKS.get(behind.get(name, name), (Hook.FORWARD,))


def program_mutants() -> Iterator[Mutant]:
    """Every fault of the program, in each backend's lowering."""
    for name, position, mutated in _mutated_chains():
        chains = (*CHAINS[:position], mutated, *CHAINS[position + 1 :])
        for backend in ("nftables", "iptables"):  # a tree is made of iptables' lines
            if (backend, name.split(":")[0]) != ("nftables", "order"):
                hooks = hooks_of(mutated.name)
                yield Mutant(f"{backend}, {name}", hooks, _lowered(backend, chains))


def _lowered(backend: str, chains: tuple[Chain, ...]) -> Callable[[Host, Family], Reading]:
    return lowered(backend, lambda _: chains)


def lowered(
    backend: str, fault: Callable[[tuple[Chain, ...]], tuple[Chain, ...]]
) -> Callable[[Host, Family], Reading]:
    """A reading of what the backend makes of a host's program with this fault in it."""

    def read(host: Host, family: Family) -> Reading:
        with _program(fault(program_of(host))):
            return READINGS[backend](host, family)

    return read


@contextmanager
def _program(chains: tuple[Chain, ...]) -> Generator[None]:
    """Have both lowerings see these chains."""

    def faulty(*_: object) -> tuple[Chain, ...]:
        return chains

    with pytest.MonkeyPatch.context() as patch:
        for module in (nft_lower, iptables_lower):
            patch.setattr(module, "CHAINS", chains)
        patch.setattr(nft_lower, "program", faulty)
        patch.setattr(iptables_lower, "program_of", faulty)
        nft_lower.skeleton.cache_clear()
        yield
    nft_lower.skeleton.cache_clear()


def _mutated_chains() -> Iterator[tuple[str, int, Chain]]:
    for position, chain in enumerate(CHAINS):
        for name, blocks in _mutated_blocks(chain):
            mutated = replace(chain, blocks=tuple(blocks))
            in_order = "swapped" not in name  # else rules behind a gate are no neighbours any more
            yield name, position, mutated if in_order else _ungated(mutated)


def _ungated(chain: Chain) -> Chain:
    blocks = (
        replace(block, rules=tuple(replace(rule, gate=None) for rule in block.rules))
        for block in chain.blocks
    )
    return replace(chain, blocks=tuple(blocks))


def _mutated_blocks(chain: Chain) -> Iterator[tuple[str, list[Block]]]:
    blocks = list(chain.blocks)
    for i, (one, two) in enumerate(pairwise(blocks)):
        names = f"{one.rules[-1].name} | {two.rules[0].name}"
        yield f"swapped blocks: {chain.name}, {names}", [*blocks[:i], two, one, *blocks[i + 2 :]]
    for i, block in enumerate(blocks):
        for name, changed in _mutated_block(block):
            yield (
                f"{name.replace(':', f': {chain.name},')}",
                [*blocks[:i], changed, *blocks[i + 1 :]],
            )


def _mutated_block(block: Block) -> Iterator[tuple[str, Block]]:
    rules = block.rules
    other = next(order for order in Order if order is not block.order)
    yield f"order: {rules[0].name}", replace(block, order=other)
    for i, rule in enumerate(rules):
        yield f"dropped: {rule.name}", replace(block, rules=(*rules[:i], *rules[i + 1 :]))
        for name, changed in _mutated_rule(rule):
            yield name, replace(block, rules=(*rules[:i], changed, *rules[i + 1 :]))
    for i, (one, two) in enumerate(pairwise(rules)):
        swapped = (*rules[:i], two, one, *rules[i + 2 :])
        yield f"swapped: {one.name} | {two.name}", replace(block, rules=swapped)


def _mutated_rule(rule: Rule) -> Iterator[tuple[str, Rule]]:
    conditions = rule.conditions
    for i, condition in enumerate(conditions):
        before, after = conditions[:i], conditions[i + 1 :]
        if not isinstance(condition, In):  # the driver: without it there is no rule to unroll
            yield (
                f"lost: {rule.name}, {_described(condition)}",
                replace(rule, conditions=(*before, *after)),
            )
        if isinstance(condition, IsNot):
            positive = Is(condition.field, (condition.value,))
            yield (
                f"not: {rule.name}, {_described(condition)}",
                replace(rule, conditions=(*before, positive, *after)),
            )
    if isinstance(rule.verdict, Final):
        for final in (Final.ACCEPT, Final.DROP, Final.RETURN):
            if final is not rule.verdict:
                yield f"verdict: {rule.name}, {final.value}", replace(rule, verdict=final)


def _described(condition: Condition) -> str:
    match condition:
        case In(relation) | NotIn(relation) | Leave(relation):
            return f"{type(condition).__name__} {relation.name}"
        case Is(field, values):
            return f"Is {field.value} {' '.join(map(str, values))}"
        case IsNot(field, value):
            return f"IsNot {field.value} {value}"
