"""A storm: one process that sends, receives and counts as fast as it can while others change rules.

Its sockets live in many network namespaces (a socket stays where it was made). veth and bridges
forward in the sender's own system call, so that at nearly every moment a packet is on its way
through the rules. What it counts lies in memory shared with the test, which may look at any time:

    Shot    a UDP datagram that nobody answers, each from another source port: a new flow each time;
            or all from one port, the first answered: one flow that is established while it may be
    Visit   a TCP connection that is made anew whenever it has broken
    Echo    a UDP flow or a TCP connection, kept open: each message has to come back
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ctypes import c_uint64
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.sharedctypes import RawArray
from types import TracebackType
from typing import Literal, Self

from nftbridge import netns
from nftbridge.lab.namespaces import die_with_parent
from nftbridge.model import Address

SOURCE_PORTS = range(20000, 24096)
"""So many that conntrack, told to, has forgotten a flow when its port comes up again."""

_STEADY_PORTS = 30000  # one for each shot, from here on
_TAG = struct.Struct("!4sH?x")  # of which shot, and whether that is a steady one
_MAGIC = b"gale"
_MESSAGE = struct.Struct("!Q")
_BURST = 2  # datagrams of each shot in a round
_PAUSE, _REST = 16, 10  # rounds
_SILENCE = 0.05  # seconds
_MOST_GUESTS = 4
_ROUNDS, _STOP, _HEAD = 0, 1, 2
_PATIENCE = 30.0
_AFTERMATH = 0.5
_SO_RCVBUFFORCE = 33
_TCP_TOTAL_RETRANS = 100  # offset in struct tcp_info (linux/tcp.h), 32 bits


@dataclass(frozen=True, slots=True)
class Shot:
    """Datagrams from `source`, a namespace, to an address; `sender` is the address they carry."""

    name: str
    source: str
    sender: Address
    to: Address
    port: int
    steady: bool = False


@dataclass(frozen=True, slots=True)
class Visit:
    """A TCP connection from the namespace `source` to `listening`, a port of `server`."""

    name: str
    source: str
    to: Address
    port: int
    server: str
    listening: int


@dataclass(frozen=True, slots=True)
class Echo:
    """Something established, from the namespace `source` to `listening`, a port of `server`."""

    name: str
    protocol: Literal["tcp", "udp"]
    source: str
    to: Address
    port: int
    server: str
    listening: int


@dataclass(frozen=True, slots=True)
class Count:
    """What was sent and what arrived; of an echo, what came back."""

    sent: int
    arrived: int

    @property
    def lost(self) -> int:
        """What did not arrive."""
        return self.sent - self.arrived

    def since(self, before: Count) -> Count:
        """What came on top."""
        return Count(self.sent - before.sent, self.arrived - before.arrived)


@dataclass(frozen=True, slots=True)
class Traffic:
    """All that is sent. `ears` are namespaces and ports where shots may arrive."""

    shots: tuple[Shot, ...]
    visits: tuple[Visit, ...]
    echoes: tuple[Echo, ...]
    ears: tuple[tuple[str, int], ...]


class Storm:
    """The process, while the context lasts.

    Raises `RuntimeError` if it ends before its time; its own traceback is on standard error then.
    """

    def __init__(self, traffic: Traffic) -> None:
        self.echoes = traffic.echoes
        named: list[Shot | Visit | Echo] = [*traffic.shots, *traffic.visits, *traffic.echoes]
        self._names = [found.name for found in named]
        # spawned, not forked: the test has threads and a libnftables of its own
        context = get_context("spawn")
        self._memory = RawArray(c_uint64, _HEAD + 2 * len(self._names) + 1)
        arguments = (self._memory, traffic, os.getpid())
        self._process = context.Process(target=_blow, args=arguments)

    def __enter__(self) -> Self:
        """Start it; returns when all echoes are established and the first shots have been sent."""
        self._process.start()
        self.settle()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it; the counts are final then."""
        self._memory[_STOP] = 1
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        if self._process.exitcode and error is None:
            raise RuntimeError("the storm has ended with an error")

    def settle(self, rounds: int = 2) -> None:
        """Wait until all that was sent before the call has arrived, if it does, and is counted."""
        until = self._memory[_ROUNDS] + rounds
        end = time.monotonic() + _PATIENCE
        while self._memory[_ROUNDS] < until:
            if not self._process.is_alive() or time.monotonic() > end:
                raise RuntimeError("the storm has died down before its time")
            time.sleep(0.0005)

    def counts(self) -> dict[str, Count]:
        """The counts of all shots and echoes by name, so far."""
        numbers = self._memory[_HEAD:-1]
        pairs = zip(numbers[::2], numbers[1::2], strict=True)
        return {name: Count(*pair) for name, pair in zip(self._names, pairs, strict=True)}

    @property
    def repeated(self) -> int:
        """How many segments TCP had to send again, in all connections."""
        return self._memory[-1]


def _blow(memory: Sequence[int], traffic: Traffic, parent: int) -> None:
    """The process: establish the echoes, then send, receive and count until told to stop."""
    die_with_parent()
    if os.getppid() != parent:
        return
    _Gale(memory, traffic).blow()


