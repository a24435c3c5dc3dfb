"""`Child`: a process forked for one piece of work.

Forked, since a started one would take 0.2 s to import what this one has; libnftables is not among
that, nothing of it is ever called in the service's own process.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import NoReturn

from nftbridge.watch.work import Outcome

_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A terminal and a service manager send these to all; what has begun is brought to its end."""


class Child:
    """Runs `job` in a process of its own from the construction on."""

    def __init__(self, job: Callable[[], Outcome]) -> None:
        self._pipe, writing = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            _run(job, writing)
        os.close(writing)
        self._answer = b""

    def fileno(self) -> int:
        """Readable when there is more for `outcome` to look at."""
        return self._pipe

    def outcome(self) -> Outcome | None:
        """What came of it, None if it is not done; to be called when `fileno` is readable."""
        data = os.read(self._pipe, 1 << 16)
        if data:
            self._answer += data
            return None
        _, status = os.waitpid(self._process, 0)
        if not self._answer or status:
            return Outcome(error=_end(status), exit_status=Outcome.SOFTWARE_FAILURE)
        found = json.loads(self._answer)
        return Outcome(**found | {"warnings": tuple(found["warnings"])})

    def close(self) -> None:
        """Forget it, after its outcome."""
        os.close(self._pipe)

    def kill(self) -> None:
        """End it at once; `outcome` says so."""
        os.kill(self._process, signal.SIGKILL)

    def end(self, seconds: float) -> Outcome:
        """Wait for what comes of it, and end it after so many seconds.

        Whatever it was at, the kernel then holds the old rules or the new ones.
        """
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            done = None
            while done is None:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                done = self.outcome()
        self.close()
        return done


def _run(job: Callable[[], Outcome], writing: int) -> NoReturn:
    """Never returns into the service's loop, whatever happens."""
    status = 1
    try:
        gc.disable()  # it ends soon, and looking for cycles would copy the service's memory
        signal.set_wakeup_fd(-1)
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        answer = json.dumps(asdict(_outcome(job))).encode()
        while answer:
            answer = answer[os.write(writing, answer) :]
        status = 0
    finally:
        os._exit(status)


def _outcome(job: Callable[[], Outcome]) -> Outcome:
    try:
        return job()
    except Exception as error:  # noqa: BLE001 - the service's log has it, as a user would
        text = f"internal error: {error!r}\n    hint: please report it"
        return Outcome(error=text, exit_status=Outcome.SOFTWARE_FAILURE)


def _end(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"the process that applies ended with status {code}"
    return f"the process that applies was ended by {signal.Signals(-code).name}"
