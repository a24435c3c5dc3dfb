"""The part of iptables' language that nftbridge speaks: a line, as iptables-save says it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET6, inet_ntop

from nftbridge.model import Address, Mark
from nftbridge.policy.program import Constant, Field, Key, Value

_OPTIONS = {
    Field.SADDR: "-s",
    Field.DADDR: "-d",
    Field.IIF: "-i",
    Field.OIF: "-o",
    Field.PROTOCOL: "-p",
}
"""The matches that iptables itself has, in the order in which iptables-save lists them."""

_TYPES = {Field.SADDR_TYPE: "--src-type", Field.DADDR_TYPE: "--dst-type"}
_ALL_BITS = "/0xffffffff"  # a mask that iptables-save leaves out
_TRANSLATIONS = ("--to-destination", "--to-source")
_EXTENSIONS = frozenset({"tcp", "udp", "sctp", "addrtype", "conntrack", "mark"})


@dataclass(frozen=True, slots=True)
class Match:
    """A field has one of these values; negated: it has not."""

    field: Field
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Jump:
    """Where a packet goes: a target or a chain, with the target's options."""

    name: str
    options: tuple[str, ...] = ()

    def translated(self) -> Key | None:
        """The address, and the port if there is one, of a translation."""
        if len(self.options) != 2 or self.options[0] not in _TRANSLATIONS:
            return None
        host, port = _host_and_port(self.options[1])
        try:
            return (ip_address(host), int(port)) if port else (ip_address(host),)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Line:
    """One rule of a chain: at most one match per field."""

    matches: tuple[Match, ...]
    jump: Jump

    def arguments(self) -> tuple[str, ...]:
        """Everything behind ``-A CHAIN``, in the words and the order of iptables-save."""
        by_field = {match.field: match for match in self.matches}
        words: list[str] = []
        for field, option in _OPTIONS.items():
            if field in by_field:
                words += _plain(option, by_field[field])
        words += _extensions(by_field)
        return (*words, "-j", self.jump.name, *self.jump.options)

    def __str__(self) -> str:
        return " ".join(self.arguments())


@dataclass(frozen=True, slots=True)
class ChainText:
    """A chain as text, each line without ``-A CHAIN``.

    In a built-in chain `lines` are ours, among other people's; a chain of the user's has none.
    """

    name: str
    lines: tuple[str, ...]
    builtin: bool = False
    users: bool = False


def parse(words: Sequence[str]) -> Line | None:
    """What iptables-save listed, split into words; None if it says more than we ever do."""
    try:
        return _Parser(words).line()
    except (ValueError, StopIteration):
        return None


class _Parser:
    """Reads one line word by word; whatever is not ours is a ValueError."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = iter(words)
        self._matches: dict[Field, Match] = {}

    def line(self) -> Line:
        negated = False
        for word in self._words:
            if word == "!":
                negated = True
                continue
            if word == "-j":
                target = Jump(next(self._words), tuple(self._words))
                return Line(tuple(self._matches.values()), target)
            self._match(word, negated=negated)
            negated = False
        raise ValueError("no target")

    def _match(self, option: str, *, negated: bool) -> None:
        value = next(self._words)
        if option == "-m":
            if value not in _EXTENSIONS:
                raise ValueError(value)
            return
        field, reader = _READERS.get(option, (None, None))
        if field is None or reader is None or field in self._matches:
            raise ValueError(option)
        self._matches[field] = Match(field, reader(value), negated)


def _one(value: Value) -> tuple[Value, ...]:
    return (value,)


def _address(text: str) -> tuple[Value, ...]:
    """A single address: iptables lists single addresses as prefixes of full length."""
    network = ip_network(text)
    return (network.network_address if network.prefixlen == network.max_prefixlen else network,)


def _mark(text: str) -> tuple[Value, ...]:
    return (text if "/" in text else f"{text}{_ALL_BITS}",)


_READERS: dict[str, tuple[Field, Callable[[str], tuple[Value, ...]]]] = {
    "-s": (Field.SADDR, _address),
    "-d": (Field.DADDR, _address),
    "-i": (Field.IIF, _one),
    "-o": (Field.OIF, _one),
    "-p": (Field.PROTOCOL, _one),
    "--dport": (Field.DPORT, lambda text: (int(text),)),
    "--src-type": (Field.SADDR_TYPE, lambda text: (text.lower(),)),
    "--dst-type": (Field.DADDR_TYPE, lambda text: (text.lower(),)),
    "--mark": (Field.MARK, _mark),
    "--ctstate": (Field.CT_STATE, lambda text: tuple(sorted(text.lower().split(",")))),
}


def _plain(option: str, match: Match) -> Iterator[str]:
    (value,) = match.values
    if match.negated:
        yield "!"
    yield option
    yield _written(value)


def _extensions(by_field: dict[Field, Match]) -> Iterator[str]:
    if Field.DPORT in by_field:
        (protocol,) = by_field[Field.PROTOCOL].values
        (port,) = by_field[Field.DPORT].values
        yield from ("-m", str(protocol), "--dport", str(port))
    for field, option in _TYPES.items():
        if field in by_field:
            (value,) = by_field[field].values
            yield from ("-m", "addrtype", option, str(value).upper())
    if Field.CT_STATE in by_field:
        states = (str(value).upper() for value in by_field[Field.CT_STATE].values)
        yield from ("-m", "conntrack", "--ctstate", ",".join(sorted(states, reverse=True)))
    for value in by_field[Field.MARK].values if Field.MARK in by_field else ():
        yield from ("-m", "mark", "--mark", str(value).removesuffix(_ALL_BITS))


def constant(value: Constant) -> Value:
    """What a rule of the program names, as a value of a match: a mark is its text."""
    return str(value) if isinstance(value, Mark) else value


def numeric(address: Address) -> str:
    """An address as the C library writes it, which iptables asks: ``::a.b.c.d`` below ::/96."""
    if isinstance(address, IPv6Address):
        return inet_ntop(AF_INET6, address.packed)
    return str(address)


def _written(value: Value) -> str:
    """A value in iptables-save's form."""
    if isinstance(value, IPv4Address | IPv6Address):
        return f"{numeric(value)}/{value.max_prefixlen}"
    if isinstance(value, IPv6Network):
        return f"{numeric(value.network_address)}/{value.prefixlen}"
    return str(value)


def _host_and_port(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port = text.partition(":")
    return host, port
