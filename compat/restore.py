"""Which iptables-restore scripts bring the held lines to the wanted ones, and in which order. Pure.

iptables commits a table at a time, so on the way some tables are new and others old. The order
keeps every moment at most as open as one of the two ends:

1. the early table (raw, or mangle where there is no raw) with the drops of both ends, and of what
   they accept there only what both accept. Before all else a chain of its own, `CHANGING`, drops
   what is for a published port that leads elsewhere, or is published otherwise, from now on:
   between 2 and 4 nothing translates that, and a service of the host itself would answer. Packets
   from the host that are not translated come back by the loopback interface, so it drops these too;
2. nat without the translations that go: what they lead to may be nobody's business for filter next;
3. filter: by now nothing reaches a container, past DNAT or by it, that may not at either end;
4. nat as wanted: a translation appears when filter already decides about what it leads to;
5. the early table as wanted: drops that are no longer needed go last, `CHANGING` with them.

A kernel with neither raw nor mangle, which the host file has to accept, has no step 1 and 5.

Taking everything out is the same way to another end. What a table holds and what it should hold
are compared without sub-chains, as Docker has the chains; each step is then written in the layout
that is wanted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from nftbridge.compat.syntax import ChainText, Jump, Line, Match, parse
from nftbridge.compat.tree import DOCKER, Layout, flatten, is_subchain, subchain
from nftbridge.model import Family
from nftbridge.policy.program import Field, Value

_AT_HEAD = ("filter", "nat")
"""The tables in which our lines come before those that are there already."""

CHANGING = "DOCKER-CHANGING"
"""The chain of the early table that is there only while published ports change their targets."""

_TO_CHANGING = f"-j {CHANGING}"

# firewalld ends it with an ACCEPT for every packet, in raw and mangle as well, so
# that nothing behind it is reached (2.5.2; 1.3.3 and 2.3.1 have other chains, which return).
_FIREWALLD_DISPATCH = "-j PREROUTING_dispatch"


@dataclass(frozen=True, slots=True)
class TableText:
    """What one table should hold of ours. `gone` are chains of ours that are no longer wanted.

    Sub-chains that are not among `chains` are gone too.
    """

    name: str
    chains: tuple[ChainText, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableState:
    """A table as it is: its chains with their lines, and which of the built-in ones' are ours."""

    chains: Mapping[str, tuple[str, ...]]
    ours: Mapping[str, frozenset[str]]

    @cached_property
    def flat(self) -> Mapping[str, Sequence[str]]:
        """The chains without sub-chains."""
        return flatten(self.chains)

    def our_places(self, chain: str) -> list[int]:
        """Where our lines, and jumps to sub-chains, stand in a built-in chain, from 0."""
        lines = self.chains.get(chain, ())
        return [place for place, line in enumerate(lines) if self._is_ours(chain, line)]

    def our_lines(self, chain: str) -> tuple[str, ...]:
        """Our lines of a built-in chain, in order, without sub-chains."""
        return tuple(line for line in self.flat.get(chain, ()) if self._is_ours(chain, line))

    def text(self, chain: ChainText) -> ChainText:
        """All that is ours in the chain of that name, without sub-chains."""
        name = chain.name
        lines = self.our_lines(name) if chain.builtin else tuple(self.flat.get(name, ()))
        return replace(chain, lines=lines)

    def holds(self, chain: ChainText) -> bool:
        """Whether our lines of that chain are these, in this order."""
        if not chain.builtin:
            return self.chains.get(chain.name) == chain.lines
        lines = self.chains.get(chain.name, ())
        return tuple(lines[place] for place in self.our_places(chain.name)) == chain.lines

    def _is_ours(self, chain: str, line: str) -> bool:
        own = self.ours.get(chain, ())
        return line in own or line == _TO_CHANGING or subchain(line) is not None


