"""Netlink, as far as conntrack and the host's addresses need it: lists, and orders.

pyroute2 does far more, and takes 0.1 s to import, which is longer than the rest of an apply. What a
message begins with is that of include/uapi/linux/netlink.h; what is in it is for the callers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

ROUTE, NETFILTER = 0, 12  # NETLINK_…

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_ERRNO = struct.Struct("=i")
_REQUEST, _ACK, _DUMP, _INTERRUPTED = 0x1, 0x4, 0x300, 0x10  # NLM_F_…
_ERROR, _DONE = 2, 3  # NLMSG_…
_NESTED = 0x8000
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_LARGEST = 1 << 16  # the kernel fills what fits: half the calls of a dump into 32 KiB
_PATIENCE = 10.0  # seconds


class Connection:
    """A socket to one netlink family, in the network namespace that it was opened in.

    The kernel's refusals, and whatever goes wrong on the way, are `OSError`.
    """

    def __init__(self, family: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
        self._socket.settimeout(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def order(self, kind: int, body: bytes) -> None:
        """Have something done, and wait until it is."""
        self._send(kind, _REQUEST | _ACK, body)
        for _ in self._messages():
            pass

    def dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        """The bodies of all messages that answer, as they come.

        Raises `InterruptedError` at the end if the kernel may have left something out, since it
        was changed meanwhile. To be read to its end.
        """
        self._send(kind, _REQUEST | _DUMP, body)
        interrupted = False
        for found, flags in self._messages():
            interrupted = interrupted or bool(flags & _INTERRUPTED)
            yield found
        if interrupted:
            raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body)

    def _messages(self) -> Iterator[tuple[bytes, int]]:
        """Body and flags of each message, up to the one that says that it was the last."""
        while True:
            datagram = self._socket.recv(_LARGEST)
            place = 0
            while place + _HEADER.size <= len(datagram):
                length, kind, flags, *_ = _HEADER.unpack_from(datagram, place)
                body = datagram[place + _HEADER.size : place + length]
                if kind in (_ERROR, _DONE):
                    _check(body)
                    return
                yield body, flags
                place += max(_HEADER.size, length + 3 & ~3)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, *inner: bytes) -> bytes:
    """An attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(inner))


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """The values of the attributes from `start` on, by kind."""
    found: dict[int, bytes] = {}
    while start + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, start)
        found[kind & _KIND] = body[start + _ATTRIBUTE.size : start + length]
        start += max(_ATTRIBUTE.size, length + 3 & ~3)
    return found


def _check(body: bytes) -> None:
    """Raise what an acknowledgement, or the end of a dump, says."""
    number = -_ERRNO.unpack_from(body)[0] if len(body) >= _ERRNO.size else 0
    if number:
        raise OSError(number, os.strerror(number))
