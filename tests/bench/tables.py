"""Reports as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.bench.contenders import CONTENDERS, LIMITS
from tests.bench.figures import TOPICS, Report, Series, Verdict, counted
from tests.bench.why import WHY

_STEPS = {  # unit -> name and size of the units that it is shown in, largest first
    "ns": (("ms", 1e6), ("µs", 1e3), ("ns", 1.0)),
    "s": (("s", 1.0), ("ms", 1e-3)),
    "ms": (("ms", 1.0),),
    "MB": (("MB", 1.0),),
}


def quantity(value: float, unit: str) -> str:
    """Three digits and a unit that a reader can take in: ``1.84 µs``."""
    name, size = _step(value, unit)
    return f"{_digits(value / size)} {name}"


def _step(value: float, unit: str) -> tuple[str, float]:
    steps = _STEPS[unit]
    return next((step for step in steps if abs(value) >= step[1] * (1 - 1e-9)), steps[-1])


def round_quantity(value: float, unit: str) -> str:
    """A round value for an axis: ``10 µs``."""
    name, size = _step(value, unit)
    return f"{value / size:g} {name}"


def row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |"


def table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A whole table."""
    return [row(heads), "|" + "---|" * len(heads), *map(row, rows)]


def machine(report: Report) -> str:
    """What it ran on, in a line."""
    return ", ".join(f"{key} {value}" for key, value in report.machine.items())


def verdicts(found: Iterable[Verdict]) -> list[str]:
    """Targets beside what came out."""
    heads = ("what", "compared with", "median", "from - to", "wanted", "reached")
    return table(heads, map(_verdict, found))


def _verdict(verdict: Verdict) -> tuple[str, ...]:
    target = verdict.target
    ours, theirs = verdict.sizes
    unit = "" if target.theirs is not None else " " + TOPICS[target.topic].unit
    compared = "" if target.theirs is None else _name(target.theirs)
    if target.theirs is not None and ours != theirs and target.theirs not in LIMITS:
        compared += f"; {theirs}"
    return (
        f"{TOPICS[target.topic].name}; {_name(target.ours)}; {ours}",
        compared,
        f"{_digits(verdict.value)}{unit or ' times'}",
        f"{_digits(verdict.lowest)} - {_digits(verdict.highest)}",
        f"at most {target.limit:g}{unit}",
        "yes" if verdict.reached else "**no**",
    )


def topic(report: Report, key: str, networks: Sequence[int] | None = None) -> list[str]:
    """A topic's figures: contenders and networks down, ports across; medians and their spread."""
    found = [s for s in report.of(key) if s.contender not in LIMITS]
    found = [s for s in found if networks is None or s.size.networks in networks]
    ports = sorted({s.size.ports for s in found})
    groups = sorted({(_rank(s.contender), s.size.networks) for s in found})
    several = len({count for _, count in groups}) > 1
    across = [counted(p, "port") for p in ports] if len(ports) > 1 else ["median (from - to)"]
    heads = ("contender", *(("networks",) if several else ()), *across)
    names = list(CONTENDERS)

    def rows() -> Iterator[list[str]]:
        for rank, count in groups:
            own = {
                s.size.ports: s
                for s in found
                if (_rank(s.contender), s.size.networks) == (rank, count)
            }
            cells = [_cell(own.get(p)) for p in ports]
            yield [_name(names[rank]), *((f"{count:,}",) if several else ()), *cells]

    return [*_limits(report, key), *table(heads, rows())]


def reasons(report: Report, key: str) -> list[str]:
    """What limits each contender of a topic, as a list."""
    present = sorted({s.contender for s in report.of(key)}, key=_rank)
    known = WHY.get(key, {})
    return [f"* {_name(name)}: {known[name]}." for name in present if name in known]


def _limits(report: Report, key: str) -> list[str]:
    found = [s for s in report.of(key) if s.contender in LIMITS]
    if not found:
        return []
    return [", ".join(f"{_name(s.contender)}: {_cell(s)}" for s in found) + ".", ""]


def _cell(series: Series | None) -> str:
    """Median, smallest and largest; a dash where nothing was measured."""
    if series is None:
        return "-"
    unit = TOPICS[series.topic].unit
    _, size = _step(series.median, unit)
    low, high = (_digits(edge(series.values) / size) for edge in (min, max))
    return f"{quantity(series.median, unit)} ({low} - {high})"


def _name(contender: str) -> str:
    return CONTENDERS[contender].title


def _rank(contender: str) -> int:
    return list(CONTENDERS).index(contender)


def _digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.{1 if abs(value) >= 10 else 2}f}"
