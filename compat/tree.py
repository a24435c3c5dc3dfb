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
  sub-chain it would only leave that.
"""

from __future__ import annotations

from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TypeAlias, TypeVar

from nftbridge.compat.lower import TableChain
from nftbridge.compat.syntax import Jump, Line, Match
from nftbridge.policy.program import Field, Value

PREFIX = "DOCKER-T-"
"""What the names of sub-chains begin with, and no others'."""

LEAF = 8
"""A chain with more lines than this is split, if a field can tell them apart."""

STRIDE = 2
"""How many bits of an address or a port one level looks at: it has 2 ** STRIDE jumps at most.

Measured (tests/bench_iptables.py): 1, 2 and 4 cost much the same, 2 least."""

_PORT_BITS = 16
_NAME_LENGTH = 16  # letters of a digest: 80 bits; iptables allows 28 for the whole name
_ADDRESSES = (Field.SADDR, Field.DADDR)
_INTERFACES = (Field.IIF, Field.OIF)
_SPLITTING = (Field.DADDR, Field.PROTOCOL, Field.DPORT, Field.SADDR, *_INTERFACES)
"""The fields that a run can be split by, the preferred one first. A port has its protocol."""

_Digits: TypeAlias = tuple[int, ...]
_ListedT = TypeVar("_ListedT")


def arrange(chains: Sequence[TableChain]) -> tuple[TableChain, ...]:
    """The chains of one family with their long runs as trees, each followed by its sub-chains.

    A built-in chain, which others share, keeps one jump for each such run.
    """
    arranged: list[TableChain] = []
    for chain in chains:
        lines: list[Line] = []
        below: list[TableChain] = []
        for number, run in enumerate(_runs(chain.lines)):
            tree = _Tree(chain, number)
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
    return name.startswith(PREFIX)


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


def _runs(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Neighbouring lines that have a field to split by in common; others are runs of their own."""
    run: list[Line] = []
    shared: frozenset[Field] = frozenset()
    for line in lines:
        fields = _splittable(line)
        if run and not shared & fields:
            yield run
            run = []
        shared = shared & fields if run else fields
        run.append(line)
    if run:
        yield run


def _splittable(line: Line) -> frozenset[Field]:
    """The fields that the line may be split by; none, and it stays where it is.

    Where there is a destination or a port the rest would tell little apart. An interface counts
    only where no address is asked for, not even negated: internal networks' drops come before
    others, and stay there.
    """
    if line.jump.name == "RETURN":
        return frozenset()
    exact = {m.field for m in line.matches if not m.negated and _is_exact(m)}
    found = exact & {Field.DADDR}
    if {Field.PROTOCOL, Field.DPORT} <= exact:
        found |= {Field.PROTOCOL, Field.DPORT}
    if found or Field.SADDR in exact:
        return frozenset(found or {Field.SADDR})
    if any(match.field in _ADDRESSES for match in line.matches):
        return frozenset()
    return frozenset(exact.intersection(_INTERFACES))


def _is_exact(match: Match) -> bool:
    return len(match.values) == 1 and not str(match.values[0]).endswith("+")


@dataclass(slots=True)
class _Tree:
    """The tree of one run: `chains` are the sub-chains made for it."""

    chain: TableChain
    run: int
    chains: list[TableChain] = field(default_factory=list[TableChain])

    def root(self, lines: Sequence[Line]) -> Sequence[Line]:
        """What stands in the chain itself instead of `lines`."""
        if not self.chain.builtin:
            return self._node(lines, ())
        if len(lines) <= LEAF:
            return lines
        splitting = next((f for f in _SPLITTING if _branches(lines, f)), None)
        return lines if splitting is None else [self._jump(lines, splitting, ())]

    def _node(self, lines: Sequence[Line], path: tuple[str, ...]) -> Sequence[Line]:
        """`lines`, or if they are many and can be told apart, the jumps to their branches."""
        if len(lines) <= LEAF:
            return lines
        for splitting in _SPLITTING:
            branches = _branches(lines, splitting)
            if branches:
                # a chain for a single line would cost more than the line
                return [b[0] if len(b) == 1 else self._jump(b, splitting, path) for b in branches]
        return lines

    def _jump(self, lines: Sequence[Line], splitting: Field, path: tuple[str, ...]) -> Line:
        """The jump to a new sub-chain with `lines`, for as little as covers them all."""
        cover = _cover(lines, splitting)
        words = Line(cover, Jump("")).arguments()[:-2]
        below = (*path, *words)
        name = self._name(below)
        found = TableChain(self.chain.table, name, False, False, tuple(self._node(lines, below)))
        self.chains.append(found)
        return Line(cover, Jump(name))

    def _name(self, path: tuple[str, ...]) -> str:
        """The same for the same cover, whatever lines there are: a change rewrites few chains."""
        whole = " ".join((self.chain.name, str(self.run), *path))
        digest = blake2b(whole.encode(), digest_size=_NAME_LENGTH * 5 // 8).digest()
        return PREFIX + b32encode(digest).decode()


def _branches(lines: Sequence[Line], splitting: Field) -> list[list[Line]]:
    """The lines by the first digit in which they differ; none if the field cannot split them."""
    if not all(splitting in _splittable(line) for line in lines):
        return []
    digits = [_digits(_value(line, splitting)) for line in lines]
    depth = _common(digits)
    if any(len(some) == depth for some in digits):
        return []
    branches: dict[int, list[Line]] = {}
    for line, some in zip(lines, digits, strict=True):
        branches.setdefault(some[depth], []).append(line)
    return [branch for _, branch in sorted(branches.items())]


def _cover(lines: Sequence[Line], splitting: Field) -> tuple[Match, ...]:
    """Matches for every packet that `lines` could match; none if they have no digit in common."""
    value = _value(lines[0], splitting)
    depth = _common([_digits(_value(line, splitting)) for line in lines])
    if depth == 0:
        return ()
    match = Match(splitting, (_prefix(value, splitting, depth),))
    if splitting is Field.DPORT:
        return (Match(Field.PROTOCOL, (_value(lines[0], Field.PROTOCOL),)), match)
    return (match,)
