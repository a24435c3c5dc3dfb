"""What a probe has found, and which backend follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from nftbridge.errors import UnavailableError
from nftbridge.probe.catalogue import BY_NAME
from nftbridge.probe.feature import Feature
from nftbridge.probe.nftables import NFTABLES

NFTABLES_NEEDS = tuple(feature.name for feature in NFTABLES)

IPTABLES_NEEDS = ("iptables-legacy", "iptables-filter", "iptables-conntrack", "iptables-addrtype")
"""Without these nothing can be protected; all else is needed by some hosts, or has a substitute."""


class Presence(Enum):
    """Whether a feature is there. Unknown: it could not be tried."""

    PRESENT = "present"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of trying a feature; `detail` is why it is not there, or could not be tried."""

    feature: Feature
    presence: Presence
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why no kernel feature could be tried at all, and what to do about it."""

    message: str
    hint: str


class Decision(NamedTuple):
    """The backend that ``--backend auto`` takes, and why."""

    backend: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """A finding for each feature of the table."""

    findings: tuple[Finding, ...]
    obstacle: Obstacle | None = None

    def finding(self, name: str) -> Finding:
        """The finding on a feature of that name; `KeyError` if the table has no such feature."""
        feature = BY_NAME[name]
        return next(f for f in self.findings if f.feature is feature)

    def has(self, name: str) -> bool:
        """Whether the feature of that name was tried and is there."""
        return self.finding(name).presence is Presence.PRESENT

    def lacking(self, names: Iterable[str]) -> tuple[Finding, ...]:
        """Those of `names` that are not there, but for what only waits for another one of them."""
        absent = [self.finding(name) for name in names if not self.has(name)]
        return tuple(f for f in absent if all(map(self.has, f.feature.needs)))


def decide(found: Found) -> Decision:
    """The backend that fits: nftables if it is complete, else iptables if it can protect anything.

    Raises `UnavailableError` naming all that is missing if it is neither.
    """
    for_nftables = found.lacking(NFTABLES_NEEDS)
    if not for_nftables:
        return Decision("nftables", "the kernel has all that nftables needs")
    for_iptables = found.lacking(IPTABLES_NEEDS)
    if not for_iptables:
        return Decision("iptables", f"nftables lacks {_listed(for_nftables)}")
    if found.obstacle is not None:
        raise UnavailableError(found.obstacle.message, hint=found.obstacle.hint)
    raise UnavailableError(
        "no backend can work here"
        f"\n    nftables lacks {_listed(for_nftables)}\n    iptables lacks {_listed(for_iptables)}",
        hint="provide what either lacks; `nftbridge probe` shows everything",
    )


def _listed(findings: Iterable[Finding]) -> str:
    return ", ".join(f"{f.feature.name} ({f.feature.source})" for f in findings)
