"""The pure parts of the benchmark: figures, tables, plots, host files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise

import pytest

from nftbridge import config
from nftbridge.model import Protocol
from tests.bench import plot, shown, tables
from tests.bench.contenders import CONTENDERS
from tests.bench.figures import TOPICS, Report, Series, Size, Target, judged, ratios
from tests.bench.hosts import Hosting, dual_stack
from tests.bench.layouts import LAYOUTS
from tests.bench.peers.documents import Port, attachment, cni_portmap, netavark, scattered
from tests.bench.running import interleaved
from tests.bench.targets import TARGETS
from tests.bench.why import WHY

SMALL, LARGE = Size(1, 10), Size(1, 1000)
OURS = Series("new", "nftables", SMALL, (2000.0, 3000.0, 8000.0))
PLAIN = Series("new", "plain", Size(1, 1), (1000.0, 2000.0, 2000.0))
REPORT = Report("packets", {"kernel": "6.1"}, (OURS, replace(OURS, size=LARGE), PLAIN))


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratios(OURS, PLAIN) == [2.0, 1.5, 4.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios(OURS, replace(PLAIN, values=(1.0,)))


def test_the_worst_size_decides_about_a_target() -> None:
    dear = replace(OURS, size=LARGE, values=(4000.0, 6000.0, 16000.0))
    report = replace(REPORT, series=(OURS, dear, PLAIN))
    target = Target("new", "nftables", "plain", ((SMALL, Size(1, 1)), (LARGE, Size(1, 1))), 2.0)
    (verdict,) = judged(report, [target])
    assert (verdict.value, verdict.lowest, verdict.highest) == (4.0, 3.0, 8.0)
    assert verdict.sizes == (LARGE, Size(1, 1))
    assert not verdict.reached
    (cheap,) = judged(report, [replace(target, sizes=target.sizes[:1])])
    assert cheap.reached


def test_a_target_without_figures_is_silent() -> None:
    target = Target("new", "iptables-tree", "nftables", ((SMALL, SMALL),), 1.0)
    assert not judged(REPORT, [target])
    assert not judged(REPORT, [replace(target, ours="nftables", theirs="docker-nft")])


def test_a_target_in_the_unit_of_its_topic() -> None:
    (verdict,) = judged(REPORT, [Target("new", "nftables", None, ((SMALL, SMALL),), 3000)])
    assert verdict.value == 3000
    assert verdict.reached


def test_a_report_survives_its_file() -> None:
    assert Report.from_json(REPORT.to_json()) == REPORT
    assert len(REPORT.to_json().splitlines()) == 11  # a series on a line


def test_each_round_begins_with_another_contender_and_the_first_does_not_count() -> None:
    order: list[int] = []

    def contender(number: int) -> int:
        order.append(number)
        return len(order)

    found = interleaved(2, [lambda: contender(0), lambda: contender(1)])
    assert order == [0, 1, 1, 0, 0, 1]
    assert found == [[4, 5], [3, 6]]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (999.4, "ns", "999 ns"),
        (1843.0, "ns", "1.84 µs"),
        (21800.0, "ns", "21.8 µs"),
        (2.5e6, "ns", "2.50 ms"),
        (0.0934, "s", "93.4 ms"),
        (21.87, "s", "21.9 s"),
        (1234.5, "s", "1,234 s"),
        (0.0001, "s", "0.10 ms"),
        (-3.0, "ms", "-3.00 ms"),
    ],
)
def test_quantities_are_readable(value: float, unit: str, text: str) -> None:
    assert tables.quantity(value, unit) == text


def test_a_topic_as_a_table() -> None:
    assert tables.topic(REPORT, "new") == [
        "plain forwarding: 2.00 µs (1.00 - 2.00).",
        "",
        "| contender | 10 ports | 1,000 ports |",
        "|---|---|---|",
        "| nftbridge, nftables | 3.00 µs (2.00 - 8.00) | 3.00 µs (2.00 - 8.00) |",
    ]


def test_networks_have_a_column_where_they_differ() -> None:
    wide = replace(OURS, size=Size(100, 10))
    report = replace(REPORT, series=(*REPORT.series, wide))
    assert tables.topic(report, "new")[-1] == (
        "| nftbridge, nftables | 100 | 3.00 µs (2.00 - 8.00) | - |"
    )
    assert tables.topic(report, "new", networks=(1,)) == tables.topic(REPORT, "new")


def test_a_missed_target_is_shown_as_missed() -> None:
    target = Target("new", "nftables", "plain", ((SMALL, Size(1, 1)),), 1.35)
    assert tables.verdicts(judged(REPORT, [target]))[-1] == (
        "| new flow; nftbridge, nftables; 1 network, 10 ports "
        "| plain forwarding | 2.00 times | 1.50 - 4.00 | at most 1.35 | **no** |"
    )


def test_everything_that_is_named_is_known() -> None:
    names = {name for t in TARGETS for name in (t.ours, t.theirs) if name is not None}
    assert (
        names | {layout.name for layout in LAYOUTS} | {c for why in WHY.values() for c in why}
        <= CONTENDERS.keys()
    )
    assert {target.topic for target in TARGETS} | WHY.keys() <= TOPICS.keys()


def test_an_axis_has_whole_decades() -> None:
    axis = plot.axis([12.0, 900.0], 0, 100)
    assert axis.ticks == [10.0, 100.0, 1000.0]
    assert [axis.at(tick) for tick in axis.ticks] == [0, 50, 100]
    assert plot.axis([10.0, 10.0], 0, 1).ticks == [10.0, 100.0]


def test_a_plot_is_svg_with_a_line_for_each_contender() -> None:
    root = ET.fromstring(shown.plot(REPORT, "new"))  # noqa: S314  written a line above
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"plain forwarding", "nftbridge, nftables", "10 µs", "1,000"} <= set(texts)


def test_names_in_a_plot_do_not_overlap() -> None:
    lines = [plot.Line(f"a<{n}", "#000000", ((10.0, 5.0), (100.0, 5.0))) for n in range(3)]
    root = ET.fromstring(plot.svg("t", "x", lines, []))  # noqa: S314  as above
    found = [t for t in root.iter("{http://www.w3.org/2000/svg}text") if "<" in (t.text or "")]
    heights = [float(text.attrib["y"]) for text in found]
    assert all(b - a >= 16 for a, b in pairwise(heights))


@pytest.mark.parametrize(
    "hosting",
    [
        Hosting(Size(1, 0)),
        Hosting(Size(1, 10), containers=10),
        Hosting(Size(3, 10), containers=5),
        Hosting(Size(1000, 10), containers=10),
        Hosting(Size(300, 1000), containers=1000),
    ],
)
def test_a_host_file_has_the_size_asked_for(hosting: Hosting) -> None:
    host = config.host_from_data(json.loads(hosting.document()))
    containers = [(n, c) for n in host.networks for c in n.containers]
    published = [(n, c, p) for n, c in containers for p in c.publish]
    assert len(host.networks) == hosting.size.networks
    assert len(containers) == hosting.containers
    assert sum(p.protocol is Protocol.TCP for *_, p in published) == hosting.size.ports
    over_udp = [(n, c, p) for n, c, p in published if p.protocol is Protocol.UDP]
    assert len(over_udp) == bool(hosting.size.ports)
    for network, container, publication in over_udp:
        assert network.bridge == hosting.bridge
        assert hosting.subnet in network.subnets
        assert str(container.ipv4) == hosting.address
        assert publication.container_port == hosting.listen


def test_the_dual_stack_host_is_valid(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("bench") / "host.toml"
    file.write_text(dual_stack(4, 80))
    host = config.load(str(file)).host
    assert sum(len(c.publish) for n in host.networks for c in n.containers) == 80


def test_the_peers_are_told_the_same_ports() -> None:
    hosting = Hosting(Size(1, 3))
    ports = scattered(hosting)
    assert ports == [
        Port(10000, 30000),
        Port(10002, 30002),
        Port(10002, 30002, "udp"),
        Port(10004, 30004),
    ]
    to = attachment(0)
    portmap = json.loads(cni_portmap(to, ports, "nftables", "/run/netns/x"))
    mapped = portmap["runtimeConfig"]["portMappings"]
    assert [(m["hostPort"], m["protocol"]) for m in mapped] == [(p.host, p.protocol) for p in ports]
    podman = json.loads(netavark(to, ports))
    assert [m["host_port"] for m in podman["port_mappings"]] == [p.host for p in ports]
    assert to.address == hosting.address
    assert portmap["prevResult"]["ips"][0]["address"] == f"{hosting.address}/16"


def test_a_neighbour_of_another_version_is_named() -> None:
    from tests.bench.peers.box import EXPECTED, differing

    assert not differing({name: f"{version}-1" for name, version in EXPECTED.items()})
    assert differing({**EXPECTED, "netavark": "2.0-1"}) == ["netavark is 2.0-1, not 1.17.2"]
