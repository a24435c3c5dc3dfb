"""When something is done about what has happened: `Gathering` tells the time, `Lane` does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from nftbridge.watch.child import Child
from nftbridge.watch.work import Outcome


class Reason(Enum):
    """What has happened."""

    START = "start"
    RELOAD = "reload"
    FILE = "file"
    RULES = "rules"
    FIREWALLD = "firewalld"
    TRIAL = "trial"
    DOCKER = "docker"
    GONE = "docker-gone"
    NAMES = "names"


QUIET = {Reason.FILE: 0.02, Reason.RULES: 0.005}
"""Seconds in which nothing else may happen before something is done; none for the other reasons.

Whoever writes one file may write the next. Of rules, it is the time in which whoever has applied
puts that on record, us included.
"""

MOST = 0.06
"""Seconds after which something is done although things go on happening."""

PACES = (0.01, 0.5)
"""Seconds in which containers that start are gathered: at first, and at most while many do.

It doubles with each time of a burst. What is gone waits for nothing.
"""

_BURST = 1.0
"""Seconds after the one before within which a piece of work belongs to the same burst."""

_FIRST_RETRY, _LAST_RETRY = 1.0, 60.0


class Gathering:
    """Things that happen at about the same time are one. All times are seconds of one clock."""

    def __init__(self) -> None:
        self.reasons: frozenset[Reason] = frozenset()
        self.since = 0.0
        self._until = 0.0
        self._not_before = 0.0
        self._retry_in = 0.0
        self._pace = PACES[0]
        self._rested = -_BURST

    def add(self, reason: Reason, now: float) -> None:
        """Something has happened."""
        wait = self._pace if reason is Reason.DOCKER else QUIET.get(reason, 0.0)
        if not self.reasons:
            self.since, self._until = now, now + wait
        elif reason in QUIET and all(known in QUIET for known in self.reasons):
            self._until = min(now + wait, self.since + MOST)
        else:
            self._until = min(now + wait, self._until)
        self.reasons = self.reasons.union((reason,))

    def due(self) -> float | None:
        """When something is to be done; None if nothing."""
        if Reason.GONE in self.reasons:
            return self._until
        return max(self._until, self._not_before) if self.reasons else None

    def take(self) -> frozenset[Reason]:
        """What it is done for; from now on new things are gathered."""
        taken = self.reasons
        self.reasons = frozenset()
        return taken

    def rest(self, started: float, now: float) -> None:
        """It was at work. In a burst it does nothing again for as long as that took.

        So two programs that undo each other's work use no more than half of a processor, and what
        happens a second time is seen to at once.
        """
        burst = started - self._rested < _BURST
        self._not_before = now + (now - started if burst else 0.0)
        self._pace = min(2 * self._pace, PACES[1]) if burst else PACES[0]
        self._rested = now

    def succeeded(self) -> None:
        """What had failed is forgotten."""
        self._retry_in = 0.0

    def failed(self, reasons: frozenset[Reason], now: float) -> float:
        """Returns in how many seconds it is tried again, if nothing happens before."""
        self._retry_in = min(max(_FIRST_RETRY, 2 * self._retry_in), _LAST_RETRY)
        if not self.reasons:
            self.since, self._until = now, now + self._retry_in
        self.reasons |= reasons
        return self._retry_in


@dataclass(frozen=True, slots=True)
class Finished:
    """A piece of work: for what, what came of it, since when it was wanted."""

    reasons: frozenset[Reason]
    outcome: Outcome
    since: float


LONGEST = 300.0
"""Seconds that work may take: others may hold xtables' lock, and firewalld be slow to answer."""

Job: TypeAlias = Callable[[frozenset[Reason]], Outcome]


class Lane:
    """One kind of work, which one forked process does at a time."""

    def __init__(self, job: Job) -> None:
        self.gathering = Gathering()
        self.child: Child | None = None
        self._job = job
        self._reasons: frozenset[Reason] = frozenset()
        self._since = self._started = 0.0

    def ask(self, reason: Reason, now: float) -> None:
        """Something has happened."""
        self.gathering.add(reason, now)

    def due(self) -> float | None:
        """When to `start`; None if there is nothing to do, or somebody is at it."""
        return None if self.child is not None else self.gathering.due()

    def start(self, now: float) -> Child:
        """Begin."""
        self._since, self._started = self.gathering.since, now
        reasons = self._reasons = self.gathering.take()
        self.child = Child(lambda: self._job(reasons))
        return self.child

    def deadline(self) -> float | None:
        """When to `interrupt`; None if nobody is at it."""
        return None if self.child is None else self._started + LONGEST

    def interrupt(self, now: float) -> None:
        """End what hangs, such as a file that cannot be read: the kernel is as before or after it.

        Its outcome says so, and it is tried again.
        """
        if self.child is not None and now >= self._started + LONGEST:
            self.child.kill()

    def finished(self, now: float) -> Finished | None:
        """What came of it; None if it goes on. To be called when the child is readable."""
        outcome = None if self.child is None else self.child.outcome()
        if outcome is None:
            return None
        self.child = None
        self.gathering.rest(self._started, now)
        return Finished(self._reasons, outcome, self._since)

    def end(self, seconds: float) -> Finished | None:
        """Let what was begun come to its end within so many seconds; None if nothing was."""
        child, self.child = self.child, None
        return None if child is None else Finished(self._reasons, child.end(seconds), self._since)
