"""The only door to libnftables: run a document, list our table, say what an error is about."""

from __future__ import annotations

import gc
import importlib
import json
import os
import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from nftbridge import netns as namespaces
from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.nft.document import Command, wrapped
from nftbridge.nft.explain import culprit, missing_option
from nftbridge.nft.generation import Counter, current
from nftbridge.nft.syntax import Json

_FD_SETSIZE = 1024
_CAP_NET_ADMIN = 12  # include/uapi/linux/capability.h
_HELD = (
    "if `nft list table inet {}` says 'flags owner', a program holds the table: its name stands"
    " there, and nobody else can change the table before it ends"
)
_JSON = json.JSONEncoder(check_circular=False, separators=(",", ":"))
_PACKAGES = "install your distribution's python3-nftables, e.g. apt install python3-nftables"


class _Nftables(Protocol):
    """What is used of the distribution's binding, class ``nftables.Nftables``."""

    def cmd(self, cmdline: str) -> tuple[int, str, str]: ...
    def set_json_output(self, val: bool, /) -> bool: ...  # noqa: FBT001 - theirs
    def set_handle_output(self, val: bool, /) -> bool: ...  # noqa: FBT001 - theirs
    def set_dry_run(self, onoff: bool, /) -> tuple[bool, bool]: ...  # noqa: FBT001 - theirs


class Connection(NamedTuple):
    """What is kept open while many changes are made."""

    writer: _Nftables
    counter: Counter


