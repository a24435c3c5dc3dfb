"""What Docker Engine tells of as it happens (``GET /events``), as far as it concerns a firewall."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlencode

from nftbridge.docker.item import Item
from nftbridge.errors import InputError, Problem
from nftbridge.model.checks import quoted


class Kind(Enum):
    """What there is to be asked about, by its name in the paths of the API."""

    CONTAINER = "containers"
    NETWORK = "networks"

    @property
    def listing(self) -> str:
        """Where those that are there are listed, of containers the running ones."""
        return f"/{self.value}/json" if self is Kind.CONTAINER else f"/{self.value}"


class Action(Enum):
    """What has happened, by Docker's name for it."""

    START = "start"
    RENAME = "rename"
    DIE = "die"
    DESTROY = "destroy"
    CREATE = "create"
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    REMOVE = "remove"  # of swarm's networks, and of its nodes
    UPDATE = "update"  # of swarm's nodes


_TYPES = {"container": Kind.CONTAINER, "network": Kind.NETWORK, "node": None}
_NAMES = frozenset(action.value for action in Action)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the stream; `container` is that of which a network tells.

    `kind` is None where it is about a node of a swarm, of which nothing is asked.
    """

    kind: Kind | None
    action: Action
    identity: str
    container: str = ""


def path(since: float) -> str:
    """Where to listen, from a moment on that is told in seconds since 1970.

    With that moment nothing is lost between the head of the answer and Docker's own beginning to
    listen: it repeats what it has told others.
    """
    filters = {"type": list(_TYPES), "event": [action.value for action in Action]}
    query = {"since": f"{since:.9f}", "filters": json.dumps(filters, separators=(",", ":"))}
    return f"/events?{urlencode(query)}"


def event_of(line: bytes) -> Event | None:
    """The event of a line; None if it is of no concern. Raises `InputError` if it is none."""
    try:
        said = Item(json.loads(line), "Docker's event")
    except (ValueError, RecursionError):
        shown = quoted(line.decode(errors="replace"))
        raise InputError((Problem("Docker's event", f"{shown} is not JSON"),)) from None
    what, name = said["Type"].text(), said["Action"].text()
    if what not in _TYPES or name not in _NAMES:
        return None
    actor = said["Actor"]
    container = actor["Attributes"]["container"].text()
    return Event(_TYPES[what], Action(name), actor["ID"].required(), container)
