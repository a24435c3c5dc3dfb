"""What can go wrong, as one tree; each branch is one exit status of the command line.

NftbridgeError
├── InputError              1  the host file or the command line is wrong; lists every problem
├── KernelRefusedError      3  the kernel said no; nothing was changed
├── PartlyAppliedError      4  iptables only: one table is in, a later one was refused
└── UnavailableError        5  a privilege or a component is missing; says how to get it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the input: its place, what it is, what to write instead."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"\n    hint: {self.hint}" if self.hint else ""
        return f"{place}{self.message}{advice}"


class NftbridgeError(Exception):
    """Everything that nftbridge reports to its user; the text needs no traceback beside it."""

    exit_status: ClassVar[int] = 1

    def details(self) -> dict[str, object]:
        """The error as data, for ``--json``."""
        return {"error": type(self).__name__.removesuffix("Error"), "message": str(self)}


class InputError(NftbridgeError):
    """The host file or the command line is wrong. `problems` holds all of them, in file order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems

    def details(self) -> dict[str, object]:
        """Every problem as data."""
        problems = [{"where": p.where, "message": p.message, "hint": p.hint} for p in self.problems]
        return {"error": "Input", "problems": problems}


class KernelRefusedError(NftbridgeError):
    """The kernel refused the transaction, nothing was changed; `culprit` is the object or row.

    `reason` is the text without the hint.
    """

    exit_status = 3

    def __init__(self, message: str, *, culprit: str = "", hint: str = "") -> None:
        named = f"{culprit}: {message}" if culprit else message
        super().__init__(f"{named}\n    hint: {hint}" if hint else named)
        self.reason = named
        self.culprit = culprit
        self.hint = hint


class PartlyAppliedError(NftbridgeError):
    """Some iptables tables hold the new rules and a later one was refused; the text lists which."""

    exit_status = 4


class UnavailableError(NftbridgeError):
    """A privilege, a program or a kernel facility is missing; `hint` is how to get it."""

    exit_status = 5

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\n    hint: {hint}" if hint else message)
        self.hint = hint
