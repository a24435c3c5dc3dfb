"""What was last applied, kept in the state directory: one folder per network namespace and table.

``applied.json`` is the host that the kernel was last brought to. While a transaction is under way
the host it leads to stands in ``pending.json``; if the process dies, the kernel holds either.
Files are replaced whole, never written in place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from nftbridge import __version__, config
from nftbridge.errors import InputError, UnavailableError
from nftbridge.model import Host

_FORMAT = 1


class State:
    """The state of one table in one network namespace."""

    def __init__(self, directory: Path, table: str, namespace: str) -> None:
        self._folder = directory / namespace / table

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

    def records(self, host: Host) -> bool:
        """Whether `host` is what was last applied."""
        recorded = self._recorded("applied.json")
        return recorded is not None and recorded == json.loads(
            json.dumps(config.host_to_data(host))
        )

    def backend(self) -> str | None:
        """The backend of the last apply."""
        found = self._body("applied.json").get("backend")
        return found if found in ("nftables", "iptables", "iptables-nft") else None

    def pending(self) -> Host | None:
        """The host of a transaction of which nobody recorded how it ended."""
        return self._read("pending.json")

    def announce(self, host: Host, backend: str) -> None:
        """Record that a transaction towards `host` is about to begin."""
        self._write("pending.json", {"backend": backend, "host": config.host_to_data(host)})

    def settle(self) -> None:
        """Record that the announced transaction has happened."""
        with self._reported():
            os.replace(self._folder / "pending.json", self._folder / "applied.json")

    def withdraw(self) -> None:
        """Record that the announced transaction has not happened."""
        with self._reported():
            (self._folder / "pending.json").unlink(missing_ok=True)

    def forget(self) -> None:
        """Record that what was applied has been removed on purpose."""
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

    def _body(self, name: str) -> dict[str, Any]:
        try:
            with self._reported(missing=True):
                body: Any = json.loads((self._folder / name).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return cast("dict[str, Any]", body) if isinstance(body, dict) else {}

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
