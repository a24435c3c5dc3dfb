"""Tables, chains and rules of any firewall of the host, whoever made them.

Statements are nodes of libnftables' JSON (libnftables-json(5)), also those that were read from
iptables, so that one reader understands both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from nftbridge.model import Family
from nftbridge.nft.syntax import Json, is_list, is_object


class Maker(Enum):
    """Which program a table is read and changed with."""

    NFT = "nft"
    IPTABLES_NFT = "nft-variant iptables"
    IPTABLES_LEGACY = "legacy iptables"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `text` is how its program writes it, `handle` nft's number for it (0: none).

    `ports` are the destination ports that it can only match, None if it does not say: most rules
    of a long list are passed over by one look at them.
    """

    statements: tuple[Json, ...]
    text: str
    handle: int = 0
    ports: frozenset[int] | None = None

    @classmethod
    def of(cls, statements: tuple[Json, ...], text: str, handle: int = 0) -> Rule:
        """A rule, with its ports read from its statements."""
        return cls(statements, text, handle, next(_ports(statements), None))

    @property
    def asks(self) -> bool:
        """Whether it is for some packets only."""
        silent = {"counter", "log", *_ENDS}
        return any(not silent.issuperset(statement) for statement in self.statements)

    @property
    def fields(self) -> frozenset[str]:
        """The header fields that it compares or looks up: ``saddr``, ``dport``, ..."""
        return frozenset(field for s in self.statements for field in _fields(s))


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain. `hook` is "" unless it is a base chain; `priority` and `policy` are of those.

    `devices` are those that a chain at ingress or egress hangs on, if that is known.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    kind: str = "filter"
    priority: int = 0
    policy: str = "accept"
    devices: tuple[str, ...] = ()

    def hangs_on(self, device: str) -> bool:
        """Whether packets of that interface come by; of most hooks those of all do."""
        return not self.devices or any(fnmatchcase(device, name) for name in self.devices)


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `family` is nft's: ip, ip6, inet, bridge, netdev, arp."""

    maker: Maker
    family: str
    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def sees(self, family: Family) -> bool:
        """Whether routed packets of `family` pass its chains."""
        return self.family in ("inet", "netdev", "ip" if family is Family.IPV4 else "ip6")

    def bases(self) -> Iterator[Chain]:
        """Its base chains."""
        return (chain for chain in self.chains.values() if chain.hook)

    @property
    def program(self) -> str:
        """The program that changes it."""
        if self.maker is Maker.NFT:
            return "nft"
        variant = "nft" if self.maker is Maker.IPTABLES_NFT else "legacy"
        return f"ip{'6' if self.family == 'ip6' else ''}tables-{variant}"

    def __str__(self) -> str:
        if self.maker is Maker.NFT:
            return f"table {self.family} {self.name}"
        return f"table {self.name} of {self.program}"


@dataclass(frozen=True, slots=True)
class Place:
    """A rule in its chain; `rule` None is the chain's policy."""

    table: Table
    chain: Chain
    rule: Rule | None = None

    def __str__(self) -> str:
        what = f"policy {self.chain.policy}" if self.rule is None else f"'{self.rule.text}'"
        return f"{self.table}, chain {self.chain.name}: {what}"

    def blocks_some(self) -> bool:
        """Whether its rule, or the chain that it leads to, drops some packets and not all."""
        if self.rule is None or not self.rule.asks:
            return False
        for statement in self.rule.statements:
            body = next(iter(statement.values()), None)
            if not _ENDS.isdisjoint(statement) or ("vmap" in statement and "drop" in str(body)):
                return True
            target = body.get("target") if is_object(body) else None
            below = self.table.chains.get(str(target))
            if below and any(_ENDS & s.keys() for rule in below.rules for s in rule.statements):
                return True
        return False

    @property
    def number(self) -> int:
        """The rule's place in its chain, from 1; 0 for the policy."""
        return 0 if self.rule is None else self.chain.rules.index(self.rule) + 1


_ENDS = frozenset({"drop", "reject"})


def _fields(statement: Json) -> Iterator[str]:
    body = statement.get("match", statement.get("vmap"))
    left = body.get("left", body.get("key")) if is_object(body) else None
    parts = left.get("concat") if is_object(left) else None
    for part in parts if is_list(parts) else [left]:
        header = part.get("payload") if is_object(part) else None
        if is_object(header):
            yield str(header.get("field", ""))


def _ports(statements: tuple[Json, ...]) -> Iterator[frozenset[int]]:
    """The ports of each plain comparison of the destination port with numbers."""
    for statement in statements:
        match = statement.get("match")
        if not is_object(match) or match.get("op") != "==":
            continue
        left, right = match.get("left"), match.get("right")
        field = left.get("payload") if is_object(left) else None
        found = right.get("set") if is_object(right) else [right]
        if is_object(field) and field.get("field") == "dport" and is_list(found):
            ports = [port for port in found if isinstance(port, int)]
            if len(ports) == len(found):
                yield frozenset(ports)


def attached(tables: tuple[Table, ...], family: Family, hook: str) -> list[tuple[Table, Chain]]:
    """The base chains that packets of `family` pass at `hook`, in the order of priority."""
    found = [
        (table, chain)
        for table in tables
        if table.sees(family)
        for chain in table.bases()
        if chain.hook == hook
    ]
    return sorted(found, key=lambda pair: pair[1].priority)
