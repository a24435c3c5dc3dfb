"""Entering network namespaces, and telling them apart."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from nftbridge.errors import InputError, Problem, UnavailableError

NAMED = Path("/run/netns")
"""Where ``ip netns`` keeps its namespaces."""

_CLONE_NEWNET = 0x40000000
_HINT = "run as root, or with CAP_SYS_ADMIN"
_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, Linux 5.14


@contextmanager
def inside(netns: str | None) -> Generator[None]:
    """Run the body with the calling thread in `netns`: a name of ``ip netns``, a path, None (here).

    Raises `InputError` if there is no such namespace, `UnavailableError` if it may not be entered.
    """
    if netns is None:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as before, _opened(netns) as target:
        _enter(target.fileno(), netns)
        try:
            yield
        finally:
            _enter(before.fileno(), "the namespace it came from")


@contextmanager
def thrown_away() -> Generator[None]:
    """Run the body with the calling thread in a new network namespace, which ends with it.

    Raises `UnavailableError` if this process may not make one.
    """
    with open("/proc/thread-self/ns/net", "rb") as before:
        if number := unshare():
            reason = os.strerror(number)
            raise UnavailableError(f"cannot make a network namespace: {reason}", hint=_HINT)
        try:
            yield
        finally:
            _enter(before.fileno(), "the namespace it came from")


def unshare() -> int:
    """Move the calling thread into a new network namespace; 0, or the error's number."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.unshare exists from Python 3.12 on
    return 0 if libc.unshare(_CLONE_NEWNET) == 0 else ctypes.get_errno()


def cookie() -> str:
    """A short name for the current network namespace that no other one of this boot has.

    Where the kernel hands out no cookies (before 5.14), the inode number, which may be used again
    after the namespace is gone.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return f"inode-{os.stat('/proc/thread-self/ns/net').st_ino}"
    return f"net-{int.from_bytes(raw, 'little')}"


def boot() -> str | None:
    """What tells this boot from all others; None where `cookie` may name two namespaces of it."""
    if not cookie().startswith("net-"):
        return None
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


FORWARDING = {
    "ipv4": Path("/proc/sys/net/ipv4/ip_forward"),
    "ipv6": Path("/proc/sys/net/ipv6/conf/all/forwarding"),
}
"""By family, the switch of the namespace that one is in."""


def forwards(family: str) -> bool:
    """Whether the kernel forwards packets of that family here, or has none of it."""
    try:
        return FORWARDING[family].read_text().strip() != "0"
    except OSError:
        return True


def forwards_all(families: Iterable[str], netns: str | None) -> bool:
    """Whether that namespace forwards every one of these families."""
    with inside(netns):
        return all(map(forwards, families))


def _opened(netns: str) -> _Opened:
    path = Path(netns) if "/" in netns else NAMED / netns
    try:
        return _Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError as error:
        raise UnavailableError(
            f"cannot open {path}: {error.strerror}", hint="run as root"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("--netns", f"{path}: {reason}", "see `ip netns list`, or give a path")
        raise InputError((problem,)) from error


class _Opened:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _enter(descriptor: int, name: str) -> None:
    # os.setns exists from Python 3.12 on
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EINVAL:
        problem = Problem("--netns", f"'{name}' is not a network namespace", "see `ip netns list`")
        raise InputError((problem,))
    raise UnavailableError(f"cannot enter {name}: {os.strerror(number)}", hint=_HINT)