@dataclass(frozen=True, slots=True)
class Commit:
    """One script for one table of one family: committed whole or not at all.

    `before` are the chains that the table is expected to have then, with their lines.
    """

    family: Family
    table: str
    script: str
    before: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict[str, "tuple[str, ...]"], repr=False
    )


def commits(
    family: Family,
    held: Mapping[str, TableState],
    wanted: Sequence[TableText],
    layout: Layout = DOCKER,
) -> Iterator[Commit]:
    """The scripts in their order; a table in which nothing changes has none.

    The first of `wanted` is the early table.
    """
    early, *later = wanted
    now = dict(held)
    first = _closed(_careful(early, held[early.name]), _changing(wanted, held))
    fewer = [_fewer_translations(table, held[table.name]) for table in later]
    for flat in (first, *(table for table in fewer if table is not None), *later, early):
        step = replace(flat, chains=layout.shape(flat.chains))
        script = "\n".join(_script(step, now[step.name]))
        if script:
            whole = f"*{step.name}\n{script}\nCOMMIT\n"
            yield Commit(family, step.name, whole, now[step.name].chains)
            now[step.name] = _after(step, now[step.name])


def joined(steps: Sequence[Commit]) -> Iterator[Commit]:
    """All scripts for one table as one, to be tested: each finds what the one before it leaves."""
    bodies: dict[tuple[Family, str], list[str]] = {}
    for step in steps:
        lines = step.script.splitlines()[1:-1]
        bodies.setdefault((step.family, step.table), []).extend(lines)
    for (family, table), lines in bodies.items():
        yield Commit(family, table, "\n".join((f"*{table}", *lines, "COMMIT\n")))


def misarranged(held: TableState, chains: Sequence[ChainText], layout: Layout) -> Iterator[str]:
    """Names of the chains among these, and of sub-chains, that are not as the layout has them."""
    shaped = layout.shape([held.text(chain) for chain in chains if chain.name in held.chains])
    yield from (chain.name for chain in shaped if not held.holds(chain))
    named = {chain.name for chain in shaped}
    yield from (name for name in held.chains if is_subchain(name) and name not in named)


def _careful(table: TableText, held: TableState) -> TableText:
    """What drops at either end stays, what accepts at one end only does not."""
    return TableText(
        table.name, tuple(_careful_chain(c, held) if c.builtin else c for c in table.chains)
    )


def _careful_chain(chain: ChainText, held: TableState) -> ChainText:
    old = dict.fromkeys(line for line in held.our_lines(chain.name) if line != _TO_CHANGING)
    new = dict.fromkeys(line for line in chain.lines if not _accepts(line) or line in old)
    behind: dict[str, list[str]] = {}  # the drops that go next, by what stays before them
    before = ""
    for line in old:
        if line in new:
            before = line
        elif not _accepts(line):
            behind.setdefault(before, []).append(line)
    lines = [*behind.get("", ()), *(li for line in new for li in (line, *behind.get(line, ())))]
    return ChainText(chain.name, tuple(lines), builtin=True)


def _changing(wanted: Sequence[TableText], held: Mapping[str, TableState]) -> list[str]:
    """A drop for each translation that goes while its port will still be translated, if otherwise.

    The published address is one of the host's; without one it is any of them. What an apply that
    was cut off has left there is still needed: its translations are missing.
    """
    early, *later = wanted
    found = dict.fromkeys(held[early.name].flat.get(CHANGING, ()))
    for table in later:
        lines = {line for chain in table.chains for line in chain.lines if _translates(line)}
        ports = [published for line in lines if (published := _published(line)) is not None]
        addresses: dict[tuple[Value, ...], set[Value | None]] = {}
        for daddr, *port in ports:
            addresses.setdefault(tuple(port), set()).add(daddr)
        for old in (li for chain in held[table.name].flat.values() for li in chain):
            published = _published(old) if _translates(old) and old not in lines else None
            if published is not None and _meets(published[0], addresses.get(published[1:], ())):
                found[_drop(*published)] = None
    return list(found)


