"""The benchmark's traffic really goes through the rules."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench import packets
from tests.bench.figures import Size
from tests.bench.hosts import Hosting
from tests.bench.layouts import LAYOUTS
from tests.bench.running import BenchError, output
from tests.bench.traffic import INWARD, OUTWARD, compiled, cost

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]


def test_every_layout_and_kind_has_a_figure() -> None:
    size = Size(2, 4)
    found = packets.run(1, 1, [size])
    asked = {(s.topic, s.contender) for s in found if s.size == size}
    assert asked == {(kind, layout.name) for kind in (*INWARD, *OUTWARD) for layout in LAYOUTS}
    assert all(value > 0 for series in found for value in series.values)


@pytest.mark.parametrize("kind", INWARD)
def test_traffic_that_a_rule_drops_is_no_figure(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("bench")
    program = compiled(folder)
    with ExitStack() as stack:
        published = packets.programmed(stack, folder, LAYOUTS[0], Hosting(Size(1, 1)))
        assert cost(program, published.way, kind, 1) > 0
        with pytest.raises(BenchError):
            cost(program, replace(published.way, port=9), kind, 1)


def test_outward_traffic_goes_through_the_rules(tmp_path: Path) -> None:
    program = compiled(tmp_path)
    with ExitStack() as stack:
        published = packets.programmed(stack, tmp_path, LAYOUTS[0], Hosting(Size(1, 1)))
        way = packets.outward(published.way)
        assert cost(program, way, "outward", 1) > 0
        nft = ["nsenter", f"--net={way.host}", "nft"]
        output([*nft, "add", "rule", "inet", "nftbridge", "DOCKER-USER", "drop"])
        with pytest.raises(BenchError):
            cost(program, way, "outward", 1)


def test_nothing_stays() -> None:
    with ExitStack() as stack:
        way = packets.plain(stack).way
        assert Path(way.host).exists()
    assert not Path(way.host).exists()
