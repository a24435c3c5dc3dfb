"""The command line: arguments, and which exit status is whose. The work is in `commands`."""

from __future__ import annotations

import argparse
import errno
import gc
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from nftbridge import __version__, defaults
from nftbridge.errors import InputError, NftbridgeError, Problem
from nftbridge.nft.words import RESERVED

_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_LONG = 1e6
_INTERRUPTED = 128 + 2  # as shells report death by SIGINT
_BROKEN_PIPE = 128 + 13  # and by SIGPIPE
_SOFTWARE_FAILURE = 70  # EX_SOFTWARE of sysexits.h

_EXIT_STATUSES = """\
exit status:
  0  done, or nothing to do
  1  bad input or usage
  2  plan: there are changes; verify: the kernel differs; doctor: something is wrong
  3  refused by the kernel, nothing was changed
  4  partly applied (iptables, across tables)
  5  a privilege or a component is missing
"""
_Group: TypeAlias = Callable[["_Parser"], None]
"""Adds the arguments of one kind to a parser."""

_FILE = "a .toml or .json file, a folder of them, or - for JSON on standard input"


class _Parser(argparse.ArgumentParser):
    """One command's arguments, which `groups` add when it is that command's turn.

    The arguments of all others take 10 ms to declare, and nobody looks at them.
    """

    def __init__(self, *, groups: Iterable[_Group] = (), **options: Any) -> None:
        super().__init__(**options)
        self._groups = tuple(groups)

    def parse_known_args(self, *arguments: Any, **options: Any) -> Any:
        """What argparse begins with."""
        for add in self._groups:
            add(self)
        self._groups = ()
        return super().parse_known_args(*arguments, **options)

    def error(self, message: str) -> NoReturn:
        """Raise; argparse would exit with 2, which means something else here."""
        hint = f"see `{self.prog} --help`"
        raise InputError((Problem("", message, hint),))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status. All output is written here and in `commands`."""
    gc.disable()  # one command makes no cycles worth looking for, and may make a million tuples
    _prepare_streams()
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status = _outcome(arguments, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        return _without_reader(_BROKEN_PIPE)
    except OSError as error:
        message = f"the result could not be written: {error.strerror}"
        print(f"nftbridge: {message}; what was to be done is done", file=sys.stderr)
        return _without_reader(_SOFTWARE_FAILURE)
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def run() -> NoReturn:
    """`main` as a process of its own, which ends with it.

    Python would free a million tuples one by one before; the system takes back all at once.
    """
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(status)


def _outcome(arguments: list[str] | None, *, as_json: bool) -> int:
    try:
        return _run(_parser().parse_args(arguments))
    except NftbridgeError as error:
        return _report(error, as_json=as_json)
    except Exception as error:  # the user gets a sentence, not a traceback
        if _is_about_output(error) or "NFTBRIDGE_DEBUG" in os.environ:
            raise
        print(f"nftbridge: internal error: {error!r}", file=sys.stderr)
        print("    hint: please report it; NFTBRIDGE_DEBUG=1 shows where", file=sys.stderr)
        return _SOFTWARE_FAILURE


def _is_about_output(error: Exception) -> bool:
    """Writing to an open stream fails without a file name."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EPIPE)
    return isinstance(error, OSError) and error.errno in full and error.filename is None


def _run(options: argparse.Namespace) -> int:
    from nftbridge import commands

    return commands.handler(options.command)(options)


def _report(error: NftbridgeError, *, as_json: bool) -> int:
    for line in str(error).splitlines():
        print(f"nftbridge: {line}" if not line.startswith(" ") else line, file=sys.stderr)
    if as_json:
        print(json.dumps(error.details() | {"exit_status": error.exit_status}, indent=2))
    return error.exit_status


