"""What becomes of iptables' FORWARD chain when Docker's accepts leave it.

What is accepted in nftables still passes FORWARD, and a drop there is final. Docker sets the policy
to DROP when it switches forwarding on; it is taken back only where nothing speaks for anybody else.
Where it stays, or rules of others come after Docker's, `accepts` come in Docker's place, for what
is forwarded from and to the bridges: which of that passes is decided in nftables.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from nftbridge.accepts import FORWARD, JUMP, body
from nftbridge.compat.tables import Table
from nftbridge.migrate.theirs import Theirs
from nftbridge.translate.line import jump_of

_HARMLESS = frozenset(
    {"", "ACCEPT", "RETURN", "LOG", "NFLOG", "MARK", "CONNMARK", "TRACE", "TCPMSS"}
)
"""Targets that stop no packet."""


class Policy(Enum):
    """What the user says about a FORWARD policy of DROP."""

    AUTO = "auto"
    KEEP = "keep"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class Forward:
    """`take_back`: DROP becomes ACCEPT. `accepts`: what the chain in Docker's place has, if one is.

    `reason` says why the policy stays or goes; "" where it is ACCEPT anyway. `overruled` are
    accepts of others that let something pass before Docker's rules, and decide no longer.
    """

    take_back: bool = False
    accepts: tuple[str, ...] | None = None
    reason: str = ""
    overruled: tuple[str, ...] = ()


def decide(table: Table, theirs: Theirs, bridges: Collection[str], wanted: Policy) -> Forward:
    """What to do with the FORWARD chain of a filter table."""
    lines = table.lines(FORWARD)
    owned = [theirs.owns("filter", FORWARD, line) for line in lines]
    others = [line for line, own in zip(lines, owned, strict=True) if not own and line != JUMP]
    first = owned.index(True) if True in owned else 0
    drops = table.policies.get(FORWARD) == "DROP"
    whose = _whose(table, others)
    take_back = drops and (wanted is Policy.ACCEPT or (wanted is Policy.AUTO and not whose))
    later = [line for line in lines[first:] if line in others]
    stopped = (drops and not take_back) or any(jump_of(line) not in _HARMLESS for line in later)
    reason = _reason(wanted, whose, take_back=take_back) if drops else ""
    earlier = [line for line in lines[:first] if jump_of(line) == "ACCEPT"]
    return Forward(take_back, body(bridges) if stopped else None, reason, tuple(earlier))


def _whose(table: Table, others: Collection[str]) -> str:
    """What speaks for somebody else having set the policy; "" if nothing does."""
    if others:
        return "others have rules in FORWARD"
    dropping = [c for c in ("INPUT", "OUTPUT") if table.policies.get(c) == "DROP"]
    return f"{' and '.join(dropping)} drop by policy, too" if dropping else ""


def _reason(wanted: Policy, whose: str, *, take_back: bool) -> str:
    if wanted is not Policy.AUTO:
        return f"--forward-policy {wanted.value}"
    if take_back:
        return "it is Docker's: there are no rules of others in FORWARD, INPUT and OUTPUT accept"
    return f"it may not be Docker's: {whose}"
