"""The systemd units: templates in the folder `systemd`, completed with paths."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import resources
from pathlib import Path

from nftbridge.docker.api import SOCKET
from nftbridge.errors import InputError, Problem, UnavailableError

_BOOT, _WATCH = "nftbridge.service", "nftbridge-watch.service"
NAMES = (_BOOT, _WATCH)
_SHARED = "hardening.conf"

_UNSPEAKABLE = re.compile(r"[\s\"'\\%$;]|^-")

_ORDER = """\
# Docker waits until its bridges are closed to all that these rules do not let pass.
Before=docker.service
"""
_START = """\
# Bridges with names of your own choice have to be added here.
ExecStartPre=@NFTBRIDGE@ baseline --bridge docker0 --bridge br-*
"""

_NAMES = """\
# Docker's name server in containers.
IPAddressAllow=127.0.0.11
"""

_LOCK = """\
# xtables' lock, for the accepts in iptables-legacy.
ReadWritePaths=/run
"""


def made(file: str, *, legacy: bool = False) -> dict[str, str]:
    """The units by name, for this installation and that host file. Raises `InputError`.

    `legacy` tells that accepts in iptables-legacy are to be kept.
    """
    values = _values(file, None, legacy=legacy)
    return {name: _completed(name, values) for name in NAMES}


def made_for_docker(file: str | None, socket: str, *, legacy: bool = False) -> dict[str, str]:
    """The same for the Docker Engine at a unix socket, and a host file beside it if there is one.

    There is nothing to apply at boot: the service alone knows what Docker has.
    """
    return {_WATCH: _completed(_WATCH, _values(file, socket, legacy=legacy))}


def _values(file: str | None, docker: str | None, *, legacy: bool) -> dict[str, str]:
    """What the placeholders stand for; `docker` is the socket's path, or None."""
    path = None if file is None else _speakable("FILE", file)
    option = None if docker is None else "--docker"
    if docker not in (None, SOCKET):
        option = f"--docker={_speakable('--docker', docker)}"
    capabilities, families = ["CAP_NET_ADMIN"], ["AF_UNIX", "AF_NETLINK"]
    if docker is not None:
        # it opens containers' network namespaces; who may use Docker's socket may do more
        capabilities.append("CAP_SYS_ADMIN")
        families.append("AF_INET")
    if legacy:  # iptables talks to the kernel over a raw socket
        capabilities.append("CAP_NET_RAW")
        families += ["AF_INET", "AF_INET6"]
    return {
        "@DOCKER_ORDER@": _ORDER if docker else "",
        "@DOCKER_START@": _START if docker else "",
        "@HARDENING@": _template(_SHARED),
        "@CAPABILITIES@": " ".join(capabilities),
        "@FAMILIES@": " ".join(dict.fromkeys(families)),
        "@LOCK@": _LOCK if legacy else "",
        "@DOCKER_NAMES@": _NAMES if docker else "",
        "@NAMESPACES@": "net" if docker else "yes",
        "@WATCHED@": " ".join(filter(None, (path, option))),
        "@FILE@": path or "",
        "@NFTBRIDGE@": program(),
    }


def _speakable(where: str, name: str) -> str:
    path = os.path.abspath(name)
    if _UNSPEAKABLE.search(path):
        hint = "use a path of letters, digits, '/', '.', '-' and '_'"
        raise InputError((Problem(where, f"{path!r} cannot stand in a unit", hint),))
    return path


def written(folder: Path, units: dict[str, str]) -> list[str]:
    """Write the units into `folder`; returns their paths."""
    paths: list[str] = []
    for name, text in units.items():
        path = folder / name
        try:
            path.write_text(text)
        except OSError as error:
            message = f"{path} cannot be written: {error.strerror}"
            raise UnavailableError(message, hint="run as root, or name another folder") from error
        paths.append(str(path))
    return paths


def program() -> str:
    """How this installation is started: its script, or the interpreter with the module."""
    script = Path(sys.executable).parent / "nftbridge"
    if script.is_file():
        return str(script)
    return shutil.which("nftbridge") or f"{sys.executable} -m nftbridge"


def _completed(name: str, values: dict[str, str]) -> str:
    text = _template(name)
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _template(name: str) -> str:
    return (resources.files("nftbridge.watch") / "systemd" / name).read_text(encoding="utf-8")