class Kernel:
    """nf_tables of one network namespace, seen through our table.

    Reading and writing each get a libnftables context of their own: one that has listed a large set
    keeps it cached and pays for it at every write.
    """

    def __init__(self, table: str, netns: str | None = None) -> None:
        self.table = table
        self._netns = netns
        self._connection: Connection | None = None

    def objects(self) -> list[Json] | None:
        """Everything in our table as libnftables lists it; None if there is no such table."""
        command: Command = {"list": {"table": {"family": "inet", "name": self.table}}}
        status, output, errors = self._run(_text([command]))
        if status != 0:
            if "No such file or directory" in errors:
                return None
            raise _refused(errors, "listing", None)
        try:
            return cast("list[Json]", json.loads(output)["nftables"]) if output else None
        except ValueError as error:
            message = "this nft cannot list the table: what it prints is no JSON"
            hint = _HELD.format(self.table)
            raise KernelRefusedError(message, culprit=self.table, hint=hint) from error

    @contextmanager
    def connected(self) -> Generator[None]:
        """Keep a context and a socket open for `send` and `generation`.

        That saves 0.4 ms a change, and after a deletion the RCU grace period (10 ms) for which the
        kernel lets a netlink socket wait when it is closed.
        """
        _check_descriptors()
        with namespaces.inside(self._netns):
            self._connection = Connection(_context(), Counter())
        try:
            yield
        finally:
            self._connection.counter.close()
            self._connection = None

    def generation(self) -> int | None:
        """How many transactions nf_tables has seen in this namespace; None if it does not say."""
        if self._connection is not None:
            return self._connection.counter.read()
        with namespaces.inside(self._netns):
            return current()

    def send(self, commands: list[Command]) -> None:
        """`commit` a few elements, by the open connection if there is one."""
        if self._connection is None:
            self.commit(commands)
            return
        document = _text(commands)
        status, _, errors = self._connection.writer.cmd(document)
        if status != 0:
            raise _refused(errors, "loading", self._first_refused(_commands(document)))

    def commit(self, commands: Iterable[Command], *, explained: bool = True) -> None:
        """Run all commands as one transaction; they are needed once, as text.

        Raises `KernelRefusedError`, if `explained` naming the first command that the kernel objects
        to, for which it has to be asked some ten times; nothing of the document has happened then.
        """
        document = _text(commands)
        status, _, errors = self._run(document)
        if status != 0:
            culprit = self._first_refused(_commands(document)) if explained else None
            raise _refused(errors, "loading", culprit)

    def check(self, commands: Iterable[Command]) -> None:
        """Raise what `commit` would raise; the kernel goes through it all and changes nothing."""
        status, _, errors = self._run(_text(commands), dry=True)
        if status != 0:
            raise _refused(errors, "checking", None)

    def objection(self, commands: Iterable[Command]) -> str:
        """What the kernel has against them, and against which one; "" if nothing."""
        document = _text(commands)
        status, _, errors = self._run(document, dry=True)
        if status == 0:
            return ""
        refusal = _refused(errors, "checking", self._first_refused(_commands(document)))
        return refusal.reason if isinstance(refusal, KernelRefusedError) else str(refusal)

    def _first_refused(self, commands: list[Command]) -> Command | None:
        """The command with which a dry run of the document starts to fail, by bisection."""
        if self._accepts(commands):
            return None  # refused only for real, e.g. out of memory or changed meanwhile
        good, bad = 0, len(commands)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if self._accepts(commands[:middle]) else (good, middle)
        return self._narrowed(commands[:good], commands[good])

    def _narrowed(self, before: list[Command], command: Command) -> Command:
        """The same command with the one element that is refused, if it is about elements."""
        for verb, body in command.items():
            elements = body.get("element", {}).get("elem", [])
            while len(elements) > 1:
                half = elements[: len(elements) // 2]
                accepted = self._accepts(
                    [*before, {verb: {"element": body["element"] | {"elem": half}}}]
                )
                elements = elements[len(half) :] if accepted else half
            if elements:
                return {verb: {"element": body["element"] | {"elem": elements}}}
        return command

    def _accepts(self, commands: list[Command]) -> bool:
        return self._run(_text(commands), dry=True)[0] == 0

    def _run(self, document: str, *, dry: bool = False) -> tuple[int, str, str]:
        _check_descriptors()
        if not _may_administer():  # or libnftables writes a line of its own to standard error
            raise _not_permitted("using nf_tables")
        with namespaces.inside(self._netns):
            context = _context()
            if dry:
                context.set_dry_run(True)
            return context.cmd(document)


def trim() -> None:
    """Give back to the system what libnftables has freed, where the C library can (glibc).

    It allocates 1.7 kB an element in small pieces, which glibc keeps: of 600 MB after a transaction
    of 300,000 elements, 550 MB. Python keeps some thousand freed tuples until it collects garbage,
    and with them most of the memory they were scattered over, 20 MB. Only programs that stay need
    this; it takes a few milliseconds.
    """
    import ctypes  # noqa: PLC0415 - not for the commands

    gc.collect()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def _text(commands: Iterable[Command]) -> str:
    """`wrap`, written one command at a time: the largest of them has a whole set in it."""
    return '{"nftables":[' + ",".join(map(_JSON.encode, wrapped(commands))) + "]}"


def _commands(document: str) -> list[Command]:
    """What `_text` was given."""
    _, *commands = cast("list[Command]", json.loads(document)["nftables"])
    return commands


def check_binding() -> None:
    """Raise `UnavailableError` if libnftables or its Python binding is missing, or has no JSON.

    Talks to no kernel.
    """
    status, _, errors = _context().cmd(_text([]))
    # built without JSON, it takes the document for nft's own language
    if status != 0 and "syntax error" in errors:
        raise UnavailableError("libnftables was built without JSON", hint=_PACKAGES)


def _context() -> _Nftables:
    try:
        binding: Any = importlib.import_module("nftables")
        context = cast("_Nftables", binding.Nftables())
    except ModuleNotFoundError as error:
        raise UnavailableError("libnftables' Python binding is missing", hint=_PACKAGES) from error
    except OSError as error:
        raise UnavailableError(f"libnftables cannot be loaded: {error}", hint=_PACKAGES) from error
    context.set_json_output(True)
    context.set_handle_output(True)
    return context


def _check_descriptors() -> None:
    """Libnftables waits with select(): a descriptor above its limit would abort the process."""
    with open(os.devnull, "rb") as lowest_free:
        if lowest_free.fileno() >= _FD_SETSIZE - 8:
            raise UnavailableError(
                f"{lowest_free.fileno()} files are open and libnftables cannot cope with that many",
                hint="close files, or run the nftbridge command instead of calling it in process",
            )


def _refused(
    errors: str, doing: str, command: Command | None
) -> KernelRefusedError | UnavailableError:
    reason = _reason(errors)
    if "Operation not permitted" in reason or "Permission denied" in reason:
        return _not_permitted(f"{doing} the table", held=_may_administer())
    if "Protocol not supported" in reason or "Address family not supported" in reason:
        hint = "a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET, or --backend iptables"
        return UnavailableError("this kernel has no nf_tables", hint=hint)
    named = "" if command is None else culprit(command)
    return KernelRefusedError(
        f"the kernel refused it, nothing was changed: {reason}",
        culprit=named,
        hint="" if command is None else missing_option(command, reason),
    )


def _not_permitted(what: str, *, held: bool = False) -> UnavailableError:
    """`held`: the capability is there, so it may be somebody who has made the table his own."""
    hint = "run as root, or with CAP_NET_ADMIN in that network namespace"
    if held:
        hint += f"; {_HELD.format('NAME')}"
    return UnavailableError(f"{what} is not permitted", hint=hint)


def _may_administer() -> bool:
    """Whether this thread has CAP_NET_ADMIN in its user namespace; if in doubt, yes."""
    try:
        status = Path("/proc/thread-self/status").read_text()
    except OSError:
        return True
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> _CAP_NET_ADMIN & 1)


def _reason(errors: str) -> str:
    """The first error of libnftables' output without its made-up position."""
    first = next((line for line in errors.splitlines() if "Error:" in line), errors.strip())
    return re.sub(r"^.*?Error:\s*(Could not process rule:\s*)?", "", first) or "no reason given"
