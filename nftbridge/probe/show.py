"""Turns what a probe has found into a table for a terminal, or into data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from nftbridge.errors import UnavailableError
from nftbridge.probe.found import Decision, Finding, Found, Presence, decide
from nftbridge.style import Style

_HEADINGS = ("feature", "here", "comes with", "lost without it", "used instead")


def lines(found: Found, style: Style) -> Iterator[str]:
    """Everything, for people: a row per feature, and under one that is not there the reason."""
    rows = [_HEADINGS, *map(_cells, found.findings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield style.title(_aligned(_HEADINGS, widths))
    for group, findings in groupby(found.findings, key=lambda finding: finding.feature.group):
        yield style.title(group.value)
        for finding in findings:
            yield _painted(_aligned(_cells(finding), widths), finding.presence, style)
            if finding.detail and found.obstacle is None:
                yield style.aside(f"    {finding.detail}")
    decision, reason = _auto(found)
    if decision is not None:
        yield f"--backend auto takes {decision.backend}: {decision.reason}"
    elif found.obstacle is None:
        yield f"--backend auto takes nothing: {reason}"


def to_data(found: Found) -> dict[str, object]:
    """Everything, for programs; `auto` is null where no backend can work."""
    decision, reason = _auto(found)
    return {
        "features": [_finding_data(finding) for finding in found.findings],
        "auto": decision.backend if decision else None,
        "auto_reason": decision.reason if decision else reason,
    }


def _auto(found: Found) -> tuple[Decision | None, str]:
    """What ``--backend auto`` takes, or why it takes nothing."""
    try:
        return decide(found), ""
    except UnavailableError as error:
        return None, str(error)


def _cells(finding: Finding) -> tuple[str, ...]:
    feature = finding.feature
    name, presence = feature.name, finding.presence.value
    return (name, presence, feature.source, feature.lost, feature.instead)


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()


def _painted(line: str, presence: Presence, style: Style) -> str:
    match presence:
        case Presence.PRESENT:
            return line
        case Presence.MISSING:
            return style.removed(line)
        case Presence.UNKNOWN:
            return style.aside(line)


def _finding_data(finding: Finding) -> dict[str, object]:
    feature = finding.feature
    return {
        "feature": feature.name,
        "group": feature.group.value,
        "presence": finding.presence.value,
        "detail": finding.detail,
        "options": list(feature.options),
        "remark": feature.remark,
        "lost": feature.lost,
        "instead": feature.instead,
        "needs": list(feature.needs),
    }
