"""`nftbridge watch` as a process, and what it says."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 30.0


class Watch:
    """The running service; its log is read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._queue = queue.Queue[dict[str, Any]]()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, event: str, **fields: str) -> dict[str, Any]:
        """The next line of that event; those before it are passed over."""
        seen: list[dict[str, Any]] = []
        while True:
            try:
                seen.append(self._queue.get(timeout=PATIENCE))
            except queue.Empty:
                raise AssertionError((event, fields, seen)) from None
            if seen[-1]["event"] == event and fields.items() <= seen[-1].items():
                return seen[-1]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until it holds, while the service lives."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.lines
            assert self.process.poll() is None, self.lines
            time.sleep(0.05)

    def count(self, event: str) -> int:
        return sum(line["event"] == event for line in self.lines)

    def say(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.say(number)
        status = self.process.wait(PATIENCE)
        self._reader.join()
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for text in stream:
                line = json.loads(text)
                self.lines.append(line)
                self._queue.put(line)


def command(file: Path, namespace: str, state: Path, *more: str) -> list[str]:
    where = ("--netns", namespace, "--state-dir", str(state))
    return [sys.executable, "-m", "nftbridge", "watch", str(file), "--json", *where, *more]


@contextmanager
def watching(
    arguments: list[str], *, wait: bool = True, environment: Mapping[str, str] | None = None
) -> Generator[Watch]:
    """The service, ready if `wait`; it ends with the context, if it has not before."""
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(environment or {}),
    )
    watch = Watch(process)
    try:
        if wait:
            watch.until("ready")
        yield watch
    finally:
        if process.poll() is None:
            watch.end()
        assert process.stderr is not None
        with process.stderr as stream:
            assert stream.read() == ""
