"""Going back: to what was applied before, on demand or unless somebody confirms in time."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from nftbridge.choice import Target, choose
from nftbridge.config import Source
from nftbridge.effects import turn
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError, NftbridgeError, PartlyAppliedError, Problem
from nftbridge.history import Kept
from nftbridge.model import Host
from nftbridge.plan import Plan, compare
from nftbridge.trial import Process, Trial


class Deployment(Engine):
    """An engine that can go back."""

    @classmethod
    def to_go_back(cls, target: Target, wanted: str, kept: Kept) -> Self:
        """An engine with the backend that `kept` was applied with, if `wanted` is auto."""
        recorded = kept.backend or state_of(target).backend()
        return cls(target, choose(wanted, target, recorded).backend)

    def try_out(
        self, host: Host, seconds: float, watchdog: Process, source: Source | None = None
    ) -> Plan:
        """`apply`, to be undone by `watchdog` in that many seconds unless it is confirmed.

        What is undone may be several applies: each of them prolongs the trial that is under way.
        """
        with self._state.locked():
            previous, before = self._state.trial(), self._state.document()
            if before is None and self._observe().rules:
                raise _nowhere_to_go_back_to()
            self._state.try_for(seconds, watchdog)
            try:
                with self._state.aside():
                    plan = self._go_to(host, source)
            except PartlyAppliedError:
                raise  # what is in is undone when the time is up
            except NftbridgeError:
                self._end_trial(previous, watchdog)
                raise
            if plan or previous or self._state.document() != before:
                self._state.try_for(seconds, watchdog)  # the time that it took does not count
            else:
                self._end_trial(previous, watchdog)
        return plan

    def confirm(self) -> Host | None:
        """End the trial; returns what is there to stay, None for nothing of ours."""
        with self._state.locked():
            if self._state.trial() is None:
                hint = "only `apply --confirm SECONDS` waits for it, and only that long"
                raise InputError((Problem("", "nothing waits to be confirmed", hint),))
            self._state.keep_trial()
            return self._state.applied()

    def go_back(self, kept: Kept) -> Plan:
        """Go to `kept`, the state's way back, in one transaction, and end the trial if any."""
        with self._state.locked():
            if self._state.way_back() != kept:
                hint = "look at `nftbridge rollback --list` and run it again"
                raise InputError((Problem("", "somebody else has applied meanwhile", hint),))
            return self._go_back(kept)

    def undo(self, watchdog: Process) -> Plan | None:
        """Go back at the end of the trial; None if it is not, or no longer, that watchdog's."""
        with self._state.locked():
            trial, kept = self._state.trial(), self._state.way_back()
            if trial is None or trial.watchdog != watchdog or kept is None:
                return None
            return self._go_back(kept)

    def _go_back(self, kept: Kept) -> Plan:
        if not kept.readable:
            hint = "apply a host file, or take everything out with `nftbridge remove`"
            raise InputError((Problem(str(kept.path), "cannot be read", hint),))
        trial = self._state.trial()
        if trial is not None:
            self._state.keep_undone()
            # before the rules, which switch it on again if the host before asks for it
            turn(trial.switched, self._target.netns, on=False)
        with self._state.aside():
            plan = self._go_to_nothing() if kept.host is None else self._go_to(kept.host)
        if trial is None:
            self._state.forget_from(kept)
        self._state.set_trial(None)
        return plan

    def _go_to_nothing(self) -> Plan:
        held, applied = self._observe().rows, self._state.applied()
        kept = self._take_out(everything=False).kept
        return replace(compare(held, {}, held_host=applied), kept=kept)

    def _end_trial(self, previous: Trial | None, watchdog: Process) -> None:
        """As it was before; the new watchdog takes over, since the other may have left already."""
        self._state.set_trial(previous and replace(previous, watchdog=watchdog))


def _nowhere_to_go_back_to() -> InputError:
    message = "there are rules of ours, or the boot baseline, and no apply on record to go back to"
    return InputError((Problem("--confirm", message, "apply once without --confirm"),))
