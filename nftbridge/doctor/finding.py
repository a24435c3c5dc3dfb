"""What a diagnosis is, the evidence that it rests on, and the finding that comes of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from nftbridge.doctor.case import Case
from nftbridge.doctor.passage import Met
from nftbridge.doctor.ruleset import Place


class Severity(IntEnum):
    """How important a finding is; the lowest comes first."""

    LEAKS = 1
    """Something passes that the host file forbids."""
    KILLS = 2
    """Something dies that the host file wants."""
    REMARK = 3
    """Nothing is wrong now."""

    @property
    def wrong(self) -> bool:
        """Whether it has to be mended."""
        return self is not Severity.REMARK


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a condition holds. `words` fill in a diagnosis' sentence and commands.

    `traffic` is what it concerns and `where` the rule or the switch that decides; if it is a rule,
    `place` is that and `met` are the packets that came there.
    """

    words: Mapping[str, str] = field(default_factory=dict[str, str])
    traffic: tuple[str, ...] = ()
    where: str = ""
    place: Place | None = None
    met: tuple[Met, ...] = ()

    @classmethod
    def at(cls, place: Place, met: tuple[Met, ...], **words: str) -> Evidence:
        """Evidence that a rule decides over these packets."""
        kinds = tuple(dict.fromkeys(str(m.traffic) for m in met))
        return cls(words, kinds, str(place), place, met)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Rules that could not be understood and might make it untrue."""
        return tuple(dict.fromkeys(str(place) for m in self.met for place in m.decision.doubts))


Condition = Callable[[Case], Iterable[Evidence]]
Remedy = Callable[[Case, Evidence], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing that can be wrong: when it is, what is said of it, and the commands that mend it.

    `{words}` in `sentence` and `note` are the evidence's.
    """

    name: str
    severity: Severity
    condition: Condition
    sentence: str
    remedy: Remedy
    note: str = ""

    def findings(self, case: Case) -> Iterable[Finding]:
        """A finding for each evidence."""
        for evidence in self.condition(case):
            yield Finding(
                self.name,
                self.severity,
                self.sentence.format_map(evidence.words),
                evidence.traffic,
                evidence.where,
                tuple(self.remedy(case, evidence)),
                self.note.format_map(evidence.words),
                evidence.doubts,
            )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `commands` mend it when they are run in this order; `note` is about them."""

    diagnosis: str
    severity: Severity
    sentence: str
    traffic: tuple[str, ...] = ()
    where: str = ""
    commands: tuple[str, ...] = ()
    note: str = ""
    doubts: tuple[str, ...] = ()