class _Gale:
    """The inside of the process."""

    def __init__(self, memory: Sequence[int], traffic: Traffic) -> None:
        # writing needs more than a Sequence has, and ctypes' arrays have no types to name
        self._memory: list[int] = memory  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
        self._counts = [0] * (len(memory) - _HEAD)
        self._guns = [_Gun(shot, index) for index, shot in enumerate(traffic.shots)]
        self._ears = select.epoll()
        self._sockets = {ear.fileno(): ear for ear in map(_ear, traffic.ears)}
        for descriptor in self._sockets:
            self._ears.register(descriptor, select.EPOLLIN)
        self._calls = [_Call(echo) for echo in traffic.echoes]
        visitors = [_Visitor(visit) for visit in traffic.visits]
        self._talks: list[_Visitor | _Call] = [*visitors, *self._calls]

    def blow(self) -> None:
        """Round after round, until the flag is set; what is on its way then is waited for."""
        while not self._memory[_STOP]:
            for index, gun in enumerate(self._guns):
                self._counts[2 * index] += gun.fire(_BURST)
            for talk in self._talks:
                talk.send()
            self._collect()
            self._memory[_ROUNDS] += 1
        end = time.monotonic() + _AFTERMATH
        while time.monotonic() < end:
            self._collect()

    def _collect(self) -> None:
        """Count what has arrived, and publish all counts of the round together."""
        counts = self._counts
        for index in self._heard():
            counts[2 * index + 1] += 1
            self._guns[index].has_hit()
        for index, talk in enumerate(self._talks, len(self._guns)):
            talk.collect()
            counts[2 * index : 2 * index + 2] = talk.sent, talk.returned
        counts[-1] = sum(call.repeated for call in self._calls)
        self._memory[_HEAD:] = counts

    def _heard(self) -> Iterator[int]:
        """The numbers of the shots that have arrived."""
        for descriptor, _ in self._ears.poll(0):
            ear = self._sockets[descriptor]
            with suppress(BlockingIOError):
                while True:
                    data, sender = ear.recvfrom(_TAG.size)
                    magic, number, steady = _TAG.unpack(data)
                    assert magic == _MAGIC
                    index = int(number)
                    if steady and self._guns[index].begins():
                        with suppress(OSError):  # who gets it need not have a way back
                            ear.sendto(b"hello", sender)
                    yield index


class _Gun:
    """A raw socket, and a shot's packets made beforehand.

    New flows that get through are remembered by conntrack, and who applies has to look through
    them: a shot that has hit pauses for some rounds. One that does not is fired in each.
    """

    def __init__(self, shot: Shot, index: int) -> None:
        family = socket.AF_INET if shot.to.version == 4 else socket.AF_INET6
        with netns.inside(shot.source):
            self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
            self._home = socket.socket(family, socket.SOCK_DGRAM)
        steady_port = _STEADY_PORTS + index
        if shot.steady:
            self._home.bind(("", steady_port))  # here the answer may come
        self._steady = shot.steady
        self._to = (str(shot.to), 0)
        payload = _TAG.pack(_MAGIC, index, shot.steady)
        ports = (steady_port,) if shot.steady else SOURCE_PORTS
        self._packets = [_packet(shot, port, payload) for port in ports]
        self._next = self._pause = 0
        self._missed = _REST  # rounds since one of its packets arrived

    def has_hit(self) -> None:
        """One of its packets has arrived."""
        self._missed = 0
        self._pause = 0 if self._steady else _PAUSE

    def begins(self) -> bool:
        """Whether it has not hit for a while: the flow is another one then.

        Only its first packet is answered. An answer that crossed with the end of the flow would be
        a flow that the container starts, which it may, and what comes in after that its answer.
        """
        return self._missed >= _REST

    def fire(self, number: int) -> int:
        """Send so many; returns how many the kernel took."""
        self._missed += 1
        if self._pause:
            self._pause -= 1
            return 0
        sent = 0
        for _ in range(number):
            packet = self._packets[self._next]
            self._next = (self._next + 1) % len(self._packets)
            with suppress(OSError):  # an ICMP error for an earlier one
                self._socket.sendto(packet, self._to)
                sent += 1
        return sent


