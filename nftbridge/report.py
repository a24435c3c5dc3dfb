"""What people and programs get to read: plans, states and errors as text or as JSON-ready data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import groupby

from nftbridge.backend import RuleCounter
from nftbridge.choice import Choice, Target
from nftbridge.engine import Status
from nftbridge.history import Kept
from nftbridge.model import Family, Host, Network, counted
from nftbridge.plan import NOBODY, Plan, RowChange
from nftbridge.policy.program import Owner
from nftbridge.style import Style
from nftbridge.trial import Trial


def plan_text(plan: Plan, style: Style) -> Iterator[str]:
    """A plan as a diff, grouped by network; rows that nobody is known to own come last."""
    if not plan:
        yield "nothing to change"
        return
    if plan.install:
        yield style.title("chains and rules are put in anew")
        yield from (f"  because {reason}" for reason in plan.install)
    for network, rows in _by_network(plan):
        yield style.title(_heading(network))
        for row in rows:
            line = f"{row.relation.name:<24} {_row_text(row)}"
            painted = style.added(f"  + {line}") if row.added else style.removed(f"  - {line}")
            yield painted + style.aside(_belongs(row.owner))
    if plan.forwarding:
        yield style.title("forwarding")
    for switch in plan.forwarding:
        note = '   (left to you by ip_forward = "check")' if switch.by_hand else ""
        yield style.added(f"  + {switch}") + style.aside(note)
    yield summary(plan)


def summary(plan: Plan) -> str:
    """A plan in a line."""
    parts = ["chains and rules installed"] if plan.install else []
    parts += [f"{counted(plan.count_added, 'row')} added"]
    parts += [f"{counted(plan.count_removed, 'row')} removed"]
    parts += [f"{counted(plan.put_back, 'rule')} of yours put back"] if plan.put_back else []
    return ", ".join([*parts, *map(str, plan.forwarding)])


def ended(plan: Plan) -> str:
    """How many connections an apply has ended, in a line."""
    one = plan.ended == 1
    reason = f"that {'is' if one else 'are'} no longer allowed, or led elsewhere by now,"
    return f"{counted(plan.ended, 'connection')} {reason} {'was' if one else 'were'} ended"


def remarks(plan: Plan) -> Iterator[str]:
    """What went otherwise than it should have, and what to do about it."""
    if plan.retried:
        yield f"{plan.retried}, so all was put in anew"
    if plan.lost:
        yield plan.lost
    if plan.unended:
        hint = "`conntrack -D` ends them; see what is there with `conntrack -L`"
        yield (
            "the rules are in, but connections that are no longer allowed may go on:"
            f" {plan.unended}\n    hint: {hint}"
        )


def plan_data(plan: Plan) -> dict[str, object]:
    """A plan for programs."""
    rows = list(plan.rows())
    return {
        "changes": bool(plan),
        "install": list(plan.install),
        "added": [_row_data(row) for row in rows if row.added],
        "removed": [_row_data(row) for row in rows if not row.added],
        "put_back": plan.put_back,
        "forwarding": list(map(str, plan.forwarding)),
    }


def status_text(status: Status, choice: Choice, target: Target, style: Style) -> Iterator[str]:
    """The state of a table for people."""
    where = f" in network namespace {target.netns}" if target.netns else ""
    yield f"{style.title('place')}     {choice.backend.place}{where}"
    yield f"{style.title('backend')}   {choice.backend.name} ({choice.reason})"
    if status.observation.layout:
        yield f"{style.title('layout')}    {status.observation.layout} (--iptables-layout)"
    yield f"{style.title('kernel')}    {_condition(status)}"
    if status.trial is not None:
        yield f"{style.title('trial')}     {status.trial}"
    if status.observation.user_rules:
        rules = counted(status.observation.user_rules, "rule")
        yield f"{style.title('yours')}     {rules} in DOCKER-USER"
    for name in status.observation.foreign:
        yield f"{style.title('yours')}     {name}, beside our chains and sets"
    if status.applied is not None:
        yield from _networks_text(status.applied, style)
    yield from _counters_text(status.observation.counters, style)


def status_data(status: Status, choice: Choice) -> dict[str, object]:
    """The state of a table for programs."""
    counters = status.observation.counters
    return {
        "place": choice.backend.place,
        "backend": choice.backend.name,
        "backend_reason": choice.reason,
        "iptables_layout": status.observation.layout or None,
        "present": status.observation.present,
        "drift": plan_data(status.drift),
        "trial": trial_data(status.trial),
        "user_rules": status.observation.user_rules,
        "foreign": list(status.observation.foreign),
        "networks": []
        if status.applied is None
        else list(map(_network_data, status.applied.networks)),
        "counters": [
            {"chain": c.chain, "rule": c.rule, "packets": c.packets, "bytes": c.bytes}
            for c in counters
        ],
    }


def trial_data(trial: Trial | None) -> dict[str, object] | None:
    """An apply that waits to be confirmed, for programs; None if there is none."""
    if trial is None:
        return None
    left = round(trial.left(), 1)
    return {"until": trial.until, "seconds_left": left, "guarded": trial.guarded()}


def kept_text(kept: list[Kept]) -> Iterator[str]:
    """What can be gone back to, newest first, a line each."""
    for number, one in enumerate(kept, start=1):
        yield f"{number:>3}  {kept_name(one)}"
    if not kept:
        yield "nothing was applied before what is there now"


def kept_name(kept: Kept) -> str:
    """One of them in a line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.time))
    if not kept.readable:
        return f"{when}  cannot be read: {kept.path}"
    return f"{when}  {kept.host.summary() if kept.host else 'nothing of ours'}"


