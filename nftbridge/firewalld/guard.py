"""`Firewalld`: what a host needs of it is planned, done and put back."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from nftbridge import netns as namespaces
from nftbridge.errors import UnavailableError
from nftbridge.firewalld import presence
from nftbridge.firewalld.bus import Bus
from nftbridge.firewalld.daemon import Daemon
from nftbridge.firewalld.steps import Seen, Steps, steps_to
from nftbridge.firewalld.wanted import FORWARDING, OPENING, ZONE, Wanted, bridges, openings
from nftbridge.model import Host

Hosts: TypeAlias = Callable[[], Iterable[Host]]
"""Hosts that are looked up only if they are needed."""

_FIRST_WITH_POLICIES = (0, 9)
_YES, _NO = ("yes", "true"), ("no", "false")  # as firewalld reads its settings


class Firewalld:
    """firewalld as it runs beside our rules."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def steps(self, before: Hosts, after: Host | None) -> Steps:
        """What brings it from what `before` needs to what `after` needs; changes nothing.

        `before` are all hosts whose bridges may be in our zone; they may have been lost in a reload
        or a restart. `after` None is a host without networks. Raises `UnavailableError` if this
        firewalld cannot serve.
        """
        settings = self._daemon.settings()
        seen = self._seen(bridges(after), settings)
        leaving = frozenset[str]().union(*map(bridges, before()))
        # since 2.3: only firewalld's own forward-ports let translated packets pass
        strict = settings.get("StrictForwardPorts") in _YES
        ports = openings(after) if strict else ()
        return steps_to(seen, leaving, Wanted(bridges(after), ports))

    @contextmanager
    def around(self, before: Hosts, after: Host | None) -> Generator[Steps]:
        """Bring it from `before` to `after`, while the body does the same to our rules.

        It is never open where our rules are not in yet or out already: bridges leave before the
        body and join after it. If the body fails, those that left join again. A reload, needed
        once, comes first: with its iptables backend it flushes rules of ours. If the body fails
        then, nobody joins, since those rules may be missing.
        """
        steps = self.steps(before, after)
        self._make(steps)
        for bridge in steps.leave:
            self._daemon.leave(ZONE, bridge)
        try:
            yield steps
        except BaseException:
            for bridge in () if steps.reload else steps.leave:
                self._daemon.join(ZONE, bridge)
            raise
        try:
            self._let_in(steps)
        except UnavailableError as error:
            what, _, _ = str(error).partition("\n")
            message = f"the rules are in, but firewalld does not let all packets pass yet: {what}"
            raise UnavailableError(message, hint="see firewalld's log, and apply again") from error

    def _make(self, steps: Steps) -> None:
        if steps.make_zone:
            description = "zone for docker bridge network interfaces"  # Docker's words
            self._daemon.add_zone(ZONE, description, "ACCEPT")
        for policy in steps.make_policies:
            self._daemon.add_policy(policy)
        if steps.reload:
            self._daemon.reload()

    def _let_in(self, steps: Steps) -> None:
        for bridge in steps.join:
            self._daemon.join(ZONE, bridge)
        if steps.rules is not None:
            for name in _opening_names() & self._daemon.runtime_policies():
                self._daemon.set_rich_rules(name, steps.rules)

    def _seen(self, wanted: frozenset[str], settings: Mapping[str, str]) -> Seen:
        daemon, version = self._daemon, self._daemon.version()
        on_iptables = settings.get("FirewallBackend") == "iptables"
        if version < _FIRST_WITH_POLICIES:
            found = ".".join(map(str, version))
            message = f"firewalld {found} has no policies, which container networks need"
            raise UnavailableError(message, hint="install firewalld 0.9 or later, or stop it")
        zones, policies = daemon.runtime_zones(), daemon.runtime_policies()
        opening = sorted(_opening_names() & policies)
        return Seen(
            permanent=daemon.permanent_zones() | daemon.permanent_policies(),
            runtime=zones | policies,
            members=daemon.interfaces(ZONE) if ZONE in zones else frozenset(),
            bound=dict(self._bound(wanted)),
            targets=dict(self._targets(zones, policies)),
            rules={name: daemon.rich_rules(name) for name in opening},
            half_flushed=on_iptables and settings.get("FlushAllOnReload") in _NO,
        )

    def _bound(self, wanted: frozenset[str]) -> Iterator[tuple[str, str]]:
        for bridge in sorted(wanted):
            zone = self._daemon.permanent_zone_of(bridge)
            if zone not in ("", ZONE):
                yield bridge, zone

    def _targets(
        self, zones: frozenset[str], policies: frozenset[str]
    ) -> Iterator[tuple[str, str]]:
        if ZONE in zones:
            yield ZONE, self._daemon.zone_target(ZONE)
        if FORWARDING.name in policies:
            yield FORWARDING.name, self._daemon.policy_target(FORWARDING.name)


@contextmanager
def running_in(netns: str | None) -> Generator[Firewalld | None]:
    """firewalld, if it runs and works on the packets of `netns`; None (here) as in `netns.inside`.

    It works on those of the network namespace that its process is in. In others nobody asks it.
    """
    if not presence.is_running():
        yield None
        return
    with Bus() as bus:
        daemon = Daemon(bus)
        yield Firewalld(daemon) if _is_in(daemon.process(), netns) else None


def steps(netns: str | None, before: Hosts, after: Host | None) -> Steps:
    """`Firewalld.steps`; none where it does not run."""
    with running_in(netns) as firewalld:
        return Steps() if firewalld is None else firewalld.steps(before, after)


@contextmanager
def around(netns: str | None, before: Hosts, after: Host | None) -> Generator[Steps]:
    """`Firewalld.around`; nothing but the body where it does not run."""
    with running_in(netns) as firewalld:
        if firewalld is None:
            yield Steps()
            return
        with firewalld.around(before, after) as found:
            yield found


def _is_in(process: int, netns: str | None) -> bool:
    """Where /proc does not show the process, it is taken to be in our own namespace."""
    own = _namespace("self")
    with namespaces.inside(netns):
        target = _namespace("thread-self")
    return (_namespace(str(process)) or own) == target


def _namespace(process: str) -> tuple[int, int] | None:
    try:
        found = os.stat(f"/proc/{process}/ns/net")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _opening_names() -> frozenset[str]:
    return frozenset(policy.name for policy in OPENING)
