"""What was last applied, kept in the state directory: one folder per network namespace and table.

``applied.json`` is the host that the kernel was last brought to. While a transaction is under way
the host it leads to stands in ``pending.json``; if the process dies, the kernel holds either.
Files are replaced whole, never written in place.

``mark.json`` is there while nothing is under way and the kernel was seen to be exactly at
``applied.json``: it says at which generation of the kernel's counter that was, in which boot, and
by which code. Whoever finds the counter unmoved need not look at the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from nftbridge import __version__, config
from nftbridge.difference import Document
from nftbridge.errors import InputError, UnavailableError
from nftbridge.model import Host

_FORMAT = 1
_HERE = Path(__file__).parent
_DECIDING = ("", "model", "policy", "nft")
"""The folders with the code on which it depends what the kernel is brought to."""


class State:
    """The state of one table in one network namespace.

    `boot` tells boots apart; without it no mark is kept.
    """

    def __init__(
        self, directory: Path, table: str, namespace: str, boot: str | None = None
    ) -> None:
        self._folder = directory / namespace / table
        self._boot = boot
        self._bodies: dict[str, tuple[object, dict[str, Any]]] = {}

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lock; whoever comes second waits. The kernel frees it if the holder dies."""
        with self._reported():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def applied(self) -> Host | None:
        """The host that was last applied; None if none was, or what is recorded cannot be read."""
        return self._read("applied.json")

    def document(self) -> object:
        """The document of the host that was last applied; None if there is none."""
        return self._recorded("applied.json")

    def mark(self) -> int | None:
        """The generation at which the kernel was last seen to be at what was last applied.

        None if it was not, or if another boot or other code says so.
        """
        body, made_by = self._body("mark.json"), self._made_by()
        if made_by is None or body.get("made_by") != made_by:
            return None
        generation = body.get("generation")
        return generation if type(generation) is int else None

    def backend(self) -> str | None:
        """The backend of the last apply."""
        found = self._body("applied.json").get("backend")
        return found if found in ("nftables", "iptables", "iptables-nft") else None

    def pending(self) -> Host | None:
        """The host of a transaction of which nobody recorded how it ended."""
        return self._read("pending.json")

    def announce(self, document: Document, backend: str) -> None:
        """Record that a transaction towards the host of `document` is about to begin."""
        self.unmark()
        self._write("pending.json", {"backend": backend, "host": document})

    def settle(self) -> None:
        """Record that the announced transaction has happened."""
        with self._reported():
            os.replace(self._folder / "pending.json", self._folder / "applied.json")

    def withdraw(self) -> None:
        """Record that the announced transaction has not happened."""
        with self._reported():
            (self._folder / "pending.json").unlink(missing_ok=True)

    def set_mark(self, generation: int | None) -> None:
        """Record that the kernel is at what was last applied, in that generation."""
        made_by = self._made_by()
        if generation is not None and made_by is not None:
            self._write("mark.json", {"generation": generation, "made_by": made_by})

    def unmark(self) -> None:
        """Record that the kernel has to be looked at."""
        with self._reported():
            (self._folder / "mark.json").unlink(missing_ok=True)

    def forget(self) -> None:
        """Record that what was applied has been removed on purpose."""
        self.unmark()
        self._write("applied.json", {"removed": True})
        self.withdraw()

    def removed(self) -> bool:
        """Whether the last thing that was done is to remove everything."""
        return self._body("applied.json").get("removed") is True

    def _read(self, name: str) -> Host | None:
        try:
            return config.host_from_data(self._recorded(name))
        except (TypeError, InputError):
            return None  # never written, or by another version: the kernel is the truth anyway

    def _recorded(self, name: str) -> Any:
        """The host in that file as plain data; None if there is none that can be understood."""
        return self._body(name).get("host")

    def _made_by(self) -> list[str] | None:
        return None if self._boot is None else [self._boot, __version__, code()]

    def _body(self, name: str) -> dict[str, Any]:
        """What the file holds; read again only after it has been replaced."""
        try:
            with self._reported(missing=True), (self._folder / name).open("rb") as file:
                status = os.fstat(file.fileno())
                identity = status.st_ino, status.st_mtime_ns, status.st_size
                known = self._bodies.get(name)
                if known is not None and known[0] == identity:
                    return known[1]
                body: Any = json.loads(file.read())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        found = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        self._bodies[name] = identity, found
        return found

    def _write(self, name: str, content: dict[str, object]) -> None:
        body = {"format": _FORMAT, "nftbridge": __version__} | content
        temporary = self._folder / f"{name}.{os.getpid()}"
        with self._reported():
            try:
                with temporary.open("w") as file:
                    # dump() is ten times slower
                    file.write(json.dumps(body, separators=(",", ":")))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self._folder / name)
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _reported(self, *, missing: bool = False) -> Generator[None]:
        """Turn what the system says into ours; `missing` lets a missing file pass."""
        try:
            yield
        except OSError as error:
            if missing and isinstance(error, FileNotFoundError):
                raise
            message = f"the state directory {self._folder}: {error.strerror}"
            where = "choose another one with --state-dir"
            denied = error.errno in (errno.EACCES, errno.EPERM)
            hint = f"run as root, or {where}" if denied else f"make room or mend it, or {where}"
            raise UnavailableError(message, hint=hint) from error


@cache
def code() -> str:
    """What tells one nftbridge from another beside the version: sizes and dates of its modules.

    Who pulls a new commit has the same version, and maybe other rules. "" where there are no files.
    """
    found: list[tuple[str, int, int]] = []
    try:
        for folder in _DECIDING:
            for entry in os.scandir(_HERE / folder):
                if entry.name.endswith(".py"):
                    status = entry.stat()
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
    except OSError:
        return ""
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()