class _Visitor:
    """Both ends of a visit. Messages are eight bytes; the server sends back what it gets.

    A connection on which nothing has come back for a while is given up for a new one.
    """

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._family = socket.AF_INET if visit.to.version == 4 else socket.AF_INET6
        with netns.inside(visit.server):
            self._server = socket.socket(self._family, socket.SOCK_STREAM)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._family == socket.AF_INET6:
            self._server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self._server.bind(("", visit.listening))
        self._server.listen()
        self._server.setblocking(False)  # noqa: FBT003  the socket module takes it by position only
        self._guests: list[socket.socket] = []
        self.sent = self.returned = 0
        self._near = self._coming()

    def send(self) -> None:
        """Send the next message if there is room, or come again."""
        try:
            if time.monotonic() - self._last < _SILENCE:
                self._near.send(bytes(_MESSAGE.size))
                self.sent += 1
                return
        except BlockingIOError:  # not there yet, or nobody takes it
            return
        except OSError:
            pass
        self._near.close()
        self._near = self._coming()

    def collect(self) -> None:
        """Count what has arrived at the server, and send it back."""
        with suppress(OSError):
            guest, _ = self._server.accept()
            guest.setblocking(False)  # noqa: FBT003  as above
            self._guests.append(guest)
        for guest in self._guests[:-_MOST_GUESTS]:
            guest.close()
        del self._guests[:-_MOST_GUESTS]
        for guest in self._guests:
            with suppress(OSError):
                while message := guest.recv(_MESSAGE.size):
                    self.returned += 1
                    guest.send(message)
        with suppress(OSError):
            while self._near.recv(1 << 12):
                self._last = time.monotonic()

    def _coming(self) -> socket.socket:
        """A new connection that is being made."""
        self._last = time.monotonic()
        with netns.inside(self._visit.source):
            near = socket.socket(self._family, socket.SOCK_STREAM)
        # closed without a word: nobody waits for the end of what is cut off
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setblocking(False)  # noqa: FBT003  as above
        near.connect_ex((str(self._visit.to), self._visit.port))
        return near


class _Call:
    """Both ends of an echo. Messages are eight bytes, numbered."""

    def __init__(self, echo: Echo) -> None:
        kind = socket.SOCK_STREAM if echo.protocol == "tcp" else socket.SOCK_DGRAM
        family = socket.AF_INET if echo.to.version == 4 else socket.AF_INET6
        any_address = "0.0.0.0" if family == socket.AF_INET else "::"
        with netns.inside(echo.server):
            server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((any_address, echo.listening))
        with netns.inside(echo.source):
            self._near = socket.socket(family, kind)
        self._far = self._established(echo, server)
        self._stream = kind == socket.SOCK_STREAM
        self.sent = self.returned = 0
        for end in (self._near, self._far):
            end.setblocking(False)  # noqa: FBT003  the socket module takes it by position only

    def send(self) -> None:
        """Send the next message, if there is room; what a broken connection refuses is lost."""
        message = _MESSAGE.pack(self.sent)
        try:
            self._near.send(message)
        except BlockingIOError:
            return
        except OSError:
            pass
        self.sent += 1

    def collect(self) -> None:
        """Send back what has arrived at the far end, and count what has come back."""
        with suppress(OSError):  # nothing there, or broken
            while message := self._far.recv(_MESSAGE.size):
                self._far.send(message)
        with suppress(OSError):
            while message := self._near.recv(_MESSAGE.size):
                self._take(message)

    def _take(self, message: bytes) -> None:
        """Count a message. Of TCP they have to be all, in order; UDP may lose some, in no order."""
        (number,) = _MESSAGE.unpack(message)
        assert number == self.returned or (not self._stream and number < self.sent), number
        self.returned += 1

    def _established(self, echo: Echo, server: socket.socket) -> socket.socket:
        """The connected far end."""
        self._near.settimeout(_PATIENCE)
        server.settimeout(_PATIENCE)
        if echo.protocol == "tcp":
            server.listen()
            self._near.connect((str(echo.to), echo.port))
            far, _ = server.accept()
            server.close()
            for end in (self._near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return far
        self._near.connect((str(echo.to), echo.port))
        self._near.send(b"hello")
        _, client = server.recvfrom(8)
        server.connect(client)
        server.send(b"hello")
        self._near.recv(8)
        return server

    @property
    def repeated(self) -> int:
        """Segments that were sent again, by either end."""
        if not self._stream:
            return 0
        ends = (self._near, self._far)
        infos = [e.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104) for e in ends]
        return sum(struct.unpack_from("=I", info, _TCP_TOTAL_RETRANS)[0] for info in infos)


def _ear(place: tuple[str, int]) -> socket.socket:
    """A socket for both families that hears what arrives at a port of a namespace."""
    namespace, port = place
    with netns.inside(namespace):
        ear = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    ear.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    ear.bind(("::", port))
    ear.setblocking(False)  # noqa: FBT003  the socket module takes it by position only
    return ear


def _packet(shot: Shot, source_port: int, payload: bytes) -> bytes:
    """The whole packet; the kernel fills in the length and the checksum of an IPv4 header."""
    length = 8 + len(payload)
    if shot.to.version == 4:  # where UDP's checksum may be zero
        datagram = struct.pack("!4H", source_port, shot.port, length, 0) + payload
        header = struct.pack("!BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0)
        return header + shot.sender.packed + shot.to.packed + datagram
    addresses = shot.sender.packed + shot.to.packed
    pseudo = addresses + struct.pack("!II", length, socket.IPPROTO_UDP)
    ports = struct.pack("!3H", source_port, shot.port, length)
    checksum = _checksum(pseudo + ports + bytes(2) + payload)
    header = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_UDP, 64)
    return header + addresses + ports + struct.pack("!H", checksum) + payload


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes; UDP writes 0 as 0xffff."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF or 0xFFFF
