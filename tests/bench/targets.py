"""What the project wants its figures to be; the issue they come from is about speed. Data."""

from __future__ import annotations

from collections.abc import Iterable

from tests.bench.apply import LARGE
from tests.bench.changes import COMMANDS, LARGEST, SESSIONS
from tests.bench.figures import Size, Target
from tests.bench.packets import ONE, SIZES


def _same(*sizes: Size) -> tuple[tuple[Size, Size], ...]:
    return tuple((size, size) for size in sizes)


def _against(theirs: Size, sizes: Iterable[Size]) -> tuple[tuple[Size, Size], ...]:
    return tuple((size, theirs) for size in sizes)


_TEN_THOUSAND = tuple((Size(n, 10000), Size(n, 10)) for n in (1, 100, 1000))
_MANY = Size(1, 10000)
_THOUSAND = Size(1, 1000)

TARGETS: tuple[Target, ...] = (
    Target("established", "nftables", "nftables", _TEN_THOUSAND, 1.10),
    Target("new", "nftables", "nftables", _TEN_THOUSAND, 1.10),
    Target("established", "nftables", "plain", _against(ONE, SIZES), 1.35),
    Target("new", "nftables", "plain", _against(ONE, SIZES), 1.35),
    Target("outward", "nftables", "plain", _against(ONE, SIZES), 1.35),
    Target("established", "iptables-tree", "iptables", _same(_MANY), 0.25),
    Target("new", "iptables-tree", "iptables", _same(_MANY), 0.25),
    Target("publish", "nftables", "portmap-nftables", _same(_THOUSAND), 1.0),
    Target("publish", "nftables", "docker-legacy", _same(_THOUSAND), 0.01),
    Target("publish", "nftables", "docker-nft", _same(_THOUSAND), 0.01),
    Target("apply", "nftables", "nft", _same(LARGE), 1.8),
    Target("peak", "nftables", None, _same(LARGE), 250),
    Target("nothing", "nftables", None, _same(*COMMANDS), 100),
    Target("one-more", "nftables", None, _same(*COMMANDS), 150),
    Target("session", "nftables", None, _same(*SESSIONS), 2),
    Target("session", "nftables", "nftables", ((LARGEST, Size(1, 10)),), 1.5),
    Target("session-peak", "nftables", None, _same(LARGEST), 300),
    Target("session-rest", "nftables", None, _same(LARGEST), 60),
    Target("check", "nftbridge", None, _same(Size(2, 8)), 100),
)
