"""What one family's tables hold, and which of it is ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from nftbridge.backend import RuleCounter
from nftbridge.compat import read
from nftbridge.compat.lower import MARK_ACCEPT, chain_name, chains, marking
from nftbridge.compat.read import ListedLine, Understood
from nftbridge.compat.restore import CHANGING, TableState, misarranged
from nftbridge.compat.syntax import ChainText
from nftbridge.compat.tools import TABLES, Tools
from nftbridge.compat.tree import DOCKER, TREE, Layout, flatten, is_subchain
from nftbridge.model import Family, Host
from nftbridge.policy.program import Chain
from nftbridge.policy.rules import (
    CHAINS,
    FILTER_FORWARD,
    NAT_OUTPUT,
    NAT_PREROUTING,
    RAW_PREROUTING,
    USER,
    program_of,
)

EARLY = ("raw", "mangle")
"""Where the early drops can stand: raw, or mangle on kernels without it."""

_BUILTIN = tuple(chain for chain in CHAINS if chain.hook is not None)

_JUMPED_FROM = (FILTER_FORWARD, NAT_PREROUTING, NAT_OUTPUT)
"""The built-in chains in which ours come first."""


def homes(chain: Chain) -> tuple[str, ...]:
    """The tables that a chain of the program may live in."""
    return EARLY if chain is RAW_PREROUTING else (chain.table,)


def is_own(chain: Chain) -> bool:
    """Whether the whole chain is ours: not built-in, not the user's."""
    return chain.hook is None and not chain.users


def lacking(family: Family, tools: Tools) -> frozenset[str]:
    """Those of the tables in which something of ours should be that this kernel cannot have.

    Nothing is asked that the tables which are there tell.
    """
    present = frozenset(tools.present(family))
    if not present:
        return frozenset()
    wanted = [EARLY, *((chain.table,) for chain in CHAINS if chain is not RAW_PREROUTING)]
    absent = {homes for homes in wanted if present.isdisjoint(homes)}
    return frozenset(
        table
        for homes in absent
        if not any(tools.offers(family, table) for table in homes)
        for table in homes
    )


