"""The names of all that is compared, as tables and plots show them. Data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shown:
    """A full name, and the colour of its line (Okabe and Ito: nearly everyone tells them apart)."""

    title: str
    colour: str
    ours: bool = False


CONTENDERS: dict[str, Shown] = {
    "nftables": Shown("nftbridge, nftables", "#0072b2", ours=True),
    "iptables": Shown("nftbridge, iptables", "#56b4e9", ours=True),
    "iptables-tree": Shown("nftbridge, iptables, tree", "#009e73", ours=True),
    "docker-legacy": Shown("Docker, iptables-legacy", "#d55e00"),
    "docker-nft": Shown("Docker, iptables-nft", "#e69f00"),
    "docker-nftbridge": Shown("Docker, nftbridge", "#0072b2", ours=True),
    "netavark": Shown("netavark", "#cc79a7"),
    "netavark-range": Shown("netavark, one range", "#999933"),
    "portmap-nftables": Shown("CNI portmap, nftables", "#666666"),
    "portmap-iptables": Shown("CNI portmap, iptables-legacy", "#aaaaaa"),
    "plain": Shown("plain forwarding", "#000000"),
    "floor": Shown("sending alone", "#000000"),
    "nftbridge": Shown("nftbridge check", "#0072b2", ours=True),
    "nft": Shown("nft -j -f", "#000000"),
    "python3": Shown("python3", "#000000"),
}
"""In the order of tables and keys."""

LIMITS = ("plain", "floor")
"""What depends on no size: plain forwarding with connection tracking and one translation, and
sending to a neighbour that throws everything away."""
