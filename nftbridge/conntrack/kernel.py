"""The door to conntrack: lists the flows of a network namespace, and ends some of them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeAlias

from nftbridge import netns as namespaces
from nftbridge.conntrack.netlink import (
    NETFILTER,
    ROUTE,
    Connection,
    attribute,
    attributes,
    nest,
)
from nftbridge.conntrack.revoked import Flow, Links, Packed, Revoked, Selection
from nftbridge.errors import NftbridgeError

# include/uapi/linux/netfilter/nfnetlink.h and nfnetlink_conntrack.h
_FAMILY = struct.Struct(">BBH")  # family, version, resource
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_…
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_…
_IP, _PROTO = 1, 2  # CTA_TUPLE_…
_SOURCE = {4: 1, 16: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_DESTINATION = {4: 2, 16: 4}
_NUMBER, _SOURCE_PORT, _PORT = 1, 2, 3  # CTA_PROTO_…
_FAMILIES = {4: int(socket.AF_INET), 16: int(socket.AF_INET6)}
_SIZES = {family: size for size, family in _FAMILIES.items()}
_ORIGINAL_FLAGS, _REPLY_FLAGS = 1, 2  # CTA_FILTER_…
_FLAGS = struct.Struct("=I")
# CTA_FILTER_F_… of net/netfilter/nf_conntrack_netlink.c
_BY_SOURCE, _BY_DESTINATION = 1 << 0, 1 << 1
_BY_NUMBER, _BY_SOURCE_PORT, _BY_PORT = 1 << 3, 1 << 4, 1 << 5

# include/uapi/linux/rtnetlink.h and if_addr.h
_GET_ADDRESSES = 22
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

_FOLLOWED = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_FEW = 2000
"""So many flows are read in the time that the kernel takes to walk its empty table (5 ms)."""

_ATTEMPTS = 5
"""How often a list is read again that was changed meanwhile."""

_Attributes: TypeAlias = dict[int, bytes]
_Criteria: TypeAlias = tuple[tuple[int, int, int, bytes | None], ...]
"""Per criterion its flag, the part of the tuple and the attribute there, and the value, if any."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How many flows were ended, and what went wrong with the rest ("": nothing)."""

    count: int = 0
    problem: str = ""


class Entry(NamedTuple):
    """A flow, and what the kernel knows it by."""

    flow: Flow
    family: int
    original: bytes
    identity: bytes
    zone: bytes


def end(revoked: Revoked, netns: str | None) -> Ended:
    """End the flows in `netns` that `revoked` concerns; raises nothing, since the rules are in."""
    if not revoked:
        return Ended()
    try:
        with namespaces.inside(netns):
            return Ended(_end(revoked))
    except OSError as error:
        return Ended(problem=error.strerror or str(error))
    except NftbridgeError as error:
        return Ended(problem=str(error))


def _end(revoked: Revoked) -> int:
    followed = _followed()
    if followed == 0:
        return 0
    few = followed is not None and followed < _FEW
    links, count = _links(), 0
    with Connection(NETFILTER) as conntrack:
        for selection in (Selection(),) if few else revoked.selections():
            found = entries(conntrack, selection)
            concerned = [entry for entry in found if revoked.concerns(entry.flow, links)]
            count += sum(_delete(conntrack, entry) for entry in concerned)
    return count


def _followed() -> int | None:
    """How many flows the kernel follows here; None if it does not say."""
    try:
        return int(_FOLLOWED.read_text())
    except (OSError, ValueError):
        return None


def entries(conntrack: Connection, selection: Selection) -> Iterator[Entry]:
    """The flows with these traits, some perhaps twice; old kernels tell of others as well."""
    for message in _dumped(conntrack, _GET, _request(selection)):
        entry = _entry(message)
        if entry is not None:
            yield entry


