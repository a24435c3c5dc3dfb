"""The crew: a keeper and its workers as their user sees them, and the way to ask them things."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import count
from multiprocessing import connection as pipes
from pathlib import Path

from nftbridge.errors import UnavailableError
from nftbridge.lab.messages import Failure, Request
from nftbridge.lab.topology import Topology

_PATIENCE = 30.0
_PACKAGE_ROOT = Path(__file__).parents[2]


class Crew:
    """One keeper process with one worker per node of `topology`; `start` it, and `dismiss` it."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._pipes = {node.name: pipes.Pipe() for node in topology.all_nodes}
        self._control, self._keeper_end = pipes.Pipe()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._serials = count(1)

    def start(self) -> None:
        """Start the processes; returns when every worker is in its namespace."""
        far_ends = [self._keeper_end, *(far for _, far in self._pipes.values())]
        descriptors = [end.fileno() for end in far_ends]
        self._keeper = subprocess.Popen(
            # -P: what happens to lie in the working directory is not for root to import.
            [sys.executable, "-P", "-m", "nftbridge.lab", *map(str, descriptors)],
            pass_fds=descriptors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A Control-C on the terminal is for the user of the laboratory alone.
            start_new_session=True,
        )
        for end in far_ends:
            end.close()
        _send(self._control, "keeper", self._topology)
        _received(self._control, "keeper", 0, _PATIENCE)
        for name, (near, _) in self._pipes.items():
            _received(near, name, 0, _PATIENCE)

    def ask(self, node: str, request: Request) -> object:
        """The reply of one worker."""
        return self.ask_all({node: request})[node]

    def ask_all(
        self, requests: Mapping[str, Request], patience: float = _PATIENCE
    ) -> dict[str, object]:
        """The replies of several workers, which work at the same time."""
        serial = next(self._serials)
        for name, request in requests.items():
            _send(self._pipes[name][0], name, (serial, request))
        return {name: _received(self._pipes[name][0], name, serial, patience) for name in requests}

    def dismiss(self) -> None:
        """End all processes; the keeper removes the namespaces. Repeating it does no harm."""
        for end in (self._control, self._keeper_end, *(e for p in self._pipes.values() for e in p)):
            end.close()
        if self._keeper is None:
            return
        try:
            self._keeper.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()


def _send(pipe: pipes.Connection, name: str, message: object) -> None:
    try:
        pipe.send(message)
    except ConnectionError as error:
        raise _ended(name) from error


def _received(pipe: pipes.Connection, name: str, serial: int, patience: float) -> object:
    """The reply to request `serial`; older ones were left by a request that was interrupted."""
    try:
        while pipe.poll(patience):
            number, reply = pipe.recv()
            if isinstance(reply, Failure) and number in (0, serial):
                raise UnavailableError(f"laboratory, {reply.message}", hint=reply.hint)
            if number == serial:
                return reply
    except (EOFError, ConnectionError) as error:
        raise _ended(name) from error
    raise UnavailableError(f"laboratory, {name}: no reply within {patience} seconds")


def _ended(name: str) -> UnavailableError:
    return UnavailableError(f"laboratory, {name}: its process has ended")


def _import_path() -> list[str]:
    return [str(_PACKAGE_ROOT), *(entry for entry in sys.path if entry)]
