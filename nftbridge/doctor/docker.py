"""What Docker has left behind, by the layout of its version, and the commands that take it out.

DOCKER-USER is the administrator's: it stays, with the jump to it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from nftbridge.doctor.ruleset import Chain, Maker, Rule, Table

NFT_TABLE = "docker-bridges"
"""What Docker 29's nftables backend calls its tables, of families ip and ip6."""

COMPARES_LITTLE = frozenset({"ip6tables-legacy"})
"""Programs whose -D by text could take another rule: 1.8.9 compares them without their matches."""

_USERS_CHAIN = "DOCKER-USER"
_CHAIN = re.compile(r"DOCKER(-.+)?")
_OWN_BRIDGE = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}")
_JUMP = re.compile(r"(?:^| )-j (DOCKER(?:-\S+)?)$")
_INTERFACE = re.compile(r"(?:^| )-[io] (\S+)")
_SHAPES: dict[tuple[str, str], re.Pattern[str]] = {
    ("filter", "FORWARD"): re.compile(
        r"-i (?P<in>\S+) (! )?-o (?P=in) -j (ACCEPT|DROP)"
        r"|-o \S+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        r"|.*--match-set docker-ext-bridges-v[46] .*"
    ),
    ("nat", "POSTROUTING"): re.compile(
        r"-s \S+ ! -o \S+ -j (MASQUERADE|SNAT .*)"
        r"|-o \S+ -m addrtype --src-type LOCAL -j (MASQUERADE|SNAT .*)"
    ),
    ("raw", "PREROUTING"): re.compile(r"-d \S+ (-p .*)?! -i \S+ .*-j DROP|-d \S+ ! -i \S+ -j DROP"),
}
"""The lines of all versions in built-in chains that name no chain of Docker's."""

_Sign = Callable[[Counter[str], str], bool]
_LAYOUTS: tuple[tuple[str, _Sign], ...] = (
    ("Docker 29, nftables backend", lambda chains, _: NFT_TABLE in chains),
    ("Docker 29", lambda chains, _: "DOCKER-INTERNAL" in chains),
    ("Docker 28.0.0", lambda _, text: "docker-ext-bridges-v" in text),
    (
        "Docker 28.0.1 to 28.1",
        lambda chains, text: "DOCKER-FORWARD" in chains and _guards_ports(text),
    ),
    ("Docker 28.2 to 28.5", lambda chains, _: "DOCKER-FORWARD" in chains),
    ("Docker 17.12 to 27", lambda chains, _: "DOCKER-ISOLATION-STAGE-1" in chains),
    ("Docker 1.10 to 17.11", lambda chains, _: "DOCKER-ISOLATION" in chains),
    ("Docker up to 1.9, or parts of a later one", lambda chains, _: chains.total() > 0),
)
"""By what a layout is told; the first that fits is it. DOCKER-USER alone is none."""


def _guards_ports(text: str) -> bool:
    """Whether raw drops are per port, not per container."""
    return re.search(r"^-d (?!127\.)\S+ .*--dport \d+ .*-j DROP$", text, re.MULTILINE) is not None


