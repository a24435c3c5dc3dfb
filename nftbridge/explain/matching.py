"""What a match in a rule of the user's says about a packet: yes, no, or that it cannot be told.

Matches are nodes of nft's JSON (libnftables-json(5)), as nft 0.9.8 to 1.1.7 list them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any, TypeAlias

from nftbridge.explain.around import SOME_UPLINK
from nftbridge.model import Address, Family
from nftbridge.nft.syntax import Json, is_list, is_object
from nftbridge.policy.evaluate import Packet

Truth: TypeAlias = bool | None
"""None: it cannot be told."""

Value: TypeAlias = Address | str | int
Values: TypeAlias = tuple[Value, ...] | None
"""What a field may be: one value as a rule, () if the packet has no such field, None: unknown."""

Sets: TypeAlias = Mapping[str, Json]
"""The sets of the table as listed, by name."""

_EPHEMERAL = (32768, 60999)  # both ends of net.ipv4.ip_local_port_range, as the kernel has it
_NAMES: dict[object, str] = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    58: "ipv6-icmp",
    132: "sctp",
    "icmpv6": "ipv6-icmp",
}
_PORTED = ("tcp", "udp", "sctp")
_OTHERS_PORTED = ("dccp", "udplite")  # nobody asks about their packets
_ICMP = {"icmp": "icmp", "icmpv6": "ipv6-icmp"}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda one, other: one < other,
    ">": lambda one, other: one > other,
    "<=": lambda one, other: one <= other,
    ">=": lambda one, other: one >= other,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet in DOCKER-USER; its connection's first one, before DNAT and as it came here."""

    packet: Packet
    asked: Packet
    delivered: Packet

    @property
    def translated(self) -> bool:
        """Whether the connection's destination was translated."""
        asked, got = self.asked, self.delivered
        return (asked.daddr, asked.dport) != (got.daddr, got.dport)

    @property
    def is_answer(self) -> bool:
        """Whether it goes the other way."""
        return self.packet.state != "new"


def holds(body: Json, seen: Seen, sets: Sets) -> Truth:
    """Whether the match `body` holds for the packet."""
    operator, left, right = body["op"], body["left"], body["right"]
    flags = _status_flags(left)
    if flags and right == 0:  # as it is written; nft lists it with the operator "!"
        operator, left, right = "!", left["&"][0], flags
    if _name(left) == "ct status":
        return _has_status(operator, _flags(right), seen)
    fields = [_values(node, seen) for node in _parts(left)]
    if () in fields:
        return False  # nft asks for the protocol or family first
    if any(field is None for field in fields):
        return None
    candidates = product(*(field for field in fields if field is not None))
    test = partial(_compare, operator, right, sets)
    return _agreed(test(candidate) for candidate in candidates)


def _status_flags(left: Any) -> list[str]:
    """The flags in ``ct status & FLAGS``, [] in anything else."""
    if not is_object(left) or "&" not in left:
        return []
    field, mask = left["&"]
    return _flags(mask) if _name(field) == "ct status" else []


def _flags(node: Any) -> list[str]:
    """One flag, or several in either way of writing them."""
    if is_object(node) and "|" in node:
        return _flags(node["|"])
    return [str(flag) for flag in node] if is_list(node) else [str(node)]


def _has_status(operator: str, flags: list[str], seen: Seen) -> Truth:
    """Whether the connection has one of the flags; all that is known is whether it has DNAT."""
    if operator not in ("in", "!"):
        return None
    known = "dnat" in flags and seen.translated
    found = True if known else False if flags == ["dnat"] else None
    return found if operator == "in" or found is None else not found


def _compare(operator: str, right: Any, sets: Sets, candidate: tuple[Value, ...]) -> Truth:
    if operator in ("==", "in", "!="):
        found = _contains(right, candidate, sets)
        return found if operator != "!=" or found is None else not found
    order, bound = _ORDERS.get(operator), _like(candidate[0], right)
    return None if order is None or bound is None else order(candidate[0], bound)


def _contains(right: Any, candidate: tuple[Value, ...], sets: Sets) -> Truth:
    """Whether a value, prefix, range, list or set has the candidate in it."""
    if isinstance(right, str) and right.startswith("@"):
        held = sets.get(right[1:])
        # its elements cannot name sets: one that did, itself perhaps, is nothing that is known
        return None if held is None else _any_of(held.get("elem", []), candidate, {})
    if is_list(right):
        return _any_of(right, candidate, sets)
    if is_object(right):
        if "set" in right:
            return _any_of(right["set"], candidate, sets)
        if "elem" in right:  # with a comment, a counter or a timeout
            return _contains(right["elem"]["val"], candidate, sets)
    parts = _parts(right)
    if len(parts) != len(candidate):
        return None
    return _all(_is_in(part, value) for part, value in zip(parts, candidate, strict=True))


def _any_of(items: Any, candidate: tuple[Value, ...], sets: Sets) -> Truth:
    listed = items if is_list(items) else [items]
    found = [_contains(item, candidate, sets) for item in listed]
    return True if True in found else None if None in found else False


