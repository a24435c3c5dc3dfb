"""Turns a demonstration into lines for a terminal, or into data."""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_lowercase

from nftbridge.demo.stage import QUESTIONS, Cell, Demonstration
from nftbridge.explain.sentences import socket_text
from nftbridge.explain.show import chain_picture, verdict
from nftbridge.model import Family
from nftbridge.policy.evaluate import Step
from nftbridge.policy.path import Journey
from nftbridge.policy.program import Jump
from nftbridge.style import Style

_WIDTH = 8


def lines(shown: Demonstration, style: Style) -> Iterator[str]:
    """Everything, for people."""
    yield style.title("A host with three bridge networks, in network namespaces of its own")
    for network in shown.host.networks:
        subnets = ", ".join(map(str, network.subnets))
        traits = " internal" if network.internal else "" if network.icc else " icc = false"
        yield f"  {network.name:<10}{network.bridge:<10}{subnets}{traits}"
        for container in network.containers:
            ports = ", ".join(map(str, container.publish))
            yield f"    {container.name:<8}{container.ipv4}, {container.ipv6}  {ports}".rstrip()
    yield f"  one transaction: {shown.rules} rules, {shown.rows} rows"
    yield ""
    letters = _Letters()
    for family in Family:
        yield from _matrix_text(shown, family, letters, style)
    yield from letters.legend(style)
    yield from _warnings(shown, style)
    yield from _ways(shown, style)
    yield f"{shown.host.summary()}; {shown.seconds:.1f} s; nothing of it is left behind"


def to_data(shown: Demonstration) -> dict[str, object]:
    """Everything, for programs."""
    return {
        "as_expected": shown.as_expected,
        "rules": shown.rules,
        "rows": shown.rows,
        "seconds": round(shown.seconds, 3),
        "probes": [_cell_data(cell) for cell in shown.all_cells()],
    }


class _Letters:
    """A letter for each rule that decided something, in order of appearance."""

    def __init__(self) -> None:
        self._letters: dict[tuple[str, str], tuple[str, Step]] = {}

    def of(self, step: Step) -> str:
        key = (step.chain, step.rule.name)
        letter = ascii_lowercase[len(self._letters) % len(ascii_lowercase)]
        return self._letters.setdefault(key, (letter, step))[0]

    def legend(self, style: Style) -> Iterator[str]:
        yield style.title("Which rule decided")
        for letter, step in self._letters.values():
            yield f"  {letter}  {step.chain}, {step.rule.name}: {verdict(step)}"
            yield style.aside(f"     {step.rule.reason}")
        yield "  -  no rule: the host itself was asked, or the packet met no rule of ours"
        yield style.aside(
            "     (containers get to published ports by the userland proxy; none runs here)"
        )
        yield ""


def _matrix_text(
    shown: Demonstration, family: Family, letters: _Letters, style: Style
) -> Iterator[str]:
    yield style.title(f"Who reached whom over {family.label} (measured)")
    for index, question in enumerate(QUESTIONS):
        rails = "".join("|".ljust(_WIDTH) for _ in QUESTIONS[:index])
        yield f"{'':<12}{rails}{question}{style.aside(f'  {question.note}')}"
    for source, cells in shown.cells[family].items():
        by_question = {cell.question: cell for cell in cells}
        row = "".join(_cell_text(by_question.get(q), letters, style) for q in QUESTIONS)
        yield f"  {source:<10}{row}".rstrip()
    yield ""


def _cell_text(cell: Cell | None, letters: _Letters, style: Style) -> str:
    if cell is None:
        return " " * _WIDTH
    step = cell.forecast.decided
    doubt = "" if cell.agrees else "!"
    word = f"{'yes' if cell.outcome.reached else 'no'} {letters.of(step) if step else '-'}{doubt}"
    paint = style.added if cell.outcome.reached else style.removed
    return paint(word) + " " * (_WIDTH - len(word))


def _warnings(shown: Demonstration, style: Style) -> Iterator[str]:
    if not shown.bridges_filtered:
        yield style.title("Without the kernel module br_netfilter, icc = false has no effect here:")
        yield "packets within one bridge are not shown to netfilter."
        yield ""
    for cell in shown.all_cells():
        if not cell.agrees:
            yield style.removed(f"! {cell.outcome.probe}: measured {cell.outcome.reply.value}, ")
            yield f"  expected {'an answer' if cell.forecast.reached else 'none'}"


def _ways(shown: Demonstration, style: Style) -> Iterator[str]:
    """The chains that three packets walked: one let in, one too many, one kept apart."""
    for source, index in (("outside", 0), ("outside", 4), ("worker", 4)):
        cells = {cell.question: cell for cell in shown.cells[Family.IPV4][source]}
        cell = cells[QUESTIONS[index]]
        yield style.title(f"The way of {cell.outcome.probe}")
        if cell.forecast.there is not None:
            yield from _way(cell.forecast.there, style)
        yield ""


def _way(way: Journey, style: Style) -> Iterator[str]:
    for result in way.results:
        yield f"  {result.hook:<18}{chain_picture(result)}"
        for step in result.steps:
            if not isinstance(step.rule.verdict, Jump):
                yield style.aside(f"  {'':<18}{step.rule.reason}")
    if way.end is None:
        yield style.removed(f"  {'dropped':<18}")
    else:
        goal = socket_text(way.end.daddr, way.end.dport)
        yield style.added(f"  {'leaves':<18}by {way.end.oif or 'the host itself'}, to {goal}")


def _cell_data(cell: Cell) -> dict[str, object]:
    step, probe = cell.forecast.decided, cell.outcome.probe
    return {
        "source": probe.source,
        "destination": str(probe.destination),
        "protocol": probe.protocol,
        "port": probe.port,
        "reached": cell.outcome.reached,
        "expected": cell.forecast.reached,
        "rule": f"{step.chain} {step.rule.name}" if step else None,
    }
