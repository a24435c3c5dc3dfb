"""What an apply takes away from the flows there are, and their end when its rules are in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from nftbridge.conntrack.revoked import Revoked, departed, either, merged, reshaped, revoked
from nftbridge.mirrored import settled
from nftbridge.model import Host, Network
from nftbridge.plan import Plan, compare
from nftbridge.policy.flat import FlatRows

Rows: TypeAlias = Callable[[Host], FlatRows]
"""The rows that a backend wants in the kernel for a host."""


def revoked_by_rows(
    plan: Plan, held: Callable[[], Host | None], wanted: Callable[[], Host], netns: str | None
) -> Revoked:
    """What a change of rows takes away; `plan` has the networks that differ, as they were.

    The whole hosts, which `held` and `wanted` give, are asked for only if they matter.
    """
    before, after = plan.held_host, plan.wanted_host
    if before is None or after is None:
        return Revoked()
    left = departed(before, after, plan.removed)
    found = revoked(plan.removed, plan.added, tcp=after.cut_revoked, left=left)
    networks = reshaped(before, after)
    whole = held() if networks else None
    return found if whole is None else _judged(found, whole, wanted(), networks, netns)


def revoked_since(
    held: Host | None, wanted: Host, plan: Plan, rows: Rows | None, netns: str | None
) -> Revoked:
    """What `plan` takes away and, if there are `rows`, the way from `held`, the last apply.

    That way counts where `plan` says little of what was let through before.
    """
    left = departed(held, wanted, plan.removed)
    found = revoked(plan.removed, plan.added, tcp=wanted.cut_revoked, left=left)
    if held is None:
        return found
    if rows is not None and held is not wanted:
        way = compare(rows(held), rows(wanted))
        removed, added = merged(way.removed, plan.removed), merged(way.added, plan.added)
        found = revoked(removed, added, tcp=wanted.cut_revoked, left=left)
    found = _judged(found, held, wanted, reshaped(settled(held, netns), wanted), netns)
    return _intruded(found, wanted, netns) if plan.install or (plan and held == wanted) else found


def cut_off(plan: Plan, gone: Revoked, netns: str | None) -> Plan:
    """End the connections that `gone` concerns, after the rules are in: `plan` says how it went.

    To be called before it is recorded that they are: whoever dies in between leaves it to the next.
    """
    if not gone:
        return plan
    from nftbridge.conntrack import kernel

    done = kernel.end(gone, netns)
    return replace(plan, ended=done.count, unended=done.problem)


def _judged(
    found: Revoked, held: Host, wanted: Host, networks: tuple[Network, ...], netns: str | None
) -> Revoked:
    """`found`, with an eye on flows of networks that are another kind now."""
    if not networks:
        return found
    from nftbridge.conntrack.judge import judgement

    before, after = (settled(host, netns) for host in (held, wanted))
    return replace(found, judge=judgement(before, after, networks))


def _intruded(found: Revoked, wanted: Host, netns: str | None) -> Revoked:
    """`found`, with an eye on what came in while others had changed our rules."""
    from nftbridge.conntrack.judge import intrusion

    judges = (found.judge, intrusion(settled(wanted, netns)))
    return replace(found, judge=either(judges), tcp=wanted.cut_revoked)
