"""What is generated from the committed figures: the folder's README, the plots, README's tables."""

from __future__ import annotations

from pathlib import Path

from tests.bench import tables
from tests.bench.contenders import CONTENDERS, LIMITS
from tests.bench.figures import TOPICS, Report, judged
from tests.bench.plot import Line, svg
from tests.bench.targets import TARGETS

RESULTS = Path(__file__).with_name("results")

_TITLES = {
    "start": "Start of a command",
    "apply": "A large host onto an empty kernel",
    "changes": "One port more or less",
    "packets": "Packets, one container for each port",
    "peers-changes": "Changes, beside the peers",
    "peers-packets": "Packets, all ports on one container, beside the peers",
    "peers-docker": "Docker's containers, under its own firewall and under nftbridge",
}
_PLOTS = (
    ("packets", "established"),
    ("packets", "new"),
    ("peers-packets", "new"),
    ("peers-changes", "publish"),
)
_HEAD = """\
# Results of the benchmark

Generated from the .json files beside this one; `sudo ./run bench --write` and
`sudo ./run bench --peers --write` make all of it anew. Medians, smallest and largest of the rounds;
a ratio is taken within each round, and its median quoted. Below each table stands what limits the
figures.
"""


def reports(folder: Path = RESULTS) -> dict[str, Report]:
    """The parts that have figures there, in their order."""
    files = {part: folder / f"{part}.json" for part in _TITLES}
    return {p: Report.from_json(f.read_text()) for p, f in files.items() if f.exists()}


def generated(found: dict[str, Report]) -> dict[str, str]:
    """File name -> content."""
    files = {"README.md": _page(found)}
    for part, key in _PLOTS:
        if part in found:
            files[f"{part}-{key}.svg"] = plot(found[part], key)
    return files


def write(folder: Path = RESULTS) -> None:
    """All of that, made anew from the figures there."""
    for name, content in generated(reports(folder)).items():
        (folder / name).write_text(content)


def blocks(found: dict[str, Report]) -> dict[str, str]:
    """README's generated blocks by their name."""
    verdicts = [v for report in found.values() for v in judged(report, TARGETS)]
    about = found.get("peers-changes") or found.get("packets")
    texts = {
        "bench_targets": tables.verdicts(verdicts),
        "bench_new": _table(found, "packets", "new", (1, 1000)),
        "bench_new_plot": _image(found, "peers-packets", "new"),
        "bench_publish": _table(found, "peers-changes", "publish"),
        "bench_publish_plot": _image(found, "peers-changes", "publish"),
    }
    return {
        "bench_machine": tables.machine(about) if about else "",
        **{name: "\n" + "\n".join(lines) + "\n" for name, lines in texts.items()},
    }


def _table(
    found: dict[str, Report], part: str, key: str, networks: tuple[int, ...] | None = None
) -> list[str]:
    return tables.topic(found[part], key, networks) if part in found else []


def _image(found: dict[str, Report], part: str, key: str) -> list[str]:
    file = f"tests/bench/results/{part}-{key}.svg"
    return [f"![{TOPICS[key].title}]({file})"] if part in found else []


def text(report: Report) -> str:
    """One part as Markdown."""
    lines = [f"## {_TITLES[report.part]}", "", tables.machine(report) + ".", ""]
    if found := judged(report, TARGETS):
        lines += [*tables.verdicts(found), ""]
    for key, topic in TOPICS.items():
        if report.of(key):
            lines += [
                f"### {topic.title[0].upper()}{topic.title[1:]}",
                "",
                *tables.topic(report, key),
                "",
            ]
            lines += [*reasons, ""] if (reasons := tables.reasons(report, key)) else []
    return "\n".join(lines)


def plot(report: Report, key: str) -> str:
    """Cost over the number of ports, with one network; limits are level lines."""
    found = [s for s in report.of(key) if s.size.networks == 1 and s.size.ports > 0]
    ports = sorted({s.size.ports for s in found if s.contender not in LIMITS})
    lines: list[Line] = []
    for name, shown in CONTENDERS.items():
        own = sorted((float(s.size.ports), s.median) for s in found if s.contender == name)
        if own and name in LIMITS:
            own = [(float(p), own[0][1]) for p in (ports[0], ports[-1])]
        if own:
            lines.append(Line(shown.title, shown.colour, tuple(own), strong=shown.ours))
    unit = TOPICS[key].unit
    ticks = [(10.0**p, tables.round_quantity(10.0**p, unit)) for p in range(-3, 10)]
    return svg(TOPICS[key].title, "published ports", lines, ticks)


def _page(found: dict[str, Report]) -> str:
    parts = [_HEAD]
    for part, report in found.items():
        parts.append(text(report))
        parts += [
            f"![{TOPICS[key].title}]({part}-{key}.svg)\n" for owner, key in _PLOTS if owner == part
        ]
    return "\n".join(parts)
