"""Whether firewalld runs, asked of the system bus without a D-Bus library.

Most hosts have a bus and no firewalld. There apply should not pay for importing a library, which
takes longer than this whole exchange: log in, say hello, ask whether the name is owned.

Wire format: https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

NAME = "org.fedoraproject.FirewallD1"

_DEFAULT_ADDRESS = "unix:path=/run/dbus/system_bus_socket"
_PATIENCE = 10.0
_BUS = "org.freedesktop.DBus"
_ENDIAN = b"l" if sys.byteorder == "little" else b"B"
_METHOD_CALL, _METHOD_RETURN, _SIGNAL = 1, 2, 4
_NO_AUTO_START = 2
_PROTOCOL_VERSION = 1
_HEADER = struct.Struct("=cBBBIII")
"""Byte order, type, flags, version; length of the body; serial number; length of the fields."""


def bus_address() -> bytes | None:
    """The address of the system bus's socket, for `socket.connect`; None if it has none."""
    listed = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DEFAULT_ADDRESS
    for address in listed.split(";"):
        transport, _, rest = address.partition(":")
        keys: dict[str, str] = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
        if transport == "unix" and "path" in keys:
            return unquote_to_bytes(keys["path"])
        if transport == "unix" and "abstract" in keys:
            return b"\0" + unquote_to_bytes(keys["abstract"])
    return None


def is_running() -> bool:
    """Whether firewalld is on the system bus; False as well where no bus answers."""
    address = bus_address()
    if address is None:
        return False
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        try:
            connection.connect(address)
            return _name_has_owner(connection)
        except (OSError, EOFError):
            return False


def _name_has_owner(connection: socket.socket) -> bool:
    with connection.makefile("rb") as stream:
        connection.sendall(f"\0AUTH EXTERNAL {str(os.geteuid()).encode().hex()}\r\n".encode())
        if not stream.readline().startswith(b"OK"):
            return False
        calls = _call(1, "Hello"), _call(2, "NameHasOwner", NAME)
        connection.sendall(b"BEGIN\r\n" + b"".join(calls))
        answers = (message for message in _messages(stream) if message[0] != _SIGNAL)
        next(answers)  # the name that the bus gave us
        return next(answers) == (_METHOD_RETURN, struct.pack("=I", 1))


def _messages(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The type and the body of each message."""
    while True:
        _, kind, _, _, body, _, fields = _HEADER.unpack(_read(stream, _HEADER.size))
        _read(stream, fields + -fields % 8)
        yield kind, _read(stream, body)


def _read(stream: BinaryIO, length: int) -> bytes:
    found = stream.read(length)
    if len(found) < length:
        raise EOFError
    return found


def _call(serial: int, member: str, *argument: str) -> bytes:
    """A call of the bus's own `member`, with a string or nothing."""
    body = b"".join(map(_string, argument))
    fields = [
        _field(1, "o", "/org/freedesktop/DBus"),
        _field(2, "s", _BUS),
        _field(3, "s", member),
        _field(6, "s", _BUS),
        *(b"\x08\x01g\0\x01s\0" for _ in argument),  # the signature of the body
    ]
    packed = b"".join(map(_padded, fields[:-1])) + fields[-1]
    kind = (_ENDIAN, _METHOD_CALL, _NO_AUTO_START, _PROTOCOL_VERSION)
    return _padded(_HEADER.pack(*kind, len(body), serial, len(packed)) + packed) + body


def _field(code: int, kind: str, value: str) -> bytes:
    return bytes([code, 1]) + kind.encode() + b"\0" + _string(value)


def _string(value: str) -> bytes:
    return struct.pack("=I", len(value)) + value.encode() + b"\0"


def _padded(data: bytes) -> bytes:
    """To a multiple of eight bytes, which is where structures begin."""
    return data + bytes(-len(data) % 8)
