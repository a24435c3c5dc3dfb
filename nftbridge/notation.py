"""How single values of a host file are written: addresses, prefixes, ports, Docker's publications.

Each reader gives the value, or None after it has told `report` everything that is wrong with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from nftbridge.model import Address, Mark, Prefix, Protocol, Publication
from nftbridge.model.checks import LAST_PORT, quoted

Report: TypeAlias = Callable[[str, str], None]
"""Takes a message and a hint."""

_PORTS = f"ports are plain numbers from 1 to {LAST_PORT}"
_SYNTAX = "write [HOST_ADDRESS:]HOST_PORT:CONTAINER_PORT[/PROTOCOL], e.g. 8080:80/tcp"
PLAIN = re.compile("([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
"""A publication of one TCP port on every address: host port and container port."""

_MARK = re.compile("(0x[0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,15})")
_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}


def shown(value: object) -> str:
    """What a value is, for a message: short and printable, whatever a file holds."""
    if isinstance(value, str):
        return quoted(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int) and value.bit_length() > 64:
        return "a huge number"  # Python refuses to print more than 4,300 digits
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, Mapping):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else "a date or time"


def read_address(text: str, report: Report) -> Address | None:
    """An address alone: no prefix length, brackets or zone."""
    try:
        return _address(text)
    except ValueError as error:
        report(f"{quoted(text)} is not an IP address", _address_hint(text, error))
        return None


def read_prefix(text: str, report: Report) -> Prefix | None:
    """A subnet with its length in bits; netmasks and a host's address are refused."""
    start, slash, length = text.partition("/")
    if not slash:
        report(f"{quoted(text)} has no prefix length", "write the whole subnet, e.g. 172.20.0.0/16")
        return None
    address = read_address(start, report)
    if address is None:
        return None
    if not _is_decimal(length) or len(length) > 3 or int(length) > address.max_prefixlen:
        hint = f"write a number of bits from 0 to {address.max_prefixlen}, e.g. {address}/24"
        report(f"{quoted(length)} is not a prefix length of IPv{address.version}", hint)
        return None
    prefix = _prefix(address, int(length))
    if prefix.network_address == address:
        return prefix
    report(f"{quoted(text)} has host bits set", f"the subnet of that address is {prefix}")
    return None


def read_mark(text: str, report: Report) -> Mark | None:
    """A mark as iptables writes it, ``VALUE/MASK``; both are asked for, in hex or decimal."""
    value, _, mask = text.partition("/")
    if _MARK.fullmatch(value) and _MARK.fullmatch(mask):
        return Mark(int(value, 0), int(mask, 0))
    report(f"{quoted(text)} is not a mark with its mask", "write VALUE/MASK, e.g. 0x1000/0x1000")
    return None


def read_protocol(text: str, report: Report) -> Protocol | None:
    """A protocol in lower or upper case, as Docker takes it."""
    protocol = _PROTOCOLS.get(text.lower())
    if protocol is None:
        what = f"{quoted(text)} is not a protocol" if text else "the protocol is empty"
        report(what, f"write one of {', '.join(_PROTOCOLS)}")
    return protocol


def read_ports(value: object, what: str, report: Report) -> range | None:
    """One port or a range of them: 8080, ``"8080"`` or ``"8000-8009"``; `what` names it."""
    if isinstance(value, str):
        return _read_span(value, what, report)
    if isinstance(value, bool) or not isinstance(value, int):
        report(f"the {what} must be a number, not {shown(value)}", 'write e.g. 8080 or "8000-8009"')
        return None
    if not 1 <= value <= LAST_PORT:
        report(f"the {what} is out of range: {shown(value)}", _PORTS)
        return None
    return range(value, value + 1)


def written(ports: range) -> str:
    """A range of ports as a host file writes it."""
    return str(ports[0]) if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"


def read_publication(text: str, report: Report) -> Publication | None:
    """Docker's short syntax, ``[host address:]host port[-end]:container port[-end][/protocol]``.

    The container port alone is a publication without host port, which only routed networks take.
    """
    plain = PLAIN.fullmatch(text)
    if plain is not None:  # as nearly all of them are, in files with thousands
        host_port, container_port = int(plain[1]), int(plain[2])
        if host_port <= LAST_PORT and container_port <= LAST_PORT:
            return Publication(container_port, host_port)
    ports, slash, name = text.partition("/")
    protocol = read_protocol(name, report) if slash else Protocol.TCP
    fields = _bracketed_fields(ports, report) if "[" in ports else _fields(ports, report)
    if fields is None:
        return None
    start, outside, inside = fields
    address = None if start is None else read_address(start, report)
    host = None if outside is None else _read_span(outside, "host port", report)
    container = _read_span(inside, "container port", report)
    wanted = (start is None) == (address is None) and (outside is None) == (host is None)
    if not wanted or container is None or protocol is None:
        return None
    return publication(container, host, address, protocol, report)


