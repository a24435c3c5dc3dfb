"""Runs the demonstration: builds the laboratory, applies the rules, sends the probes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.effects import bridges_filtered
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory, Outcome, Probe
from nftbridge.lab.forecast import Forecast, Forecaster
from nftbridge.lab.probe import ProbeProtocol
from nftbridge.model import Family, Host

HOST_FILE = Path(__file__).with_name("host.toml")


@dataclass(frozen=True, slots=True)
class Question:
    """A column of the matrix: a port of a node, asked by every other node."""

    node: str
    protocol: ProbeProtocol
    port: int
    note: str

    def __str__(self) -> str:
        return f"{self.node}:{self.port}/{self.protocol}"


QUESTIONS = (
    Question(HOST, "tcp", 8080, "published by web, container port 80"),
    Question(HOST, "udp", 5353, "published by web, container port 53"),
    Question(HOST, "sctp", 3868, "published by queue"),
    Question(HOST, "tcp", 9090, "published by web on 127.0.0.1 only"),
    Question("web", "tcp", 80, "the container addressed directly"),
    Question("web", "tcp", 81, "a port that is not published"),
    Question("queue", "tcp", 5672, "in a network without icc"),
    Question("db", "tcp", 81, "in an internal network"),
    Question(OUTSIDE, "tcp", 443, "somebody on the internet"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One probe: what was measured and what the evaluator says about it."""

    question: Question
    outcome: Outcome
    forecast: Forecast

    @property
    def agrees(self) -> bool:
        """Whether the measurement is what the evaluator expects."""
        return self.outcome.reached == self.forecast.reached


@dataclass(frozen=True, slots=True)
class Demonstration:
    """All that was found, by family and source node. `seconds` is the time that everything took."""

    host: Host
    cells: dict[Family, dict[str, tuple[Cell, ...]]]
    rules: int
    rows: int
    bridges_filtered: bool
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether every measurement is what the evaluator expects."""
        return all(cell.agrees for cell in self.all_cells())

    def all_cells(self) -> Iterator[Cell]:
        """Every cell of both matrices."""
        for by_source in self.cells.values():
            for row in by_source.values():
                yield from row


def run() -> Demonstration:
    """Build, apply, probe, tear down. Raises `UnavailableError` without root or nf_tables."""
    started = time.monotonic()
    host = config.load(str(HOST_FILE)).host
    with Laboratory(host) as lab, tempfile.TemporaryDirectory() as state:
        target = Target(netns=lab.netns, state_directory=Path(state))
        backend = choose("nftables", target).backend
        applied = Engine(target, backend).apply(host)
        rules = backend.observe(lambda: [host]).rules
        filtered = len(bridges_filtered(lab.netns)) == len(Family)
        forecaster = Forecaster(host, lab.topology, bridges_filtered=filtered)
        cells = {family: _matrix(lab, forecaster, family) for family in Family}
    seconds = time.monotonic() - started
    return Demonstration(host, cells, rules, applied.count_added, filtered, seconds)


def _matrix(lab: Laboratory, forecaster: Forecaster, family: Family) -> dict[str, tuple[Cell, ...]]:
    asked = [
        (
            question,
            Probe(source, lab.address(question.node, family), question.protocol, question.port),
        )
        for source in lab.nodes
        for question in QUESTIONS
        if source != question.node
    ]
    outcomes = lab.probe_all([probe for _, probe in asked])
    matrix: dict[str, tuple[Cell, ...]] = dict.fromkeys(lab.nodes, ())
    for (question, probe), outcome in zip(asked, outcomes, strict=True):
        cell = Cell(question, outcome, forecaster.expect(probe))
        matrix[probe.source] = (*matrix[probe.source], cell)
    return matrix
