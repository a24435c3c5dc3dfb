"""What a backend is to the engine, and what the two exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

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
class Belongings:
    """What is the user's in a table of ours, as libnftables' commands that make it anew.

    The rules in DOCKER-USER, and the chains, sets, counters and so on that nftbridge did not make.
    """

    commands: tuple[dict[str, Any], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.commands)

    @property
    def rules(self) -> int:
        """How many rules are among it."""
        return sum("rule" in command["add"] for command in self.commands)

    def without(self, there: Belongings) -> Belongings:
        """What is not `there` already: nothing of that name, and no rule in a chain that is."""
        names = {name for name in map(_name, there.commands) if name is not None}
        chains = {name for kind, name in names if kind == "chain"}
        left = (c for c in self.commands if _name(c) not in names)
        return Belongings(tuple(c for c in left if _chain(c) not in chains))


def _name(command: dict[str, Any]) -> tuple[str, str] | None:
    """Kind and name of what a command makes; None if that has none, as a rule."""
    ((kind, body),) = command["add"].items()
    return (kind, body["name"]) if "name" in body else None


def _chain(command: dict[str, Any]) -> str | None:
    """The chain in which a command makes a rule; None if it makes something else."""
    rule = command["add"].get("rule")
    return None if rule is None else rule["chain"]


@dataclass(frozen=True, slots=True)
class Observation:
    """What a kernel holds of ours.

    `differences` says how chains, sets and rules deviate from what they ought to be (empty: only
    rows can differ); `rules` counts ours, `user_rules` those in DOCKER-USER; `foreign` names what
    others put beside them. `layout` is the shape of iptables' chains ("": nothing has one).

    `users` is what there is of the user's that ends with the table. Without DOCKER-USER (`bereft`)
    nobody can tell, and it may be given what is known from before.
    """

    present: bool
    rows: FlatRows
    differences: tuple[str, ...] = ()
    rules: int = 0
    user_rules: int = 0
    foreign: tuple[str, ...] = ()
    layout: str = ""
    users: Belongings = field(default=Belongings(), repr=False)
    bereft: bool = False
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

    def bring_to(self, host: Host, observed: Observation, known: KnownHosts) -> str:
        """Bring the kernel from what was observed to `host`.

        Where DOCKER-USER has to be made, what was the user's goes back with it. Returns why that
        could not be; the rest is done all the same.
        """
        ...

    def remove(self, known: KnownHosts, *, everything: bool) -> Iterable[str]:
        """Take out all that is ours; DOCKER-USER with rules in it only if `everything`.

        Returns a phrase for each thing that was left.
        """
        ...