def publication(
    container: range,
    host: range | None,
    address: Address | None,
    protocol: Protocol,
    report: Report,
) -> Publication | None:
    """What the parts amount to; port n of the one range answers for port n of the other."""
    count = len(container)
    if host is None:
        return Publication(container[0], None, address, protocol, count)
    if len(host) == count:
        return Publication(container[0], host[0], address, protocol, count)
    end = min(host[0] + count, LAST_PORT + 1)
    report(
        f"host ports {written(host)} and container ports {written(container)} are ranges of "
        f"different length, {len(host)} and {count}",
        f"each host port has its container port, e.g. {written(range(host[0], end))}"
        f":{written(range(container[0], container[0] + end - host[0]))}",
    )
    return None


_Fields: TypeAlias = tuple[str | None, str | None, str]
"""Host address, host port, container port, as written."""


def _fields(text: str, report: Report) -> _Fields | None:
    match text.split(":"):
        case [""]:
            report("there is no port", _SYNTAX)
        case [container]:
            return None, None, container
        case [address, _] if "." in address:
            hint = "write all three, HOST_ADDRESS:HOST_PORT:CONTAINER_PORT"
            report(f"the host port is missing in {quoted(text)}", hint)
        case [host, container]:
            return None, host, container
        case [address, host, container]:
            return address, host, container
        case parts:
            message = f"{quoted(text)} has {len(parts)} parts, at most three are possible"
            report(message, "write an IPv6 address in brackets, e.g. [::1]:8080:80")
    return None


def _bracketed_fields(text: str, report: Report) -> _Fields | None:
    address, closed, rest = text[1:].partition("]")
    ports = rest.split(":")
    if not text.startswith("[") or not closed or ports[0] or len(ports) not in {2, 3}:
        report(f"cannot make sense of {quoted(text)}", "write e.g. [::1]:8080:80")
    elif len(ports) == 2:
        hint = "write all three, [HOST_ADDRESS]:HOST_PORT:CONTAINER_PORT"
        report(f"the host port is missing in {quoted(text)}", hint)
    elif address and ":" not in address:
        message = f"{quoted(address)} is not an IPv6 address, which brackets are for"
        report(message, "write any other address without brackets")
    else:
        return address, ports[1], ports[2]
    return None


def _read_span(text: str, what: str, report: Report) -> range | None:
    start, dash, end = text.partition("-")
    first = _read_port(start, f"the start of the {what} range" if dash else f"the {what}", report)
    if not dash:
        return None if first is None else range(first, first + 1)
    last = _read_port(end, f"the end of the {what} range", report)
    if first is None or last is None:
        return None
    if last < first:
        report(f"the {what} range {text} runs backwards", f"write {last}-{first}")
        return None
    return range(first, last + 1)


def _read_port(text: str, what: str, report: Report) -> int | None:
    if not text:
        report(f"{what} is empty", _PORTS)
    elif not _is_decimal(text):
        report(f"{what} is not a number: {quoted(text)}", _PORTS)
    elif text[0] == "0" and len(text) > 1:
        hint = "write it without, since other programs read such a number as octal"
        report(f"{what} has a leading zero: {quoted(text)}", hint)
    elif len(text) > len(str(LAST_PORT)) or not 1 <= int(text) <= LAST_PORT:
        report(f"{what} is out of range: {quoted(text)}", _PORTS)
    else:
        return int(text)
    return None


def _is_decimal(text: str) -> bool:
    """Whether `int` reads what everyone else reads: no sign, blank, underscore or foreign digit."""
    return text.isascii() and text.isdigit()


@lru_cache(maxsize=1024)  # thousands of publications share a few host addresses
def _address(text: str) -> Address:
    if ":" not in text:
        return IPv4Address(text)
    address = IPv6Address(text)
    if address.scope_id is not None:
        raise AddressValueError("a zone such as %eth0 cannot be matched by a rule; leave it out")
    if address.ipv4_mapped is not None:
        raise AddressValueError(f"packets carry it as IPv4: write {address.ipv4_mapped}")
    return address


def _address_hint(text: str, error: ValueError) -> str:
    if not text:
        return "write an address, or leave the key out"
    if "/" in text:
        return "write the address alone, without a prefix length"
    if text.startswith("["):
        return "write it without brackets"
    reason = str(error)  # says which octet or group is wrong, and repeats the text
    return reason if len(reason) <= 150 else "write e.g. 172.20.0.2 or fd00:20::2"


def _prefix(address: Address, length: int) -> Prefix:
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), length), strict=False)
    return IPv6Network((int(address), length), strict=False)
