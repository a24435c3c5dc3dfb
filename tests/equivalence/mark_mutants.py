"""Planted faults about the marks of a host: in its rules, and in what is sent for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeAlias

from nftbridge.compat import text
from nftbridge.model import Family, Host, Mark
from nftbridge.policy.program import Chain, Final, MarkedAccept, Rule, Verdict
from nftbridge.policy.rules import DOCKER_FORWARD, program
from tests.equivalence.iptables_reading import IptablesReading
from tests.equivalence.meaning import Hook, Reading
from tests.equivalence.mutants import Mutant, lowered

Fault: TypeAlias = Callable[[tuple[Chain, ...]], tuple[Chain, ...]]

ACCEPT, TRUST = Mark(0x50000, 0x70000), Mark(0x2000, 0x6000)
"""Of several bits, of which some have to be clear."""

_OTHER = Mark(0x100000, 0x100000)
_HELPER = "-A DOCKER-MARK-ACCEPT "
_PUT = f"{_HELPER}-j MARK --set-xmark {ACCEPT}"


def mark_mutants() -> Iterator[Mutant]:
    """Every fault of a host that has both marks."""
    for backend in ("nftables", "iptables"):
        for name, fault in _faults():
            read = lowered(backend, fault)
            yield Mutant(f"{backend}, marks: {name}", (Hook.FORWARD,), read, marks=True)
    wide = lowered("nftables", _with_marks(Mark(ACCEPT.value, 0xFFFFFFFF), TRUST))
    yield Mutant("nftables, marks: the mask is lost", (Hook.FORWARD,), wide, marks=True)
    narrow = lowered("nftables", _with_marks(Mark(ACCEPT.value, ACCEPT.value), TRUST))
    name = "nftables, marks: bits that should be clear are left"
    yield Mutant(name, (Hook.FORWARD,), narrow, marks=True)
    for name, old, new in _LINES:
        yield Mutant(f"iptables, marks: {name}", (Hook.FORWARD,), _edited(old, new), marks=True)


def _faults() -> Iterator[tuple[str, Fault]]:
    for chain in program(ACCEPT, TRUST):
        for rule in chain.rules():
            if isinstance(rule.verdict, MarkedAccept):
                yield f"not set by {rule.name}", _verdict(rule.name, Final.ACCEPT)
    yield "trust drops", _verdict("trusted-mark", Final.DROP)
    yield "trust returns", _verdict("trusted-mark", Final.RETURN)
    yield "trust is gone", _trust(lambda _: ())
    yield "everybody is trusted", _trust(lambda rule: (replace(rule, conditions=()),))
    yield "trust comes last", _last
    yield "another mark is trusted", _with_marks(ACCEPT, _OTHER)
    yield "half of the mark is trusted", _with_marks(ACCEPT, Mark(TRUST.value, TRUST.value))
    yield "the bare value is trusted", _with_marks(ACCEPT, Mark(TRUST.value, 0xFFFFFFFF))


def _with_marks(accept: Mark, trust: Mark) -> Fault:
    return lambda _: program(accept, trust)


def _verdict(name: str, verdict: Verdict) -> Fault:
    """Another verdict for the rule of that name."""

    def changed(rule: Rule) -> tuple[Rule, ...]:
        return (replace(rule, verdict=verdict) if rule.name == name else rule,)

    return lambda chains: tuple(_each(chain, changed) for chain in chains)


def _trust(change: Callable[[Rule], tuple[Rule, ...]]) -> Fault:
    def changed(rule: Rule) -> tuple[Rule, ...]:
        return change(rule) if rule.name == "trusted-mark" else (rule,)

    return lambda chains: tuple(_each(chain, changed) for chain in chains)


def _each(chain: Chain, change: Callable[[Rule], tuple[Rule, ...]]) -> Chain:
    blocks = (
        replace(block, rules=tuple(new for rule in block.rules for new in change(rule)))
        for block in chain.blocks
    )
    return replace(chain, blocks=tuple(blocks))


def _last(chains: tuple[Chain, ...]) -> tuple[Chain, ...]:
    return tuple(
        replace(c, blocks=(*c.blocks[1:], c.blocks[0])) if c.name == DOCKER_FORWARD else c
        for c in chains
    )


_LINES = (
    ("nothing is put on", f"{_PUT}\n", ""),
    ("a marked packet goes on", f"{_HELPER}-j ACCEPT\n", ""),
    ("a marked packet is dropped", f"{_HELPER}-j ACCEPT", f"{_HELPER}-j DROP"),
    ("the mask is lost", _PUT, f"{_PUT.rpartition('/')[0]}/0xffffffff"),
    ("bits that should be clear are left", _PUT, f"{_PUT.rpartition('/')[0]}/0x50000"),
)


def _edited(old: str, new: str) -> Callable[[Host, Family], Reading | None]:
    def read(host: Host, family: Family) -> Reading:
        script = text.script(host, family)
        if old not in script:
            raise AssertionError(f"there is no line {old}")
        return IptablesReading(script.replace(old, new), family.version)

    return read
