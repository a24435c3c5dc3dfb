"""What is programmed, and which backend does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nftbridge import defaults
from nftbridge.backend import Backend
from nftbridge.errors import InputError, Problem


@dataclass(frozen=True, slots=True)
class Target:
    """What is programmed: a table in a network namespace (None: this one), with its state.

    `wait` is how many seconds another program may hold xtables' lock, `layout` the shape of the
    chains of iptables (None: as they are, or as Docker's); nftables needs neither.
    """

    table: str = defaults.TABLE
    netns: str | None = None
    state_directory: Path = defaults.STATE_DIRECTORY
    wait: float = defaults.WAIT
    layout: str | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The backend in use, and why it is that one."""

    backend: Backend
    reason: str


def choose(wanted: str, target: Target, recorded: str | None = None) -> Choice:
    """The backend called `wanted`: nftables, iptables, iptables-nft, or auto.

    "auto" is what was `recorded` by the last apply, given by commands that look at what that did,
    and else nftables where the kernel has it. Raises `UnavailableError` if it cannot be had.
    """
    if wanted != "auto":
        return Choice(_backend(wanted, target), "asked for")
    if recorded is not None:
        return Choice(_backend(recorded, target), "it was used for the last apply")
    from nftbridge.probe.run import auto

    decision = auto(target.netns)
    return Choice(_backend(decision.backend, target), decision.reason)


def _backend(name: str, target: Target) -> Backend:
    if name == "nftables":
        from nftbridge.nft.backend import NftablesBackend

        return NftablesBackend(target.table, target.netns)
    if target.table != defaults.TABLE:
        message = (
            f"--table is for nftables; {name} has tables of its own, and one set of our chains"
        )
        raise InputError((Problem(target.table, message, "leave --table out"),))
    from nftbridge.compat.backend import IptablesBackend
    from nftbridge.compat.tools import Tools, Variant
    from nftbridge.compat.tree import LAYOUTS

    layout = None if target.layout is None else LAYOUTS[target.layout]
    variant = Variant.NFT if name == "iptables-nft" else Variant.LEGACY
    return IptablesBackend(Tools(variant, target.netns, target.wait), layout)