_Published: TypeAlias = tuple[Value | None, Value, Value]
"""The host's address, None for any of them, the protocol, and the port."""


def _published(line: str) -> _Published | None:
    """What a translation is for; None if that is not the destination of a port."""
    parsed = parse(line.split())
    if parsed is None:
        return None
    settled = {match.field: match.values[0] for match in parsed.matches if not match.negated}
    if not {Field.PROTOCOL, Field.DPORT} <= settled.keys():
        return None
    return settled.get(Field.DADDR), settled[Field.PROTOCOL], settled[Field.DPORT]


def _meets(address: Value | None, others: Collection[Value | None]) -> bool:
    """Whether packets to that address of the host could also be for one of the others."""
    return bool(others) and (address is None or None in others or address in others)


def _drop(address: Value | None, protocol: Value, port: Value) -> str:
    to = Match(Field.DADDR_TYPE, ("local",)) if address is None else Match(Field.DADDR, (address,))
    of_port = Match(Field.PROTOCOL, (protocol,)), Match(Field.DPORT, (port,))
    return str(Line((to, *of_port), Jump("DROP")))


def _closed(table: TableText, drops: Sequence[str]) -> TableText:
    """The early table with these drops before all else."""
    if not drops or not table.chains:
        return table
    chains = [replace(c, lines=(_TO_CHANGING, *c.lines)) if c.builtin else c for c in table.chains]
    return replace(table, chains=(*chains, ChainText(CHANGING, tuple(drops))))


def _fewer_translations(table: TableText, held: TableState) -> TableText | None:
    """What is ours as it is, less the destinations that are not wanted any more."""
    wanted = {line for chain in table.chains for line in chain.lines}
    named = [c for c in table.chains if not c.users] + [ChainText(name, ()) for name in table.gone]
    old = [held.text(chain) for chain in named if chain.name in held.chains]
    less = [
        replace(chain, lines=tuple(li for li in chain.lines if not _translates(li) or li in wanted))
        for chain in old
    ]
    return TableText(table.name, tuple(less)) if less != old else None


def _translates(line: str) -> bool:
    return " -j DNAT " in line


def _accepts(line: str) -> bool:
    return line.endswith("-j ACCEPT")


def _script(table: TableText, held: TableState) -> Iterator[str]:
    """The lines between ``*table`` and ``COMMIT``; none if all is as it should be."""
    own = [c for c in table.chains if not c.builtin and not c.users]
    users = [c.name for c in table.chains if c.users and c.name not in held.chains]
    changed = [c for c in own if not held.holds(c)]
    gone = _gone(table, held)
    shared = {c.name: _placement(table.name, c, held) for c in table.chains if c.builtin}
    yield from (f":{name} - [0:0]" for name in (*users, *(c.name for c in changed)))
    for name, placement in shared.items():
        yield from (f"-D {name} {place + 1}" for place in reversed(placement.removed))
    for chain in changed:
        yield from (f"-A {chain.name} {line}" for line in chain.lines)
    for name, placement in shared.items():
        for place, line in placement.added:
            where = f"-A {name}" if place is None else f"-I {name} {place + 1}"
            yield f"{where} {line}"
    yield from (f"-F {name}" for name in gone)
    yield from (f"-X {name}" for name in gone)


def _gone(table: TableText, held: TableState) -> list[str]:
    """The chains to take out, in any order: all are emptied before the first is deleted.

    A chain that a line still jumps to cannot be deleted.
    """
    named = {chain.name for chain in table.chains}
    below = (c for c in held.chains if (is_subchain(c) or c == CHANGING) and c not in named)
    return [*(name for name in table.gone if name in held.chains), *below]


@dataclass(frozen=True, slots=True)
class _Placement:
    """How our lines come into a built-in chain, among other people's that stay in their order.

    First the lines at `removed`, from 0, go, the last one first; then those of `added` come, one
    after the other, each at its place in the chain as it is by then (None: the end). `lines` is
    what the chain has in the end.
    """

    removed: tuple[int, ...]
    added: tuple[tuple[int | None, str], ...]
    lines: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)


