"""What a backend is to the engine, and what the two exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from nftbridge.effects import Shortcoming
from nftbridge.model import Host
from nftbridge.policy.flat import FlatRows


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
    others put beside them. `layout` is the shape of iptables' chains ("": nothing has one).
    """

    present: bool
    rows: FlatRows
    differences: tuple[str, ...] = ()
    rules: int = 0
    user_rules: int = 0
    foreign: tuple[str, ...] = ()
    layout: str = ""
    counters: tuple[RuleCounter, ...] = field(default=(), repr=False)


KnownHosts: TypeAlias = Callable[[], Iterable[Host]]
"""The hosts that may have been applied, or are about to be.

Where a backend shares a chain with others, it is their rules that are ours."""


class Incremental(Protocol):
    """What a backend can do besides, if its kernel facility counts its changes."""

    def generation(self) -> int | None:
        """A number that every change of the facility moves by one; None if it cannot be had."""
        ...

    def connected(self) -> AbstractContextManager[None]:
        """Meanwhile changes cost no connection to the kernel each; the body may take days."""
        ...

    def trim(self) -> None:
        """Give memory back after something large; for programs that stay."""
        ...

    def can_exchange(self, removed: FlatRows, added: FlatRows) -> bool:
        """Whether these can go and come in one transaction."""
        ...

    def commits(self, removed: FlatRows, added: FlatRows) -> int:
        """In how many transactions these are exchanged."""
        ...

    def exchange(self, removed: FlatRows, added: FlatRows) -> None:
        """Take some rows out, which are there, and put others in; all of that or nothing.

        It is one transaction, but where a moment of it would be more open than both ends.
        """
        ...


class Backend(Protocol):
    """Programs one kernel facility. What talks to the kernel raises `NftbridgeError`."""

    name: str

    @property
    def incremental(self) -> Incremental | None:
        """Changes without a look at the kernel, where it tells that nobody else has changed it."""
        ...

    @property
    def place(self) -> str:
        """What it programs, for people."""
        ...

    def rows(self, host: Host) -> FlatRows:
        """The rows that this backend wants in the kernel for `host`."""
        ...

    def observe(self, known: KnownHosts) -> Observation:
        """Look, without changing anything."""
        ...

    def shortcomings(self, host: Host) -> Iterable[Shortcoming]:
        """What this kernel cannot do for `host` though the rest is applied, and what that costs."""
        ...

    def bring_to(self, host: Host, observed: Observation, known: KnownHosts) -> None:
        """Bring the kernel from what was observed to `host`."""
        ...

    def remove(self, known: KnownHosts, *, everything: bool) -> Iterable[str]:
        """Take out all that is ours; DOCKER-USER with rules in it only if `everything`.

        Returns a phrase for each thing that was left.
        """
        ...
