"""nf_tables' generation: a number that every committed transaction of a network namespace moves.

Asking for it costs 5 µs. A refused transaction, a dry run and a listing leave it as it is, and so
does iptables-legacy, which nf_tables knows nothing of.
"""

from __future__ import annotations

import socket
import struct

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and nf_tables.h
_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_GET_GENERATION, _NEW_GENERATION = 16, 15
_NLM_F_REQUEST = 1
_GENERATION_ID = 1
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY = struct.Struct(">BBH")  # family, version, resource
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_SECONDS = 1.0


class Counter:
    """A socket that asks for the generation of the network namespace it was opened in."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.settimeout(_SECONDS)

    def read(self) -> int | None:
        """The generation; None where the kernel has none to tell, or does not tell us."""
        length = _HEADER.size + _FAMILY.size
        kind = _SUBSYSTEM << 8 | _GET_GENERATION
        request = _HEADER.pack(length, kind, _NLM_F_REQUEST, 0, 0) + _FAMILY.pack(0, 0, 0)
        try:
            self._socket.send(request)
            return parse(self._socket.recv(4096))
        except OSError:
            return None

    def close(self) -> None:
        """Close the socket; after a deletion the kernel makes that wait for an RCU grace period."""
        self._socket.close()


def current() -> int | None:
    """The generation of this network namespace; None as for `Counter.read`."""
    try:
        counter = Counter()
    except OSError:
        return None  # a kernel without nfnetlink
    try:
        return counter.read()
    finally:
        counter.close()


def parse(answer: bytes) -> int | None:
    """The generation in a netlink message; None if it is an error or anything else."""
    if len(answer) < _HEADER.size or _HEADER.unpack_from(answer)[1] != (
        _SUBSYSTEM << 8 | _NEW_GENERATION
    ):
        return None
    place = _HEADER.size + _FAMILY.size
    while place + _ATTRIBUTE.size + 4 <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, place)
        if kind == _GENERATION_ID:
            return int.from_bytes(answer[place + 4 : place + 8], "big")
        place += max(_ATTRIBUTE.size, length + 3 & ~3)
    return None