def _prepare_streams() -> None:
    """A closed stream swallows what is written to it; one that lacks a character escapes it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # open until the process ends, like the stream that it stands for
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _without_reader(status: int) -> int:
    """Let what is still to be written go nowhere, or the interpreter would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _parser() -> _Parser:
    parser = _Parser(
        prog="nftbridge",
        description="A host's container bridge networks as one atomic nftables transaction.",
        epilog=_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nftbridge {__version__}")
    verbs = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", prog=parser.prog
    )

    def verb(name: str, summary: str, *groups: _Group) -> None:
        verbs.add_parser(name, help=summary, description=summary, groups=groups)

    verb("check", "validate a host file", _file, _common)
    verb("render", "print what would be loaded", _file, _table, _layout, _common, _format)
    verb("plan", "show what apply would change", _file, _target, _layout, _common)
    summary = "bring the kernel to the host file in one transaction"
    verb("apply", summary, _file, _target, _layout, _common, _trial)
    verb("verify", "compare the kernel with what was last applied", _target, _common, _quiet)
    verb("status", "show networks, ports, counters and the backend", _target, _common)
    summary = "follow a packet: which rule decides, hook by hook"
    verb("explain", summary, _target, _common, _question)
    summary = "take out all that is ours; rules in DOCKER-USER are kept"
    verb("remove", summary, _target, _common, _everything)
    verb("snippet", "print lines that other firewalls need", _target, _common, _firewall)
    verb("probe", "try what this kernel offers, in a namespace thrown away afterwards", _common)
    verb("doctor", "say what else on this host kills or leaks traffic", _target, _common, _flow)
    verb("demo", "show it in throw-away network namespaces; the host is not touched", _common)
    verb("import", "make a host file of what a container engine says", _engines)
    summary = "keep what apply --confirm has brought, before its time is up"
    verb("confirm", summary, _target, _common)
    verb("rollback", "go back to what was applied before", _target, _layout, _common, _list)
    summary = "forward nothing into or out of bridges until apply"
    verb("baseline", summary, _target, _common, _bridges)
    summary = "keep the kernel as the host file, or Docker, declares it, as a service"
    verb("watch", summary, _watched, _target, _layout, _common)
    summary = "print the systemd units for boot and for watch, or write them"
    verb("units", summary, _common, _units)
    verb("migrate", "go over from a container engine's own firewall, and back", _migrations)
    return parser


def _trial(parser: _Parser) -> None:
    parser.add_argument(
        "--confirm",
        type=_trial_seconds,
        metavar="SECONDS",
        help="go back by itself after that long, unless `nftbridge confirm` comes",
    )
    parser.add_argument(
        "--if-changed", action="store_true", help="say nothing if there is nothing to do"
    )


def _quiet(parser: _Parser) -> None:
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing, or what is wrong in a line"
    )


def _everything(parser: _Parser) -> None:
    parser.add_argument("--all", action="store_true", help="take out the rules in DOCKER-USER too")


def _list(parser: _Parser) -> None:
    parser.add_argument("--list", action="store_true", help="only show what was applied before")


def _bridges(parser: _Parser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"{_FILE}; its bridges")
    parser.add_argument(
        "--bridge",
        action="append",
        default=[],
        type=_bridge,
        metavar="NAME",
        help="a bridge, or all whose names begin so: 'br-*'; may be repeated",
    )
    parser.add_argument(
        "--print",
        action="store_true",
        help="only print it, for nft -f and nftables.service; with --json for nft -j -f",
    )


def _question(parser: _Parser) -> None:
    """The packet to follow. Values are read later, so that all faults are told at once."""
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"{_FILE}; optional with --live")
    _add_packet(parser, required=True)
    parser.add_argument(
        "--host-address",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="an address of the host; may be repeated, and ends the guessing",
    )
    parser.add_argument(
        "--live", action="store_true", help="ask what the kernel holds, DOCKER-USER included"
    )


def _watched(parser: _Parser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"{_FILE}; optional with --docker")
    parser.add_argument(
        "--docker",
        nargs="?",
        const="",
        metavar="SOCKET",
        help="keep it as that Docker Engine's networks and containers need it, FILE beside them"
        " (default: $DOCKER_HOST, or /var/run/docker.sock)",
    )


