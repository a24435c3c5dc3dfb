"""The answering side of a node: TCP and UDP servers that say who they are and whom they see."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv6Address

from nftbridge.lab.probe import Answer
from nftbridge.lab.sockets import from_same_address, serve_from
from nftbridge.model import Address

_BACKLOG = 1024


class Servers:
    """TCP and UDP on every one of `ports`, both families on one socket each.

    A TCP server sends its answer line unasked and then echoes; a UDP server answers each datagram.
    """

    def __init__(self, node: str, ports: Iterable[int]) -> None:
        self._node = node
        self._ports = tuple(ports)
        self._running: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen from now on, within the running event loop."""
        loop = asyncio.get_running_loop()
        for port in self._ports:
            listener = _bound_socket(socket.SOCK_STREAM, port)
            server = await asyncio.start_server(self._serve, sock=listener, backlog=_BACKLOG)
            self._running.append(server)
            datagrams = _bound_socket(socket.SOCK_DGRAM, port)
            loop.add_reader(datagrams, self._answer_datagrams, datagrams, port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, port = writer.get_extra_info("peername"), writer.get_extra_info("sockname")[1]
        with suppress(OSError):
            writer.write(Answer(self._node, _unmapped(peer[0]), port).encode())
            while data := await reader.read(4096):
                writer.write(data)
        writer.close()

    def _answer_datagrams(self, sock: socket.socket, port: int) -> None:
        with suppress(BlockingIOError):
            while True:
                _, control, _, peer = sock.recvmsg(2048, 128)
                answer = Answer(self._node, _unmapped(peer[0]), port).encode()
                # A rule in the way of the answer is what is being probed, not an error.
                with suppress(OSError):
                    sock.sendmsg([answer], [from_same_address(control[0])], 0, peer)


def _bound_socket(kind: socket.SocketKind, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    serve_from(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    return sock


def _unmapped(text: str) -> Address:
    address = IPv6Address(text.partition("%")[0])
    return address.ipv4_mapped or address