def _placement(table: str, chain: ChainText, held: TableState) -> _Placement:
    """As many of our lines as can be stay where they are; a new one follows the one before it.

    Jumps to our chains come first, like Docker's in FORWARD. Where none of ours was before, ours
    come first in filter and nat. In raw and mangle they come last: what stands before them is the
    administrator's exception. Only firewalld's dispatch is none, and must not stand before them.
    """
    lines, places = held.chains.get(chain.name, ()), held.our_places(chain.name)
    head = [line for line in chain.lines if _belongs_first(table, chain.name, line)]
    rest = chain.lines[len(head) :]
    first = len(head) if [lines[place] for place in places if place < len(head)] == head else 0
    places = [place for place in places if place >= first]
    end = _dispatch(lines)
    staying = _in_order(rest, [(place, lines[place]) for place in places if place < end])
    default = first if table in _AT_HEAD else end
    start = min(next(iter(places), default), end)
    coming: dict[int, list[str]] = {0: [] if first else head}
    before = start
    for line in rest:
        if line in staying:
            before = staying[line] + 1
        else:
            coming.setdefault(before, []).append(line)
    return _placed(lines, [place for place in places if place not in {*staying.values()}], coming)


def _placed(
    lines: Sequence[str], removed: Sequence[int], coming: Mapping[int, Sequence[str]]
) -> _Placement:
    """What comes, comes before the line that had that place at first."""
    gone, left = set(removed), len(lines) - len(removed)
    result: list[str] = []
    added: list[tuple[int | None, str]] = []
    for place in range(len(lines) + 1):
        for line in coming.get(place, ()):
            added.append((len(result) if left else None, line))
            result.append(line)
        if place < len(lines) and place not in gone:
            result.append(lines[place])
            left -= 1
    return _Placement(tuple(removed), tuple(added), tuple(result))


def _in_order(wanted: Sequence[str], held: Sequence[tuple[int, str]]) -> dict[str, int]:
    """As many held lines as stand in the wanted order, with their places (patience sorting)."""
    index = {line: number for number, line in enumerate(wanted)}
    known = [(index[line], place) for place, line in held if line in index]
    tops: list[int] = []
    piles: list[tuple[int, int]] = []  # the index in `known`, and that of the one before it
    ends: list[int] = []
    for number, (value, _) in enumerate(known):
        pile = bisect_left(tops, value)
        piles.append((number, ends[pile - 1] if pile else -1))
        tops[pile : pile + 1] = [value]
        ends[pile : pile + 1] = [number]
    found: dict[str, int] = {}
    at = ends[-1] if ends else -1
    while at >= 0:
        value, place = known[at]
        found[wanted[value]] = place
        at = piles[at][1]
    return found


def _belongs_first(table: str, chain: str, line: str) -> bool:
    """Whether a line of ours in a built-in chain is a jump that comes before other people's."""
    return line == _TO_CHANGING or (table in _AT_HEAD and chain != "POSTROUTING")


def _dispatch(lines: Sequence[str]) -> int:
    """Where firewalld's chains of zones begin; behind the last line if they do not."""
    return lines.index(_FIREWALLD_DISPATCH) if _FIREWALLD_DISPATCH in lines else len(lines)


def _after(table: TableText, held: TableState) -> TableState:
    """The table when the script has been committed."""
    chains, ours = dict(held.chains), dict(held.ours)
    for name in _gone(table, held):
        del chains[name]
    for chain in table.chains:
        if not chain.builtin:
            if not (chain.users and chain.name in chains):
                chains[chain.name] = chain.lines
            continue
        chains[chain.name] = _placement(table.name, chain, held).lines
        ours[chain.name] = ours.get(chain.name, frozenset()) | set(chain.lines)
    return TableState(chains, ours)
