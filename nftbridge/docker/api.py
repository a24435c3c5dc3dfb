"""The documented HTTP API of Docker Engine over its unix socket, as far as an import needs it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import TypeAlias
from urllib.parse import quote

from nftbridge.docker.containers import container_of
from nftbridge.docker.host import Inspected
from nftbridge.docker.item import Item
from nftbridge.docker.networks import network_of
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.model.checks import quoted

SOCKET = "/var/run/docker.sock"

_Version: TypeAlias = tuple[int, int]

OLDEST, NEWEST = (1, 41), (1, 51)
"""The versions of the API that this is written for: Docker 20.10 to 28.5."""

_PATIENCE = 30.0
"""Seconds for one answer."""

_WHO = "is it Docker's socket? --docker SOCKET names another one"
_SCHEME = "unix://"
_VERSION = re.compile(r"(\d+)\.(\d+)")
_OK, _NOT_FOUND = 200, 404


def socket_path(option: str | None, environment: Mapping[str, str]) -> str:
    """Where Docker listens: as the user says, as ``DOCKER_HOST`` says, or where it usually does."""
    named = option or environment.get("DOCKER_HOST") or SOCKET
    where, path = "--docker" if option else "DOCKER_HOST", named.removeprefix(_SCHEME)
    if not path:
        raise InputError((Problem(where, f"{named!r} names no socket", f"e.g. {_SCHEME}{SOCKET}"),))
    if "://" in path:
        message = f"{named!r} is not a unix socket"
        hint = "run this on Docker's own host, or save what it says: --networks and --containers"
        raise InputError((Problem(where, message, hint),))
    return path


def ask(path: str) -> tuple[Inspected, str]:
    """All there is to the Engine at the unix socket `path`, and who it says it is.

    Containers come first: a network that one of them is in cannot be removed in between. What is
    gone when it is inspected is left out. Raises `UnavailableError`, whatever stands between us and
    an answer, and `InputError` for an answer that is not Docker's.
    """
    with closing(UnixConnection(path)) as connection:
        engine = Engine.greeted(connection)
        containers = tuple(map(container_of, engine.inspect_all("/containers")))
        networks = tuple(map(network_of, engine.inspect_all("/networks")))
        return Inspected(networks, containers, engine.get("/info")), engine.name


class Engine:
    """An Engine that answers, at a version of the API that both sides know."""

    def __init__(self, connection: UnixConnection, name: str, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self.name = name

    @classmethod
    def greeted(cls, connection: UnixConnection) -> Engine:
        """The Engine at the other end, after an agreement on the version."""
        return cls(connection, *greeting(_answer(connection, "/version")))

    def get(self, path: str) -> Item:
        """The answer to a question; null if what it is about does not exist."""
        return _answer(self._connection, f"{self._prefix}{path}")

    def inspect_all(self, kind: str) -> Iterator[Item]:
        """Each object of a listing, inspected: ``/networks``, or ``/containers``, running ones."""
        listing, detail = ("/json", "/json") if kind == "/containers" else ("", "")
        for listed in self.get(f"{kind}{listing}").elements():
            found = self.get(f"{kind}/{quote(listed['Id'].required())}{detail}")
            if found.value is not None:
                yield found


def greeting(said: Item) -> tuple[str, str]:
    """Who answered ``GET /version``, and what the paths of all further questions begin with."""
    newest, oldest = said["ApiVersion"], said["MinAPIVersion"]
    version = agreed(_numbers(newest), _numbers(oldest))
    name = f"Docker Engine {said['Version'].required()}, API {newest.text()}"
    return name, "/v{}.{}".format(*version)


def agreed(newest: _Version, oldest: _Version) -> _Version:
    """The newest version that we and an Engine with this range know, or `UnavailableError`."""
    version = min(newest, NEWEST)
    if newest < OLDEST:
        hint = "Docker 20.10 is the oldest that is understood"
    elif oldest > NEWEST:
        hint = "a newer nftbridge may know it"
    else:
        return version
    theirs = "{}.{} to {}.{}".format(*oldest, *newest)
    ours = "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    raise UnavailableError(f"Docker speaks API {theirs}, and this is for {ours}", hint=hint)


def _numbers(item: Item) -> _Version:
    found = _VERSION.fullmatch(item.text())
    return (int(found[1]), int(found[2])) if found else item.refuse("a version such as 1.41")


class UnixConnection(HTTPConnection):
    """HTTP over a unix socket; it connects when it is asked something."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_PATIENCE)  # the name goes into the header Host only
        self.path = path

    def connect(self) -> None:
        """Connect to the socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        self.sock = sock


def _answer(connection: UnixConnection, path: str) -> Item:
    return read_answer(path, *_exchanged(connection, path))


def read_answer(path: str, status: int, body: bytes) -> Item:
    """What was answered to ``GET path``; null if what it is about does not exist.

    Raises `UnavailableError` for a refusal, and for what is no JSON.
    """
    source = f"Docker's answer to GET {path}"
    if status == _NOT_FOUND:
        return Item(None, source)
    try:
        content = Item(json.loads(body), source)
    except ValueError:
        shown = quoted(body.decode(errors="replace"))
        raise UnavailableError(f"{source} is not JSON: {shown}", hint=_WHO) from None
    if status != _OK:
        message = content["message"].text("without a reason")
        raise UnavailableError(f"Docker refuses GET {path} with status {status}: {message}")
    return content


def _exchanged(connection: UnixConnection, path: str) -> tuple[int, bytes]:
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except TimeoutError:
        message = f"Docker gave no answer to GET {path} within {_PATIENCE:.0f} seconds"
        raise UnavailableError(message, hint="see the log of dockerd") from None
    except OSError as error:
        raise unreachable(connection.path, error) from None
    except HTTPException as error:
        message = f"what listens at {connection.path} does not speak HTTP: {type(error).__name__}"
        raise UnavailableError(message, hint=_WHO) from None


def unreachable(path: str, error: OSError) -> UnavailableError:
    """Why nobody could be asked at the unix socket `path`."""
    match error:
        case FileNotFoundError():
            hint = "start Docker, or say where its socket is: --docker SOCKET"
            return UnavailableError(f"Docker is not there: no socket {path}", hint=hint)
        case PermissionError():
            hint = "run as root, or as a member of the group docker"
            return UnavailableError(f"Docker's socket {path} is not for this user", hint=hint)
        case ConnectionRefusedError():
            message = f"nobody listens at Docker's socket {path}"
            return UnavailableError(message, hint="start Docker")
        case _:
            message = f"Docker cannot be asked at {path}: {error.strerror or error}"
            return UnavailableError(message, hint="see the log of dockerd")
