"""A line for each thing that happened: key=value for people and the journal, or JSON."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from enum import IntEnum
from typing import TextIO

_PLAIN = re.compile(r"[\w./:+@,%-]+")


class Level(IntEnum):
    """As syslog numbers them."""

    ERROR = 3
    WARNING = 4
    INFO = 6


class Log:
    """Writes to `stream`. With `levels` each line begins as the journal reads levels."""

    def __init__(self, stream: TextIO, *, as_json: bool = False, levels: bool = False) -> None:
        self._stream = stream
        self._as_json = as_json
        self._levels = levels

    def say(self, level: Level, event: str, **fields: str | float) -> None:
        """One line; what cannot be written is lost, and nothing else."""
        found = {"level": level.name.lower(), "event": event, **fields}
        if self._as_json:
            line = json.dumps(found)
        else:
            line = " ".join(f"{key}={_written(value)}" for key, value in found.items())
        with suppress(OSError):
            prefix = f"<{level.value}>" if self._levels else ""
            print(f"{prefix}{line}", file=self._stream, flush=True)


def _written(value: str | float) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
