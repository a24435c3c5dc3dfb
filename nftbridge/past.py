"""What was applied before, in the state directory beside what was last applied.

``history`` has the last ten records that were replaced. While an apply waits to be confirmed,
``trial.json`` says until when, and ``before.json`` is what was applied before it. ``undone.json``
is what was on trial and was gone back from, until another host is applied.

``docker-user.json`` is what the user had in the table when that was last looked at, in words that
``nft -j -f`` takes. It counts in the boot in which it was made.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from nftbridge import history
from nftbridge.backend import Belongings
from nftbridge.errors import InputError, Problem
from nftbridge.history import Kept
from nftbridge.model import Host
from nftbridge.state import State
from nftbridge.trial import CONFIRM, ROLLBACK, Process, Trial

_BELONGINGS = "docker-user.json"
_LOST = "docker-user.lost.json"


class Past(State):
    """The state of one table in one network namespace, with the states before it."""

    _aside = False

    def kept(self) -> list[Kept]:
        """What was applied before, newest first."""
        with self._reported():
            return history.kept(self._folder / "history")

    def way_back(self) -> Kept | None:
        """What was applied before an apply that is not confirmed, or else before the last one."""
        if self.trial() is not None:
            return history.read(self._folder / "before.json")
        applied = self.applied()
        known = applied is not None or self.removed()
        # what is as it is now was kept by somebody who died before he could go on
        usable = (k for k in self.kept() if k.readable and not (known and k.host == applied))
        return next(usable, None)

    def forget_from(self, kept: Kept) -> None:
        """Forget what was gone back to, and all that came later."""
        with self._reported():
            for later in self.kept():
                later.path.unlink(missing_ok=True)
                if later.path == kept.path:
                    break

    def trial(self) -> Trial | None:
        """The apply that waits to be confirmed, if it is of this boot."""
        found = Trial.from_data(self._body("trial.json"))
        return found if found is not None and found.boot == self._boot else None

    def try_for(self, seconds: float, watchdog: Process) -> None:
        """Record that all that is applied from now on is undone then, unless it is confirmed.

        A trial under way is prolonged, and goes back to where it would have (RFC 6241, 8.4.1).
        """
        before = self.trial()
        if before is None:
            record = self._record()
            if record is None:
                self._write("folded.json", {"removed": True})
            self.forget_undone()
            with self._reported():
                record = record or self._folder / "folded.json"
                history.preserve(record, self._folder / "before.json")
        switched = () if before is None else before.switched
        self.set_trial(replace(Trial.lasting(seconds, self._boot, watchdog), switched=switched))

    def undone(self) -> Host | None:
        """What was last on trial, if that was gone back from and nothing was applied since."""
        return history.read(self._folder / "undone.json").host

    def keep_undone(self) -> None:
        """Record that what is applied is about to be gone back from."""
        record = self._record()
        if record is not None:
            with self._reported():
                history.preserve(record, self._folder / "undone.json")

    def forget_undone(self) -> None:
        """Record that it is of no interest any more."""
        self._drop("undone.json")

    def trial_file(self) -> Path:
        """The file that is there as long as something is on trial."""
        return self._folder / "trial.json"

    def set_trial(self, trial: Trial | None) -> None:
        """Record which apply waits to be confirmed; None: no longer any."""
        if trial is not None:
            self._write(self.trial_file().name, trial.data())
            return
        self._drop(self.trial_file().name)
        self._drop("before.json")

    def keep_trial(self) -> None:
        """Record that what is on trial is there to stay, and can be gone back like any other."""
        with self._reported():
            history.keep(self._folder / "history", self._folder / "before.json")
        self.set_trial(None)

    def check_no_trial(self) -> None:
        """Raise `InputError` if something else than what is applied has to be confirmed first."""
        if not self._aside and (trial := self.trial()) is not None:
            hint = f"{CONFIRM}, {ROLLBACK}; `apply --confirm SECONDS` goes on trying"
            problem = Problem("", f"the last apply is {trial.condition()}", hint)
            raise InputError((problem,))

    def step(self) -> None:
        """Keep what is applied, which is about to be replaced; raises as `check_no_trial`."""
        self.check_no_trial()
        if not self._aside:
            self.forget_undone()
        record = None if self._aside else self._record()
        if record is not None:
            with self._reported():
                history.keep(self._folder / "history", record)

    @contextmanager
    def aside(self) -> Generator[None]:
        """Meanwhile nothing is a step that can be gone back, nor refused for want of confirmation.

        To be used with the lock held.
        """
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def belongings(self) -> Belongings:
        """What the user had in the table when that was last looked at, in this boot."""
        body = self._body(_BELONGINGS)
        found = body.get("nftables") if body.get("boot") == self._boot else None
        listed = cast("list[object]", found) if isinstance(found, list) else []
        commands = (cast("dict[str, Any]", item) for item in listed if isinstance(item, dict))
        return Belongings(tuple(c for c in commands if isinstance(c.get("add"), dict)))

    def keep_belongings(self, found: Belongings) -> None:
        """Record that this is what the user has in the table."""
        if not found:
            self._drop(_BELONGINGS)
        elif found != self.belongings():
            body: dict[str, object] = {"boot": self._boot, "nftables": [*found.commands]}
            self._write(_BELONGINGS, body, mode=0o600)  # the kernel shows rules to root only

    def lose_belongings(self) -> Path:
        """Put them away, since they cannot be put back; where they are then."""
        lost = self._folder / _LOST
        with self._reported():
            os.replace(self._folder / _BELONGINGS, lost)
        return lost

    def forget(self) -> None:
        """What was removed on purpose does not come back with the next apply."""
        super().forget()
        self._drop(_BELONGINGS)

    def log(self, line: str) -> None:
        """Add a line to the file that the watchdog of a trial writes to."""
        with self._reported(), (self._folder / "watchdog.log").open("a") as file:
            file.write(f"{line}\n")

    def _record(self) -> Path | None:
        """A file with what was last applied, never written in place; None if nothing is known."""
        if not self._lines():
            known = self.document() is not None or self.removed()
            return self._folder / "applied.json" if known else None
        self._write("folded.json", {"backend": self.backend(), "host": self.document()})
        return self._folder / "folded.json"
