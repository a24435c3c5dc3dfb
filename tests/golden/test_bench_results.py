"""The committed tables and plots say what the committed figures say (README: test_readme)."""

from __future__ import annotations

import re
from dataclasses import replace

from tests.bench import shown

FOUND = shown.reports()


def test_they_are_generated_from_the_figures() -> None:
    expected = shown.generated(FOUND)
    present = {path.name for path in shown.RESULTS.iterdir() if path.suffix != ".json"}
    assert present == expected.keys()
    old = [n for n, text in expected.items() if (shown.RESULTS / n).read_text() != text]
    assert not old, "run ./run rulesets"


def test_another_figure_is_noticed() -> None:
    part, report = next(iter(FOUND.items()))
    first, *others = report.series
    changed = replace(first, values=tuple(value * 2 for value in first.values))
    planted = FOUND | {part: replace(report, series=(changed, *others))}
    assert shown.generated(planted) != shown.generated(FOUND)


def test_the_plots_that_readme_shows_are_there() -> None:
    from tests.readme import README

    shown_there = re.findall(r"\]\(tests/bench/results/(.*?)\)", README.read_text())
    assert set(shown_there) <= shown.generated(FOUND).keys()
