"""What of iptables' tables is Docker's: its chains, its lines in built-in ones, and what is not.

The lines are those of Docker 1.9 to 29. One that looks like Docker's is Docker's only if it speaks
of Docker's bridges, and of addresses behind them. A line of another shape in one of Docker's chains
is somebody else's, and would be lost with the chain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from nftbridge.compat.tables import Tables
from nftbridge.model import Host, Prefix
from nftbridge.translate.line import jump_of

_WORDS = {
    "BR": r"[^\s!-]\S*",
    "NET": r"[0-9a-f.:]+/\d+",
    "CIP": r"[0-9a-f.:]+/(?:32|128)",
    "P": "(?:tcp|udp|sctp)",
    "N": r"\d+",
    "TO": r"\S+",
    "SET": r"docker-ext-bridges-v[46]",
}
"""What stands for what in the lines below; what is in brackets may be missing."""

_PORT = "-p P -m P --dport N"
_ISOLATED = (
    "! -d NET -i BR [! -o BR ]-j DROP",
    "! -s NET [! -i BR ]-o BR -j DROP",
)
_MASQUERADED = ("MASQUERADE", "SNAT --to-source TO")
_RETURN = "-j RETURN"

_OWN: Mapping[tuple[str, str], Sequence[str]] = {
    ("filter", "DOCKER"): (
        f"[-s CIP ]-d CIP [! ]-i BR -o BR {_PORT} -j ACCEPT",
        "-s CIP -d CIP -i BR -o BR -p P -m P --sport N -j ACCEPT",
        f"-d CIP -o BR {_PORT} -j ACCEPT",
        "! -i BR -o BR -j DROP",
        "! -i BR -o BR -j ACCEPT",
        "-o BR -p icmp -j ACCEPT",
        "-o BR -p ipv6-icmp -j ACCEPT",
        _RETURN,
    ),
    ("filter", "DOCKER-FORWARD"): (
        "-j DOCKER-CT",
        "-j DOCKER-INTERNAL",
        "-j DOCKER-ISOLATION-STAGE-1",
        "-j DOCKER-BRIDGE",
        "-j DOCKER-INGRESS",
        "-i BR [! -o BR ]-j ACCEPT",
        "-i BR -o BR -j ACCEPT",
        "-i BR -o BR -j DROP",
        "-m set --match-set SET dst -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m set --match-set SET dst -j DOCKER",
    ),
    ("filter", "DOCKER-CT"): ("-o BR -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",),
    ("filter", "DOCKER-BRIDGE"): ("-o BR -j DOCKER",),
    ("filter", "DOCKER-ISOLATION-STAGE-1"): (
        "-i BR ! -o BR -j DOCKER-ISOLATION-STAGE-2",
        "-i BR -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-o BR -j RETURN",
        *_ISOLATED,
        _RETURN,
    ),
    ("filter", "DOCKER-ISOLATION-STAGE-2"): ("-o BR -j DROP", _RETURN),
    ("filter", "DOCKER-ISOLATION"): ("-i BR -o BR -j DROP", *_ISOLATED, _RETURN),
    ("filter", "DOCKER-INTERNAL"): (*_ISOLATED, _RETURN),
    ("filter", "DOCKER-INGRESS"): (_RETURN,),
    ("nat", "DOCKER"): (
        "[-d NET ]-i BR -j RETURN",
        f"[! -s fe80::/10 ][-d CIP ][! -i BR ]{_PORT} -j DNAT --to-destination TO",
    ),
    ("nat", "DOCKER-INGRESS"): (_RETURN,),
}
"""Docker's chains by table, with the lines that it puts into them.

Those of swarm's routing mesh are not among these: a chain with them is not given up.
"""

_LOCAL = ("[! -d NET ]-m addrtype --dst-type LOCAL -j DOCKER",)
_INGRESS = ("-m addrtype --dst-type LOCAL -j DOCKER-INGRESS",)
_BUILT_IN: Mapping[tuple[str, str], Sequence[str]] = {
    ("filter", "FORWARD"): (
        "-j DOCKER-USER",
        "-j DOCKER-FORWARD",
        "-j DOCKER-ISOLATION-STAGE-1",
        "-j DOCKER-ISOLATION",
        "-j DOCKER-INGRESS",
        "-o BR -j DOCKER",
        "-o BR -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-i BR [! ]-o BR -j ACCEPT",
        "-i BR -o BR -j DROP",
        "-m set --match-set SET dst -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m set --match-set SET dst -j DOCKER",
    ),
    ("nat", "PREROUTING"): (*_LOCAL, *_INGRESS),
    ("nat", "OUTPUT"): (*_LOCAL, *_INGRESS),
    ("nat", "POSTROUTING"): (
        *(f"-s NET ! -o BR -j {target}" for target in _MASQUERADED),
        *(f"-o BR -m addrtype --src-type LOCAL -j {target}" for target in _MASQUERADED),
        f"-s CIP -d CIP {_PORT} -j MASQUERADE",
    ),
    ("raw", "PREROUTING"): (
        f"-d CIP ! -i BR [{_PORT} ]-j DROP",
        "-d CIP -i BR -j ACCEPT",
        f"-d CIP -i loopback0 {_PORT} -j ACCEPT",
    ),
    ("mangle", "POSTROUTING"): ("-p sctp -m sctp --sport N -j CHECKSUM --checksum-fill",),
}
"""Docker's lines in built-in chains."""


