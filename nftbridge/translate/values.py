"""What a line is for, and the values in it: addresses, ports, protocols, numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from nftbridge.model import Address, Family
from nftbridge.nft.syntax import Json
from nftbridge.translate.line import Line, Option, RefusedError
from nftbridge.translate.nodes import masked, match

Alternatives: TypeAlias = tuple[tuple[Json, ...], ...]
"""What a match becomes: one of these has all of its nodes hold."""

PORTED = ("tcp", "udp", "sctp", "dccp", "udplite")
"""The protocols whose ports nft knows by name."""

_HEADERS = {Family.IPV4: "ip", Family.IPV6: "ip6"}

# iptables-save has names of its own and those of /etc/protocols, nft's names may be others
_PROTOCOLS: dict[str, str | int] = {
    "tcp": "tcp",
    "udp": "udp",
    "sctp": "sctp",
    "icmp": "icmp",
    "ipv6-icmp": "ipv6-icmp",
    "icmpv6": "ipv6-icmp",
    "dccp": 33,
    "udplite": 136,
    "igmp": 2,
    "ipencap": 4,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ipv6-crypt": 50,
    "ah": 51,
    "ipv6-auth": 51,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
    "mh": 135,
}
_BY_NUMBER = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "132": "sctp"} | {
    "33": "dccp",
    "136": "udplite",
}
_NUMBER = re.compile(r"\d{1,10}|0x[0-9a-f]{1,8}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Context:
    """What a match needs to know of the line: its family, and the one protocol it is for or ""."""

    family: Family
    protocol: str

    @classmethod
    def of(cls, line: Line, family: Family) -> Context:
        """That of a line."""
        own = (o for part in line.matches if not part.name for o in part.options)
        named = (o.values for o in own if o.name == "-p" and not o.negated)
        name = "".join(next(named, ()))
        return cls(family, _BY_NUMBER.get(name, name))

    @property
    def header(self) -> str:
        """``ip`` or ``ip6``."""
        return _HEADERS[self.family]


def in_network(left: Json, option: Option, context: Context) -> Json:
    """An address, a prefix, or a mask with gaps."""
    text, _, mask = option.value.partition("/")
    address = of_family(text, option, context)
    if mask and not mask.isdecimal():  # iptables-save writes a length wherever there is one
        bits = of_family(mask, option, context)
        return match(masked(left, str(bits)), str(address), negated=option.negated)
    try:
        network = ip_network(f"{address}/{mask}" if mask else address, strict=False)
    except ValueError as error:
        raise RefusedError(str(option), "is no prefix") from error
    if network.prefixlen == 0:
        raise RefusedError(str(option), "every address is in it, so nft has no match for it")
    if network.prefixlen == network.max_prefixlen:
        return match(left, str(address), negated=option.negated)
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    return match(left, {"prefix": prefix}, negated=option.negated)


def of_family(text: str, option: Option, context: Context) -> Address:
    """An address of the line's family."""
    try:
        address = ip_address(text)
    except ValueError as error:
        raise RefusedError(str(option), "is no address") from error
    if Family.of(address) is not context.family or "%" in text:
        raise RefusedError(str(option), f"is no {context.family.label} address")
    return address


def protocol_named(option: Option) -> str | int:
    """A protocol as nft has it: a name where both know it, else its number."""
    name = _BY_NUMBER.get(option.value, option.value)
    found = _PROTOCOLS.get(name)
    if found is None:
        return number(option, name, 1, 255)
    return found


def bounds(option: Option, text: str) -> tuple[int, int]:
    """Both ends of a range of ports, or one port twice."""
    first, colon, last = text.partition(":")
    low = number(option, first, 0, 65535)
    high = number(option, last, 0, 65535) if colon else low
    if low > high:
        raise RefusedError(str(option), "the range ends before it begins")
    return low, high


def number(option: Option, text: str, low: int, high: int) -> int:
    """A number within these limits, decimal or with ``0x``."""
    if not _NUMBER.fullmatch(text):
        raise RefusedError(str(option), f"'{text}' is no number known here")
    found = int(text, 16 if text.lower().startswith("0x") else 10)
    if not low <= found <= high:
        raise RefusedError(str(option), f"{text} is not within {low} and {high}")
    return found
