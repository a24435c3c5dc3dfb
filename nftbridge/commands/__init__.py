"""One function per command, found by name; only what the command at hand needs is imported."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from keyword import iskeyword
from typing import cast

MODULES = {
    "check": "files",
    "render": "files",
    "plan": "kernel",
    "apply": "kernel",
    "verify": "kernel",
    "status": "kernel",
    "explain": "questions",
    "remove": "kernel",
    "probe": "questions",
    "doctor": "questions",
    "demo": "questions",
    "confirm": "service",
    "rollback": "service",
    "baseline": "service",
    "import": "files",
    "snippet": "files",
    "watch": "service",
    "units": "files",
    "migrate": "migrate",
}
"""Where each command's function is; it has the command's name, and `_` if Python has that word."""


def handler(command: str) -> Callable[[Namespace], int]:
    """The function that runs `command` and returns its exit status."""
    module = import_module(f"nftbridge.commands.{MODULES[command]}")
    name = f"{command}_" if iskeyword(command) else command
    return cast("Callable[[Namespace], int]", getattr(module, name))
