"""`Watcher`: a file descriptor that says when firewalld has lost what we put there.

To be used in a loop of one's own, which puts back by applying the same host again::

    with Watcher() as watcher:
        while True:
            select.select([watcher], [], [])
            if watcher.events():
                with firewalld.around(None, engine.known, host):
                    engine.apply(host)
"""

from __future__ import annotations

from enum import Enum
from typing import Self

from nftbridge.firewalld.bus import BUS_NAME, Bus, Signal
from nftbridge.firewalld.presence import NAME


class Event(Enum):
    """What happened to firewalld. After each, what we had there may be gone.

    With its iptables backend that goes for our own iptables rules too, also when it stops.
    """

    STARTED = "started"
    RELOADED = "reloaded"
    STOPPED = "stopped"


class Watcher:
    """Listens on the system bus from its construction on. Raises `UnavailableError` without one.

    `fileno` is for select, poll and the like: readable when there may be events. firewalld that
    started earlier is no event.
    """

    def __init__(self) -> None:
        self._bus = Bus()
        sender = f"type='signal',sender='{NAME}',interface='{NAME}',member='Reloaded'"
        owner = f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg0='{NAME}'"
        for rule in (sender, owner):
            self._bus.subscribe(rule)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._bus.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._bus.fileno()

    def events(self) -> list[Event]:
        """What has happened since the last call; does not wait.

        A start is told when firewalld takes its name on the bus; it answers calls when it is done.
        Raises `UnavailableError` once the bus is gone: then make another watcher.
        """
        return [found for signal in self._bus.signals() if (found := _event(signal))]


def _event(signal: Signal) -> Event | None:
    if signal.member == "Reloaded":
        return Event.RELOADED
    if signal.member == "NameOwnerChanged" and signal.body[0] == NAME:
        _, _, new_owner = signal.body
        return Event.STARTED if new_owner else Event.STOPPED
    return None  # the bus tells everybody its own name
