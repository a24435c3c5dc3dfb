"""What both answering sides of a node do with sockets, below the level of Python's own module."""

from __future__ import annotations

import socket
from typing import TypeAlias

ControlMessage: TypeAlias = tuple[int, int, bytes]

# Not in Python's socket module (linux/in.h, asm-generic/socket.h).
_IP_PKTINFO = 8
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 << 20


def serve_from(sock: socket.socket) -> None:
    """Ready a server's socket: told of every packet's destination address, and room for a burst."""
    sock.setblocking(False)  # noqa: FBT003  the socket module takes it by position only
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def from_same_address(received: ControlMessage) -> ControlMessage:
    """The control message that answers from the address asked, through whatever interface.

    Without it the kernel picks the address, and a host has many.
    """
    level, kind, data = received
    if level == socket.IPPROTO_IP:
        # struct in_pktinfo: interface index, local address, destination address of the header.
        return level, kind, bytes(4) + data[8:12] + bytes(4)
    return level, kind, data[:16] + bytes(4)
