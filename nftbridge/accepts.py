"""Accepts in iptables' FORWARD chain, where that drops what is accepted in nftables alone.

A packet that nftables accepts still passes iptables' FORWARD, and a drop there is final. A
migration that leaves one in place puts a jump to the chain `CHAIN` where Docker's accepts were. It
holds two lines for each bridge, and every apply keeps these: they go before our rules about a
bridge do, and come after them, so that iptables lets nothing pass that nobody decides about.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from nftbridge.choice import Target
from nftbridge.compat.tables import SITES, Site, Table, change, table_of
from nftbridge.compat.tools import Tools
from nftbridge.errors import NftbridgeError, UnavailableError
from nftbridge.model import Family, Host
from nftbridge.state import State

FORWARD = "FORWARD"
CHAIN = "NFTBRIDGE"
JUMP = f"-j {CHAIN}"


@dataclass(frozen=True, slots=True)
class Change:
    """What one place holds, and what it shall; `astray` tells that nothing leads to the chain."""

    site: Site
    held: tuple[str, ...]
    wanted: tuple[str, ...]
    astray: bool

    def __bool__(self) -> bool:
        return self.astray or self.held != self.wanted

    @property
    def staying(self) -> tuple[str, ...]:
        """The lines that it has before and after."""
        return tuple(line for line in self.wanted if line in self.held)

    def lines(self) -> Iterator[str]:
        """What is to be done, a line each."""
        if self.astray:
            yield f"+ {self.site}: -A {FORWARD} {JUMP}"
        for sign, lines, others in (
            ("-", self.held, self.wanted),
            ("+", self.wanted, self.held),
        ):
            for line in lines:
                if line not in others:
                    yield f"{sign} {self.site}: -A {CHAIN} {line}"


@dataclass(frozen=True, slots=True)
class Steps:
    """What brings the chains to what is wanted; false if there is nothing to do."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def lines(self) -> Iterator[str]:
        """What is to be done, a line each."""
        return (line for change in self.changes for line in change.lines())


class Places(State):
    """The record of where such chains are kept, beside what was last applied."""

    @classmethod
    def at(cls, target: Target) -> Places:
        """The record of that table in that namespace."""
        return cls.of(target.state_directory, target.table, target.netns)

    def sites(self) -> tuple[Site, ...]:
        """The places of iptables."""
        known = self.accepting()
        return tuple(site for site in SITES if site.key in known)

    def add(self, site: Site) -> None:
        """Put one more on record, before its chain is made."""
        self.set_accepting({*self.accepting(), site.key})

    @contextmanager
    def held(self) -> Generator[None]:
        """Let nobody else change these chains meanwhile."""
        with self._opened("accepts.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def body(bridges: Iterable[str]) -> tuple[str, ...]:
    """What the chain holds: whatever is from or to one of these bridges passes."""
    return tuple(f"{way} {name} -j ACCEPT" for name in sorted(bridges) for way in ("-i", "-o"))


def declared(lines: Iterable[str]) -> list[str]:
    """The chain with these lines and no others, in words of iptables-restore."""
    return [f":{CHAIN} - [0:0]", *(f"-A {CHAIN} {line}" for line in lines)]


def bridges(host: Host, family: Family) -> Iterator[str]:
    """Those about which our rules decide in that family."""
    return (network.bridge for network in host.networks if network.subnet(family))


class Accepts:
    """The chains that are on record, in one network namespace."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._places = Places.at(target)

    def steps(self, after: Host | None) -> Steps:
        """What brings them to `after` (None: a host without networks); changes nothing."""
        found = (self._change(site, after) for site in self._places.sites())
        return Steps(tuple(filter(None, found)))

    @contextmanager
    def around(self, after: Host | None) -> Generator[Steps]:
        """Bring them to `after`, while the body does the same to our rules.

        If the body fails, the lines that went come back.
        """
        with self._places.held():
            steps = self.steps(after)
            leaving = [change for change in steps.changes if change.staying != change.held]
            try:
                for change in leaving:
                    self._set(change.site, change.staying)
                yield steps
            except BaseException:
                for change in leaving:
                    self._set(change.site, change.held)
                raise
            for change in steps.changes:
                self._let_in(change)

    def take_out(self) -> None:
        """Take them out, and off the record."""
        with self._places.held():
            for site in self._places.sites():
                change(self._tools(site), site, "filter", _removal)
            self._places.set_accepting(())

    def _change(self, site: Site, after: Host | None) -> Change:
        table = table_of(self._tools(site), site.family, "filter")
        wanted = body(() if after is None else bridges(after, site.family))
        return Change(site, table.lines(CHAIN), wanted, JUMP not in table.lines(FORWARD))

    def _set(self, site: Site, lines: Sequence[str]) -> None:
        """Put these into the chain, instead of all others."""
        change(self._tools(site), site, "filter", lambda _: _whole(declared(lines)))

    def _let_in(self, done: Change) -> None:
        """Put in what is wanted, and what leads there: behind all rules of others, if it is gone.

        Raises `UnavailableError`.
        """

        def script(table: Table) -> str:
            jump = [] if JUMP in table.lines(FORWARD) else [f"-A {FORWARD} {JUMP}"]
            return _whole([*declared(done.wanted), *jump])

        try:
            change(self._tools(done.site), done.site, "filter", script)
        except NftbridgeError as error:
            what, _, _ = str(error).partition("\n")
            message = f"the rules are in, but {done.site} does not let all packets pass yet: {what}"
            raise UnavailableError(message, hint="mend that, and apply again") from error

    def _tools(self, site: Site) -> Tools:
        return Tools(site.variant, self._target.netns, self._target.wait)


def _removal(table: Table) -> str:
    jumps = [f"-D {FORWARD} {JUMP}" for line in table.lines(FORWARD) if line == JUMP]
    chain = [f"-F {CHAIN}", f"-X {CHAIN}"] if CHAIN in table.chains else []
    return _whole([*jumps, *chain])


def _whole(script: Sequence[str]) -> str:
    return "\n".join(("*filter", *script, "COMMIT")) + "\n" if script else ""
