"""What a running Engine was started with: the process behind its socket, its words, its file.

What cannot be read, or is no dockerd, is not known; nothing depends on it then.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from json import JSONDecodeError
from pathlib import Path
from typing import cast

from nftbridge.docker.host import UNKNOWN, DaemonOptions
from nftbridge.errors import InputError, Problem

DAEMON_JSON = Path("/etc/docker/daemon.json")
"""Docker's configuration file where nobody names another one."""

FIREWALL = ("iptables", "ip6tables")
"""The options that switch Docker's own firewall off, whichever it is; dockerd refuses to start
where one of them is both on its command line and in its file, be they the same."""

BYTE_ORDER_MARK = "\ufeff"
"""What Docker reads over at the beginning of its file."""

_FLAGS = (*FIREWALL, "userland-proxy", "allow-direct-routing", "ip-masq", "icc")
_TRUTHS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
"""As Go's strconv.ParseBool has them."""

_PIDFILE = Path("/run/docker.pid")
_INIT = 1
_PEER = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """A dockerd's command line: `flags` with their values, `file` if it names one.

    `root` is its root directory, as found from here; None if nothing is known.
    """

    flags: Mapping[str, bool] = field(default_factory=dict[str, bool])
    file: Path | None = None
    root: Path | None = None

    @property
    def off(self) -> bool:
        """Whether it says that Docker is to have no firewall, which holds as long as it runs."""
        return all(self.flags.get(option) is False for option in FIREWALL)

    @property
    def insisting(self) -> tuple[str, ...]:
        """Options of the firewall's that it switches on: no file can switch them off."""
        return tuple(option for option in FIREWALL if self.flags.get(option) is True)

    @property
    def reads(self) -> Path:
        """Its configuration file, as it names it."""
        return self.file or DAEMON_JSON

    def is_read_from(self, path: Path) -> bool:
        """Whether its configuration file is the one at `path` here; True if nothing is known."""
        return self.root is None or _same(self.root / self.reads.relative_to("/"), path)


def options_in(text: str, name: str) -> dict[str, object]:
    """What a daemon.json says. Raises `InputError` if it is none; an empty one says nothing."""
    bare = text.removeprefix(BYTE_ORDER_MARK)
    if not bare.strip():
        return {}
    try:
        found: object = json.loads(bare)
    except (JSONDecodeError, RecursionError) as error:
        problem = Problem(name, f"is no JSON: {error}", "Docker would not start with it; mend it")
        raise InputError((problem,)) from error
    if not isinstance(found, dict):
        raise InputError((Problem(name, "is no JSON object", "Docker would not start with it"),))
    return cast("dict[str, object]", found)


def options_of(found: Started) -> DaemonOptions:
    """Those that the API does not tell; nothing is known of them if its file cannot be read."""
    if found.root is None:
        return UNKNOWN
    try:
        text = (found.root / found.reads.relative_to("/")).read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except (OSError, ValueError):
        return UNKNOWN
    try:
        held = {**options_in(text, str(found.reads)), **found.flags}
    except InputError:
        return UNKNOWN
    return DaemonOptions(
        userland_proxy=held.get("userland-proxy") is not False,
        allow_direct_routing=held.get("allow-direct-routing") is True,
        ip_masq=held.get("ip-masq") is not False,
    )


def started(path: str) -> Started:
    """What the Engine at the unix socket `path` was started with."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            return started_as(peer_of(sock))
    except OSError:
        return Started()


def started_as(peer: int) -> Started:
    """The same for the process `peer` that has made its socket, 0 for a stranger."""
    try:
        process = _engine(peer)
        if process is None:
            return Started()
        found = parsed(_command_line(process))
        if found.file is not None and not found.file.is_absolute():
            found = replace(found, file=os.readlink(process / "cwd") / found.file)
    except OSError:
        return Started()
    return replace(found, root=_root(process))


def _root(process: Path) -> Path:
    """Its root directory; ours where that may not be looked at, as in the service's own unit."""
    root = process / "root"
    return root if os.path.exists(root) else Path("/")


def parsed(words: Sequence[str]) -> Started:
    """What a command line of dockerd says; of an option that comes twice the last one counts."""
    flags: dict[str, bool] = {}
    file: Path | None = None
    for name, value, following in _options(words[1:]):
        if name in _FLAGS and value in _TRUTHS:
            flags[name] = _TRUTHS[value]
        elif name in _FLAGS and value is None:
            flags[name] = True
        elif name == "config-file":
            file = Path(value or following)
    return Started(flags, file)


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None, str]]:
    """Long options: the name, the value behind ``=`` or None, and the word that follows."""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word == "--":
            return
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            yield name, value if equals else None, following


def peer_of(sock: socket.socket) -> int:
    """The process that made the socket and waits at it, as numbered here; 0 for a stranger."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(raw)[0])


def _engine(peer: int) -> Path | None:
    """The folder in /proc of the dockerd that made the socket, or for which systemd has made it."""
    number = _PIDFILE.read_text(errors="replace").strip() if peer == _INIT else str(peer)
    process = Path("/proc", number)
    words = _command_line(process)
    return process if words and os.path.basename(words[0]) == "dockerd" else None


def _command_line(process: Path) -> list[str]:
    raw = (process / "cmdline").read_bytes()
    return [os.fsdecode(word) for word in raw.split(b"\0")[:-1]]


def _same(one: Path, other: Path) -> bool:
    """Whether both are one file, or would be if it were there."""
    while True:
        try:
            return os.path.samestat(one.stat(), other.stat())
        except FileNotFoundError:
            if one.name != other.name or not one.name:
                return False
            one, other = one.parent, other.parent
        except OSError:
            return False
