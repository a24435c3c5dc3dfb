"""`Bus`: a file descriptor that says when firewalld has started, reloaded or stopped.

The system bus may come after us, and be restarted: its socket is watched for while it is away.
"""

from __future__ import annotations

import os
import select
from typing import Self

from nftbridge.errors import UnavailableError
from nftbridge.firewalld import Watcher, presence
from nftbridge.watch.files import Paths


class Bus:
    """firewalld's events, whether there is a bus yet or not."""

    def __init__(self) -> None:
        self._ready = select.epoll()
        address = presence.bus_address() or b"\0"
        self._paths = None if address.startswith(b"\0") else Paths(os.fsdecode(address))
        if self._paths is not None:
            self._ready.register(self._paths, select.EPOLLIN)
        self._watcher: Watcher | None = None
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()
        if self._paths is not None:
            self._paths.close()
        self._ready.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._ready.fileno()

    def changed(self) -> bool:
        """Whether firewalld may have lost what we put there; does not wait."""
        lost = self._watcher is not None and self._events(self._watcher)
        if self._paths is not None and self._paths.changed() and self._watcher is None:
            self._connect()
            return lost or presence.is_running()
        return lost

    def _events(self, watcher: Watcher) -> bool:
        try:
            return bool(watcher.events())
        except UnavailableError:  # the bus has gone, and firewalld with it
            self._disconnect()
            self._connect()
            return True

    def _connect(self) -> None:
        try:
            self._watcher = Watcher()
        except UnavailableError:
            self._watcher = None
        else:
            self._ready.register(self._watcher, select.EPOLLIN)

    def _disconnect(self) -> None:
        if self._watcher is not None:
            self._ready.unregister(self._watcher)
            self._watcher.close()
            self._watcher = None
