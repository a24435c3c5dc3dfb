"""Named network namespaces as ``ip netns`` keeps them: made, removed, and swept after a crash."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from errno import EINVAL
from itertools import count
from pathlib import Path

DIRECTORY = Path("/var/run/netns")
"""Where iproute2 looks (NETNS_RUN_DIR)."""

_NAME = re.compile(r"nftb-(?P<pid>\d+)-\d+-.")
_serial = count()

# Python has os.unshare and os.setns from 3.12 only, and mount not at all.
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 1 << 12, 1 << 14, 1 << 20
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1


def unique_prefix() -> str:
    """A prefix for the namespaces of one laboratory of this process: ``nftb-PID-N-``."""
    return f"nftb-{os.getpid()}-{next(_serial)}-"


def create(name: str) -> None:
    """Move this process into a new network namespace called `name`."""
    place = DIRECTORY / name
    place.touch(mode=0o444, exist_ok=False)
    _check(_libc.unshare(_CLONE_NEWNET), "unshare")
    _mount("/proc/self/ns/net", place, _MS_BIND)


def remove(name: str) -> None:
    """Take the name away; the kernel frees the namespace with its last process. Missing is fine."""
    place = DIRECTORY / name
    _libc.umount2(os.fsencode(place), _MNT_DETACH)
    with suppress(FileNotFoundError):
        place.unlink()


def remove_all(prefix: str) -> None:
    """Remove every namespace whose name starts with `prefix`."""
    for name in _names():
        if name.startswith(prefix):
            remove(name)


def sweep() -> tuple[str, ...]:
    """Remove the namespaces of laboratories whose process is gone, and return their names."""
    found = tuple(name for name in _names() if (m := _NAME.match(name)) and _dead(int(m["pid"])))
    for name in found:
        remove(name)
    return found


def prepare_directory() -> None:
    """Make the directory a shared mount as ``ip netns add`` does: removals reach everywhere."""
    DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    with _locked(DIRECTORY):
        try:
            _mount("none", DIRECTORY, _MS_SHARED | _MS_REC)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            _mount(str(DIRECTORY), DIRECTORY, _MS_BIND | _MS_REC)
            _mount("none", DIRECTORY, _MS_SHARED | _MS_REC)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, whatever ended it."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _names() -> list[str]:
    with suppress(FileNotFoundError):
        return sorted(place.name for place in DIRECTORY.iterdir())
    return []


def _dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextmanager
def _locked(directory: Path) -> Generator[None, None, None]:
    """The lock that iproute2 takes for the same purpose."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mount(source: str, target: Path, flags: int) -> None:
    status = _libc.mount(source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None)
    _check(status, f"mount {target}")


def _check(status: int, what: str) -> None:
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
