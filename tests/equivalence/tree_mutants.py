# pyright: reportPrivateUsage=false
"""Planted faults in the tree layout: jumps lost or too narrow, and lines split that must not be."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from ipaddress import ip_network
from typing import TypeAlias
from unittest.mock import patch

from nftbridge.compat import text, tree
from nftbridge.compat.syntax import Line
from nftbridge.model import Family, Host
from nftbridge.policy.program import Field, Value
from tests.equivalence.compare import FINEST, rendered_iptables
from tests.equivalence.iptables_reading import IptablesReading
from tests.equivalence.meaning import Hook, Reading
from tests.equivalence.mutants import Mutant

Narrow: TypeAlias = Callable[[str], str]
"""The value of a jump's match -> one that covers less."""


def tree_mutants(hosts: Iterable[Host]) -> Iterator[Mutant]:
    """Every fault that these hosts can show, over all hooks: a tree may stand in any chain."""
    shown = [(host, family) for host in hosts for family in host.families()]
    for title, narrow in _JUMPS.items():
        for name, edit in (("lost", _lost), ("covers less", narrow)):
            for table in text.TABLES:
                read = _jumps_changed(table, title, edit)
                if any(read(*exhibit) for exhibit in shown):
                    yield Mutant(f"tree, {name}: {table} jump by {title}", tuple(Hook), read)
    for name, fault in _FAULTS.items():
        yield Mutant(f"tree, {name}", tuple(Hook), _faulty(fault))


def _half(prefix: str) -> str:
    """The upper half of a prefix."""
    network = ip_network(prefix)
    return str(list(network.subnets())[1]) if network.prefixlen < network.max_prefixlen else prefix


def _upper(ports: str) -> str:
    first, _, last = ports.partition(":")
    return f"{(int(first) + int(last) + 1) // 2}:{last}" if last else ports


def _lost(_value: str) -> str:
    return ""


_JUMPS: dict[str, Narrow] = {
    "-d": _half,
    "-s": _half,
    "--dport": _upper,
    "-i": lambda name: name.removesuffix("+"),
    "-o": lambda name: name.removesuffix("+"),
}
"""What jumps to sub-chains match; the last option of a jump is the one that it was split by."""


@cache
def _script(host: Host, family: Family) -> list[str]:
    return text.script(host, family, FINEST).splitlines()


def _jumps_changed(
    table: str, option: str, narrow: Narrow
) -> Callable[[Host, Family], Reading | None]:
    """A reading with all jumps of that kind narrowed, or lost; None where that changes nothing."""

    def read(host: Host, family: Family) -> Reading | None:
        lines, here = list[str](), ""
        for line in _script(host, family):
            here = line[1:] if line.startswith("*") else here
            words = line.split()
            if here == table and tree.subchain(line) and words[-4] == option:
                value = narrow(words[-3])
                lines.append(" ".join((*words[:-3], value, *words[-2:])) if value else "")
            else:
                lines.append(line)
        if lines == _script(host, family):
            return None
        return IptablesReading("\n".join(lines), family.version)

    return read


@contextmanager
def _patched(name: str, fault: object) -> Generator[None]:
    tree._entry.cache_clear()
    with patch.object(tree, name, fault):
        yield
    tree._entry.cache_clear()


def _faulty(fault: tuple[str, object]) -> Callable[[Host, Family], Reading]:
    def read(host: Host, family: Family) -> Reading:
        with _patched(*fault):
            return rendered_iptables(host, family, FINEST)

    return read


def _returns_too(line: Line) -> dict[Field, Value]:
    return _splittable(replace(line, jump=replace(line.jump, name="ACCEPT")))


def _everything(line: Line) -> dict[Field, Value]:
    """Every match with one value counts, negated ones too."""
    return {m.field: m.values[0] for m in line.matches if m.field in tree._SPLITTING}


def _one_run(lines: Sequence[str]) -> Iterator[list[tree._Entry]]:
    """Lines that cannot be split are passed by those that can."""
    entries = [tree._entry(line) for line in lines]
    yield [entry for entry in entries if entry.digits]
    yield [entry for entry in entries if not entry.digits]


def _backwards(entries: Sequence[tree._Entry], splitting: Field) -> list[list[tree._Entry]]:
    """A branch has its lines in another order."""
    return [branch[::-1] for branch in _branches(entries, splitting)]


_splittable = tree._splittable
_branches = tree._branches

_FAULTS: dict[str, tuple[str, object]] = {
    "RETURN is split": ("_splittable", _returns_too),
    "negated matches are split": ("_splittable", _everything),
    "order between runs": ("_runs", _one_run),
    "order in a branch": ("_branches", _backwards),
}
