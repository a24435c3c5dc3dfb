"""The systemd units: templates in the folder `systemd`, completed with paths."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import resources
from pathlib import Path

from nftbridge.errors import InputError, Problem, UnavailableError

NAMES = ("nftbridge.service", "nftbridge-watch.service")
_SHARED = "hardening.conf"

_UNSPEAKABLE = re.compile(r"[\s\"'\\%$;]|^-")


def made(file: str) -> dict[str, str]:
    """The units by name, for this installation and that host file. Raises `InputError`."""
    path = os.path.abspath(file)
    if _UNSPEAKABLE.search(path):
        hint = "use a path of letters, digits, '/', '.', '-' and '_'"
        raise InputError((Problem("FILE", f"{path!r} cannot stand in a unit", hint),))
    values = {"@NFTBRIDGE@": program(), "@FILE@": path, "@HARDENING@": _template(_SHARED)}
    return {name: _completed(name, values) for name in NAMES}


def written(folder: Path, file: str) -> list[str]:
    """Write the units into `folder`; returns their paths."""
    paths: list[str] = []
    for name, text in made(file).items():
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
