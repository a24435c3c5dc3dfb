"""What a service says to systemd: a datagram each, as sd_notify(3) describes it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

_MICRO = 1_000_000


class Manager:
    """The service manager that has started us; without one nothing is sent."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.interval = _interval(environment)

    def close(self) -> None:
        """Say nothing more."""
        self._socket.close()

    def ready(self, status: str) -> None:
        """All is as it shall be, at first or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """A line for ``systemctl status``."""
        self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        clock = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={clock}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life, wanted every `interval` seconds."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address:
            with suppress(OSError):  # a manager that is gone needs no news
                self._socket.sendto("\n".join(lines).encode(), self._address)


def _interval(environment: Mapping[str, str]) -> float | None:
    """Half of the time after which the manager takes us for dead; None if it does not look."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(text) / 2 / _MICRO


def logs_to_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Whether that descriptor leads to the journal, which understands levels (sd-daemon(3))."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
