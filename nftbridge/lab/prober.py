"""The asking side of a node: many probes at once, under one timeout."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from itertools import count

from nftbridge.lab.messages import CheckConnection, OpenConnection
from nftbridge.lab.probe import Answer, Outcome, Probe, Reply
from nftbridge.lab.sctp import SctpEndpoint
from nftbridge.model import Address

# The kernel queues about 200 packets for a neighbour whose link-layer address it still asks for.
_BURST = 64
_BURST_INTERVAL = 0.002

_SLICES = 10
"""Into how many parts the wait for an answer is cut."""

_ECHO_REQUEST = {4: bytes((8, *bytes(7))), 6: bytes((128, *bytes(7)))}
_ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class Prober:
    """Runs probes and holds TCP connections, all from the namespace of the calling process."""

    def __init__(self, sctp: SctpEndpoint) -> None:
        self._held: dict[int, socket.socket] = {}
        self._lines = count()
        self._methods = {"tcp": _probe_tcp, "udp": _probe_udp, "icmp": _echo, "sctp": sctp.probe}

    async def run(self, probes: Sequence[Probe], patience: float) -> list[Outcome]:
        """Run all of `probes` side by side; takes a little over `patience` if one is silent."""
        running: list[asyncio.Task[Outcome]] = []
        for start in range(0, len(probes), _BURST):
            burst = probes[start : start + _BURST]
            running += [asyncio.create_task(self._outcome(probe)) for probe in burst]
            await asyncio.sleep(_BURST_INTERVAL)
        silent = await _silent(running, patience)
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        return [
            Outcome(probe, Reply.SILENT) if task in silent else task.result()
            for probe, task in zip(probes, running, strict=True)
        ]

    async def open(self, request: OpenConnection) -> Answer:
        """Open a TCP connection and hold it; OSError (also TimeoutError) if that fails."""
        sock = _socket(request.destination, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(request.timeout):
                answer = await _greeted(sock, request.destination, request.port)
        except BaseException:
            sock.close()
            raise
        self._held[request.key] = sock
        return answer

    async def check(self, request: CheckConnection) -> bool:
        """Whether a line over a held connection comes back."""
        loop, sock = asyncio.get_running_loop(), self._held[request.key]
        try:
            async with asyncio.timeout(request.timeout):
                line, received = b"%d\n" % next(self._lines), b""
                await loop.sock_sendall(sock, line)
                # The echo of a line that was given up earlier says nothing about now.
                while not received.endswith(line):
                    piece = await loop.sock_recv(sock, 4096)
                    if not piece:
                        return False
                    received += piece
        except OSError:
            return False
        return True

    def close(self, key: int) -> None:
        """Close a held connection, if it is held still."""
        if sock := self._held.pop(key, None):
            sock.close()

    async def _outcome(self, probe: Probe) -> Outcome:
        try:
            answer = await self._methods[probe.protocol](probe.destination, probe.port)
        except OSError as error:
            return Outcome.of_error(probe, error)
        except (ValueError, KeyError):
            return Outcome(probe, Reply.ANSWERED, error="answered by no node of the laboratory")
        return Outcome(probe, Reply.ANSWERED, answer)


async def _silent(
    tasks: Sequence[asyncio.Task[Outcome]], patience: float
) -> set[asyncio.Task[Outcome]]:
    """Wait until none of `tasks` has ended for `patience` seconds, and return the rest.

    The seconds are counted in slices, each for no more than its length: on a busy machine the time
    in which this process could not run would otherwise be taken for silence.
    """
    pending, quiet = set(tasks), 0
    while pending and quiet < _SLICES:
        done, pending = await asyncio.wait(pending, timeout=patience / _SLICES)
        quiet = 0 if done else quiet + 1
    return pending


async def _probe_tcp(destination: Address, port: int) -> Answer:
    with _socket(destination, socket.SOCK_STREAM) as sock:
        return await _greeted(sock, destination, port)


async def _greeted(sock: socket.socket, destination: Address, port: int) -> Answer:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (str(destination), port))
    line = await loop.sock_recv(sock, 4096)
    if not line:
        raise ConnectionResetError
    return Answer.decode(line)


async def _probe_udp(destination: Address, port: int) -> Answer:
    with _socket(destination, socket.SOCK_DGRAM) as sock:
        sock.connect((str(destination), port))
        sock.send(b"?\n")
        return Answer.decode(await asyncio.get_running_loop().sock_recv(sock, 4096))


async def _echo(destination: Address, _port: int) -> Answer | None:
    """An echo request by a ping socket, for which the kernel keeps identifiers and checksums."""
    with _socket(destination, socket.SOCK_DGRAM, _ICMP[destination.version]) as sock:
        sock.connect((str(destination), 0))
        sock.send(_ECHO_REQUEST[destination.version])
        await asyncio.get_running_loop().sock_recv(sock, 4096)
    return None


def _socket(destination: Address, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    sock = socket.socket(_FAMILY[destination.version], kind, protocol)
    sock.setblocking(False)  # noqa: FBT003  the socket module takes it by position only
    return sock
