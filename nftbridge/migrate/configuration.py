"""Docker's daemon.json on the disk: replaced whole, with the old one kept beside it."""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.migrate.daemon_json import difference, options, put_back, switched_off

_SUFFIX = ".before-nftbridge"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file at `path`, which need not be there."""

    path: Path

    @property
    def kept(self) -> Path:
        """Where the old one is."""
        return self.path.with_name(self.path.name + _SUFFIX)

    def text(self) -> str | None:
        """What it says; None if there is none. Raises `InputError` if Docker could not read it."""
        found = _read(self.path)
        if found is not None:
            options(found, str(self.path))
        return found

    def difference(self) -> list[str]:
        """What switching Docker's firewall off changes; empty if it is off."""
        text = self.text() or ""
        return difference(text, switched_off(text), str(self.path))

    def check_writable(self) -> None:
        """Raise `UnavailableError` if it cannot be changed."""
        with _reported(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path.parent, os.W_OK):
                raise PermissionError(13, "Permission denied")

    def switch_off(self) -> bool:
        """Switch Docker's firewall off; False if it was."""
        text = self.text()
        new = switched_off(text or "")
        if text == new:
            return False
        if text is not None:
            _replace(self.kept, text, self.path)
        _replace(self.path, new, self.path)
        return True

    def put_back(self, *, existed: bool | None) -> bool:
        """Go back to the old one, but for what others have changed since; False if it is that.

        `existed` is whether there was one at all. None if nobody knows: then one that says nothing
        but what we write was not there.
        """
        before, now = _read(self.kept), self.text()
        if existed is None:
            existed = now != switched_off("")
        if before is None and existed:
            return False
        if now is None or now == switched_off(before or ""):
            self._restore(before)
        else:
            _replace(self.path, put_back(now, before or ""), self.path)
        with _reported(self.kept):
            self.kept.unlink(missing_ok=True)
        return True

    def _restore(self, before: str | None) -> None:
        if before is not None:
            _replace(self.path, before, self.kept)
            return
        with _reported(self.path):
            self.path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        hint = "Docker would not start with it; mend it"
        raise InputError((Problem(str(path), "is no UTF-8", hint),)) from error


def _replace(path: Path, text: str, like: Path) -> None:
    """Write a whole file, with the owner and the mode of `like` if that is there."""
    with _reported(path):
        path = path.resolve()  # a symbolic link stays one
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                with suppress(FileNotFoundError):
                    known = like.stat()
                    os.fchmod(file.fileno(), stat.S_IMODE(known.st_mode))
                    os.fchown(file.fileno(), known.st_uid, known.st_gid)
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _reported(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        hint = "run as root"
        raise UnavailableError(f"{path} cannot be written: {error.strerror}", hint=hint) from error
