"""The part of iptables' language that nftbridge speaks: a line, as iptables-save says it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from nftbridge.policy.program import Field, Value

_OPTIONS = {
    Field.SADDR: "-s",
    Field.DADDR: "-d",
    Field.IIF: "-i",
    Field.OIF: "-o",
    Field.PROTOCOL: "-p",
}
"""The matches that iptables itself has, in the order in which iptables-save lists them."""


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
    for field, option in ((Field.SADDR_TYPE, "--src-type"), (Field.DADDR_TYPE, "--dst-type")):
        if field in by_field:
            (value,) = by_field[field].values
            yield from ("-m", "addrtype", option, str(value).upper())
    if Field.CT_STATE in by_field:
        states = sorted(
            (str(value).upper() for value in by_field[Field.CT_STATE].values), reverse=True
        )
        yield from ("-m", "conntrack", "--ctstate", ",".join(states))


def _written(value: Value) -> str:
    """A value in iptables-save's form: addresses are prefixes of full length."""
    if isinstance(value, IPv4Address | IPv6Address):
        return f"{value}/{value.max_prefixlen}"
    if isinstance(value, IPv4Network | IPv6Network):
        return str(value)
    return str(value)