def _dumped(connection: Connection, kind: int, body: bytes) -> Iterator[bytes]:
    """A list from the kernel, read again if it was changed meanwhile."""
    for attempt in range(_ATTEMPTS):
        try:
            yield from connection.dump(kind, body)
        except InterruptedError:
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def _request(selection: Selection) -> bytes:
    """What flows are asked for with.

    Linux before 5.8 heeds the family alone, and tells of more flows than were asked for.
    """
    size, number = selection.size, selection.protocol
    protocol = None if number is None else bytes([number])
    original: _Criteria = (
        (_BY_SOURCE, _IP, _SOURCE[4], selection.source),
        (_BY_DESTINATION, _IP, _DESTINATION[4], selection.destination),
        (_BY_NUMBER, _PROTO, _NUMBER, protocol),
        (_BY_PORT, _PROTO, _PORT, _packed_port(selection.port)),
    )
    reply: _Criteria = (
        (_BY_SOURCE, _IP, _SOURCE[4], selection.reply_source),
        (_BY_NUMBER, _PROTO, _NUMBER, None if selection.reply_port is None else protocol),
        (_BY_SOURCE_PORT, _PROTO, _SOURCE_PORT, _packed_port(selection.reply_port)),
    )
    head = _FAMILY.pack(_FAMILIES.get(size, socket.AF_UNSPEC), 0, 0)
    tuples = _tuple(_ORIGINAL, original) + _tuple(_REPLY, reply)
    flags = _flags(_ORIGINAL_FLAGS, original) + _flags(_REPLY_FLAGS, reply)
    return head + tuples + (nest(_FILTER, flags) if flags else b"")


def _tuple(kind: int, criteria: _Criteria) -> bytes:
    """A tuple with the values to look for; nothing if there are none."""
    parts: dict[int, bytes] = {}
    for _, part, field, value in criteria:
        if value is not None:
            parts[part] = parts.get(part, b"") + attribute(field, value)
    return nest(kind, *(nest(*part) for part in parts.items())) if parts else b""


def _flags(kind: int, criteria: _Criteria) -> bytes:
    """Which of the values in that tuple count; nothing if there are none."""
    flags = sum(flag for flag, _, _, value in criteria if value is not None)
    return attribute(kind, _FLAGS.pack(flags)) if flags else b""


def _packed_port(port: int | None) -> bytes | None:
    return None if port is None else port.to_bytes(2, "big")


def _entry(message: bytes) -> Entry | None:
    """The flow in a message; None if it is incomplete."""
    family = message[0]
    size = _SIZES.get(family, 0)
    top = attributes(message, _FAMILY.size)
    try:
        addresses, ports = _parts(top[_ORIGINAL])
        reply_addresses, reply_ports = _parts(top[_REPLY])
        flow = Flow(
            protocol=ports[_NUMBER][0],
            source=addresses[_SOURCE[size]],
            destination=addresses[_DESTINATION[size]],
            port=int.from_bytes(ports.get(_PORT, b""), "big"),
            reply_source=reply_addresses[_SOURCE[size]],
            reply_port=int.from_bytes(reply_ports.get(_SOURCE_PORT, b""), "big"),
        )
        return Entry(flow, family, top[_ORIGINAL], top[_ID], top.get(_ZONE, b""))
    except KeyError:
        return None


def _parts(body: bytes) -> tuple[_Attributes, _Attributes]:
    """The addresses and the protocol's fields of a tuple."""
    both = attributes(body)
    return attributes(both[_IP]), attributes(both[_PROTO])


def _delete(conntrack: Connection, entry: Entry) -> bool:
    """End that very flow; False if it has ended meanwhile, whatever has come in its place."""
    named = nest(_ORIGINAL, entry.original) + attribute(_ID, entry.identity)
    zone = attribute(_ZONE, entry.zone) if entry.zone else b""
    try:
        conntrack.order(_DELETE, _FAMILY.pack(entry.family, 0, 0) + named + zone)
    except FileNotFoundError:
        return False
    return True


def _links() -> Links:
    """The addresses and links of the namespace that the calling thread is in."""
    own: set[Packed] = set()
    links: dict[tuple[int, int], dict[int, str]] = {}
    with Connection(ROUTE) as route:
        for message in _dumped(route, _GET_ADDRESSES, _ADDRESS.pack(0, 0, 0, 0, 0)):
            _, length, _, _, index = _ADDRESS.unpack_from(message)
            found = attributes(message, _ADDRESS.size)
            address = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
            own.add(address)
            table = links.setdefault((len(address), length), {})
            with suppress(OSError):  # the interface has gone meanwhile
                table[_prefix(address, length)] = socket.if_indextoname(index)
    tables = sorted(links.items(), reverse=True)  # the longest prefix first

    @cache  # thousands of flows come from a few addresses
    def interface(address: Packed) -> str:
        for (size, length), table in tables:
            if size == len(address) and (name := table.get(_prefix(address, length))):
                return name
        return ""

    return Links(frozenset(own), interface)


def _prefix(address: Packed, length: int) -> int:
    """The first `length` bits."""
    return int.from_bytes(address, "big") >> 8 * len(address) - length