def kept_data(kept: list[Kept]) -> list[dict[str, object]]:
    """The same for programs; `time` is in seconds since 1970."""
    return [
        {
            "time": round(one.time),
            "readable": one.readable,
            "backend": one.backend,
            "summary": one.host.summary() if one.host else None,
        }
        for one in kept
    ]


def _by_network(plan: Plan) -> Iterator[tuple[str, Iterator[RowChange]]]:
    def order(row: RowChange) -> tuple[bool, str]:
        return (not row.owner.network, row.owner.network)

    for (_, network), rows in groupby(sorted(plan.rows(), key=order), key=order):
        yield network, rows


def _heading(network: str) -> str:
    if network == NOBODY.network:
        return "rows that no host file known here declares"
    return f"network {network}" if network else "host"


def _row_text(row: RowChange) -> str:
    family, *key = row.key
    shown = " ".join(map(str, key))
    arrow = f" -> {' '.join(map(str, row.value))}" if row.value else ""
    return f"{family} {shown}{arrow}"


def _row_data(row: RowChange) -> dict[str, object]:
    family, *key = row.key
    owner = {n: v for n, v in row.owner._asdict().items() if v} if row.owner != NOBODY else {}
    data: dict[str, object] = {"relation": row.relation.name, "family": family, "key": key}
    return data | ({"value": list(row.value)} if row.value else {}) | owner


def _belongs(owner: Owner) -> str:
    parts = [part for part in (owner.container, owner.publication) if part]
    return f"   ({', '.join(parts)})" if parts else ""


def _condition(status: Status) -> str:
    if status.applied is None:
        return ", ".join(status.drift.install) or "empty, as the last remove left it"
    if status.drift:
        return f"not as last applied: {summary(status.drift)} would mend it (nftbridge verify)"
    return f"as last applied: {status.applied.summary()}"


def _networks_text(host: Host, style: Style) -> Iterator[str]:
    yield style.title("networks")
    for network in host.networks:
        subnets = ", ".join(map(str, network.subnets))
        yield f"  {network.name:<16} {network.bridge:<15} {subnets}{_traits(network)}"
        for container in network.containers:
            addresses = [str(a) for a in map(container.address, Family) if a]
            ports = ", ".join(map(str, container.publish))
            yield f"    {container.name:<14} {', '.join(addresses)}" + (
                f"  {ports}" if ports else ""
            )


def _traits(network: Network) -> str:
    modes = {network.gateway_mode(Family.of(s)).value for s in network.subnets}
    traits = ["internal"] if network.internal else sorted(modes)
    traits += [] if network.icc else ["no icc"]
    return f"  ({', '.join(traits)})"


def _network_data(network: Network) -> dict[str, object]:
    return {
        "name": network.name,
        "bridge": network.bridge,
        "containers": [
            {"name": c.name, "publish": [str(p) for p in c.publish]} for c in network.containers
        ],
    }


def _counters_text(counters: tuple[RuleCounter, ...], style: Style) -> Iterator[str]:
    busy = [counter for counter in counters if counter.packets]
    if busy:
        yield style.title("counters")
    for counter in busy:
        packets = f"{counter.packets} packets, {counter.bytes} bytes"
        yield f"  {counter.chain:<24} {counter.rule:<18} {packets}"
