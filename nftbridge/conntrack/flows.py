"""The flows of a network namespace, listed and ended through pyroute2."""

from __future__ import annotations

import asyncio
import errno
import importlib
import socket
import struct
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple, TypeAlias, cast

from nftbridge.conntrack.revoked import Flow, Links, Packed, Revoked, Selection

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and nfnetlink_conntrack.h
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_FAMILY_BYTES = 4
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_KIND = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NEW_FLOW = 1 << 8 | 0  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_NEW
_ORIGINAL, _REPLY, _ID, _ZONE = 1, 2, 12, 18  # CTA_…
_IP, _PROTO = 1, 2  # CTA_TUPLE_…
_SOURCE = {socket.AF_INET: 1, socket.AF_INET6: 3}  # CTA_IP_V4_SRC, CTA_IP_V6_SRC; then …_DST
_NUMBER, _SOURCE_PORT, _PORT = 1, 2, 3  # CTA_PROTO_…
_ADDRESS_NAMES = {
    socket.AF_INET: ("CTA_IP_V4_SRC", "CTA_IP_V4_DST"),
    socket.AF_INET6: ("CTA_IP_V6_SRC", "CTA_IP_V6_DST"),
}
_SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}
_PROTO_NAMES = {
    1: "CTA_PROTO_NUM",
    2: "CTA_PROTO_SRC_PORT",
    3: "CTA_PROTO_DST_PORT",
    4: "CTA_PROTO_ICMP_ID",
    5: "CTA_PROTO_ICMP_TYPE",
    6: "CTA_PROTO_ICMP_CODE",
    7: "CTA_PROTO_ICMPV6_ID",
    8: "CTA_PROTO_ICMPV6_TYPE",
    9: "CTA_PROTO_ICMPV6_CODE",
}

_Attributes: TypeAlias = dict[int, bytes]


class Entry(NamedTuple):
    """A flow, and what the kernel knows it by."""

    flow: Flow
    original: bytes
    identity: bytes
    zone: bytes


def end(revoked: Revoked) -> int:
    """End the flows that `revoked` concerns in the namespace of the calling thread; how many.

    Raises OSError with the kernel's reason, and ImportError without pyroute2.
    """
    try:
        # in a thread, which is in the same namespace: the caller's may run an event loop
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(_end(revoked))).result()
    except _failures() as error:
        raise OSError(cast("Any", error).code, str(error)) from error


async def _end(revoked: Revoked) -> int:
    links, count = await _links(), 0
    for selection in revoked.selections():
        for family in _families(selection):
            async with opened(family) as conntrack:
                concerned = [
                    entry
                    async for entry in entries(conntrack, family, selection)
                    if revoked.concerns(entry.flow, links)
                ]
                for entry in concerned:
                    count += await _delete(conntrack, entry, family)
    return count


def _families(selection: Selection) -> tuple[socket.AddressFamily, ...]:
    both = (socket.AF_INET, socket.AF_INET6)
    return tuple(f for f in both if selection.size in (0, _SIZES[f]))


@asynccontextmanager
async def opened(family: socket.AddressFamily) -> AsyncGenerator[Any]:
    """A socket to that family's flows."""
    async with _module().AsyncNFCTSocket(nfgen_family=family) as conntrack:
        conntrack.register_policy({_NEW_FLOW: _Message})
        yield conntrack


async def entries(
    conntrack: Any, family: socket.AddressFamily, selection: Selection
) -> AsyncGenerator[Entry]:
    """The flows with these traits. Linux before 5.8 heeds the family alone, and tells of others."""
    wanted = {"proto": selection.protocol, "dport": selection.port}
    known = any(value is not None for value in wanted.values())
    original = _module().NFCTAttrTuple(family=family, **wanted) if known else None
    async for message in await conntrack.dump(tuple_orig=original):
        entry = _entry(message.body, family)
        if entry is not None:
            yield entry


