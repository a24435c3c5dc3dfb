"""What was last applied, kept in the state directory: one folder per network namespace and table.

``applied.json`` is the host that the kernel was last brought to. While a transaction is under way
the host it leads to stands in ``pending.json``; if the process dies, the kernel holds either.
Files are replaced whole, never written in place.

Small changes are not worth a new ``applied.json``. They stand in ``changes-SERIAL.jsonl``, a line
before the kernel is asked and a line with the outcome after it; SERIAL is that of the
``applied.json`` they come after. This file is not synchronised to the disk: a process that dies
loses nothing of it, and with the machine the kernel's rules are lost as well.

``mark.json`` is there while nothing is under way and the kernel was seen to be exactly at
``applied.json``: it says at which generation of the kernel's counter that was, in which boot, and
by which code. Whoever finds the counter unmoved need not look at the kernel.

``accepts.json`` names the places of iptables where accepts are kept: an apply has to look there. As
other firewalls do, it outlives a boot.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from nftbridge import __version__, config, defaults
from nftbridge import netns as namespaces
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.model import Host

if TYPE_CHECKING:
    from nftbridge.difference import Document
    from nftbridge.model.changes import Change

_FORMAT = 1
_BACKENDS = ("nftables", "iptables", "iptables-nft")
_PID = 20  # digits
_HERE = Path(__file__).parent
_DECIDING = ("", "model", "policy", "nft")
"""The folders with the code on which it depends what the kernel is brought to."""


class State:
    """The state of one table in one network namespace.

    `boot` tells boots apart; without it no mark is kept. `lasting` is where that is kept which
    outlives a boot.
    """

    def __init__(
        self,
        directory: Path,
        table: str,
        namespace: str,
        boot: str | None = None,
        lasting: Path | None = None,
    ) -> None:
        self._folder = directory / namespace / table
        self._lasting = None if lasting is None else str(lasting / table / "accepts.json")
        self._boot = boot
        self._bodies: dict[str, tuple[object, dict[str, Any]]] = {}
        self._heads: dict[str, tuple[object, dict[str, Any]]] = {}
        self._parsed: tuple[object, Host | None] = (None, None)

    @classmethod
    def of(cls, directory: Path, table: str, netns: str | None) -> Self:
        """The state of that table in `netns`, as `nftbridge.netns.inside` takes it."""
        usual = directory == defaults.STATE_DIRECTORY and netns is None
        lasting = defaults.LASTING if usual else None
        with namespaces.inside(netns):
            return cls(directory, table, namespaces.cookie(), namespaces.boot(), lasting)

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the lock; whoever comes second waits. The kernel frees it if the holder dies."""
        with self._opened("lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def watched(self) -> Generator[None]:
        """Hold what tells others that a service keeps this table; waits for who is `unwatched`."""
        with self._opened("watch.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            yield

    @contextmanager
    def unwatched(self) -> Generator[None]:
        """Let no service keep this table meanwhile. Raises `InputError` if one does."""
        with self._opened("watch.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                process = os.pread(lock, _PID, 0).decode(errors="replace")
                message = f"`nftbridge watch` is running as process {process}, and keeps the table"
                hint = f"`systemctl stop nftbridge-watch`, or `kill {process}` if it is no unit"
                raise InputError((Problem("", message, hint),)) from None
            yield

    @contextmanager
    def _opened(self, name: str) -> Generator[int]:
        """A file to be locked; the kernel frees it when the last process that has it open ends."""
        with self._reported():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            lock = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield lock
        finally:
            os.close(lock)

    def applied(self) -> Host | None:
        """The host that was last applied; None if none was, or what is recorded cannot be read."""
        document = self.document()
        if self._parsed[0] is not document:  # the same object as long as its file is the same
            self._parsed = document, _host(document)
        return self._parsed[1]

    def document(self) -> object:
        """The document of the host that was last applied; None if there is none."""
        return self._with_changes(self._done_changes())

    def canonical(self) -> bool:
        """Whether that document is one of `host_to_data`."""
        return self._head("applied.json").get("canonical") is True

    def path(self) -> str:
        """The file or folder that it was read from; "" if that is not known, or no longer it."""
        found = self._head("applied.json").get("path")
        return found if isinstance(found, str) and not self._lines() else ""

    def fold(self) -> None:
        """Put small changes whose end is on record into ``applied.json``, as `begin` needs it."""
        lines, canonical = self._lines(), self.canonical()
        if (canonical and not lines) or (lines and "done" not in lines[-1]):
            return
        mark, source, backend, path = self.mark(), self.source(), self.backend(), self.path()
        document = self.document()
        if not canonical:
            host = _host(document)
            document = None if host is None else config.host_to_data(host)
        if backend is not None and document is not None:
            self.announce(cast("Document", document), backend, path=path)
            self.settle()
            self.set_mark(mark, source if not lines else "", self.forwarded())

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
        found = self._head("applied.json").get("backend")
        return found if found in _BACKENDS else None

    def backends(self) -> tuple[str, ...]:
        """The backends of the last apply and of those that were cut off, each once."""
        unsettled = (found.get("backend") for found in self._unsettled())
        named = dict.fromkeys((self.backend(), *unsettled))
        return tuple(name for name in named if name in _BACKENDS)

    def pending(self) -> list[Host]:
        """The hosts of transactions of which nobody recorded how they ended, the latest last."""
        found = [_host(body.get("host")) for body in self._unsettled()]
        lines = self._lines()
        if not found and lines and "changes" in lines[-1]:
            found.append(_host(self._with_changes([*self._done_changes(), *lines[-1]["changes"]])))
        return [host for host in found if host is not None]

    def announce(
        self, document: Document, backend: str, *, canonical: bool = True, path: str = ""
    ) -> None:
        """Record that a transaction towards the host of `document` is about to begin.

        `canonical` documents are those of `host_to_data`. What was announced before and neither
        settled nor withdrawn may be in the kernel, and stays on record until this one is settled.
        """
        self.unmark()
        with self._reported():
            self._journal(self._serial() + 1).unlink(missing_ok=True)
        body: dict[str, object] = {
            "backend": backend,
            "canonical": canonical,
            "serial": self._serial() + 1,
            "path": path,
            "host": document,
        }
        if unsettled := self._unsettled():
            body["unsettled"] = unsettled
        self._write("pending.json", body)

    def settle(self) -> None:
        """Record that the announced transaction has happened, and so none before it counts."""
        outdated = self._journal()
        body = dict(self._body("pending.json"))
        if body.pop("unsettled", None) is not None:
            self._write("pending.json", body)
        with self._reported():
            os.replace(self._folder / "pending.json", self._folder / "applied.json")
            outdated.unlink(missing_ok=True)

    def begin(self, changes: Iterable[Change]) -> None:
        """Record that a transaction that makes `changes` is about to begin; after `fold`."""
        from nftbridge.journal import change_to_data  # noqa: PLC0415 - only sessions need it

        self.unmark()
        self._append({"changes": [change_to_data(change) for change in changes]})

    def end(self, *, done: bool) -> None:
        """Record whether the transaction that was begun has happened."""
        self._append({"done": done})

    def revision(self) -> object:
        """Something that is different after each change of the record."""
        return [_identity(path) for path in (self._folder / "applied.json", self._journal())]

    def withdraw(self) -> None:
        """Record that the transaction announced last has not happened; none if none is left."""
        *before, _ = self._unsettled() or [{}]
        if before:
            *earlier, last = before
            content: dict[str, object] = {**last, "unsettled": earlier} if earlier else {**last}
            self._write("pending.json", content)
            return
        self.drop_unsettled()

    def drop_unsettled(self) -> None:
        """Record that nothing is left of any transaction that was announced and not settled."""
        self._drop("pending.json")

    def is_on_trial(self) -> bool:
        """Whether an apply may be waiting to be confirmed; `Past` knows more."""
        return (self._folder / "trial.json").exists()

    def accepting(self) -> tuple[str, ...]:
        """Where iptables has accepts of ours to be kept, as `accepts.Places` calls it."""
        found = self._head("accepts.json").get("sites")
        if found is None and self._lasting is not None:
            found = self._head(self._lasting).get("sites")
        return tuple(map(str, cast("list[object]", found))) if isinstance(found, list) else ()

    def set_accepting(self, sites: Iterable[str]) -> None:
        """Record where, for the boots to come as well if this is the host's usual record."""
        content: dict[str, object] = {"sites": sorted(sites)}
        if self._lasting is not None:
            with self._reported():
                Path(self._lasting).parent.mkdir(parents=True, exist_ok=True)
            self._write(self._lasting, content)
        self._write("accepts.json", content)

    def set_mark(
        self, generation: int | None, source: str = "", forwarded: Iterable[str] = ()
    ) -> None:
        """Record that the kernel is at what was last applied, in that generation.

        `source` is the digest of the files that declare it, if nothing but the rows follows from
        them: no warning, and nothing for which other parts of the kernel have to be looked at but
        whether it forwards the families in `forwarded`.
        """
        made_by = self._made_by()
        if generation is not None and made_by is not None:
            seen: dict[str, object] = {"generation": generation, "made_by": made_by}
            self._write("mark.json", seen | {"source": source, "forwarded": [*forwarded]})

    def source(self) -> str:
        """The digest that was given to the mark."""
        found = self._head("mark.json").get("source")
        return found if isinstance(found, str) else ""

    def forwarded(self) -> tuple[str, ...]:
        """The families that were given to the mark."""
        found = self._head("mark.json").get("forwarded")
        return tuple(map(str, cast("list[object]", found))) if isinstance(found, list) else ()

    def unmark(self) -> None:
        """Record that the kernel has to be looked at."""
        self._drop("mark.json")

    def forget(self) -> None:
        """Record that what was applied has been removed on purpose."""
        self.unmark()
        outdated = self._journal()
        self._write("applied.json", {"removed": True})
        with self._reported():
            outdated.unlink(missing_ok=True)
        self.drop_unsettled()

    def _unsettled(self) -> list[dict[str, Any]]:
        """What has been announced and neither settled nor withdrawn, the latest last."""
        body = self._body("pending.json")
        found = body.get("unsettled")
        listed = cast("list[object]", found) if isinstance(found, list) else []
        before = [cast("dict[str, Any]", item) for item in listed if isinstance(item, dict)]
        last = {key: value for key, value in body.items() if key != "unsettled"}
        return [*before, *([last] if last else [])]

    def removed(self) -> bool:
        """Whether the last thing that was done is to remove everything."""
        return self._head("applied.json").get("removed") is True

    def _with_changes(self, changes: Iterable[dict[str, Any]]) -> object:
        """The document in ``applied.json`` after these changes; None if they do not fit."""
        document = self._body("applied.json").get("host")
        changes = list(changes)
        if not changes:
            return document
        from nftbridge.journal import after  # noqa: PLC0415 - only sessions leave changes

        try:
            return after(document, changes)
        except (KeyError, TypeError, ValueError, StopIteration):
            return None

    def _done_changes(self) -> Iterator[dict[str, Any]]:
        lines = self._lines()
        for line, outcome in pairwise(lines):
            if "changes" in line and outcome.get("done") is True:
                yield from line["changes"]

    def _lines(self) -> list[dict[str, Any]]:
        """The journal of small changes; a last line that is not complete was never acted on."""
        try:
            with self._reported(missing=True):
                text = self._journal().read_text()
            return [json.loads(line) for line in text.splitlines() if line]
        except (FileNotFoundError, ValueError, RecursionError):
            return []

    def _append(self, line: dict[str, object]) -> None:
        with self._reported(), self._journal().open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _journal(self, serial: int | None = None) -> Path:
        return self._folder / f"changes-{self._serial() if serial is None else serial}.jsonl"

    def _serial(self) -> int:
        serial = self._head("applied.json").get("serial")
        return serial if type(serial) is int else 0

    def _made_by(self) -> list[str] | None:
        return None if self._boot is None else [self._boot, __version__, code()]

    def _body(self, name: str) -> dict[str, Any]:
        """What the file holds; read again only after it has been replaced."""
        return self._cached(name, self._bodies)

    def _head(self, name: str) -> dict[str, Any]:
        """The same without the host, which may be large."""
        return self._cached(name, self._heads)

    def _cached(self, name: str, known: dict[str, tuple[object, dict[str, Any]]]) -> dict[str, Any]:
        try:
            with self._reported(missing=True), (self._folder / name).open("rb") as file:
                identity = _identity(file.fileno())
                if name not in known or known[name][0] != identity:
                    body: Any = json.loads(file.read())
                    found = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
                    head = {key: value for key, value in found.items() if key != "host"}
                    self._bodies[name], self._heads[name] = (identity, found), (identity, head)
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return known[name][1]

    def release(self) -> None:
        """Free what has been read and is large."""
        self._bodies.clear()
        self._parsed = (None, None)

    def _drop(self, name: str) -> None:
        with self._reported():
            (self._folder / name).unlink(missing_ok=True)

    def _write(self, name: str, content: dict[str, object], *, mode: int = 0o644) -> None:
        body = {"format": _FORMAT, "nftbridge": __version__} | content
        temporary = self._folder / f"{name}.{os.getpid()}"
        with self._reported():
            try:
                with open(temporary, "w", opener=partial(os.open, mode=mode)) as file:
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


def _host(document: object) -> Host | None:
    try:
        return config.host_from_data(document)
    except (TypeError, InputError):
        return None  # never written, or by another version: the kernel is the truth anyway


def _identity(file: int | Path) -> tuple[int, int, int] | None:
    """What is different after each change of a file; None if there is no such file."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


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
