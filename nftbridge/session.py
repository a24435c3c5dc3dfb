"""For programs that stay: open once, then make changes that cost what they change.

    with session.open(Target()) as bridge:
        bridge.apply(host)
        bridge.change(Publish("frontend", "web", Publication(80, 8080)))

A change is checked as strictly as a whole host, and is one transaction. Others may apply in between
(with the same state directory): the session notices and goes on from what they have applied.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from nftbridge.backend import Backend, Incremental
from nftbridge.choice import Target, choose
from nftbridge.conntrack.apply import cut_off
from nftbridge.conntrack.revoked import Revoked, revoked
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError, KernelRefusedError, NftbridgeError
from nftbridge.inventory import DoubtfulError, Inventory
from nftbridge.model import Address, Host
from nftbridge.model.changes import Change, changed
from nftbridge.plan import Plan
from nftbridge.policy.flat import FlatRows


@contextmanager
def open(target: Target, wanted: str = "auto") -> Generator[Session]:  # noqa: A001 - session.open
    """A session on `target`, with the backend called `wanted` as on the command line."""
    recorded = state_of(target).backend()
    backend = choose(wanted, target, recorded).backend
    incremental = backend.incremental
    with incremental.connected() if incremental else nullcontext():
        session = Session(target, backend)
        try:
            yield session
        finally:
            session.fold()


class Session:
    """One table in one network namespace, held open."""

    def __init__(self, target: Target, backend: Backend) -> None:
        self._target = target
        self._backend = backend
        self._engine = Engine(target, backend)
        self._state = state_of(target)
        self._inventory: Inventory | None = None
        self._revision: object = None

    def host(self) -> Host:
        """What was last applied, with all changes since; `Host()` if nothing is on record."""
        return self._state.applied() or Host()

    def apply(self, host: Host) -> Plan:
        """As `Engine.apply`."""
        plan = self._engine.apply(host)
        self._engine.release()
        return plan

    def change(self, *changes: Change) -> Plan:
        """Make the changes in one transaction; returns the rows that went and came.

        Raises `InputError`, and changes nothing, if the host would not be consistent afterwards or
        if what is to go is not there; `KernelRefusedError` as `Engine.apply`.
        """
        refusal = ""
        with self._state.locked():
            self._state.check_no_trial()
            try:
                done = self._without_looking(changes)
            except KernelRefusedError as error:
                done, refusal = None, error.reason
        if done is None:
            done = self._engine.update(lambda held: changed(held, changes))
            self._engine.release()
        retried = f"the kernel refused to change rows alone ({refusal})" if refusal else ""
        return replace(done, retried=retried) if retried else done

    def fold(self) -> None:
        """Write what was last applied, with all changes, in one file; done on closing as well."""
        with self._state.locked():
            current = self._revision == self._state.revision()
            self._state.fold()
            self._state.release()
            if current:
                self._revision = self._state.revision()

    def _without_looking(self, changes: tuple[Change, ...]) -> Plan | None:
        """Make the changes if the kernel must be as on record; None if that is not certain."""
        incremental = self._backend.incremental
        start = incremental.generation() if incremental else None
        if incremental is None or start is None or self._state.mark() != start:
            return None
        inventory = self._current()
        left = set[Address]() if inventory is None else inventory.leaving(changes)
        rows = None if inventory is None else self._rows(inventory, changes)
        if inventory is None or rows is None:
            return None
        if not incremental.can_exchange(*rows):
            self._inventory = None
            return None
        gone = revoked(*rows, tcp=inventory.cut_revoked, left=left)
        plan = Plan(removed=rows[0], added=rows[1])
        return self._send(changes, plan, gone, incremental, start)

    def _send(
        self,
        changes: tuple[Change, ...],
        plan: Plan,
        gone: Revoked,
        incremental: Incremental,
        start: int,
    ) -> Plan:
        self._state.begin(changes)
        try:
            if plan:
                incremental.exchange(plan.removed, plan.added)
        except NftbridgeError:
            self._inventory = None
            self._state.end(done=False)
            raise
        plan = cut_off(plan, gone, self._target.netns)
        self._state.end(done=True)
        self._revision = self._state.revision()
        expected = start + incremental.commits(plan.removed, plan.added)
        if incremental.generation() == expected:
            self._state.set_mark(expected)
        return plan

    def _rows(
        self, inventory: Inventory, changes: tuple[Change, ...]
    ) -> tuple[FlatRows, FlatRows] | None:
        """What goes and what comes; None if the whole host has to be built to find out."""
        try:
            return inventory.change(changes)
        except (DoubtfulError, InputError) as error:
            if len(changes) > 1:  # those before it have been made
                self._inventory = None
            if isinstance(error, InputError):
                raise
            return None

    def _current(self) -> Inventory | None:
        """The inventory of what is on record, read anew if somebody else has changed that."""
        if self._inventory is None or self._state.revision() != self._revision:
            self._inventory = None
            self._state.fold()
            held = self._state.applied()
            self._state.release()
            if held is not None:
                self._inventory = Inventory(held, self._backend.rows)
                self._revision = self._state.revision()
        return self._inventory
