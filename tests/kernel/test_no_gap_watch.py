"""The storm of `test_no_gap` while `watch` applies: it is killed, and a real firewalld reloads.

What firewalld refuses for the time of its own reload is lost. TCP may repeat a segment here, since
the machine is so busy that an answer comes late; no message is lost, nor one of UDP.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Self, TypeAlias

import pytest

from tests.kernel.debian import NotAvailable
from tests.kernel.firewalld_daemon import Firewalld, firewalld
from tests.kernel.storm_site import DECLARATIONS, Place, host_files, storm_site, walk
from tests.kernel.test_no_gap import EDITS
from tests.kernel.watching import PATIENCE, Watch, command, watching

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.long, pytest.mark.daemons]

Record: TypeAlias = Callable[[str, object], None]
Deed: TypeAlias = Callable[[str, float], None]
"""Leads to a declaration; what it does besides, it does after so many seconds."""

CHANGES = 80
LONGEST = 0.2
RELOAD = 0.6
"""Seconds: about as long as an apply by watch, and as a reload, with the storm blowing."""


def test_watch_is_killed_and_firewalld_reloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    rng, done = Random(4), Counter[str]()
    files = host_files(tmp_path)
    try:
        with storm_site(tmp_path) as place, firewalld("bookworm", place.lab.netns) as daemon:
            place.look_around()
            daemon.start()
            monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
            with Watched(place, files, tmp_path / "host.json") as watched:
                deeds = watched.edit, watched.tamper, watched.kill, watched.kill_with_its_children
                for here, there in walk(rng, CHANGES):
                    deed: Deed = rng.choice(deeds)
                    done[deed.__name__] += 1
                    if reload := rng.random() < 0.5:
                        deed = partial(beside_a_reload, daemon, deed, rng.uniform(0, RELOAD))
                    done["reload"] += reload
                    place.change(here, there, partial(deed, there, rng.uniform(0, LONGEST)))
    except NotAvailable as reason:
        pytest.skip(f"firewalld: {reason}")
    told = ", ".join(f"{times} x {word.replace('_', ' ')}" for word, times in sorted(done.items()))
    record_property("storm", f"{place.name}, watch and firewalld, {told}: {place.account()}")
    assert len(done) == len(deeds) + 1
    assert not place.ledger.leaks, "\n".join(place.ledger.leaks[:20])
    assert not place.lost(shots=False)


class Watched:
    """`nftbridge watch` on `file`, started anew whenever it was killed.

    Every deed leads to a declaration; when it returns, the rules are as that one says.
    """

    def __init__(self, place: Place, files: Mapping[str, Path], file: Path) -> None:
        self._place = place
        self._files, self._file = files, file
        self._command = ["setsid", *command(file, place.lab.netns, place.state)]
        self._stack = ExitStack()
        self._watch: Watch | None = None

    def __enter__(self) -> Self:
        self._declare(list(DECLARATIONS)[-1])
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def edit(self, there: str, _: float) -> None:
        """Save the host file."""
        self._declare(there)
        self._wait_for(there)

    def tamper(self, there: str, delay: float) -> None:
        """Save it, and while that is applied take permissions out of the table."""
        self._declare(there)
        time.sleep(delay)
        edit = EDITS[hash(there) % len(EDITS)]
        inside = ["nsenter", f"--net=/run/netns/{self._place.lab.netns}", "nft", edit]
        subprocess.run(inside, check=True)
        self._wait_for(there)

    def kill(self, there: str, delay: float) -> None:
        """Save it, kill the service and not what it has forked, and start it anew."""
        self._declare(there)
        time.sleep(delay)
        assert self._watch is not None
        self._watch.end(signal.SIGKILL)
        self._start()
        self._wait_for(there)

    def kill_with_its_children(self, there: str, delay: float) -> None:
        """The same with all that it has forked."""
        self._declare(there)
        time.sleep(delay)
        assert self._watch is not None
        os.killpg(self._watch.process.pid, signal.SIGKILL)
        self._watch.process.wait()
        self._start()
        self._wait_for(there)

    def _start(self) -> None:
        self._stack.close()
        self._watch = self._stack.enter_context(watching(self._command))

    def _declare(self, declaration: str) -> None:
        beside = self._file.with_suffix(".new")
        shutil.copy(self._files[declaration], beside)
        beside.rename(self._file)

    def _wait_for(self, declaration: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._place.engine.plan(DECLARATIONS[declaration]) or self._is_at_work():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _is_at_work(self) -> bool:
        """Whether what it does is not on record yet: when that is, flows have been ended too."""
        return any(self._place.state.glob("*/*/pending.json"))


def beside_a_reload(daemon: Firewalld, deed: Deed, wait: float, there: str, delay: float) -> None:
    """Let firewalld reload, do it meanwhile, and wait for both."""
    reloading = daemon.begin_reload()
    time.sleep(wait)
    deed(there, delay)
    assert reloading.wait(PATIENCE) == 0