def _units(parser: _Parser) -> None:
    """Which host file the units are for, and where they go."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="the host file or folder that they are for"
        f" (default: {defaults.HOST_FILES}; none with --docker)",
    )
    parser.add_argument(
        "--docker",
        nargs="?",
        const="",
        metavar="SOCKET",
        help="the unit of watch --docker, with FILE beside it"
        " (default: $DOCKER_HOST, or /var/run/docker.sock)",
    )
    parser.add_argument(
        "--write", type=Path, metavar="DIR", help="write them there, e.g. /etc/systemd/system"
    )


def _flow(parser: _Parser) -> None:
    """A host file, and the packet to ask about if it is not about everything."""
    parser.add_argument("file", metavar="FILE", nargs="?", help=f"{_FILE}; else as last applied")
    _add_packet(parser, required=False)


def _add_packet(parser: _Parser, *, required: bool) -> None:
    """One packet; `required` is whether there must be one. Then it has these four at least.

    Else, if there is one, --src and --proto may be left out.
    """
    for option, dest, metavar, meaning in (
        ("--in", "iif", "IF", "where the packet comes in: a bridge, an uplink, or host"),
        ("--src", "source", "ADDRESS", "its source"),
        ("--dst", "destination", "ADDRESS", "its destination, before any translation"),
        ("--proto", "protocol", "PROTOCOL", "tcp, udp, sctp or icmp"),
    ):
        parser.add_argument(option, dest=dest, metavar=metavar, required=required, help=meaning)
    parser.add_argument("--dport", metavar="PORT", help="its destination port, not for icmp")
    parser.add_argument("--out", metavar="IF", help="its way out, where no route says it")


def _engines(parser: _Parser) -> None:
    engines = parser.add_subparsers(dest="engine", required=True, metavar="ENGINE")
    summary = "from Docker: a running Engine, or what it said before"
    groups = (_common, _inspected, _host_format)
    engines.add_parser("docker", help=summary, description=summary, groups=groups)


def _inspected(docker: _Parser) -> None:
    """Where to learn of Docker's networks and containers."""
    docker.add_argument(
        "--docker",
        metavar="SOCKET",
        help="Docker's unix socket (default: $DOCKER_HOST, or /var/run/docker.sock)",
    )
    docker.add_argument("--networks", metavar="FILE", help="what docker network inspect printed")
    docker.add_argument(
        "--containers", metavar="FILE", help="what docker container inspect printed"
    )
    docker.add_argument(
        "--from",
        dest="folder",
        metavar="FOLDER",
        help="both of them, as networks.json and containers.json; info.json if there is one",
    )
    for option in ("userland-proxy", "allow-direct-routing", "ip-masq"):
        docker.add_argument(
            f"--{option}",
            action=argparse.BooleanOptionalAction,
            help="what the daemon was started with, which its API does not tell",
        )


def _host_format(docker: _Parser) -> None:
    docker.add_argument(
        "--format",
        choices=("toml", "json"),
        default="toml",
        help="of the host file (default: %(default)s; --json means json)",
    )


_MIGRATION = """\
Without --apply or --undo only a plan is printed. With --apply the rules in DOCKER-USER are carried
over, nftbridge's rules come in, then Docker's own rules go out: established connections go on, and
nothing passes that may not. What was there is kept for --undo.
"""


def _migrations(parser: _Parser) -> None:
    engines = parser.add_subparsers(dest="engine", required=True, metavar="ENGINE")
    groups = (_target, _common, _inspected, _migration)
    summary = "from Docker's own rules"
    engines.add_parser("docker", help=summary, description=_MIGRATION, groups=groups)


