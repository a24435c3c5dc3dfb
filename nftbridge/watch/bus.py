"""`Bus`: a file descriptor that says when firewalld has started, reloaded or stopped.

The system bus may come after us, and be restarted: its socket is watched for while it is away.
"""

from __future__ import annotations

import os
import select
import time
from typing import Self

from nftbridge.errors import UnavailableError
from nftbridge.firewalld import presence
from nftbridge.firewalld.watcher import Watcher
from nftbridge.watch.files import Paths

_ATTEMPTS, _MOMENT = 20, 0.01  # seconds


class Bus:
    """firewalld's events, whether there is a bus yet or not."""

    def __init__(self) -> None:
        self._ready = select.epoll()
        self._address = presence.bus_address() or b"\0"
        abstract = self._address.startswith(b"\0")
        self._paths = None if abstract else Paths(os.fsdecode(self._address))
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
            self._connect_to_new()
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
            return
        self._ready.register(self._watcher, select.EPOLLIN)

    def _connect_to_new(self) -> None:
        """A socket that has appeared may take a moment until somebody listens on it."""
        for _ in range(_ATTEMPTS):
            self._connect()
            if self._watcher is not None or not os.path.exists(self._address):
                return
            time.sleep(_MOMENT)

    def _disconnect(self) -> None:
        if self._watcher is not None:
            self._ready.unregister(self._watcher)
            self._watcher.close()
            self._watcher = None
