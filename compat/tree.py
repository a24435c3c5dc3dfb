"""Docker's long lists of lines as trees of chains with the same verdicts. Pure.

Docker's layout has a line per port and per container in one chain, and a packet passes all of them.
Here a run of lines that one field tells apart moves into sub-chains: the chain keeps a jump for
each prefix of the address, range of ports or beginning of the interface's name, and so on below, so
that a packet passes the lines of one path through the tree. Who falls off a sub-chain's end goes on
behind the jump, as behind a line that did not match.

The order of lines that could match the same packet never changes, because

* a packet has one value of the field that a run is split by, every line of the run asks for one,
  and each value belongs to one branch: lines of different branches never match the same packet;
* a branch keeps its lines in their order, down to the leaf;
* a line that is not split stays where it is, and no line passes it. RETURN is such a line: in a
  sub-chain it would only leave that. So is a line that is none of ours.
"""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_network
from typing import TypeAlias, TypeVar

from nftbridge.compat.syntax import ChainText, Jump, Line, Match, parse
from nftbridge.policy.program import Field, Value

PREFIX = "DOCKER-T-"
"""What the names of sub-chains begin with; 16 letters and digits of base 32 follow."""

_SUBCHAIN = re.compile(f"{PREFIX}[A-Z2-7]{{16}}")

STRIDE = 2
"""How many bits of an address or a port one level looks at: it has 2 ** STRIDE jumps at most.

1, 2 and 4 were measured: they cost much the same, 2 least."""

_PORT_BITS = 16
_NAME_BYTES = 10  # become 16 letters: 25 with the prefix, iptables allows 28
_ADDRESSES = (Field.SADDR, Field.DADDR)
_INTERFACES = frozenset({Field.IIF, Field.OIF})
_SPLITTING = (
    Field.DADDR,
    Field.PROTOCOL,
    Field.DPORT,
    Field.SADDR,
    Field.IIF,
    Field.OIF,
)
"""The fields that a run can be split by, the preferred one first. A port has its protocol."""

_Digits: TypeAlias = tuple[int, ...]
_ListedT = TypeVar("_ListedT")


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of the chains. One with more than `leaf` lines is split; None: none ever is."""

    name: str
    leaf: int | None = None

    def shape(self, chains: Sequence[ChainText]) -> tuple[ChainText, ...]:
        """The chains of one table, as Docker has them, in this shape."""
        return tuple(chains) if self.leaf is None else arrange(chains, self.leaf)


DOCKER = Layout("docker")
"""A list for each chain."""

TREE = Layout("tree", leaf=8)
"""Long lists split into trees."""

LAYOUTS = {layout.name: layout for layout in (DOCKER, TREE)}


def arrange(chains: Sequence[ChainText], leaf: int) -> tuple[ChainText, ...]:
    """The chains of one table with their long runs as trees, each followed by its sub-chains.

    A built-in chain, which others share, keeps one jump for each such run. A chain with more than
    `leaf` lines is split.
    """
    arranged: list[ChainText] = []
    for chain in chains:
        lines: list[str] = []
        below: list[ChainText] = []
        for number, run in enumerate(_runs(chain.lines)):
            tree = _Tree(chain, number, leaf)
            lines += tree.root(run)
            below += tree.chains
        arranged += [replace(chain, lines=tuple(lines)), *below]
    return tuple(arranged)


def flatten(listing: Mapping[str, Sequence[_ListedT]]) -> dict[str, list[_ListedT]]:
    """The chains of a table without sub-chains: their lines stand where the jumps to them stood.

    The text of a line is its ``str``. A jump to a sub-chain that is not there, or from a sub-chain
    back into itself, is left as it is; no line of ours looks like that.
    """
    return {
        name: list(_expanded(lines, listing, frozenset()))
        for name, lines in listing.items()
        if not is_subchain(name)
    }


def is_subchain(name: str) -> bool:
    """Whether a chain of that name is one of ours that `arrange` made."""
    return _SUBCHAIN.fullmatch(name) is not None


def subchain(line: object) -> str | None:
    """The sub-chain that a line, as text behind ``-A CHAIN``, jumps to."""
    target = str(line).rpartition("-j ")[2]
    return target if is_subchain(target) else None


def _expanded(
    lines: Sequence[_ListedT], listing: Mapping[str, Sequence[_ListedT]], above: frozenset[str]
) -> Iterator[_ListedT]:
    for line in lines:
        name = subchain(line)
        if name is None or name not in listing or name in above:
            yield line
        else:
            yield from _expanded(listing[name], listing, above | {name})


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line and, for each field that it may be split by, its value, also as digits."""

    text: str
    values: Mapping[Field, Value]
    digits: Mapping[Field, _Digits]


def _runs(lines: Sequence[str]) -> Iterator[list[_Entry]]:
    """Neighbouring lines that have a field to split by in common; others are runs of their own."""
    run: list[_Entry] = []
    shared: frozenset[Field] = frozenset()
    for line in lines:
        entry = _entry(line)
        if run and shared.isdisjoint(entry.digits):
            yield run
            run = []
        shared = shared.intersection(entry.digits) if run else frozenset(entry.digits)
        run.append(entry)
    if run:
        yield run


@lru_cache(maxsize=1 << 16)  # the same lines come again on the way to the same host
def _entry(text: str) -> _Entry:
    line = parse(text.split())
    values = {} if line is None else _splittable(line)
    return _Entry(text, values, {which: _digits(value, which) for which, value in values.items()})


