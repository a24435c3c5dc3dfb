"""The process that undoes an apply which nobody confirms.

It is there before the kernel is touched. It has a session of its own without a terminal, holds no
file of the process that started it, and no signal of a dying terminal ends it. Asked to end
(SIGTERM, as when systemd stops the unit or session it was started from), it goes back at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nftbridge.beside import around
from nftbridge.choice import Target
from nftbridge.deployment import Deployment
from nftbridge.engine import state_of
from nftbridge.errors import InputError, NftbridgeError, UnavailableError
from nftbridge.trial import Process

_GLANCE = 0.25
"""Seconds between two looks at whether it is still wanted, and at a clock that counts sleep."""

_AGAIN = 5.0
"""Seconds until it tries once more what failed."""

_READY = b"."


@contextmanager
def watching(target: Target) -> Generator[Process]:
    """A watchdog that looks after the trial which the body starts in its name.

    It ends by itself when there is no such trial, or no longer. Raises `UnavailableError` if the
    process cannot be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    says, hears = os.pipe(), os.pipe()
    try:
        child = os.fork()
    except OSError as error:
        raise _cannot_start() from error
    if child == 0:
        _detach(_located(target), says[1], hears[0])
    os.close(says[1])
    os.close(hears[0])
    try:
        os.waitpid(child, 0)
        yield _introduced(says[0])
    finally:
        os.close(says[0])
        os.close(hears[1])  # from now on it looks for the trial


def _introduced(pipe: int) -> Process:
    """The watchdog that is ready at the other end."""
    number, _, ready = os.read(pipe, 32).partition(b" ")
    found = Process.of(int(number)) if ready == _READY else None
    if found is None:
        raise _cannot_start()
    return found


def _cannot_start() -> UnavailableError:
    hint = "free memory or raise the limit of processes, or apply without --confirm"
    return UnavailableError("the process that would undo the apply cannot be started", hint=hint)


def _located(target: Target) -> Target:
    """The same for a process that works in another directory."""
    netns = target.netns
    if netns is not None and "/" in netns:
        netns = str(Path(netns).absolute())
    return replace(target, netns=netns, state_directory=target.state_directory.absolute())


def _detach(target: Target, says: int, hears: int) -> NoReturn:
    """Become a process of nobody (setsid, then fork again) and watch; never returns."""
    try:
        os.setsid()
        if os.fork() == 0:
            _leave_everything_but(says, hears)
            watchdog = _Watchdog(target)
            os.write(says, b"%d %s" % (os.getpid(), _READY))
            os.close(says)
            os.read(hears, 1)  # ends when the other process has applied, or has died
            os.close(hears)
            watchdog.run()
    finally:
        os._exit(0)


def _leave_everything_but(*pipes: int) -> None:
    """Let go of the terminal, of pipes that somebody reads to their end, and of the directory."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in pipes:
            with suppress(OSError):  # the listing's own is closed already
                os.close(int(name))


class _Watchdog:
    """Waits, and goes back."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._state = state_of(target)
        self._me = Process.of(os.getpid())
        self._asked_to_end = False
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> None:
        """Until the trial is over, one way or the other."""
        while (trial := self._state.trial()) is not None and trial.watchdog == self._me:
            pause = _GLANCE
            if self._asked_to_end or trial.left() <= 0:
                if self._is_done(trial.watchdog):
                    return
                pause = _AGAIN
            time.sleep(pause)

    def _is_done(self, me: Process) -> bool:
        """Go back; False if it has to be tried again."""
        kept = self._state.way_back()
        if kept is None:
            return True
        try:
            engine = Deployment.to_go_back(self._target, "auto", kept)
            with around(self._target, engine.known, kept.host):
                done = engine.undo(me)
        except InputError as error:  # e.g. the network namespace is gone: that will not pass
            self._log(f"cannot go back: {error}")
            return True
        except Exception as error:  # noqa: BLE001 - whatever it is, giving up is worse
            self._log(f"cannot go back, trying again in {_AGAIN:.0f} s: {error}")
            return False
        if done is not None:
            self._log("not confirmed: went back to what was applied before")
        return True

    def _log(self, line: str) -> None:
        with suppress(NftbridgeError):
            self._state.log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def _end(self, number: int, frame: object) -> None:
        del number, frame
        self._asked_to_end = True
