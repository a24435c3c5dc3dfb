"""What a backend is to the engine, and what the two exchange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from nftbridge.policy.flat import FlatRows
from nftbridge.policy.program import Facts


@dataclass(frozen=True, slots=True)
class RuleCounter:
    """What a rule has counted since it was loaded."""

    chain: str
    rule: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What a kernel holds of ours.

    `differences` says how chains, sets and rules deviate from what they ought to be (empty: only
    rows can differ); `rules` counts ours, `user_rules` those in DOCKER-USER; `foreign` names what
    others put beside them.
    """

    present: bool
    rows: FlatRows
    differences: tuple[str, ...] = ()
    rules: int = 0
    user_rules: int = 0
    foreign: tuple[str, ...] = ()
    counters: tuple[RuleCounter, ...] = field(default=(), repr=False)


class Backend(Protocol):
    """Programs one kernel facility. All methods but `rows` raise `NftbridgeError`."""

    name: str

    def rows(self, facts: Facts) -> FlatRows:
        """The rows that this backend wants in the kernel for these facts."""
        ...

    def observe(self) -> Observation:
        """Look, without changing anything."""
        ...

    def install(self, rows: FlatRows) -> None:
        """Put chains, rules and all rows in place in one transaction, whatever was there before."""
        ...

    def change(self, old: FlatRows, new: FlatRows) -> None:
        """Exchange rows in one transaction; chains and rules are as they ought to be."""
        ...

    def remove(self, *, everything: bool) -> Iterable[str]:
        """Take out all that is ours; DOCKER-USER with rules in it only if `everything`.

        Returns a phrase for each thing that was left.
        """
        ...
