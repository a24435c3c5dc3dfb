"""Whose word the service keeps: a host file's, or Docker's with a host file beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from nftbridge.choice import Target
from nftbridge.watch import work
from nftbridge.watch.docker import Docker
from nftbridge.watch.work import Beside, Outcome, Said


class Declared(Protocol):
    """Where what shall be in force is said."""

    @property
    def file(self) -> str | None:
        """The host file or folder, if there is one."""
        ...

    @property
    def name(self) -> str:
        """Who says it, for people."""
        ...

    @property
    def known(self) -> bool:
        """Whether all of it has been said, so that it can be applied."""
        ...

    def apply(self, target: Target, wanted: str, *, undone: bool) -> Outcome:
        """Bring the kernel to it; run in a process of its own.

        Not while another apply is on trial. `undone` says that nothing else has happened but the
        end of that.
        """
        ...

    def settled(self, outcome: Outcome) -> None:
        """What came of it."""


@dataclass(frozen=True, slots=True)
class OfFile:
    """A host file."""

    file: str

    @property
    def name(self) -> str:
        """Its path."""
        return self.file

    @property
    def known(self) -> bool:
        """It can be read at any time."""
        return True

    def apply(self, target: Target, wanted: str, *, undone: bool) -> Outcome:
        """As the file is now; but what was on trial and undone waits until the file changes."""
        if held := self._hold(target, undone=undone):
            return held
        outcome = work.apply(self.file, target, wanted)
        if outcome.rejected:  # maybe since somebody has begun a trial right now
            return self._hold(target, undone=undone) or outcome
        return outcome

    def _hold(self, target: Target, *, undone: bool) -> Outcome | None:
        return work.hold(target) or work.hold_undone(target, self.file, ended=undone)

    def settled(self, outcome: Outcome) -> None:
        """Nothing of it is wanted the next time."""


@dataclass(slots=True)
class OfDocker:
    """A running Engine, and a host file beside it."""

    docker: Docker
    file: str | None
    _good: str = field(default="", init=False)
    _known: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """Both of them."""
        return "Docker" if self.file is None else f"Docker, with {self.file},"

    @property
    def known(self) -> bool:
        """From the first complete listing on."""
        self._known = self._known or self.docker.ledger.complete
        return self._known

    def apply(self, target: Target, wanted: str, *, undone: bool) -> Outcome:  # noqa: ARG002
        """As Docker is known now, and as the file is, or was when it was good.

        However a trial has ended: it was about what Docker had when it began. It ends at once where
        it has a container that is gone, whose ports would lead to whoever gets its address.
        """
        ledger, beside = self.docker.ledger, Beside(self.file, self._good)
        said = Said(ledger.inspected(), self.docker.options, ledger.unread())
        if held := work.hold(target):
            if not work.outlives(target, said.inspected):
                return held
            work.end_trial(target)
        outcome = work.apply_docker(said, beside, target, wanted)
        return (work.hold(target) or outcome) if outcome.error else outcome

    def settled(self, outcome: Outcome) -> None:
        """What was good in the file is wanted when it is not any more."""
        self._good = outcome.own or self._good