def _is_in(part: Any, value: Value) -> Truth:
    """Whether one column of an element stands for the value."""
    if is_object(part) and "range" in part:
        first, last = (_like(value, end) for end in part["range"])
        if first is None or last is None:
            return None
        return _ORDERS["<="](first, value) and _ORDERS["<="](value, last)
    if is_object(part) and "prefix" in part:
        if not isinstance(value, Address):
            return None
        network = ip_network(f"{part['prefix']['addr']}/{part['prefix']['len']}", strict=False)
        return value in network
    if isinstance(value, str) and isinstance(part, str) and part.endswith("*"):
        return value.startswith(part[:-1])
    alike = _like(value, part)
    return None if alike is None else alike == value


def _like(value: Value, written: Any) -> Value | None:
    """What is written in a rule, as the kind of thing that `value` is; None if it is none."""
    if isinstance(value, str):
        return _NAMES.get(written, str(written)) if isinstance(written, str | int) else None
    if isinstance(value, int):
        return written if isinstance(written, int) else None
    try:
        address = ip_address(written)
    except ValueError:
        return None
    return address if address.version == value.version else None


def _all(truths: Iterable[Truth]) -> Truth:
    found = list(truths)
    return False if False in found else None if None in found else True


def _agreed(truths: Iterable[Truth]) -> Truth:
    found = set(truths)
    return found.pop() if len(found) == 1 else None


def _parts(node: Any) -> list[Any]:
    return list(node["concat"]) if is_object(node) and "concat" in node else [node]


# Fields --------------------------------------------------------------------------------------


def _name(node: Any) -> str:
    """``ip saddr``, ``meta iifname``, ``ct original proto-dst``; "" for anything else."""
    if not is_object(node) or len(node) != 1:
        return ""
    ((kind, body),) = node.items()
    if kind == "payload" and "field" in body:
        return f"{body['protocol']} {body['field']}"
    if kind == "meta":
        return f"meta {body['key']}"
    if kind == "ct":
        return " ".join(("ct", *([body["dir"]] if "dir" in body else []), body["key"]))
    return ""


def _values(node: Any, seen: Seen) -> Values:
    name, packet = _name(node), seen.packet
    first, _, second = name.partition(" ")
    if second in ("saddr", "daddr") and first in ("ip", "ip6"):
        return _address(packet.saddr if second == "saddr" else packet.daddr, first)
    if second in ("sport", "dport") and first in ("th", *_PORTED, *_OTHERS_PORTED):
        right = packet.protocol in _PORTED if first == "th" else packet.protocol == first
        return _port(seen, second) if right else ()
    if first in _ICMP and second in ("type", "code"):
        return _icmp(seen, second) if packet.protocol == _ICMP[first] else ()
    if name.startswith("ct original "):
        return _original(second.removeprefix("original "), seen.asked)
    reader = _READERS.get(name)
    return None if reader is None else reader(seen)


def _address(address: Address, header: str) -> Values:
    return (address,) if (header == "ip") == (address.version == 4) else ()


def _port(seen: Seen, field: str) -> Values:
    """A port; that of who asked is some ephemeral one."""
    to_who_answers = (field == "dport") is not seen.is_answer
    return (seen.delivered.dport,) if to_who_answers else _EPHEMERAL


def _icmp(seen: Seen, field: str) -> Values:
    """Of the messages that begin a connection explain follows the echo request."""
    if field == "code":
        return (0,)
    return ("echo-reply" if seen.is_answer else "echo-request",)


def _original(key: str, asked: Packet) -> Values:
    """A field of the connection's tuple as it was asked for."""
    header, _, field = key.rpartition(" ")
    if field in ("saddr", "daddr"):
        address = asked.saddr if field == "saddr" else asked.daddr
        return (address,) if not header else _address(address, header)
    if key == "protocol":
        return (asked.protocol,)
    if key == "proto-src":
        return _EPHEMERAL
    return (asked.dport,) if key == "proto-dst" else None


def _interface(name: str) -> Values:
    return None if name == SOME_UPLINK else (name,)


_READERS: dict[str, Callable[[Seen], Values]] = {
    "meta iifname": lambda seen: _interface(seen.packet.iif),
    "meta iif": lambda seen: _interface(seen.packet.iif),
    "meta oifname": lambda seen: _interface(seen.packet.oif),
    "meta oif": lambda seen: _interface(seen.packet.oif),
    "meta l4proto": lambda seen: (seen.packet.protocol,),
    "meta nfproto": lambda seen: (seen.packet.family.value,),
    "meta protocol": lambda seen: ("ip" if seen.packet.family is Family.IPV4 else "ip6",),
    "ip protocol": lambda seen: (
        (seen.packet.protocol,) if seen.packet.family is Family.IPV4 else ()
    ),
    "ip6 nexthdr": lambda seen: (
        (seen.packet.protocol,) if seen.packet.family is Family.IPV6 else ()
    ),
    "ct state": lambda seen: (seen.packet.state,),
    "ct direction": lambda seen: ("reply" if seen.is_answer else "original",),
    "ct protocol": lambda seen: (seen.packet.protocol,),
}
