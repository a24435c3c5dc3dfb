"""What a running Engine was started with: the process behind its socket, and its command line.

What cannot be read, or is no dockerd, is not known; nothing depends on it then.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

DAEMON_JSON = Path("/etc/docker/daemon.json")
"""Docker's configuration file where nobody names another one."""

FIREWALL = ("iptables", "ip6tables")
"""The options that switch Docker's own firewall off, whichever it is; dockerd refuses to start
where one of them is both on its command line and in its file, be they the same."""

_FLAGS = (*FIREWALL, "userland-proxy", "allow-direct-routing")
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


def started(path: str) -> Started:
    """What the Engine at the unix socket `path` was started with."""
    try:
        process = _engine(path)
        if process is None:
            return Started()
        found = parsed(_command_line(process))
        here = Path(os.readlink(process / "cwd"))
    except OSError:
        return Started()
    file = None if found.file is None else here / found.file
    return Started(found.flags, file, process / "root")


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


def _engine(path: str) -> Path | None:
    """The folder in /proc of the dockerd that made the socket, or for which systemd has made it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE)
        sock.connect(path)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    number = _PEER.unpack(raw)[0]
    if number == _INIT:
        number = _PIDFILE.read_text().strip()
    process = Path("/proc", str(number))
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