class Remains:
    """Everything of Docker's in some tables, whether a daemon looks after it or not."""

    def __init__(self, tables: tuple[Table, ...]) -> None:
        self._tables = tables
        self._bridges = frozenset(_bridges(tables))

    @property
    def layout(self) -> str:
        """The versions whose layout this is; "" if there is nothing."""
        chains: Counter[str] = Counter()
        texts: list[str] = []
        for table in self._tables:
            if table.name == NFT_TABLE:
                chains[NFT_TABLE] += 1
            chains.update(name for name in table.chains if is_dockers(name))
            texts += [rule.text for _, rule in self._lines(table)]
        return layout_of(chains, texts)

    def __bool__(self) -> bool:
        return bool(self.layout)

    def owns(self, table: Table, chain: Chain, rule: Rule | None) -> bool:
        """Whether Docker made that rule."""
        if table.name == NFT_TABLE or is_dockers(chain.name):
            return True
        return rule is not None and self._is_line(table, chain, rule)

    def without(self, tables: tuple[Table, ...]) -> tuple[Table, ...]:
        """`tables` as they are once everything of Docker's in ours is removed."""
        mine = [id(table) for table in self._tables]
        kept = (table for table in tables if id(table) not in mine or table.name != NFT_TABLE)
        return tuple(self._cleaned(t) if id(t) in mine else t for t in kept)

    def _cleaned(self, table: Table) -> Table:
        if table.maker is Maker.NFT:
            return table
        chains = {
            name: replace(
                chain, rules=tuple(r for r in chain.rules if not self._is_line(table, chain, r))
            )
            for name, chain in table.chains.items()
            if not is_dockers(name)
        }
        return replace(table, chains=chains)

    def removal(self) -> Iterator[str]:
        """Commands that take out everything, one for each table."""
        for table in self._tables:
            if table.name == NFT_TABLE:
                yield f"nft delete table {table.family} {table.name}"
            elif table.maker is not Maker.NFT:
                yield from self._restore(table)

    def _restore(self, table: Table) -> Iterator[str]:
        """One commit: lines in built-in chains, then the chains, all of them emptied first."""
        chains = [name for name in table.chains if is_dockers(name)]
        script = [*self._deletions(table)]
        script += [f"-F {name}" for name in chains]
        script += [f"-X {name}" for name in chains]
        if script:
            lines = shlex.join([f"*{table.name}", *script, "COMMIT"])
            yield f"printf '%s\\n' {lines} | {table.program}-restore -w --noflush"

    def _deletions(self, table: Table) -> Iterator[str]:
        lines = list(self._lines(table))
        if table.program in COMPARES_LITTLE:
            numbered = [(chain, chain.rules.index(rule) + 1) for chain, rule in lines]
            yield from (f"-D {chain.name} {number}" for chain, number in reversed(numbered))
        else:
            yield from (f"-D {chain.name} {rule.text}" for chain, rule in lines)

    def _lines(self, table: Table) -> Iterator[tuple[Chain, Rule]]:
        """Docker's lines in built-in chains."""
        for chain in table.bases():
            for rule in chain.rules:
                if self._is_line(table, chain, rule):
                    yield chain, rule

    def _is_line(self, table: Table, chain: Chain, rule: Rule) -> bool:
        if table.maker is Maker.NFT or not chain.hook:
            return False
        jump = _JUMP.search(rule.text)
        if jump is not None:
            return is_dockers(jump[1])
        shape = _SHAPES.get((table.name, chain.name))
        if shape is None or shape.fullmatch(rule.text) is None:
            return False
        named = frozenset(_INTERFACE.findall(rule.text))
        return named <= self._bridges if named else "docker-ext-bridges" in rule.text


def layout_of(chains: Counter[str], lines: Iterable[str]) -> str:
    """The versions that make these chains, with these lines in built-in ones; "" if none does."""
    text = "\n".join(lines)
    return next((name for name, fits in _LAYOUTS if fits(chains, text)), "")


def is_dockers(chain: str) -> bool:
    """Whether a chain of that name is Docker's own, not the administrator's."""
    return _CHAIN.fullmatch(chain) is not None and chain != _USERS_CHAIN


def _bridges(tables: tuple[Table, ...]) -> Iterator[str]:
    """Docker's bridges: by their names, or because lines from or to its chains name them."""
    for table in tables:
        if table.maker is Maker.NFT:
            continue
        for chain in table.chains.values():
            for rule in chain.rules:
                jump = _JUMP.search(rule.text)
                named = _INTERFACE.findall(rule.text)
                if is_dockers(chain.name) or (jump is not None and is_dockers(jump[1])):
                    yield from named
                else:
                    yield from filter(_OWN_BRIDGE.fullmatch, named)
