"""Other firewalls that have to let pass what our rules do: each follows a host from apply to apply.

firewalld, where it runs, and iptables, where a migration has left a drop in its FORWARD chain.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftbridge.choice import Target
from nftbridge.errors import Problem
from nftbridge.firewalld import guard
from nftbridge.firewalld.steps import Steps
from nftbridge.model import Host
from nftbridge.state import State

if TYPE_CHECKING:  # few hosts need them
    from nftbridge.accepts import Accepts
    from nftbridge.accepts import Steps as Accepting

Hosts: TypeAlias = Callable[[], Iterable[Host]]
"""Hosts that are looked up only if they are needed."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What is to be done, or was done, in each of them; false if nothing is."""

    firewalld: Steps
    iptables: Accepting | None = None

    def __bool__(self) -> bool:
        return bool(self.firewalld or self.iptables)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What somebody else has decided there and we leave as it is."""
        return self.firewalld.warnings

    def lines(self) -> dict[str, list[str]]:
        """What is to be done, a line each, by who it is done in."""
        found = {"firewalld": self.firewalld, "iptables": self.iptables}
        return {name: list(steps.lines()) if steps else [] for name, steps in found.items()}


def steps(target: Target, before: Hosts, after: Host | None) -> Beside:
    """What brings them from what `before` needs to what `after` needs; changes nothing.

    `before` are all hosts that they may know of, `after` None is a host without networks.
    """
    iptables = _iptables(target)
    firewalld = guard.steps(target.netns, before, after)
    return Beside(firewalld, None if iptables is None else iptables.steps(after))


@contextmanager
def around(target: Target, before: Hosts, after: Host | None) -> Generator[Beside]:
    """Bring them from `before` to `after`, while the body does the same to our rules.

    They are never open where our rules are not in yet or out already.
    """
    iptables = _iptables(target)
    accepting = nullcontext() if iptables is None else iptables.around(after)
    with accepting as steps, guard.around(target.netns, before, after) as firewalld:
        yield Beside(firewalld, steps)


def leave(target: Target) -> None:
    """Take out what is left, and ours alone, after `around` a host without networks."""
    if (iptables := _iptables(target)) is not None:
        iptables.take_out()


def _iptables(target: Target) -> Accepts | None:
    state = State.of(target.state_directory, target.table, target.netns)
    if not state.accepting():
        return None
    from nftbridge.accepts import Accepts

    return Accepts(target)
