"""The process that does the trying, and the way to ask it.

It is a process of its own because it changes its network namespace, and because libnftables may
crash on what an old kernel answers: then that feature is unknown, and a new helper goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from nftbridge.probe.catalogue import BY_NAME
from nftbridge.probe.feature import Feature
from nftbridge.probe.found import Finding, Obstacle, Presence
from nftbridge.probe.trial import attempt, enter_empty_namespace

_PACKAGE_ROOT = Path(__file__).parents[2]


class Helper:
    """One helper process in a namespace of its own, as its user sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            # -P: what happens to lie in the working directory is not for root to import.
            [sys.executable, "-P", "-m", "nftbridge.probe"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libnftables writes there by itself
            text=True,
        )
        greeting = self._answer()
        self.obstacle = None
        if greeting is None:
            self.obstacle = Obstacle(f"the probe could not be started: {self.end}", "report it")
        elif greeting:
            self.obstacle = Obstacle(greeting["message"], greeting["hint"])

    @property
    def end(self) -> str:
        """How the process has ended."""
        status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def attempt(self, feature: Feature) -> Finding | None:
        """What came of trying a feature; None if the process has ended over it."""
        try:
            _say(self._stream(self._process.stdin), feature.name)
        except BrokenPipeError:
            return None
        answer = self._answer()
        if answer is None:
            return None
        return Finding(feature, Presence(answer["presence"]), answer["detail"])

    def dismiss(self) -> None:
        """End the process, and with it the namespace. Repeating it does no harm."""
        self._process.kill()  # it has nothing to put away
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                self._stream(stream).close()
            except BrokenPipeError:
                continue  # what it never read is of no use any more

    def _answer(self) -> dict[str, Any] | None:
        line = self._stream(self._process.stdout).readline()
        return json.loads(line) if line.endswith("\n") else None

    @staticmethod
    def _stream(stream: IO[str] | None) -> IO[str]:
        if stream is None:
            raise AssertionError("both were asked for as pipes")
        return stream


@contextmanager
def helper() -> Generator[Helper]:
    """A helper that is gone afterwards."""
    made = Helper()
    try:
        yield made
    finally:
        made.dismiss()


def serve() -> None:
    """The helper's side: greet with the obstacle, if any, then try what is asked for."""
    obstacle = enter_empty_namespace()
    greeting = {} if obstacle is None else {"message": obstacle.message, "hint": obstacle.hint}
    _say(sys.stdout, greeting)
    for line in sys.stdin:
        finding = attempt(BY_NAME[json.loads(line)])
        _say(sys.stdout, {"presence": finding.presence.value, "detail": finding.detail})


def _say(stream: IO[str], message: object) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _import_path() -> list[str]:
    return [str(_PACKAGE_ROOT), *(entry for entry in sys.path if entry)]
