"""Docker's daemon.json on the disk: replaced whole, with the old one kept beside it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from nftbridge.docker.process import DAEMON_JSON, FIREWALL, Started, options_in
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.migrate.daemon_json import difference, put_back, switched_off

_SUFFIX = ".before-nftbridge"


@dataclass(frozen=True, slots=True)
class Configuration:
    """The file at `path`, which need not be there; `started` is how the daemon that reads it was.

    What is on its command line is never written: dockerd would not start with it in both. `named`
    is whether the user has named the file.
    """

    path: Path
    started: Started = field(default_factory=Started)
    named: bool = False

    @classmethod
    def chosen(cls, named: Path | None, started: Started) -> Configuration:
        """The file that the user names, else that of the daemon if it is to be found from here."""
        if named is not None:
            return cls(named, started, named=True)
        file = started.reads
        return cls(file if started.is_read_from(file) else DAEMON_JSON, started)

    def elsewhere(self) -> Iterator[Problem]:
        """What is to be said if the daemon reads another file."""
        if self.started.is_read_from(self.path):
            return
        if self.named:
            message = f"Docker reads {self.started.reads}, not this file"
            hint = "leave --daemon-json out, or see that Docker is started with this one"
        else:
            message = f"Docker reads {self.started.reads}, where that is in its mount namespace"
            hint = "name it with --daemon-json as it is found from here"
        yield Problem(str(self.path), message, hint)

    @property
    def kept(self) -> Path:
        """Where the old one is."""
        return self.path.with_name(self.path.name + _SUFFIX)

    def text(self) -> str | None:
        """What it says; None if there is none. Raises `InputError` if Docker could not read it."""
        found = _read(self.path)
        if found is not None:
            options_in(found, str(self.path))
        return found

    @property
    def _written(self) -> tuple[str, ...]:
        """The options that belong into it."""
        return tuple(option for option in FIREWALL if option not in self.started.flags)

    def difference(self) -> list[str]:
        """What switching Docker's firewall off changes; empty if it is off."""
        text = self.text() or ""
        return difference(text, switched_off(text, self._written), str(self.path))

    def check_writable(self) -> None:
        """Raise `UnavailableError` if it cannot be changed, `InputError` if that is of no use."""
        if problems := (*self.insisting(), *(() if self.named else self.elsewhere())):
            raise InputError(problems)
        with _reported(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            for folder in {self.path.parent, _behind(self.path).parent}:
                with TemporaryFile(dir=folder):
                    pass

    def insisting(self) -> Iterator[Problem]:
        """What on the daemon's command line no file can switch off."""
        for option in self.started.insisting:
            message = f"is on Docker's command line: it would not start with it in {self.path}, too"
            hint = f"leave --write out, and make it --{option}=false there when this is done"
            yield Problem(f"--{option}", message, hint)

    def switch_off(self) -> bool:
        """Switch Docker's firewall off; False if it was."""
        text = self.text()
        new = switched_off(text or "", self._written)
        if (text or "") == new:
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
            existed = now is None or now not in _written_into("")
        if before is None and existed:
            return False
        back = before or ""
        if now is not None and now not in _written_into(back):
            back = put_back(now, back)
        self._restore(None if before is None and not back else back)
        with _reported(self.kept):
            self.kept.unlink(missing_ok=True)
        return True

    def _restore(self, text: str | None) -> None:
        if text is not None:
            if text != _read(self.path):
                _replace(self.path, text, self.path if self.path.exists() else self.kept)
            return
        with _reported(self.path):
            self.path.unlink(missing_ok=True)


def _written_into(before: str) -> Iterator[str]:
    """What `switch_off` may have made of it, whatever was on the daemon's command line."""
    for which in (FIREWALL, *((option,) for option in FIREWALL)):
        yield switched_off(before, which)


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
        path = _behind(path)
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


def _behind(path: Path) -> Path:
    """What a symbolic link leads to, which stays one; folders of others are not looked through."""
    while path.is_symlink():
        path = path.parent / os.readlink(path)
    return path


@contextmanager
def _reported(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise UnavailableError(message, hint=_remedy(error)) from error


def _remedy(error: OSError) -> str:
    """What whoever got the error can do."""
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return "run as root"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there"
    what = "mounted read-only" if error.errno == errno.EROFS else "not for root to change"
    return f"it is {what}: set iptables and ip6tables where it comes from, and leave --write out"
