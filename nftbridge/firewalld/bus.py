"""The system bus: calls and signals through jeepney, and what goes wrong in our words."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from nftbridge.errors import UnavailableError


class Interface(NamedTuple):
    """Where methods are: a name on the bus, an object of its owner, an interface of that."""

    name: str
    path: str
    interface: str


BUS_NAME = "org.freedesktop.DBus"
_BUS = Interface(BUS_NAME, "/org/freedesktop/DBus", BUS_NAME)

_PATIENCE = 60.0
"""Seconds that a call may take: firewalld answers nothing while it starts or reloads."""


_FIREWALLD_ERROR = "org.fedoraproject.FirewallD1.Exception"
_DENIED = ("org.freedesktop.DBus.Error.AccessDenied", "NOT_AUTHORIZED", "ACCESS_DENIED")


class CallError(UnavailableError):
    """A call was answered by an error; `code` is firewalld's word, or the D-Bus error's name."""

    def __init__(self, member: str, name: str, text: str) -> None:
        self.code = text.partition(":")[0] if name == _FIREWALLD_ERROR else name
        hint = "run as root" if self.code in _DENIED else "see firewalld's log"
        super().__init__(f"firewalld refused {member}: {text or name}", hint=hint)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that was subscribed to."""

    member: str
    body: tuple[Any, ...]


class Bus:
    """A connection to the system bus, open until it is closed. Raises `UnavailableError`."""

    def __init__(self) -> None:
        # untyped, and not imported before there is somebody to talk to
        self._library: Any = importlib.import_module("jeepney")
        blocking: Any = importlib.import_module("jeepney.io.blocking")
        with self._reported("Hello"):
            self._connection: Any = blocking.open_dbus_connection("SYSTEM")
        self._signals = deque[Any]()
        self._connection.filter(self._library.MatchRule(type="signal"), queue=self._signals)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def fileno(self) -> int:
        """Readable when there may be something for `signals`."""
        return int(self._connection.sock.fileno())

    def call(self, where: Interface, member: str, signature: str = "", *body: object) -> Any:
        """What the method answers: None, one value, or a tuple of several."""
        name, path, interface = where
        address = self._library.DBusAddress(path, bus_name=name, interface=interface)
        message = self._library.new_method_call(address, member, signature or None, body)
        with self._reported(member):
            reply = self._connection.send_and_get_reply(message, timeout=_PATIENCE)
        if reply.header.message_type == self._library.MessageType.error:
            fields, text = reply.header.fields, next(iter(reply.body), "")
            raise CallError(member, fields[self._library.HeaderFields.error_name], str(text))
        return reply.body[0] if len(reply.body) == 1 else reply.body or None

    def ask_bus(self, member: str, argument: str) -> Any:
        """A method of the bus itself that takes one string."""
        return self.call(_BUS, member, "s", argument)

    def subscribe(self, rule: str) -> None:
        """Ask for the signals that a match rule describes."""
        self.ask_bus("AddMatch", rule)

    def signals(self) -> list[Signal]:
        """All signals that have arrived; does not wait. Raises if the bus is gone."""
        with self._reported("listening"):
            while True:
                try:
                    self._connection.recv_messages(timeout=0)
                except TimeoutError:
                    break
        member = self._library.HeaderFields.member
        found = [Signal(m.header.fields[member], tuple(m.body)) for m in self._signals]
        self._signals.clear()
        return found

    @contextmanager
    def _reported(self, member: str) -> Generator[None]:
        try:
            yield
        except TimeoutError as error:
            message = f"firewalld, {member}: no answer within {_PATIENCE:.0f} seconds"
            raise UnavailableError(message, hint="see firewalld's log") from error
        except (OSError, RuntimeError, ValueError) as error:
            hint = "is dbus running? firewalld needs it too"
            raise UnavailableError(f"the system bus, {member}: {error}", hint=hint) from error
