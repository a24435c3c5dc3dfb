"""Observe, plan, apply, verify, remove: one table in one network namespace, over any backend."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.backend import Backend, Observation
from nftbridge.choice import Choice, Target, choose
from nftbridge.effects import missing_effects
from nftbridge.errors import NftbridgeError, Problem
from nftbridge.model import Host
from nftbridge.plan import Plan, compare
from nftbridge.policy.derive import MIRRORED_INTERFACE
from nftbridge.state import State

_WSL_TOOL = Path("/usr/bin/wslinfo")


@dataclass(frozen=True, slots=True)
class Removal:
    """Whether anything of ours was there, and what of the user's was left there."""

    present: bool
    kept: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What is in the kernel beside what was last applied (None: nothing is recorded)."""

    observation: Observation
    applied: Host | None
    drift: Plan


class Engine:
    """Brings one table of one kernel to what a host declares."""

    def __init__(self, target: Target, backend: Backend) -> None:
        self._target = target
        self._backend = backend
        self._state = _state(target)

    @classmethod
    def of_last_apply(cls, target: Target, wanted: str) -> tuple[Engine, Choice]:
        """An engine to look at, or take out, what was applied: auto is the backend that did it."""
        choice = choose(wanted, target, _state(target).backend())
        return cls(target, choice.backend), choice

    @classmethod
    def to_apply(cls, target: Target, wanted: str) -> Engine:
        """An engine to bring the kernel to a host; nftables is not doubted where it did before."""
        recorded = _state(target).backend()
        trusted = recorded if recorded == "nftables" else None
        return cls(target, choose(wanted, target, trusted).backend)

    @property
    def place(self) -> str:
        """What is programmed, for people."""
        return self._backend.place

    def plan(self, host: Host) -> Plan:
        """What `apply` would do; changes nothing and needs no lock."""
        host = settled(host, self._target.netns)
        plan = self._way_to(host, self._observe(host))
        if (before := self._before()) is not None:
            leaving = f"what {before.name} holds is taken out afterwards"
            plan = replace(plan, install=(*plan.install, leaving))
        return replace(plan, held_host=self._state.applied()) if plan.removed else plan

    def apply(self, host: Host) -> Plan:
        """Bring the kernel to `host` in one transaction; returns what was done, empty if nothing.

        Raises `KernelRefusedError` if the kernel refused it; then nothing was changed.
        """
        host, kept = settled(host, self._target.netns), tuple[str, ...]()
        with self._state.locked():
            before = self._before()
            observed = self._observe(host)
            plan = self._way_to(host, observed)
            if plan or before or not self._state.records(host):
                self._state.announce(host, self._backend.name)
                with self._withdrawn_on_refusal():
                    if plan:
                        self._backend.bring_to(host, observed, self._known)
                    if before is not None:  # for a moment both decide, and the stricter one counts
                        kept = tuple(before.remove(self._known, everything=False))
                self._state.settle()
            else:
                self._state.withdraw()  # what somebody announced and did not do
        return replace(plan, kept=kept)

    def shortcomings(self, host: Host) -> Iterator[Problem]:
        """What `host` asks for and will not get on this kernel, although it can be applied."""
        yield from missing_effects(host, self._target.netns)
        yield from self._backend.shortcomings(host)

    def verify(self) -> Plan:
        """What would bring the kernel back to what was last applied; empty if it is that."""
        return self._drift(self._observe())

    def status(self) -> Status:
        """The kernel's side and the record's side, for people."""
        observed = self._observe()
        return Status(observed, self._state.applied(), self._drift(observed))

    def _drift(self, observed: Observation) -> Plan:
        plans = [replace(self._way_to(h, observed), held_host=h) for h in self._known()]
        if plans:
            return min(plans, key=bool)
        if self._state.removed() and not observed.rules:
            return Plan()
        found = "there are rules, but" if observed.present else "nothing is here, and"
        return Plan(install=(f"{found} no apply is on record",))

    def remove(self, *, everything: bool) -> Removal:
        """Take out all that is ours; rules in DOCKER-USER stay unless `everything`."""
        with self._state.locked():
            present = self._observe().present
            kept = tuple(self._backend.remove(self._known, everything=everything))
            self._state.forget()
        return Removal(present, kept)

    def known(self) -> list[Host]:
        """The hosts that the kernel may hold: the last one applied, and one whose apply was cut."""
        return self._known()

    def _before(self) -> Backend | None:
        """The backend of the last apply, if it was another one and has left anything."""
        recorded = self._state.backend()
        if recorded in (None, self._backend.name):
            return None
        other = choose(recorded, self._target).backend
        return other if other.observe(self._known).present else None

    def _known(self) -> list[Host]:
        """The host last applied, and that of a transaction of which nobody recorded the end."""
        return [h for h in (self._state.applied(), self._state.pending()) if h is not None]

    def _observe(self, *wanted: Host) -> Observation:
        return self._backend.observe(lambda: [*self._known(), *wanted])

    def _way_to(self, host: Host, observed: Observation) -> Plan:
        wanted = self._backend.rows(host)
        return compare(observed.rows, wanted, install=observed.differences, wanted_host=host)

    @contextmanager
    def _withdrawn_on_refusal(self) -> Generator[None]:
        try:
            yield
        except NftbridgeError:
            self._state.withdraw()
            raise


def _state(target: Target) -> State:
    with namespaces.inside(target.netns):
        return State(target.state_directory, target.table, namespaces.cookie())


def settled(host: Host, netns: str | None = None) -> Host:
    """`host` with ``wsl2_mirrored = "auto"`` decided as Docker does, by looking at this machine."""
    if host.wsl2_mirrored is not None:
        return host
    with namespaces.inside(netns):
        try:
            socket.if_nametoindex(MIRRORED_INTERFACE)
        except OSError:
            return replace(host, wsl2_mirrored=False)
    return replace(host, wsl2_mirrored=_is_program(_WSL_TOOL))


def _is_program(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK)
    except OSError:
        return False
