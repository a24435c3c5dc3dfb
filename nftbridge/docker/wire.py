"""A question to Docker Engine whose answer is read as it comes: nothing here waits.

It is put in HTTP/1.0, so that the answer is a head and then the body until the end of the
connection; that of the events has no end, and is read line by line.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from nftbridge.docker.api import unreachable
from nftbridge.docker.process import peer_of
from nftbridge.errors import UnavailableError

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})\b")
_END_OF_HEAD = b"\r\n\r\n"
_LONGEST = 64 << 20
"""Bytes of a head, an answer or a line; Docker's are a small part of that."""

_PIECE = 1 << 18


class Exchange:
    """``GET what``, asked at the unix socket `path`. Raises `UnavailableError` if that cannot be.

    `status` is None until the head of the answer has come, `ended` says that all of it has.
    """

    def __init__(self, path: str, what: str) -> None:
        self.what = what
        self.status: int | None = None
        self.ended = False
        self._path = path
        self._data = bytearray()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.connect(path)
            self._socket.sendall(f"GET {what} HTTP/1.0\r\n\r\n".encode())  # into an empty buffer
        except OSError as error:
            self._socket.close()
            raise unreachable(path, error) from None

    def close(self) -> None:
        """Hang up, answered or not."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._socket.fileno()

    def peer(self) -> int:
        """As `process.peer_of`."""
        return peer_of(self._socket)

    def read(self) -> None:
        """Take what has come. Raises `UnavailableError` if it is no answer, or there is no end."""
        while not self.ended:
            try:
                data = self._socket.recv(_PIECE)
            except BlockingIOError:
                break
            except OSError as error:
                raise unreachable(self._path, error) from None
            self.ended = not data
            self._data += data
            if len(self._data) > _LONGEST:
                raise UnavailableError(f"the answer to GET {self.what} does not end")
        if self.status is None:
            self._read_head()

    def body(self) -> bytes:
        """What has come of the answer and was not taken by `lines`."""
        return bytes(self._data)

    def lines(self) -> Iterator[bytes]:
        """Take the lines that are complete."""
        *lines, rest = bytes(self._data).split(b"\n")
        self._data[:] = rest
        return (line for line in lines if line.strip())

    def _read_head(self) -> None:
        head, end, rest = bytes(self._data).partition(_END_OF_HEAD)
        if not end and not self.ended:
            return
        found = _STATUS.match(head)
        if not end or found is None:
            what = "hung up" if not head else "does not speak HTTP"
            raise UnavailableError(f"what listens at {self._path} {what}")
        self.status = int(found[1])
        self._data[:] = rest