def _splittable(line: Line) -> dict[Field, Value]:
    """What the line asks of the fields that it may be split by; none, and it stays where it is.

    A source or an interface counts only where there is no destination or port, and an interface
    only where no address is asked for, not even negated: drops of internal networks, which look
    like that, come before other lines and must be listed before them.
    """
    if line.jump.name == "RETURN":
        return {}
    exact = {m.field: m.values[0] for m in line.matches if not m.negated and _is_exact(m)}
    found = exact.keys() & {Field.DADDR}
    if {Field.PROTOCOL, Field.DPORT} <= exact.keys():
        found |= {Field.PROTOCOL, Field.DPORT}
    if not found:
        found = exact.keys() & {Field.SADDR}
    if not any(match.field in _ADDRESSES for match in line.matches):
        found = found or exact.keys() & _INTERFACES
    return {which: exact[which] for which in found}


def _is_exact(match: Match) -> bool:
    """Whether it is one value; an interface that ends in + is many."""
    return len(match.values) == 1 and not str(match.values[0]).endswith("+")


@dataclass(slots=True)
class _Tree:
    """The tree of one run: `chains` are the sub-chains made for it."""

    chain: ChainText
    run: int
    leaf: int
    chains: list[ChainText] = field(default_factory=list[ChainText])

    def root(self, run: Sequence[_Entry]) -> Iterator[str]:
        """What stands in the chain itself instead of the run."""
        splitting = next((f for f in _SPLITTING if _branches(run, f)), None)
        if self.chain.builtin and len(run) > self.leaf and splitting is not None:
            yield self._jump(run, splitting, ())
        else:
            yield from self._node(run, ())

    def _node(self, entries: Sequence[_Entry], path: tuple[str, ...]) -> Iterator[str]:
        """The lines, or if they are many and can be told apart, the jumps to their branches."""
        if len(entries) > self.leaf:
            for splitting in _SPLITTING:
                if branches := _branches(entries, splitting):
                    yield from (self._branch(branch, splitting, path) for branch in branches)
                    return
        yield from (entry.text for entry in entries)

    def _branch(self, entries: Sequence[_Entry], splitting: Field, path: tuple[str, ...]) -> str:
        """A jump to a sub-chain; a single line costs less than a jump to it."""
        return entries[0].text if len(entries) == 1 else self._jump(entries, splitting, path)

    def _jump(self, entries: Sequence[_Entry], splitting: Field, path: tuple[str, ...]) -> str:
        """The jump to a new sub-chain with these lines, for as little as covers them all."""
        cover = _cover(entries, splitting)
        below = (*path, " ".join(Line(cover, Jump("")).arguments()))
        name = self._name(below)
        # the chain above its own sub-chains, as a reader goes down the listing
        place = len(self.chains)
        lines = tuple(self._node(entries, below))
        self.chains.insert(place, ChainText(name, lines))
        return str(Line(cover, Jump(name)))

    def _name(self, path: tuple[str, ...]) -> str:
        """The same for the same cover, whatever lines there are: a change rewrites few chains."""
        whole = "\n".join((self.chain.name, str(self.run), *path))
        digest = blake2b(whole.encode(), digest_size=_NAME_BYTES).digest()
        return PREFIX + b32encode(digest).decode()


def _branches(entries: Sequence[_Entry], splitting: Field) -> list[list[_Entry]]:
    """The lines by the first digit in which they differ; none if the field cannot split them."""
    if not all(splitting in entry.digits for entry in entries):
        return []
    depth = _common(entries, splitting)
    branches: dict[int, list[_Entry]] = {}
    for entry in entries:
        digits = entry.digits[splitting]
        if len(digits) == depth:  # the same value everywhere, or a prefix of all others
            return []
        branches.setdefault(digits[depth], []).append(entry)
    return [branch for _, branch in sorted(branches.items())]


def _cover(entries: Sequence[_Entry], splitting: Field) -> tuple[Match, ...]:
    """Matches for every packet that the lines could match; none if they have no digit in common."""
    depth = _common(entries, splitting)
    if depth == 0:
        return ()
    first = entries[0]
    if depth == len(first.digits[splitting]):
        cover = first.values[splitting]
    else:
        cover = _covering(first.values[splitting], depth)
    if splitting is Field.DPORT:
        return (
            Match(Field.PROTOCOL, (first.values[Field.PROTOCOL],)),
            Match(Field.DPORT, (cover,)),
        )
    return (Match(splitting, (cover,)),)


def _common(entries: Sequence[_Entry], splitting: Field) -> int:
    """How many digits all have in common: as many as the smallest and the largest."""
    digits = [entry.digits[splitting] for entry in entries]
    low, high = min(digits), max(digits)
    pairs = zip(low, high, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(low), len(high)))


def _digits(value: Value, which: Field) -> _Digits:
    """A value as digits, such that a match for the first few of them covers it.

    An address of `STRIDE` bits each, a prefix of as many as are whole; an interface's name letter
    by letter with an end; a protocol is told apart whole.
    """
    if isinstance(value, int):
        return _cut(value, _PORT_BITS, _PORT_BITS)
    if isinstance(value, str):
        if which is Field.PROTOCOL:
            return (int.from_bytes(value.encode()),)
        return (*map(ord, value), 0)
    network = ip_network(value)
    return _cut(int(network.network_address), network.max_prefixlen, network.prefixlen)


def _cut(number: int, width: int, length: int) -> _Digits:
    ends = range(STRIDE, length + 1, STRIDE)
    return tuple(number >> (width - end) & ((1 << STRIDE) - 1) for end in ends)


def _covering(value: Value, depth: int) -> Value:
    """What covers everything with the first `depth` digits of the value, in iptables' words."""
    if isinstance(value, int):
        free = _PORT_BITS - depth * STRIDE
        first = value >> free << free
        return f"{first}:{first + (1 << free) - 1}"
    if isinstance(value, str):
        return f"{value[:depth]}+"
    return ip_network(value).supernet(new_prefix=depth * STRIDE)