async def _delete(conntrack: Any, entry: Entry, family: socket.AddressFamily) -> bool:
    """End that very flow; False if it has ended meanwhile, whatever has come in its place."""
    wanted: dict[str, object] = {
        "tuple_orig": _tuple(entry.original, family),
        "id": int.from_bytes(entry.identity, "big"),
    }
    if entry.zone:
        wanted["zone"] = int.from_bytes(entry.zone, "big")
    try:
        await conntrack.entry("del", **wanted)
    except _failures() as error:
        if cast("Any", error).code != errno.ENOENT:
            raise
        return False
    return True


class _Message(dict[str, object]):
    """A message of a dump, as pyroute2 wants it, but read no further: that takes a tenth."""

    def __init__(self, data: bytes, offset: int = 0) -> None:
        super().__init__()
        self._data, self._offset = data, offset
        self.body = b""

    def decode(self) -> None:
        """What pyroute2 calls: the header is for it, the body for us."""
        length, kind, flags, *_ = _HEADER.unpack_from(self._data, self._offset)
        self["header"] = {"type": kind, "flags": flags, "error": None}
        start = self._offset + _HEADER.size + _FAMILY_BYTES
        self.body = self._data[start : self._offset + length]


def _entry(body: bytes, family: socket.AddressFamily) -> Entry | None:
    """The flow in the attributes of a message; None if it is incomplete."""
    top = dict(_attributes(body))
    first = _SOURCE[family]
    try:
        addresses, ports = _parts(top[_ORIGINAL])
        reply_addresses, reply_ports = _parts(top[_REPLY])
        flow = Flow(
            protocol=ports[_NUMBER][0],
            source=addresses[first],
            destination=addresses[first + 1],
            port=int.from_bytes(ports.get(_PORT, b""), "big"),
            reply_source=reply_addresses[first],
            reply_port=int.from_bytes(reply_ports.get(_SOURCE_PORT, b""), "big"),
        )
        return Entry(flow, top[_ORIGINAL], top[_ID], top.get(_ZONE, b""))
    except KeyError:
        return None


def _parts(body: bytes) -> tuple[_Attributes, _Attributes]:
    """The addresses and the protocol's fields of a tuple."""
    both = dict(_attributes(body))
    return dict(_attributes(both[_IP])), dict(_attributes(both[_PROTO]))


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        yield kind & _KIND, body[place + _ATTRIBUTE.size : place + length]
        place += max(_ATTRIBUTE.size, length + 3 & ~3)


def _tuple(body: bytes, family: socket.AddressFamily) -> dict[str, object]:
    """The tuple in pyroute2's words, whatever its protocol."""
    addresses, fields = _parts(body)
    first = _SOURCE[family]
    ends = [socket.inet_ntop(family, addresses[first + place]) for place in (0, 1)]
    proto = [
        [_PROTO_NAMES[kind], int.from_bytes(value, "big")]
        for kind, value in fields.items()
        if kind in _PROTO_NAMES
    ]
    ip = list(map(list, zip(_ADDRESS_NAMES[family], ends, strict=True)))
    return {"attrs": [["CTA_TUPLE_IP", {"attrs": ip}], ["CTA_TUPLE_PROTO", {"attrs": proto}]]}


async def _links() -> Links:
    """The addresses and links of the namespace that the calling thread is in."""
    own: set[Packed] = set()
    links: dict[tuple[int, int], dict[int, str]] = {}
    async with importlib.import_module("pyroute2").AsyncIPRoute() as route:
        async for message in await route.addr("dump"):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address, length = ip_address(text).packed, message["prefixlen"]
            own.add(address)
            table = links.setdefault((len(address), length), {})
            with suppress(OSError):  # the interface has gone meanwhile
                table[_prefix(address, length)] = socket.if_indextoname(message["index"])
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


def _module() -> Any:
    # imported by name: the library has no types, and strict type checkers would stumble over it
    return importlib.import_module("pyroute2.netlink.nfnetlink.nfctsocket")


def _failures() -> type[Exception]:
    """What pyroute2 raises where the kernel says no."""
    module = importlib.import_module("pyroute2.netlink.exceptions")
    return cast("type[Exception]", module.NetlinkError)
