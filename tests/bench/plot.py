"""Line plots as SVG, both axes logarithmic. Pure.

Matplotlib would bring 60 MB of packages into the test extra for four plots; and its SVG differs
from release to release, so that the committed ones could not be compared with their figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 190, 44, 48
_LINE = 16  # least distance of two names


@dataclass(frozen=True, slots=True)
class Line:
    """One contender's points, (x, y) with both above 0; `strong` draws it thicker."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From 10 to the `low` to 10 to the `high`, over pixels from `start` to `end`."""

    low: int
    high: int
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten."""
        return [10.0**power for power in range(self.low, self.high + 1)]


def axis(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis of whole decades around the values."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return Axis(low, max(high, low + 1), start, end)


def svg(title: str, across: str, lines: Sequence[Line], tick: Sequence[tuple[float, str]]) -> str:
    """The plot. `tick` says what is written at which value of the upright axis."""
    points = [point for line in lines for point in line.points]
    x = axis([p[0] for p in points], _LEFT, _WIDTH - _RIGHT)
    y = axis([p[1] for p in points], _HEIGHT - _BOTTOM, _TOP)
    names = dict(tick)
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 24, title, size=15),
        *(_tick_across(x.at(v), f"{v:,.0f}") for v in x.ticks),
        *(_tick_up(y.at(v), names.get(v, "")) for v in y.ticks),
        _text((x.start + x.end) / 2, _HEIGHT - 10, across, anchor="middle"),
        *(_polyline(line, x, y) for line in lines),
        *_names(lines, y),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


def _polyline(line: Line, x: Axis, y: Axis) -> str:
    points = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line.points)
    dots = "".join(
        f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="3" fill="{line.colour}"/>'
        for a, b in line.points
    )
    width = 3 if line.strong else 1.5
    style = f'fill="none" stroke="{line.colour}" stroke-width="{width}"'
    return f'<polyline points="{points}" {style}/>{dots}'


def _names(lines: Sequence[Line], y: Axis) -> Iterator[str]:
    """To the right, at the height of each line's end where there is room, else below."""
    lowest = float(_TOP)
    for line in sorted(lines, key=lambda line: y.at(line.points[-1][1])):
        height = max(y.at(line.points[-1][1]) + 4, lowest)
        lowest = height + _LINE
        yield _text(_WIDTH - _RIGHT + 10, height, line.name, colour=line.colour, bold=line.strong)


def _tick_across(x: float, name: str) -> str:
    return _grid(x, _TOP, x, _HEIGHT - _BOTTOM) + _text(x, _HEIGHT - 30, name, anchor="middle")


def _tick_up(y: float, name: str) -> str:
    return _grid(_LEFT, y, _WIDTH - _RIGHT, y) + _text(_LEFT - 8, y + 4, name, anchor="end")


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = "#222222",
    size: int = 12,
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'
