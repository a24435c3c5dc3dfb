"""The keeper: a small process of its own that forks the workers and removes the namespaces.

It is not a fork of its user: no threads, signal handlers or open files come along, and it can
wait for its user's end, of whatever kind (even SIGKILL), which closes the control pipe.
"""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import FrameType

from nftbridge.lab import namespaces, netlink
from nftbridge.lab.messages import Failure
from nftbridge.lab.topology import Node, Topology
from nftbridge.lab.worker import work


def keep(control_descriptor: int, *worker_descriptors: int) -> None:
    """Serve one laboratory until its user closes the control pipe or ends."""
    signal.signal(signal.SIGTERM, _leave)
    control = Connection(control_descriptor)
    topology: Topology = control.recv()
    workers: list[int] = []
    try:
        failure = _prepare()
        control.send((0, failure))
        if failure is None:
            workers = _fork_workers(topology, control, worker_descriptors)
            with suppress(EOFError, ConnectionError):
                control.recv()
    finally:
        _end(workers)
        for node in topology.all_nodes:
            namespaces.remove(node.namespace)


def _prepare() -> Failure | None:
    try:
        # Loaded before the forks, so once for all workers.
        netlink.load()
    except ImportError as error:
        return Failure(f"pyroute2 cannot be imported: {error}", "install pyroute2")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        namespaces.prepare_directory()
    except OSError as error:
        return Failure(str(error), "network namespaces need CAP_SYS_ADMIN")
    return None


def _fork_workers(
    topology: Topology, control: Connection, descriptors: tuple[int, ...]
) -> list[int]:
    """Fork one worker per node; should a signal end this half-way, they die with their parent."""
    workers: list[int] = []
    for index, node in enumerate(topology.all_nodes):
        pid = os.fork()
        if pid == 0:
            # A pipe end left open here would keep the others from noticing that a process ended.
            control.close()
            _close(descriptors[index + 1 :])
            _run_worker(topology, node, descriptors[index])
        workers.append(pid)
        os.close(descriptors[index])
    return workers


def _run_worker(topology: Topology, node: Node, descriptor: int) -> None:
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        work(topology, node, Connection(descriptor))
        status = 0
    except Exception:  # noqa: BLE001  the fork ends here, come what may
        traceback.print_exc()
    finally:
        os._exit(status)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _end(workers: list[int]) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    for pid in workers:
        os.waitpid(pid, 0)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
