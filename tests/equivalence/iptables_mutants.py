"""Planted faults in iptables' text, by kind of line: all lines that differ in their values only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import TypeAlias

from nftbridge.compat import text
from nftbridge.model import Family, Host
from tests.equivalence.iptables_reading import IptablesReading
from tests.equivalence.meaning import Hook, Reading
from tests.equivalence.mutants import Mutant, hooks_of

Edit: TypeAlias = Callable[[list[str]], list[str]]
"""The words of a line -> those of the faulty one; none if the line is lost."""

_VALUED = ("-s", "-d", "-i", "-o", "--dport", "--to-destination", "--to-source")
_MATCHES = ("-s", "-d", "-i", "-o", "-p", "--dport", "--dst-type", "--src-type", "--ctstate")
_TRANSPORTS = ("tcp", "udp", "sctp")
_NAT = {
    "PREROUTING": (Hook.INBOUND,),
    "OUTPUT": (Hook.OUTPUT,),
    "POSTROUTING": (Hook.POSTROUTING,),
    "DOCKER": (Hook.INBOUND, Hook.OUTPUT),
}


def line_mutants(hosts: Iterable[Host]) -> Iterator[Mutant]:
    """Every fault of every kind of line that occurs in these hosts' rulesets."""
    kinds = dict.fromkeys(
        (family, table, kind)
        for host in hosts
        for family in host.families()
        for table, kind, _ in _lines(text.script(host, family))
    )
    for family, table, kind in kinds:
        if not kind.startswith("-A "):
            continue
        title = f"{family.label} {table}: {kind.removeprefix('-A ')}"
        hooks = _hooks(table, kind.split()[1])
        for name, edit in _edits(kind.split()):
            read = _edited(family, table, kind, edit)
            yield Mutant(f"iptables, {name}: {title}", hooks, read)
        first = _edited(family, table, kind, lambda _: [], only_first=True)
        yield Mutant(f"iptables, first line lost: {title}", hooks, first)


def _hooks(table: str, chain: str) -> tuple[Hook, ...]:
    if table == "nat":
        return _NAT[chain]
    return (Hook.RAW,) if table == "raw" else hooks_of(chain)


@cache
def _script(host: Host, family: Family) -> str:
    return text.script(host, family)


def _lines(script: str) -> Iterator[tuple[str, str, str]]:
    """Each line with its table and kind."""
    table = ""
    for line in script.splitlines():
        if line.startswith("*"):
            table = line[1:]
        yield table, _kind(line), line


def _kind(line: str) -> str:
    words = line.split()
    values = (i > 0 and words[i - 1] in _VALUED for i in range(len(words)))
    shown = ("..." if value else word for value, word in zip(values, words, strict=True))
    return " ".join("TRANSPORT" if word in _TRANSPORTS else word for word in shown)


def _edits(words: list[str]) -> Iterator[tuple[str, Edit]]:
    yield "lines lost", lambda _: []
    for i, word in enumerate(words):
        if word == "!":
            yield f"no ! before {words[i + 1]}", _without(i, i + 1)
        elif word in _MATCHES:
            negated = words[i - 1] == "!"
            # a port cannot stand without its protocol: iptables refuses that line
            if word == "-p" and "--dport" in words:
                continue
            yield f"no {word}", _without(i - negated, i + 2)


def _without(start: int, stop: int) -> Edit:
    return lambda words: words[:start] + words[stop:]


def _edited(
    family: Family, table: str, kind: str, edit: Edit, *, only_first: bool = False
) -> Callable[[Host, Family], Reading | None]:
    def read(host: Host, asked: Family) -> Reading | None:
        if asked is not family:
            return None
        lines: list[str] = []
        found = 0
        for its_table, its_kind, line in _lines(_script(host, family)):
            mine = (its_table, its_kind) == (table, kind) and not (only_first and found)
            found += mine
            lines.append(" ".join(edit(line.split())) if mine else line)
        return IptablesReading("\n".join(lines), family.version) if found else None

    return read
