"""`Transactions`: a file descriptor that says when a transaction of nf_tables was about our tables.

The kernel tells the group NFNLGRP_NFTABLES about every object that a transaction made or deleted,
and at its end the generation it led to.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Self, TypeAlias

from nftbridge import netns as namespaces
from nftbridge.nft import generation

Table: TypeAlias = tuple[int, str]
"""Family, as nf_tables numbers it, and name."""

# include/uapi/linux/netfilter.h, netfilter/nfnetlink.h and netlink.h
INET, IPV4, IPV6 = 1, 2, 10
_NETLINK_NETFILTER = 12
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP = 7
_SUBSYSTEM = 10
_NEW_GENERATION = 15
_SO_RCVBUFFORCE = 33
_ROOM = 4 << 20  # bytes; a transaction of ten thousand elements fits
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY_LENGTH = 4
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_TABLE_NAME = 1  # of every kind of object


class Transactions:
    """Listens in a network namespace from its construction on."""

    def __init__(self, tables: AbstractSet[Table], netns: str | None) -> None:
        self._tables = tables
        self._ours = False  # the transaction that is being told of is about a table of ours
        with namespaces.inside(netns):
            self._counter = generation.Counter()
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
            )
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._counter.close()
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def touched(self) -> int | None:
        """The generation after the latest transaction about our tables; None if none was.

        Does not wait. If the kernel had more to tell than there is room for, any may have been.
        """
        found: int | None = None
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found, self._ours = self._counter.read(), False
                continue
            for message in _messages(data):
                found = self._after(message) or found

    def _after(self, message: bytes) -> int | None:
        """The generation, if that message ends a transaction about our tables."""
        (_, kind, _, _, _) = _HEADER.unpack_from(message)
        if kind >> 8 != _SUBSYSTEM:
            return None
        if kind & 0xFF == _NEW_GENERATION:
            ours, self._ours = self._ours, False
            return generation.parse(message) if ours else None
        if not self._ours:
            self._ours = _table(message) in self._tables
        return None


def _messages(data: bytes) -> Iterator[bytes]:
    while len(data) >= _HEADER.size:
        length = max(_HEADER.size, _HEADER.unpack_from(data)[0])
        yield data[:length]
        data = data[length + 3 & ~3 :]


def _table(message: bytes) -> Table | None:
    """The table that a message is about: in each kind the first attribute but padding."""
    place = _HEADER.size + _FAMILY_LENGTH
    while place + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, place)
        if kind == _TABLE_NAME:
            text = message[place + _ATTRIBUTE.size : place + length].rstrip(b"\0")
            return message[_HEADER.size], text.decode(errors="replace")
        place += max(_ATTRIBUTE.size, length + 3 & ~3)
    return None
