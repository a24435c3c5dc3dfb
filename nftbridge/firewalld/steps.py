"""What firewalld holds, and what has to be done there, with the words for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nftbridge.errors import Problem
from nftbridge.firewalld.wanted import FORWARDING, OPENING, ZONE, Opening, Policy, Wanted


@dataclass(frozen=True, slots=True)
class Seen:
    """What firewalld holds now, and what its configuration has for the next reload.

    `permanent` and `runtime` are the names of its zones and policies, `members` the interfaces in
    our zone, `bound` the bridges that the configuration binds to other zones, `targets` those of
    our zone and policy, `rules` the rich rules of those of the `OPENING` policies that there are.
    `half_flushed` is whether a reload empties the iptables tables and leaves zones their members.
    """

    permanent: frozenset[str] = frozenset()
    runtime: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    bound: Mapping[str, str] = field(default_factory=dict[str, str])
    targets: Mapping[str, str] = field(default_factory=dict[str, str])
    rules: Mapping[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    half_flushed: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """What brings firewalld to what is wanted; false if there is nothing to do.

    `rules` are the rich rules that the `OPENING` policies shall have; None if they have them.
    `warnings` are about what somebody else has decided there and we leave as it is.
    """

    make_zone: bool = False
    make_policies: tuple[Policy, ...] = ()
    reload: bool = False
    leave: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    opened: tuple[Opening, ...] = ()
    closed: int = 0
    rules: frozenset[str] | None = None
    warnings: tuple[Problem, ...] = ()

    def __bool__(self) -> bool:
        made = self.make_zone or self.make_policies or self.reload
        return bool(made or self.leave or self.join) or self.rules is not None

    def lines(self) -> Iterator[str]:
        """What is to be done, a line each."""
        if self.make_zone:
            yield f"+ zone {ZONE} with target ACCEPT, permanently"
        for policy in self.make_policies:
            yield f"+ policy {policy.name}, permanently"
        if self.reload:
            yield "  reloaded this once, so what was set at runtime only is lost"
        yield from (f"- {bridge} leaves zone {ZONE}" for bridge in self.leave)
        yield from (f"+ {bridge} joins zone {ZONE}" for bridge in self.join)
        for opening in self.opened:
            yield f"+ {opening} as a forward-port, because of StrictForwardPorts=yes"
        if self.closed:
            yield f"- forward-ports published no longer: {self.closed}"


def steps_to(seen: Seen, leaving: frozenset[str], wanted: Wanted) -> Steps:
    """The way from what is `seen` to what is `wanted`, without the bridges that are `leaving`.

    Zone and policies are never taken out again, as with Docker: the zone may be somebody else's
    too, and without bridges it lets nothing pass.
    """
    leave = tuple(sorted((leaving - wanted.bridges) & seen.members))
    openings = wanted.openings
    rules = frozenset(opening.rich_rule for opening in openings)
    if not wanted.bridges:
        closed = frozenset[str]().union(*seen.rules.values())
        return Steps(leave=leave, closed=len(closed), rules=rules if closed else None)
    policies = (FORWARDING, *(OPENING if openings else ()))
    names = {ZONE, *(policy.name for policy in policies)}
    reload = not names <= seen.runtime
    ours = wanted.bridges - seen.bound.keys()
    held = frozenset[str]() if reload else frozenset[str]().union(*seen.rules.values())
    differing = any(found != rules for found in seen.rules.values())
    return Steps(
        make_zone=ZONE not in seen.permanent,
        make_policies=tuple(policy for policy in policies if policy.name not in seen.permanent),
        reload=reload,
        leave=leave,
        join=tuple(sorted(ours if reload else ours - seen.members)),
        opened=tuple(opening for opening in openings if opening.rich_rule not in held),
        closed=len(held - rules),
        rules=rules if differing or (reload and openings) else None,
        warnings=tuple(_warnings(seen)),
    )


def _warnings(seen: Seen) -> Iterator[Problem]:
    if seen.half_flushed:
        yield Problem(
            "firewalld",
            "with FirewallBackend=iptables and FlushAllOnReload=no its reload empties all iptables "
            "tables and lets everything to the bridges pass: with --backend iptables nothing "
            "protects containers from then until the next apply",
            "set FlushAllOnReload=yes in /etc/firewalld/firewalld.conf, or use --backend nftables",
        )
    for bridge, zone in sorted(seen.bound.items()):
        yield Problem(
            f"bridge {bridge}",
            f"firewalld's configuration binds it to zone '{zone}', where it is left; "
            "packets pass as that zone lets them",
            f"firewall-cmd --permanent --zone={zone} --remove-interface={bridge}, and apply again",
        )
    for option, name in (("zone", ZONE), ("policy", FORWARDING.name)):
        target = seen.targets.get(name, "ACCEPT")
        if target != "ACCEPT":
            yield Problem(
                f"firewalld's {option} {name}",
                f"its target is {target}, so that it stops packets that we accept",
                f"firewall-cmd --permanent --{option}={name} --set-target=ACCEPT, then --reload",
            )
