"""What was measured, and what is made of it: medians, spreads, ratios of pairs, targets. Pure.

Machines differ and drift, so that two absolute times of different runs cannot be compared. A round
lets every contender do the same once; a ratio is taken within each round, and its median quoted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Topic:
    """Something that is measured; `unit` is that of the values in a `Series`."""

    key: str
    name: str
    title: str
    unit: str


TOPICS: dict[str, Topic] = {
    topic.key: topic
    for topic in (
        Topic("check", "check", "check of a small file, beyond the interpreter's own start", "ms"),
        Topic("python", "python3", "python3 -c pass", "ms"),
        Topic("apply", "apply", "load 1,000 networks and 10,000 ports onto an empty kernel", "s"),
        Topic("peak", "memory of that apply", "largest resident memory meanwhile", "MB"),
        Topic("nothing", "nothing to do", "apply, with nothing to do", "ms"),
        Topic("one-more", "one port more", "apply, of one port more", "ms"),
        Topic(
            "one-less-cold", "the same, cold", "the same without a record of the last apply", "ms"
        ),
        Topic("session", "change in process", "one port more or less in a session", "ms"),
        Topic("session-peak", "peak of a session", "largest memory of a session", "MB"),
        Topic("session-rest", "rest of a session", "memory of a session after its apply", "MB"),
        Topic(
            "established", "established packet", "a 64-byte UDP packet of an established flow", "ns"
        ),
        Topic("new", "new flow", "a 64-byte UDP packet that starts a flow", "ns"),
        Topic(
            "outward",
            "new flow outward",
            "a 64-byte UDP packet by which a container starts a flow",
            "ns",
        ),
        Topic("connect", "connection", "a TCP connection, made and reset", "ns"),
        Topic("publish", "publish", "publish the ports of one container in one change", "s"),
        Topic("republish", "re-create", "re-create the container with its ports", "s"),
        Topic("networks", "networks", "make 100 networks", "s"),
        Topic("run", "docker run", "docker run, until its first and last port answer", "s"),
        Topic("burst", "burst", "100 containers started at once, until all answer", "s"),
    )
}


@dataclass(frozen=True, slots=True)
class Size:
    """How large the host was: networks, and published ports in all."""

    networks: int
    ports: int

    def __str__(self) -> str:
        return f"{counted(self.networks, 'network')}, {counted(self.ports, 'port')}"


@dataclass(frozen=True, slots=True)
class Series:
    """What one contender needed at one size: a value for each round, in the topic's unit."""

    topic: str
    contender: str
    size: Size
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The value to quote."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Report:
    """One part of the benchmark, as it ran once: on what, with which versions, and its figures."""

    part: str
    machine: Mapping[str, str]
    series: tuple[Series, ...]

    def find(self, topic: str, contender: str, size: Size) -> Series | None:
        """That one series, if it was measured."""
        wanted = (topic, contender, size)
        found = (s for s in self.series if (s.topic, s.contender, s.size) == wanted)
        return next(found, None)

    def of(self, topic: str) -> list[Series]:
        """Every series of a topic, in the order measured."""
        return [s for s in self.series if s.topic == topic]

    def to_json(self) -> str:
        """As the file that is committed: a series on a line, so that changes can be read."""
        head = json.dumps({"part": self.part, "machine": dict(self.machine)}, indent=2)[:-2]
        lines = ",\n".join("    " + json.dumps(asdict(s)) for s in self.series)
        return f'{head},\n  "series": [\n{lines}\n  ]\n}}\n'

    @staticmethod
    def from_json(text: str) -> Report:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(text)
        series = [
            Series(s["topic"], s["contender"], Size(**s["size"]), tuple(s["values"]))
            for s in data["series"]
        ]
        return Report(data["part"], data["machine"], tuple(series))


@dataclass(frozen=True, slots=True)
class Target:
    """The most that the project wants `ours` to be, in times `theirs`, or in the topic's unit.

    `sizes` lists pairs of ours and theirs. The worst of them counts.
    """

    topic: str
    ours: str
    theirs: str | None
    sizes: tuple[tuple[Size, Size], ...]
    limit: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target beside what came out: the median, the smallest and largest of the rounds."""

    target: Target
    sizes: tuple[Size, Size]
    value: float
    lowest: float
    highest: float

    @property
    def reached(self) -> bool:
        """Whether the median is within the limit."""
        return self.value <= self.target.limit


def ratios(ours: Series, theirs: Series) -> list[float]:
    """Of values that were measured in the same round."""
    return [a / b for a, b in zip(ours.values, theirs.values, strict=True)]


def judged(report: Report, targets: Iterable[Target]) -> list[Verdict]:
    """The targets that this report says something about, each at its worst size."""
    found: list[Verdict] = []
    for target in targets:
        verdicts = [v for sizes in target.sizes if (v := _judged_at(report, target, sizes))]
        if verdicts:
            found.append(max(verdicts, key=lambda v: v.value))
    return found


def _judged_at(report: Report, target: Target, sizes: tuple[Size, Size]) -> Verdict | None:
    ours = report.find(target.topic, target.ours, sizes[0])
    if ours is None:
        return None
    values: Sequence[float] = ours.values
    if target.theirs is not None:
        theirs = report.find(target.topic, target.theirs, sizes[1])
        if theirs is None:
            return None
        values = ratios(ours, theirs)
    return Verdict(target, sizes, statistics.median(values), min(values), max(values))


def counted(number: int, noun: str) -> str:
    """``1 port``, ``1,000 ports``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
