"""`Paths`: a file descriptor that says when a file or folder may have changed.

inotify by ctypes: the standard library has none, and three calls are not worth a dependency.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterator
from typing import Self

# include/uapi/linux/inotify.h
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _OVERFLOW, _ONLYDIR = 0x400, 0x800, 0x4000, 0x01000000
_WANTED = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("=iIII")  # watch, mask, cookie, length of the name
_SUFFIXES = (".toml", ".json")
_MOST_LINKS = 40  # as the kernel follows


class Paths:
    """Watches every step of the way to a path, links included, and what is in it if a folder.

    So a file is seen that an editor replaces by another, and one that comes, with its folders,
    after us. A file that is being written counts when it is closed.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "inotify cannot be used")
        self._names: dict[int, set[str]] = {}
        self._folders: dict[int, str] = {}
        self._look()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        os.close(self._descriptor)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor

    def changed(self) -> bool:
        """Whether the path may lead to something else than at the last call; does not wait."""
        found = [self._is_about_us(*event) for event in self._events()]
        if any(found):
            self._look()
        return any(found)

    def _is_about_us(self, watch: int, mask: int, name: str) -> bool:
        if mask & (_OVERFLOW | _DELETE_SELF | _MOVE_SELF):
            return True
        wanted = self._names.get(watch, set())
        if name not in wanted and not ("" in wanted and _is_host_file(name)):
            return False
        return not (mask & _CREATE and _will_be_closed(os.path.join(self._folders[watch], name)))

    def _events(self) -> Iterator[tuple[int, int, str]]:
        while True:
            try:
                data = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                return
            while data:
                watch, mask, _, length = _EVENT.unpack_from(data)
                name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                yield watch, mask, os.fsdecode(name)
                data = data[_EVENT.size + length :]

    def _look(self) -> None:
        """Watch the folders that are on the way now; one that is watched already stays so."""
        names: dict[int, set[str]] = {}
        for folder, name in _steps(self._path):
            watch = self._libc.inotify_add_watch(
                self._descriptor, os.fsencode(folder), _WANTED | _ONLYDIR
            )
            if watch >= 0:  # else the folder is not there; the one above tells when it comes
                names.setdefault(watch, set()).add(name)
                self._folders[watch] = folder
        for outdated in self._names.keys() - names.keys():
            self._libc.inotify_rm_watch(self._descriptor, outdated)
            self._folders.pop(outdated, None)
        self._names = names


def _steps(path: str) -> Iterator[tuple[str, str]]:
    """Folders and the names in them on which it depends what `path` holds; "": all host files."""
    yield from _way(path)
    if not os.path.isdir(path):
        return
    yield os.path.realpath(path), ""
    try:
        entries = [entry.path for entry in os.scandir(path) if entry.is_symlink()]
    except OSError:
        return
    for entry in entries:
        if _is_host_file(entry):
            yield from _way(entry)


def _way(path: str) -> Iterator[tuple[str, str]]:
    """Each component of a path and of the links on it."""
    waiting, folder, links = path.split("/")[::-1], "/", 0
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            folder = os.path.dirname(folder)
            continue
        yield folder, name
        here = os.path.join(folder, name)
        try:
            target = os.readlink(here)
        except OSError:
            folder = here
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        if target.startswith("/"):
            folder = "/"
        waiting += target.split("/")[::-1]


def _is_host_file(name: str) -> bool:
    base = os.path.basename(name)
    return base.endswith(_SUFFIXES) and not base.startswith(".")


def _will_be_closed(path: str) -> bool:
    """Whether what was made is a file that somebody still has to write and close."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