def _migration(docker: _Parser) -> None:
    docker.add_argument("--apply", action="store_true", help="do it; else only show it")
    docker.add_argument("--undo", action="store_true", help="go back to Docker's own rules")
    docker.add_argument(
        "--write",
        action="store_true",
        help="with --apply: switch off Docker's firewall in FILE",
    )
    docker.add_argument(
        "--daemon-json",
        type=Path,
        metavar="FILE",
        help="that file (default: the one that Docker was started with, else"
        " /etc/docker/daemon.json)",
    )
    docker.add_argument(
        "--forward-policy",
        choices=("auto", "keep", "accept"),
        default="auto",
        help="what to do where iptables' FORWARD drops by policy: auto takes it back if nothing"
        " speaks for others having set it; where it is kept, accepts for our bridges are put in",
    )


def _firewall(parser: _Parser) -> None:
    """Whom the lines are for; the choices are `snippet.FIREWALLS`, which is not imported here."""
    meaning = f"{_FILE}; without it, what was last applied"
    parser.add_argument("file", metavar="FILE", nargs="?", help=meaning)
    parser.add_argument(
        "--for",
        dest="firewall",
        choices=("nft", "ufw", "firewalld", "iptables"),
        required=True,
        help="the firewall that would drop what nftbridge accepts",
    )


def _format(parser: _Parser) -> None:
    parser.add_argument(
        "--format",
        choices=("json", "nft", "restore", "restore6"),
        default="json",
        help="for nft -j -f, nft -f, iptables-restore, ip6tables-restore (default: %(default)s)",
    )


def _common(parser: _Parser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="machine-readable result on standard output"
    )


def _file(parser: _Parser) -> None:
    parser.add_argument("file", metavar="FILE", help=_FILE)


def _table(parser: _Parser) -> None:
    parser.add_argument(
        "--table",
        default=defaults.TABLE,
        metavar="NAME",
        type=_table_name,
        help="name of the nftables table (default: %(default)s)",
    )


def _target(parser: _Parser) -> None:
    _table(parser)
    parser.add_argument(
        "--backend",
        choices=("auto", "nftables", "iptables"),
        default="auto",
        help="auto takes nftables where the kernel has it (default: %(default)s)",
    )
    parser.add_argument(
        "--iptables",
        choices=("legacy", "nft"),
        default="legacy",
        help="which programs the iptables backend runs (default: %(default)s)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=defaults.WAIT,
        metavar="SECONDS",
        help="how long another program may hold xtables' lock (default: %(default)s)",
    )
    parser.add_argument(
        "--netns", metavar="NAME_OR_PATH", help="program that network namespace instead of this one"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=defaults.STATE_DIRECTORY,
        metavar="DIR",
        help="where to keep what was last applied (default: %(default)s)",
    )


def _layout(parser: _Parser) -> None:
    parser.add_argument(
        "--iptables-layout",
        choices=("docker", "tree"),
        default="docker",
        help="shape of iptables' chains: Docker's lists, or trees, which many ports make faster"
        " (default: %(default)s)",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds < _LONG:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds: write e.g. 5")
    return seconds


def _trial_seconds(text: str) -> float:
    seconds = _seconds(text)
    if not seconds:
        raise argparse.ArgumentTypeError("0 seconds are too few to confirm anything: write e.g. 60")
    return seconds


def _bridge(text: str) -> str:
    """An interface name, or the beginning of one with a final ``*``."""
    from nftbridge.model import interface_name_problem

    # the wildcard takes the place of a byte
    problem = interface_name_problem(text[:-1] + "x" if len(text) > 1 and text[-1] == "*" else text)
    if problem is not None:
        raise argparse.ArgumentTypeError(f"'{text}' cannot be closed: {problem}")
    return text


def _table_name(text: str) -> str:
    if text in RESERVED:
        raise argparse.ArgumentTypeError(f"'{text}' is a word of nft's language: choose another")
    if _TABLE_NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"'{text}' cannot be the name of a table: "
            "write a letter, then letters, digits, '_', '.' or '-', 64 at most"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
