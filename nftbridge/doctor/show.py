"""Findings as lines for a terminal, or as data; and the way of a packet that was asked about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nftbridge.doctor.facts import Facts
from nftbridge.doctor.finding import Finding, Severity
from nftbridge.doctor.passage import Met, drops
from nftbridge.doctor.traffic import Traffic
from nftbridge.doctor.walk import Verdict
from nftbridge.explain.outcome import sentence
from nftbridge.model import counted
from nftbridge.style import Style

_HEADINGS = {
    Severity.LEAKS: "leaks",
    Severity.KILLS: "kills",
    Severity.REMARK: "remark",
}
_VERDICTS = {
    Verdict.ACCEPT: "passes",
    Verdict.DROP: "dropped",
    Verdict.TRANSLATE: "translated",
    Verdict.UNTRACKED: "not tracked",
}
_MANY = 6


def lines(facts: Facts, findings: Iterable[Finding], style: Style) -> Iterator[str]:
    """Everything found, for people; the last line says whether anything is wrong."""
    found = list(findings)
    for finding in found:
        yield from _finding(finding, style)
    wrong = sum(finding.severity.wrong for finding in found)
    looked = f"{counted(len(facts.tables), 'table')} looked into"
    verdict = f"{counted(wrong, 'thing')} wrong" if wrong else "nothing is wrong"
    yield (style.removed if wrong else style.added)(f"{verdict}; {looked}")


def way_lines(
    traffic: Traffic, met: Iterable[Met], assumed: Iterable[str], style: Style
) -> Iterator[str]:
    """What every base chain of others does to the packet asked about, and what ours do."""
    for words in assumed:
        yield style.aside(f"{words} is assumed")
    yield style.title("in our own rules")
    yield f"  {sentence(traffic.way)}"
    yield style.title("in the rules of others")
    for found in met:
        decision, place = found.decision, found.decision.place
        for rewrite in decision.rewrites:
            yield style.removed(f"  {found.stage.hook:<20} {'rewritten':<11} {rewrite.place}")
        hook = f"{'answer, ' if found.stage.is_answer else ''}{found.stage.hook}"
        word = _VERDICTS[decision.verdict]
        paint = style.removed if drops(found) else style.aside
        yield paint(f"  {hook:<20} {word:<11} {place}")
        for doubt in decision.doubts:
            yield style.aside(f"  {'':<20} unless this does otherwise: {doubt}")


def to_data(facts: Facts, findings: Iterable[Finding]) -> dict[str, object]:
    """The same for programs."""
    found = list(findings)
    return {
        "wrong": any(finding.severity.wrong for finding in found),
        "findings": [_data(finding) for finding in found],
        "tables": [str(table) for table in facts.tables],
        "daemons": sorted(facts.daemons),
    }


def way_data(traffic: Traffic, met: Iterable[Met], assumed: Iterable[str]) -> dict[str, object]:
    """The same as `way_lines`."""
    return {
        "assumed": list(assumed),
        "sentence": sentence(traffic.way),
        "chains": [_met_data(each) for each in met],
    }


def _finding(finding: Finding, style: Style) -> Iterator[str]:
    word = _HEADINGS[finding.severity]
    paint = style.removed if finding.severity.wrong else style.aside
    yield f"{paint(word)}  {finding.sentence}"
    for kind in finding.traffic[:_MANY]:
        yield f"    {kind}"
    if len(finding.traffic) > _MANY:
        yield f"    and {len(finding.traffic) - _MANY} more"
    if finding.where:
        yield style.aside(f"    by {finding.where}")
    for doubt in finding.doubts:
        yield style.aside(f"    unless this, which is not understood, accepts it: {doubt}")
    for command in finding.commands:
        yield f"    $ {command}"
    if finding.note:
        yield style.aside(f"    ({finding.note})")


def _data(finding: Finding) -> dict[str, object]:
    return {
        "diagnosis": finding.diagnosis,
        "severity": _HEADINGS[finding.severity],
        "sentence": finding.sentence,
        "traffic": list(finding.traffic),
        "where": finding.where or None,
        "commands": list(finding.commands),
        "note": finding.note or None,
        "doubts": list(finding.doubts),
    }


def _met_data(met: Met) -> dict[str, object]:
    decision, place = met.decision, met.decision.place
    return {
        "hook": met.stage.hook,
        "answer": met.stage.is_answer,
        "table": str(place.table),
        "chain": place.chain.name,
        "rule": place.rule.text if place.rule else None,
        "verdict": _VERDICTS[decision.verdict],
        "doubts": [str(doubt) for doubt in decision.doubts],
        "rewrites": [str(rewrite.place) for rewrite in decision.rewrites],
    }
