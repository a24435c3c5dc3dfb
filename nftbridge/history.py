"""What was applied before: the last ten records, newest last, in files with ascending numbers.

A record is a file that is replaced whole and never written in place, so keeping it is a hard link:
it costs the same for a host with one port and for one with fifty thousand.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from nftbridge import config
from nftbridge.errors import InputError
from nftbridge.model import Host

KEPT = 10
"""How many records are kept."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class Kept:
    """One record: when it was made (seconds since 1970), by which backend, and of what.

    `host` None means that nothing of ours was there, or, if not `readable`, that the file is
    damaged or was written by another version.
    """

    path: Path
    time: float
    host: Host | None = None
    backend: str | None = None
    readable: bool = True


def keep(folder: Path, record: Path) -> None:
    """Make `record` the newest one in `folder`, unless it is, and forget the eleventh.

    Raises `OSError`.
    """
    folder.mkdir(exist_ok=True)
    numbers = sorted(_numbers(folder))
    newest = numbers[-1] if numbers else 0
    if numbers and record.samefile(folder / f"{newest}.json"):
        return  # what was to come after it did not happen
    preserve(record, folder / f"{newest + 1}.json")
    for number in numbers[: -(KEPT - 1)]:
        (folder / f"{number}.json").unlink(missing_ok=True)


def preserve(record: Path, copy: Path) -> None:
    """Let `copy` hold what `record` holds, whatever replaces that later. Raises `OSError`."""
    temporary = copy.with_name(f"{copy.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(record, temporary)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary.write_bytes(record.read_bytes())  # a file system without hard links
    os.replace(temporary, copy)


def kept(folder: Path) -> list[Kept]:
    """All records in `folder`, newest first."""
    return [read(folder / f"{number}.json") for number in sorted(_numbers(folder), reverse=True)]


def read(path: Path) -> Kept:
    """What a record holds; never raises on what is in the file."""
    found = Kept(path, 0.0, readable=False)
    try:
        found = Kept(path, path.stat().st_mtime, readable=False)
        body: Any = json.loads(path.read_bytes())
        if body.get("removed") is True:
            return Kept(path, found.time)
        host = config.host_from_data(body["host"])
        return Kept(path, found.time, host, cast("str | None", body.get("backend")))
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError, InputError):
        return found


def _numbers(folder: Path) -> list[int]:
    try:
        names = [Path(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    return [int(name.stem) for name in names if name.suffix == ".json" and name.stem.isdecimal()]