def _pattern(lines: Sequence[str]) -> re.Pattern[str]:
    words = re.compile(rf"\b({'|'.join(_WORDS)})\b")
    escaped = (re.escape(line).replace(r"\[", "(?:").replace(r"\]", ")?") for line in lines)
    return re.compile("|".join(words.sub(lambda found: _WORDS[found[1]], line) for line in escaped))


_OWN_LINES = {place: _pattern(lines) for place, lines in _OWN.items()}
_BUILT_IN_LINES = {place: _pattern(lines) for place, lines in _BUILT_IN.items()}
_INTERFACES = re.compile(r"(?:^| )-[io] (\S+)")
_ADDRESSES = re.compile(r"(?:^| )-[sd] (\S+)")
_SUBNET = re.compile(r"-s (\S+) ! -o (\S+) -j .*")
_LOOPBACK = re.compile(r"-d (127\.\S+) .*(-p .*--dport \d+) -j .*")
_TRUSTED = re.compile(r"-d (\S+) -i \S+ -j ACCEPT")
_MIRRORED = "loopback0"


def is_own(table: str, chain: str) -> bool:
    """Whether a chain of that name is Docker's own; DOCKER-USER is not."""
    return (table, chain) in _OWN


def own_chains(table: str) -> tuple[str, ...]:
    """All names that chains of Docker's own can have in a table."""
    return tuple(chain for name, chain in _OWN if name == table)


def is_present(tables: Tables) -> bool:
    """Whether Docker's rules are there, not only parts of them."""
    return "filter" in tables and any(is_own("filter", c) for c in tables["filter"].chains)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A line that is not Docker's and stands in its way: in one of its chains, or jumping there."""

    table: str
    chain: str
    number: int
    line: str

    @property
    def inside(self) -> bool:
        """Whether it stands in a chain of Docker's own."""
        return is_own(self.table, self.chain)

    def __str__(self) -> str:
        return f"rule {self.number} of {self.chain} in {self.table} ({self.line})"


@dataclass(frozen=True, slots=True)
class Theirs:
    """By what Docker's lines in built-in chains are told: what they may speak of."""

    bridges: frozenset[str]
    subnets: frozenset[Prefix]
    loopback_ports: frozenset[tuple[str, str]]
    """Loopback address and port as ``-p … --dport N``: what is published there."""

    @classmethod
    def of(cls, host: Host, held: Iterable[Tables]) -> Theirs:
        """What Docker has on this host by what it says, and by what is in `held`, now or once."""
        held = tuple(held)
        networks = host.networks
        bridges = frozenset(n.bridge for n in networks).union(*map(_bridges, held))
        subnets = frozenset(subnet for n in networks for subnet in n.subnets)
        ports = frozenset(port for tables in held for port in _loopback_ports(tables))
        return cls(bridges, subnets.union(*(_subnets(t, bridges) for t in held)), ports)

    def owns(self, table: str, chain: str, line: str) -> bool:
        """Whether a line in a built-in chain is Docker's."""
        shape = _BUILT_IN_LINES.get((table, chain))
        if shape is None or shape.fullmatch(line) is None:
            return False
        if (at_loopback := _LOOPBACK.fullmatch(line)) is not None:
            return (at_loopback[1], at_loopback[2]) in self.loopback_ports
        interfaces = frozenset(_INTERFACES.findall(line))
        if _TRUSTED.fullmatch(line) is None and not interfaces <= self.bridges:
            return False
        addresses = _ADDRESSES.findall(line)
        return "--dst-type" in line or all(map(self._is_behind, addresses))

    def strangers(self, tables: Tables) -> Iterator[Stranger]:
        """Lines of others in Docker's chains, and lines of others that jump to these."""
        for name, table in tables.items():
            for chain, lines in table.chains.items():
                own = is_own(name, chain)
                for number, line in enumerate(lines, start=1):
                    if own:
                        strange = _OWN_LINES[name, chain].fullmatch(line) is None
                    else:
                        leads_there = is_own(name, jump_of(line))
                        strange = leads_there and not self.owns(name, chain, line)
                    if strange:
                        yield Stranger(name, chain, number, line)

    def _is_behind(self, text: str) -> bool:
        address = ip_network(text)
        return any(
            address.version == subnet.version and _within(address, subnet)
            for subnet in self.subnets
        )


def _within(address: Prefix, subnet: Prefix) -> bool:
    return address.network_address in subnet and address.prefixlen >= subnet.prefixlen


def _bridges(tables: Tables) -> frozenset[str]:
    """The bridges that Docker's lines in its own chains name."""
    named = (
        name
        for table, held in tables.items()
        for chain, lines in held.chains.items()
        if (shape := _OWN_LINES.get((table, chain))) is not None
        for line in lines
        if shape.fullmatch(line)
        for name in _INTERFACES.findall(line)
    )
    return frozenset(named) - {_MIRRORED}


def _subnets(tables: Tables, bridges: frozenset[str]) -> Iterator[Prefix]:
    lines = tables["nat"].lines("POSTROUTING") if "nat" in tables else ()
    for found in filter(None, map(_SUBNET.fullmatch, lines)):
        if found[2] in bridges:
            yield ip_network(found[1])


def _loopback_ports(tables: Tables) -> Iterator[tuple[str, str]]:
    lines = tables["nat"].lines("DOCKER") if "nat" in tables else ()
    for found in filter(None, map(_LOOPBACK.fullmatch, lines)):
        yield found[1], found[2]
