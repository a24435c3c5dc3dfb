"""An apply that waits to be confirmed: until when, and which process undoes it then."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from nftbridge.effects import Switch
from nftbridge.model import Family

CONFIRM = "`nftbridge confirm` keeps it"
ROLLBACK = "`nftbridge rollback` goes back now"


class Process(NamedTuple):
    """A process that no later one is taken for: its number, and its start in ticks since boot."""

    number: int
    start: int

    @classmethod
    def of(cls, number: int) -> Self | None:
        """The process that has that number now; None if none has."""
        try:
            # the name before the last parenthesis may hold anything (proc(5))
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if fields[0] in "ZX" else cls(number, int(fields[19]))

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return Process.of(self.number) == self


@dataclass(frozen=True, slots=True)
class Trial:
    """`deadline` is in seconds of `now`, `until` the same for people; `boot` tells boots apart.

    `switched` is the forwarding that was switched on since it began, and goes off if it is undone.
    """

    deadline: float
    until: str
    boot: str | None
    watchdog: Process
    switched: tuple[Switch, ...] = ()

    @classmethod
    def lasting(cls, seconds: float, boot: str | None, watchdog: Process) -> Trial:
        """A trial that ends in that many seconds."""
        until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds))
        return cls(now() + seconds, until, boot, watchdog)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Trial | None:
        """What `data` made; None for anything else."""
        try:
            watchdog = Process(*map(int, data["watchdog"]))
            switched = tuple(
                Switch(Family(found["family"]), tuple(map(str, found["listening"])))
                for found in data["switched"]
            )
            deadline, until = float(data["deadline"]), str(data["until"])
            return cls(deadline, until, data["boot"], watchdog, switched)
        except (KeyError, TypeError, ValueError):
            return None

    def data(self) -> dict[str, object]:
        """Everything, for a file."""
        return asdict(self)

    def left(self) -> float:
        """Seconds until it ends; negative if it should have."""
        return self.deadline - now()

    def guarded(self) -> bool:
        """Whether the process that undoes it still lives."""
        return self.watchdog.is_alive()

    def condition(self) -> str:
        """How it stands."""
        if self.guarded():
            return f"not confirmed, and goes back at {self.until}"
        return "not confirmed, and the process that would undo it has been killed"

    def __str__(self) -> str:
        return f"{self.condition()}: {CONFIRM}, {ROLLBACK}"


def now() -> float:
    """Seconds on a clock that nobody sets and that counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
