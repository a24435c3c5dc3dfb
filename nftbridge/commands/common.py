"""What the commands share: reading their options, and printing. Heavy imports wait for use."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nftbridge import config
from nftbridge.errors import InputError, Problem
from nftbridge.model import Host

if TYPE_CHECKING:  # imported only by the functions that need them
    from nftbridge.beside import Beside
    from nftbridge.choice import Choice, Target
    from nftbridge.engine import Engine
    from nftbridge.plan import Plan
    from nftbridge.style import Style
    from nftbridge.trial import Trial

CHANGES = 2
"""Exit status when there is a difference, or something wrong."""


def load(options: Namespace) -> Host:
    """The host that the command's file declares; says what is to be said of it."""
    loaded = config.load(options.file, sys.stdin)
    warn(loaded.warnings)
    return loaded.host


def target(options: Namespace) -> Target:
    """The table, namespace and record that the options name."""
    from nftbridge.choice import Target

    layout = getattr(options, "iptables_layout", None)  # asked of commands that write chains
    return Target(options.table, options.netns, options.state_dir, options.wait, layout)


def wanted(options: Namespace) -> str:
    """The backend that the options name, as `choice` calls it."""
    other = options.iptables == "nft" and options.backend == "iptables"
    return "iptables-nft" if other else str(options.backend)


def docker_socket(options: Namespace) -> str | None:
    """Where the Engine to be watched listens, as --docker and DOCKER_HOST say; None if none is."""
    if options.docker is None:
        return None
    from nftbridge.docker.api import socket_path

    if options.file is None and options.docker.endswith((".toml", ".json")):
        hint = "write FILE before --docker, or --docker=SOCKET"
        raise InputError((Problem("--docker", "takes a socket, not a host file", hint),))
    return socket_path(options.docker or None, os.environ)


def engine_of_last_apply(options: Namespace) -> tuple[Engine, Choice]:
    """An engine to look at, or take out, what was applied, and how it was chosen."""
    from nftbridge.engine import Engine

    return Engine.of_last_apply(target(options), wanted(options))


def warn(warnings: Iterable[Problem]) -> None:
    """On standard error."""
    for warning in warnings:
        print(f"nftbridge: warning: {warning}", file=sys.stderr)


def warned_of_trial(engine: Engine) -> Trial | None:
    """The apply that waits to be confirmed, said: what is there now may not stay."""
    trial = engine.trial()
    if trial is not None:
        print(f"nftbridge: warning: the last apply is {trial}", file=sys.stderr)
    return trial


def warn_of_plan(done: Plan) -> None:
    """What an apply has come upon."""
    from nftbridge.report import remarks

    for remark in remarks(done):
        print(f"nftbridge: warning: {remark}", file=sys.stderr)


def of_others(beside: Beside | None) -> Iterator[str]:
    """What was done, or is to do, in other firewalls beside us."""
    for name, lines in beside.lines().items() if beside else ():
        if lines:
            yield name
            yield from (f"  {line}" for line in lines)


def style() -> Style:
    """Colours for a terminal whose user wants them."""
    from nftbridge.style import Style

    return Style(sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def print_lines(lines: Iterable[str]) -> None:
    """On standard output."""
    for line in lines:
        print(line)


def print_json(data: object) -> None:
    """On standard output."""
    print(json.dumps(data, indent=2))
