"""A worker: the process that lives in one node's namespace, sets it up, answers there and asks."""

from __future__ import annotations

import asyncio
import os
from multiprocessing.connection import Connection
from typing import assert_never

from nftbridge.lab import namespaces, netlink
from nftbridge.lab.messages import (
    CheckConnection,
    CloseConnection,
    Failure,
    OpenConnection,
    Prepare,
    Request,
    RunProbes,
)
from nftbridge.lab.prober import Prober
from nftbridge.lab.sctp import SctpEndpoint
from nftbridge.lab.servers import Servers
from nftbridge.lab.topology import HOST, Node, Topology


def work(topology: Topology, node: Node, connection: Connection) -> None:
    """Make the node's namespace, then serve requests until the other end closes the pipe.

    Each request is a pair of a serial number and a message, and so is each reply.
    """
    namespaces.die_with_parent()
    try:
        namespaces.create(node.namespace)
        netlink.prepare_node()
        connection.send((0, None))
        serial, _ = connection.recv()
        if node.name == HOST:
            netlink.build_host(topology)
        else:
            netlink.configure_node(node)
        asyncio.run(_Worker(node, connection).run(serial))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # noqa: BLE001  whatever it was, the laboratory's user has to know
        connection.send((0, Failure(f"{node.name}: {type(error).__name__}: {error}")))


class _Worker:
    def __init__(self, node: Node, connection: Connection) -> None:
        self._connection = connection
        self._servers = Servers(node.name, node.ports)
        self._sctp = SctpEndpoint(node.name, node.ports)
        self._prober = Prober(self._sctp)

    async def run(self, serial: int) -> None:
        """Start to listen, report request `serial` as done, and answer the next ones."""
        await self._servers.start()
        self._sctp.start()
        self._connection.send((serial, None))
        while True:
            await _readable(self._connection.fileno())
            serial, request = self._connection.recv()
            self._connection.send((serial, await self._answer(request)))

    async def _answer(self, request: Request) -> object:
        match request:
            case RunProbes(probes, timeout):
                return await self._prober.run(probes, timeout)
            case OpenConnection():
                try:
                    return await self._prober.open(request)
                except OSError as error:
                    return os.strerror(error.errno) if error.errno else "no answer in time"
            case CheckConnection():
                return await self._prober.check(request)
            case CloseConnection(key):
                self._prober.close(key)
            case Prepare():
                pass
            case _:
                assert_never(request)
        return None


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    await ready.wait()
    loop.remove_reader(descriptor)