@dataclass(frozen=True)
class Held:
    """The tables of one family. `hosts` are those whose lines in built-in chains are ours.

    The last of them is the one whose rules the lines are held against.
    `lacking` are tables that this kernel cannot have: nothing of ours is missed there.

    Except in `tables` and `states`, lines stand where Docker's layout has them.
    """

    family: Family
    tables: Mapping[str, Mapping[str, Sequence[ListedLine]]]
    hosts: tuple[Host, ...]
    lacking: frozenset[str] = frozenset()

    @classmethod
    def of(cls, family: Family, tools: Tools, hosts: Sequence[Host]) -> Held:
        """List the tables that exist."""
        present = tools.present(family)
        tables = {table: read.listed(tools.save(family, table)) for table in present}
        return cls(family, tables, tuple(hosts), lacking(family, tools))

    @cached_property
    def ours(self) -> Mapping[Chain, Sequence[ListedLine]]:
        """Our lines of every chain; all of them in the chains that are ours alone."""
        return {chain: tuple(self._ours(chain)) for chain in self._program if not chain.users}

    @cached_property
    def said(self) -> Understood:
        """Our lines as rows."""
        lines = {chain: [line.text for line in found] for chain, found in self.ours.items()}
        return read.understand(self.family, lines)

    @property
    def users(self) -> Sequence[ListedLine]:
        """The rules in DOCKER-USER."""
        return self.lines("filter", chain_name(USER))

    @property
    def number(self) -> int:
        """How many lines are ours."""
        return sum(map(len, self.ours.values()))

    @property
    def present(self) -> bool:
        """Whether anything of ours is there."""
        own = (c for c in CHAINS if is_own(c))
        return (
            self.number > 0
            or any(chain_name(c) in self.tables.get(c.table, ()) for c in own)
            or any(self._changing())
        )

    @property
    def layout(self) -> Layout:
        """The layout that the chains have, or have in part."""
        names = (name for chains in self.tables.values() for name in chains)
        return TREE if any(map(is_subchain, names)) else DOCKER

    def lines(self, table: str, chain: str) -> Sequence[ListedLine]:
        """The lines of a chain, whoever's they are; none if there is no such chain."""
        return self._flat.get(table, {}).get(chain, ())

    def states(self) -> dict[str, TableState]:
        """Every table that iptables has, for the planning of scripts."""
        return {table: self._state(table) for table in TABLES}

    def differences(self, wanted: Host | None, layout: Layout | None = None) -> Iterator[str]:
        """What rows cannot tell: lines that are not ours, missing skeleton lines, order, layout.

        Without `layout` that of the chains is the right one.
        """
        label = self.family.label
        yield from (f"{label}: {phrase}" for phrase in self.said.differences)
        for table in self._changing():
            yield f"{label}: an apply was cut off: {CHANGING} in {table} drops what was changing"
        if wanted is None:
            return
        if self.family not in wanted.families():
            if self.present:
                yield f"{label}: chains are there, but the family is switched off"
            return
        yield from (f"{label}: {phrase}" for phrase in self._missing())
        yield from (f"{label}: {phrase}" for phrase in self._mismarked(wanted))
        yield from (f"{label}: {phrase}" for phrase in self._misarranged(layout or self.layout))

    def _changing(self) -> Iterator[str]:
        """The tables in which an apply that was cut off has left a chain."""
        return (table for table in EARLY if CHANGING in self.tables.get(table, ()))

    def counters(self) -> Iterator[RuleCounter]:
        """What our lines have counted, rule by rule."""
        for chain, found in self.ours.items():
            totals: dict[str, tuple[int, int]] = {}
            for line, made in zip(found, self.said.made[chain], strict=True):
                name = line.text if made is None else made.rule.name
                packets, size = totals.get(name, (0, 0))
                totals[name] = (packets + line.packets, size + line.bytes)
            for name, (packets, size) in totals.items():
                yield RuleCounter(f"{chain_name(chain)} ({self.family.label})", name, packets, size)

    def _mismarked(self, wanted: Host) -> Iterator[str]:
        """A chain for marking that does something else, or that nobody wants."""
        held = self.tables.get("filter", {}).get(MARK_ACCEPT)
        if wanted.accept_mark is None:
            if held is not None:
                yield f"chain {MARK_ACCEPT} of table filter is there, but there is no accept_mark"
        elif held is None:
            yield f"chain {MARK_ACCEPT} of table filter is missing"
        elif list(map(str, held)) != list(map(str, marking(wanted.accept_mark).lines)):
            yield f"chain {MARK_ACCEPT} of table filter does not mark and accept"

    def _missing(self) -> Iterator[str]:
        for chain in self._program:
            if self.lacking.issuperset(homes(chain)):
                continue
            name = chain_name(chain)
            if chain.hook is None and name not in self.tables.get(chain.table, ()):
                yield f"chain {name} of table {chain.table} is missing"
                continue
            made = self.said.made.get(chain, ())
            rules = {instance.rule for instance in made if instance is not None}
            for rule in chain.rules():
                if rule.driver is None and rule not in rules and self.family in rule.families():
                    yield f"chain {name} of table {chain.table} lacks its rule '{rule.name}'"
        for chain in _JUMPED_FROM:
            ours = [line.text for line in self.ours[chain]]
            lines = self.lines(chain.table, chain_name(chain))[: len(ours)]
            if [line.text for line in lines] != ours:
                yield f"another rule of {chain_name(chain)} in {chain.table} comes before ours"

    def _misarranged(self, layout: Layout) -> Iterator[str]:
        """Chains whose lines are not in the sub-chains where they belong."""
        wrong = [
            f"chain {name} of table {table} is not as the {layout.name} layout has it"
            for table, state in self.states().items()
            for name in misarranged(state, _texts(table), layout)
        ]
        if wrong and layout.name != self.layout.name:
            yield f"the chains have the {self.layout.name} layout, not the {layout.name} layout"
        else:
            yield from wrong

    @property
    def _program(self) -> tuple[Chain, ...]:
        return program_of(self.hosts[-1]) if self.hosts else CHAINS

    @cached_property
    def _flat(self) -> Mapping[str, Mapping[str, Sequence[ListedLine]]]:
        return {table: flatten(chains) for table, chains in self.tables.items()}

    def _ours(self, chain: Chain) -> Iterator[ListedLine]:
        for table in homes(chain):
            found = self.lines(table, chain_name(chain))
            known = self._known_in(chain)
            yield from (line for line in found if is_own(chain) or line.text in known)

    def _known_in(self, chain: Chain) -> frozenset[str]:
        """The lines of a built-in chain that are ours, there or not."""
        return self._known.get((chain.table, chain_name(chain)), frozenset())

    def _adopted(self) -> Iterator[tuple[Chain, str]]:
        """Lines of built-in chains that have our shape and are about what our chains speak of.

        Or about what such a line speaks of: containers without ports are in raw alone.
        """
        own = (self.lines(c.table, chain_name(c)) for c in CHAINS if is_own(c))
        about = _subjects(line.text for lines in own for line in lines)
        beside = self._shaped_like_ours(RAW_PREROUTING)
        about |= _subjects(text for text in beside if not about.isdisjoint(_subjects([text])))
        for chain in _BUILTIN:
            for text in self._shaped_like_ours(chain):
                if not about.isdisjoint(_subjects([text])):
                    yield chain, text

    def _shaped_like_ours(self, chain: Chain) -> list[str]:
        found = (
            line.text for table in homes(chain) for line in self.lines(table, chain_name(chain))
        )
        return [text for text in found if read.made_of(chain, self.family, text) is not None]

    @cached_property
    def _known(self) -> dict[tuple[str, str], frozenset[str]]:
        """By table and name of each built-in chain, the lines that are ours.

        It is those that one of `hosts`, or an empty host, would have. Without any host on record it
        is those that were `_adopted` as well.
        """
        known: dict[tuple[str, str], set[str]] = {}
        for host in (Host(), Host(userland_proxy=False), *self.hosts):
            for made in chains(host, self.family, _BUILTIN):
                known.setdefault((made.table, made.name), set()).update(map(str, made.lines))
        for chain, text in () if self.hosts else self._adopted():
            known.setdefault((chain.table, chain_name(chain)), set()).add(text)
        return {place: frozenset(texts) for place, texts in known.items()}

    def _state(self, table: str) -> TableState:
        ours = {
            chain_name(chain): self._known_in(chain) for chain in _BUILTIN if table in homes(chain)
        }
        held = self.tables.get(table, {})
        return TableState({c: tuple(line.text for line in ls) for c, ls in held.items()}, ours)


def _texts(table: str) -> list[ChainText]:
    """The chains of ours that a table may have, without lines."""
    ours = (chain for chain in CHAINS if not chain.users and table in homes(chain))
    return [ChainText(chain_name(chain), (), builtin=chain.hook is not None) for chain in ours]


def _subjects(texts: Iterable[str]) -> frozenset[str]:
    """The addresses, prefixes and interfaces in lines."""
    pairs = (pair for text in texts for pair in pairwise(text.split()))
    return frozenset(value for option, value in pairs if option in ("-s", "-d", "-i", "-o"))
