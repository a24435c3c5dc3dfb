"""SCTP's opening exchange over raw sockets: an INIT goes out, an INIT ACK comes back (RFC 9260).

Many kernels lack SCTP sockets, but all of them track and translate its packets, so real INIT
chunks through raw sockets see what a real association would see. The answer of the node that was
reached travels in the INIT ACK's state cookie.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle

from nftbridge.lab.probe import Answer
from nftbridge.lab.sockets import from_same_address, serve_from
from nftbridge.model import Address

_PROTOCOL = 132
_INIT, _INIT_ACK = 1, 2
_COOKIE_PARAMETER = 7
_WINDOW, _STREAMS = 65536, 1
_SOURCE_PORTS = range(32768, 61000)
# Of the system, so that workers forked from one keeper do not draw the same numbers.
_RANDOM = random.SystemRandom()

_HEADER = struct.Struct("!HHI")
_CHECKSUM = struct.Struct("<I")
_CHUNK = struct.Struct("!BBHIIHHI")
_PARAMETER = struct.Struct("!HH")


@dataclass(frozen=True, slots=True)
class Packet:
    """An SCTP packet with one INIT or INIT ACK chunk; `tag` is the chunk's initiate tag."""

    source_port: int
    destination_port: int
    verification_tag: int
    kind: int
    tag: int
    cookie: bytes = b""

    def encode(self) -> bytes:
        """The packet as it goes onto the wire, with its checksum."""
        parameter = b""
        if self.cookie:
            parameter = _PARAMETER.pack(_COOKIE_PARAMETER, _PARAMETER.size + len(self.cookie))
            parameter += self.cookie
        length = _CHUNK.size + len(parameter)
        chunk = _CHUNK.pack(self.kind, 0, length, self.tag, _WINDOW, _STREAMS, _STREAMS, self.tag)
        ports = _HEADER.pack(self.source_port, self.destination_port, self.verification_tag)
        padded = chunk + parameter + bytes(-length % 4)
        checksum = crc32c(ports + bytes(_CHECKSUM.size) + padded)
        return ports + _CHECKSUM.pack(checksum) + padded

    @classmethod
    def decode(cls, data: bytes) -> Packet | None:
        """Read a packet; None for other chunks and for a wrong checksum, as a faulty NAT leaves."""
        start = _HEADER.size + _CHECKSUM.size
        if len(data) < start + _CHUNK.size:
            return None
        source, destination, verification = _HEADER.unpack_from(data)
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        kind, _, length, tag, *_ = _CHUNK.unpack_from(data, start)
        blank = data[: _HEADER.size] + bytes(_CHECKSUM.size) + data[start:]
        if kind not in (_INIT, _INIT_ACK) or checksum != crc32c(blank):
            return None
        cookie = data[start + _CHUNK.size + _PARAMETER.size : start + length]
        return cls(source, destination, verification, kind, tag, cookie)


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum, which SCTP uses (RFC 9260, appendix A)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = (remainder >> 8) ^ _CRC_TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(map(_crc_entry, range(256)))


def _source_ports() -> Iterator[int]:
    """The local port range, from somewhere in it: a flow that is still tracked is no new probe."""
    start = _RANDOM.randrange(len(_SOURCE_PORTS))
    return cycle((*_SOURCE_PORTS[start:], *_SOURCE_PORTS[:start]))


class SctpEndpoint:
    """Both sides of SCTP in one namespace: answers INITs to `ports`, sends INITs of its own."""

    def __init__(self, node: str, ports: Collection[int]) -> None:
        self._node = node
        self._ports = frozenset(ports)
        self._source_ports = _source_ports()
        self._waiting: dict[int, tuple[Address, int, asyncio.Future[Answer]]] = {}
        self._sockets = {4: _raw_socket(socket.AF_INET), 6: _raw_socket(socket.AF_INET6)}

    def start(self) -> None:
        """Answer from now on, within the running event loop."""
        for version, sock in self._sockets.items():
            asyncio.get_running_loop().add_reader(sock, self._receive, version, sock)

    async def probe(self, destination: Address, port: int) -> Answer:
        """Send an INIT and wait for its INIT ACK."""
        tag = _RANDOM.randrange(1, 1 << 32)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = destination, port, future
        packet = Packet(next(self._source_ports), port, 0, _INIT, tag)
        try:
            self._sockets[destination.version].sendto(packet.encode(), (str(destination), 0))
            return await future
        finally:
            del self._waiting[tag]

    def _receive(self, version: int, sock: socket.socket) -> None:
        with suppress(OSError):
            data, control, _, peer = sock.recvmsg(4096, 128)
            remote: Address = IPv4Address(peer[0]) if version == 4 else IPv6Address(peer[0])
            packet = Packet.decode(data[(data[0] & 0x0F) * 4 :] if version == 4 else data)
            if packet is None:
                return
            if packet.kind == _INIT and packet.destination_port in self._ports:
                reply = self._reply(packet, remote).encode()
                sock.sendmsg([reply], [from_same_address(control[0])], 0, (str(remote), 0))
            elif packet.kind == _INIT_ACK:
                self._settle(packet, remote)

    def _reply(self, packet: Packet, remote: Address) -> Packet:
        return Packet(
            source_port=packet.destination_port,
            destination_port=packet.source_port,
            verification_tag=packet.tag,
            kind=_INIT_ACK,
            tag=_RANDOM.randrange(1, 1 << 32),
            cookie=Answer(self._node, remote, packet.destination_port).encode(),
        )

    def _settle(self, packet: Packet, remote: Address) -> None:
        """Raw sockets see all packets: only what comes from where the INIT went is its answer."""
        destination, port, future = self._waiting.get(packet.verification_tag, (None, 0, None))
        if future and not future.done() and (destination, port) == (remote, packet.source_port):
            future.set_result(Answer.decode(packet.cookie))


def _raw_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_RAW, _PROTOCOL)
    serve_from(sock)
    return sock
