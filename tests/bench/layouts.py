"""The ways of nftbridge to program a host, as data: one more is one more line here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """A name for tables and plots, and what `apply` is told."""

    name: str
    options: tuple[str, ...]


_IPTABLES = ("--backend", "iptables", "--iptables", "legacy")

NFTABLES = Layout("nftables", ("--backend", "nftables"))
LAYOUTS: tuple[Layout, ...] = (
    NFTABLES,
    Layout("iptables", _IPTABLES),
    Layout("iptables-tree", (*_IPTABLES, "--iptables-layout", "tree")),
)
