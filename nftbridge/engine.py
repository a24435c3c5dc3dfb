"""Observe, plan, apply, verify, remove: one table in one network namespace, over any backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from nftbridge import config, takeover
from nftbridge import netns as namespaces
from nftbridge.backend import Backend, Observation
from nftbridge.choice import Choice, Target, choose
from nftbridge.config import Source
from nftbridge.conntrack.apply import cut_off, revoked_by_rows, revoked_since
from nftbridge.conntrack.revoked import Revoked
from nftbridge.difference import Document, difference, stands_apart
from nftbridge.effects import (
    Switch,
    forwarded_families,
    may_lack_effects,
    missing_effects,
    to_switch_on,
    turn,
    unforwarded,
)
from nftbridge.errors import InputError, KernelRefusedError, Problem, UnavailableError
from nftbridge.mirrored import settled
from nftbridge.model import Host, counted
from nftbridge.past import Past
from nftbridge.plan import Plan, compare
from nftbridge.record import Record, Recorder
from nftbridge.trial import Trial


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
    trial: Trial | None = None


class Engine:
    """Brings one table of one kernel to what a host declares."""

    def __init__(self, target: Target, backend: Backend, state: Past | None = None) -> None:
        self._target = target
        self._backend = backend
        self._state = state or state_of(target)
        self._recorder = Recorder(self._state, backend.name, self._generation)

    @classmethod
    def of_last_apply(cls, target: Target, wanted: str) -> tuple[Self, Choice]:
        """An engine to look at, or take out, what was applied: auto is the backend that did it."""
        state = state_of(target)
        choice = choose(wanted, target, next(iter(state.backends()), None))
        return cls(target, choice.backend, state), choice

    @classmethod
    def to_apply(cls, target: Target, wanted: str) -> Self:
        """An engine to bring the kernel to a host; nftables is not doubted where it did before."""
        recorded = state_of(target).backend()
        trusted = recorded if recorded == "nftables" else None
        return cls(target, choose(wanted, target, trusted).backend)

    @classmethod
    def of_record(cls, target: Target, wanted: str) -> Engine | None:
        """The engine of `to_apply` if it can be told from the record alone: nftables, as before."""
        if wanted not in ("auto", "nftables") or state_of(target).backend() != "nftables":
            return None
        return cls.to_apply(target, wanted)

    @property
    def place(self) -> str:
        """What is programmed, for people."""
        return self._backend.place

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    def plan(self, host: Host) -> Plan:
        """What `apply` would do; changes nothing and needs no lock."""
        host = settled(host, self._target.netns)
        plan = self._way_to(host, self._observe(host))
        leaving = [f"what {o.name} holds is taken out afterwards" for o in self._others()]
        install, forwarding = (*plan.install, *leaving), to_switch_on(host, self._target.netns)
        plan = replace(plan, install=install, forwarding=forwarding)
        return replace(plan, held_host=self._state.applied()) if plan.removed else plan

    def apply(self, host: Host, source: Source | None = None) -> Plan:
        """Bring the kernel to `host` in one transaction; returns what was done, empty if nothing.

        The kernel is listed only if something may have changed it since the last apply. Raises
        `KernelRefusedError` if the kernel refused it; then nothing was changed. `source` is what it
        was loaded from; if that is vouched for, `apply_source` then has something to go by.
        """
        return self._apply(lambda: host, source)

    def apply_source(self, source: Source) -> Plan | None:
        """The same for what files declare, without reading of them what is as it was.

        None, and nothing was done, if all of it has to be read, be it to say what is wrong.
        """
        with self._state.locked():
            start = self._generation()
            if not self._is_as_recorded(start) or not self._state.source():
                return None
            if not namespaces.forwards_all(self._state.forwarded(), self._target.netns):
                return None
            if source.digest() == self._state.source():
                return Plan()
            document = source.document()
            plan = None if document is None else self._way_of_source(document)
            if plan is None or document is None:
                return None
            forwarded = {*self._state.forwarded(), *forwarded_families(plan.wanted_host or Host())}
            record = Record(
                document,
                source.digest(),
                canonical=False,
                forwarded=tuple(sorted(forwarded)),
                path=source.path,
            )
            return self._go_short(plan, lambda: source.load().host, record, start)

    def restore(self) -> Plan | None:
        """Bring the kernel back to what was last applied; what was done.

        None, and nothing was done, if no apply is on record, or a remove, or meanwhile one by
        another backend.
        """
        with self._state.locked():
            host = self._state.applied()
            if host is None or self._state.backend() != self._backend.name:
                return None
            start = self._generation()
            if self._is_as_recorded(start):
                return Plan()
            return self._go_long(host, Record.of_last_apply(self._state), start)

    @classmethod
    def to_restore(cls, target: Target) -> Self | None:
        """An engine to bring the kernel back to what was last applied; None if nothing is."""
        state = state_of(target)
        recorded = state.backend()
        if recorded is None:
            return None  # which backend that would be is up to the first apply
        return cls(target, choose(recorded, target).backend, state)

    def last_path(self) -> str:
        """The file or folder that the last apply read; "" if that is not known."""
        return self._state.path()

    def last_applied(self) -> Host | None:
        """The host that was last applied; None if no apply is on record, or a remove."""
        return self._state.applied()

    def update(self, wanted: Callable[[Host], Host]) -> Plan:
        """`apply` what is `wanted` of the host last applied, which is `Host()` if none is."""
        return self._apply(lambda: wanted(self._state.applied() or Host()))

    def release(self) -> None:
        """Free what only one apply needs; for those who keep an engine."""
        self._state.release()
        if self._backend.incremental is not None:
            self._backend.incremental.trim()

    def _apply(self, wanted: Callable[[], Host], source: Source | None = None) -> Plan:
        with self._state.locked():
            return self._go_to(wanted(), source)

    def _go_to(self, declared: Host, source: Source | None = None) -> Plan:
        """The way to that host, with the lock held."""
        host = settled(declared, self._target.netns)
        if source is not None and host is not declared:
            source = source.unvouched()
        record = Record.of(host, source)
        start = self._generation()
        plan = self._short_way(record.document, start)
        if plan is None:
            plan = self._go_long(host, record, start)
        else:
            plan = self._go_short(plan, lambda: host, record, start)
        return replace(plan, forwarding=self._forward(host))

    def _forward(self, host: Host) -> tuple[Switch, ...]:
        """Switch on the forwarding that `host` asks for, now that the rules are in."""
        switches = to_switch_on(host, self._target.netns)
        trial = self._state.trial() if switches else None
        if trial is not None:
            self._state.set_trial(replace(trial, switched=(*trial.switched, *switches)))
        turn(switches, self._target.netns, on=True)
        return switches

    def _is_as_recorded(self, generation: int | None) -> bool:
        """Whether the kernel must still be at what was last applied."""
        if self._backend.incremental is None or self._state.backend() != self._backend.name:
            return False
        return generation is not None and self._state.mark() == generation

    def _short_way(self, document: Document, generation: int | None) -> Plan | None:
        """The way from what was last applied, if the kernel must still be there; else None."""
        if not self._is_as_recorded(generation):
            return None
        found = difference(self._state.document(), document)
        if found is None:
            return None
        try:
            held, wanted = (
                config.host_from_data(found.document(networks))
                for networks in (found.held, found.wanted)
            )
        except InputError:
            return None  # a record that somebody has edited
        return self._exchangeable(held, wanted)

    def _way_of_source(self, document: Document) -> Plan | None:
        """The same for a document that nobody has checked; None if anything may be said of it."""
        found = difference(self._state.document(), document)
        if found is None:
            return None
        try:
            held = config.host_from_data(found.document(found.held))
            loaded = config.load_data(found.document(found.wanted))
        except InputError:
            return None
        if loaded.warnings or may_lack_effects(loaded.host) or loaded.host.wsl2_mirrored is None:
            return None
        if not namespaces.forwards_all(forwarded_families(loaded.host), self._target.netns):
            return None
        if not stands_apart(found, held, loaded.host):
            return None
        return self._exchangeable(held, loaded.host)

    def _exchangeable(self, held: Host, wanted: Host) -> Plan | None:
        """The way between these parts of two hosts, if it can be gone in one transaction."""
        rows = self._backend.rows(held), self._backend.rows(wanted)
        plan = compare(*rows, held_host=held, wanted_host=wanted)
        incremental = self._backend.incremental
        if incremental is None or not incremental.can_exchange(plan.removed, plan.added):
            return None
        return plan

    def _go_short(
        self, plan: Plan, host: Callable[[], Host], record: Record, start: int | None
    ) -> Plan:
        """Change rows without having looked; if the kernel objects, put everything in anew."""
        incremental = self._backend.incremental
        gone = revoked_by_rows(plan, self._state.applied, host, self._target.netns)
        with self._recorder.around(record, start, commits=self._commits(plan)):
            try:
                if plan and incremental is not None:
                    incremental.exchange(plan.removed, plan.added)
            except KernelRefusedError as refusal:
                plan = self._install(host(), plan, refusal)
            done = cut_off(plan, gone, self._target.netns)
        return done  # noqa: RET504  when it is on record

    def _go_long(self, host: Host, record: Record, start: int | None) -> Plan:
        """Look at the kernel, and change what is not as `host` declares it."""
        others = self._others()
        observed = self._observe(host)
        if observed.present and not observed.bereft:
            self._state.keep_belongings(observed.users)
        plan = self._way_to(host, observed)
        cut_short = bool(self._state.pending())  # maybe between the rules and the flows
        held = self._state.applied() if plan or cut_short else None
        netns = self._target.netns
        with self._recorder.around(record, start, commits=self._commits(plan), anyway=bool(others)):
            if plan:
                plan = self._bring_to(host, observed, plan)
            # until then both decide, the stricter one counts
            kept = takeover.remove(others, self._backend, self.known)
            # found out only now: on a large host that takes longer than the transaction
            gone = self._revoked_since(held, host, plan, cut_short=cut_short)
            done = cut_off(replace(plan, kept=kept), gone, netns)
        return done  # noqa: RET504  as above

    def _revoked_since(
        self, held: Host | None, host: Host, plan: Plan, *, cut_short: bool
    ) -> Revoked:
        """What the way from `held` to `host` takes away from the flows that there are."""
        rows = self._backend.rows if cut_short or plan.install else None
        return revoked_since(held, host, plan, rows, self._target.netns)

    def _commits(self, plan: Plan) -> int:
        """How many transactions the backend makes of a plan."""
        incremental = self._backend.incremental
        if plan.install or incremental is None:
            return int(bool(plan))
        return incremental.commits(plan.removed, plan.added)

    def _bring_to(self, host: Host, observed: Observation, plan: Plan) -> Plan:
        try:
            objection = self._backend.bring_to(host, observed, self.known)
        except KernelRefusedError as refusal:
            if plan.install or self._backend.incremental is None:
                raise
            return self._install(host, plan, refusal)
        return self._without_users(plan, objection) if objection else plan

    def _install(self, host: Host, plan: Plan, refusal: KernelRefusedError) -> Plan:
        """After a refused change of rows: everything, once. Whoever reads the plan learns why."""
        reason = f"the kernel refused to change rows alone ({refusal.reason})"
        users = self._state.belongings()
        everything = Observation(present=True, rows={}, differences=(reason,), users=users)
        objection = self._backend.bring_to(host, everything, self.known)
        plan = replace(plan, install=(reason,), retried=reason)
        return self._without_users(plan, objection) if objection else plan

    def _without_users(self, plan: Plan, objection: str) -> Plan:
        """What was done, when the kernel has refused to take back what was the user's."""
        rules = counted(self._state.belongings().rules, "rule")
        hint = f"mend {self._state.lose_belongings()} and load it with `nft -j -f`"
        lost = f"{rules} of yours could not be put back: {objection}\n    hint: {hint}"
        return replace(plan, put_back=0, lost=lost)

    def _generation(self) -> int | None:
        incremental = self._backend.incremental
        return None if incremental is None else incremental.generation()

    def shortcomings(self, host: Host) -> tuple[Problem, ...]:
        """What `host` asks for and will not get on this kernel, although it can be applied.

        Raises `UnavailableError` for a protection among it, unless `host` accepts to miss that.
        """
        found = [*missing_effects(host, self._target.netns), *self._backend.shortcomings(host)]
        open_ = [s for s in found if s.protection and s.protection not in host.accept_missing]
        if open_:
            raise UnavailableError("\n".join(map(str, open_)))
        return tuple(shortcoming.problem for shortcoming in found)

    def verify(self) -> Plan:
        """What would bring the kernel back to what was last applied; empty if it is that."""
        return self._looked()[1]

    def status(self) -> Status:
        """The kernel's side and the record's side, for people."""
        observed, drift = self._looked()
        return Status(observed, self._state.applied(), drift, self._state.trial())

    def trial(self) -> Trial | None:
        """The apply that waits to be confirmed."""
        return self._state.trial()

    def _looked(self) -> tuple[Observation, Plan]:
        """The kernel beside what was last applied, or announced if it is that."""
        found = [(self._observe(host), host) for host in self.known()]
        left = tuple(f"{other.name} holds rules as well" for other in self._others())
        if found:
            ways = [(seen, self._drift(h, seen)) for seen, h in found]
            seen, drift = min(ways, key=lambda way: bool(way[1]))
            return seen, replace(drift, install=(*drift.install, *left)) if left else drift
        observed = self._observe()
        if self._state.removed() and not observed.rules:
            return observed, Plan()
        there = "there are rules, but" if observed.present else "nothing is here, and"
        unlike = observed.differences[:1] if observed.present else ()
        return observed, Plan(install=(f"{there} no apply is on record", *unlike))

    def _drift(self, host: Host, seen: Observation) -> Plan:
        """What would bring the kernel from what was seen to `host`, which may be in it."""
        forwarding = unforwarded(host, self._target.netns)
        return replace(self._way_to(host, seen), held_host=host, forwarding=forwarding)

    def remove(self, *, everything: bool) -> Removal:
        """Take out all that is ours; rules in DOCKER-USER stay unless `everything`."""
        with self._state.locked():
            if not self._state.removed():
                self._state.step()
            return self._take_out(everything=everything)

    def _take_out(self, *, everything: bool) -> Removal:
        backends = [*self._others(), self._backend]
        present = self._observe().present or len(backends) > 1
        known = self.known
        kept = tuple(k for b in backends for k in b.remove(known, everything=everything))
        self._state.forget()
        return Removal(present, kept)

    def known(self) -> list[Host]:
        """The hosts that the kernel may hold: the last one applied, and those cut on their way."""
        applied = self._state.applied()
        return [*([] if applied is None else [applied]), *self._state.pending()]

    def _others(self) -> list[Backend]:
        return takeover.others(self._backend, self._target, self._state, self.known)

    def _observe(self, *wanted: Host) -> Observation:
        found = self._backend.observe(lambda: [*self.known(), *wanted])
        if not found.bereft:
            return found
        # what somebody has loaded beside our chains that are gone is newer
        return replace(found, users=self._state.belongings().without(found.users))

    def _way_to(self, host: Host, observed: Observation) -> Plan:
        wanted = self._backend.rows(host)
        plan = compare(observed.rows, wanted, install=observed.differences, wanted_host=host)
        return replace(plan, put_back=observed.users.rules) if observed.bereft else plan


def state_of(target: Target) -> Past:
    """The record of that table in that namespace."""
    return Past.of(target.state_directory, target.table, target.netns)
