"""What the matches of iptables are in nft, module by module.

The source is the kernel's code of each module (net/netfilter/xt_*.c) beside nft's expressions. A
match becomes alternatives, each a list of nft's matches: usually one; several where nft cannot say
"or". They exclude one another, so a packet meets the rule's target once, as in iptables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

from nftbridge.model import Address, Family
from nftbridge.nft.syntax import Json
from nftbridge.translate.line import Line, Option, Part, RefusedError
from nftbridge.translate.nodes import (
    any_flag,
    conntrack,
    interval,
    masked,
    match,
    meta,
    no_flag,
    payload,
)

Alternatives: TypeAlias = tuple[tuple[Json, ...], ...]

PORTED = ("tcp", "udp", "sctp", "dccp", "udplite")
"""The protocols whose ports nft knows by name."""

_HEADERS = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_ICMP = {"icmp": "icmp", "icmp6": "icmpv6"}

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
_TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}
_UNTRACKED = ("invalid", "untracked")
_STATES = ("new", "established", "related", *_UNTRACKED)
_NAT = ("snat", "dnat")
_STATUS = ("expected", "seen_reply", "assured", "confirmed")
_PACKET_TYPES = {"unicast": "host", "broadcast": "broadcast", "multicast": "multicast"}
_ECHO = {("icmp", 8): "echo-request", ("icmp", 0): "echo-reply"} | {
    ("icmpv6", 128): "echo-request",
    ("icmpv6", 129): "echo-reply",
}
_RATES = {"sec": "second", "min": "minute", "hour": "hour", "day": "day"}
_RATE = re.compile(r"(\d{1,9})/(\w+)", re.ASCII)

# IPv6 asks differently: there UNICAST has LOCAL in it, and several types must hold all at once
_ADDRESS_TYPES = {
    Family.IPV4: {"unspec", "unicast", "local", "broadcast", "anycast", "multicast"}
    | {"blackhole", "unreachable", "prohibit"},
    Family.IPV6: {"local", "multicast"},
}


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


Matcher: TypeAlias = Callable[[Part, Context], Alternatives]
_OptionMatcher: TypeAlias = Callable[[Option, Context], Json]


def translate_match(part: Part, context: Context) -> Alternatives:
    """A module's matches in nft; raises `RefusedError`."""
    matcher = _MODULES.get(part.name)
    if matcher is None:
        raise RefusedError(str(part), "the module has no equal here")
    return matcher(part, context)


def comment_of(line: Line) -> str:
    """The comments of a line."""
    modules = (part for part in line.matches if part.name == "comment")
    return "; ".join(option.value for part in modules for option in part.options)


# Modules whose options are asked one by one ---------------------------------------------------


def _each(**matchers: _OptionMatcher) -> Matcher:
    """A module all of whose options must hold; named as in Python, ``src_range``."""
    table = {_spelled(name): matcher for name, matcher in matchers.items()}

    def matcher(part: Part, context: Context) -> Alternatives:
        return (tuple(_known(table, option)(option, context) for option in part.options),)

    return matcher


def _spelled(name: str) -> str:
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def _known(table: Mapping[str, _OptionMatcher], option: Option) -> _OptionMatcher:
    found = table.get(option.name)
    if found is None:
        raise RefusedError(str(option), "the option has no equal here")
    return found


def _address(field: str) -> _OptionMatcher:
    def matcher(option: Option, context: Context) -> Json:
        return _in_network(payload(context.header, field), option, context)

    return matcher


def _in_network(left: Json, option: Option, context: Context) -> Json:
    """An address, a prefix, or a mask with gaps."""
    text, _, mask = option.value.partition("/")
    address = _of_family(text, option, context)
    try:
        network = ip_network(f"{address}/{mask}" if mask else address, strict=False)
    except ValueError:
        bits = _of_family(mask, option, context)
        return match(masked(left, str(bits)), str(address), negated=option.negated)
    if network.prefixlen == 0:
        raise RefusedError(str(option), "every address is in it, so nft has no match for it")
    if network.prefixlen == network.max_prefixlen:
        return match(left, str(address), negated=option.negated)
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    return match(left, {"prefix": prefix}, negated=option.negated)


def _of_family(text: str, option: Option, context: Context) -> Address:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise RefusedError(str(option), "is no address") from error
    if Family.of(address) is not context.family or "%" in text:
        raise RefusedError(str(option), f"is no {context.family.label} address")
    return address


def _interface(key: str) -> _OptionMatcher:
    def matcher(option: Option, _: Context) -> Json:
        name = option.value
        if name == "+":
            raise RefusedError(str(option), "every interface is in it, so nft has no match for it")
        if set(name) & set('*\\"'):
            raise RefusedError(str(option), "nft reads that name as another")
        if name.endswith("+"):
            name = f"{name[:-1]}*"
        return match(meta(key), name, negated=option.negated)

    return matcher


def _protocol(option: Option, _: Context) -> Json:
    return match(meta("l4proto"), _protocol_named(option), negated=option.negated)


def _protocol_named(option: Option) -> str | int:
    name = _BY_NUMBER.get(option.value, option.value)
    found = _PROTOCOLS.get(name)
    if found is None:
        return _number(option, name, 1, 255)
    return found


def _port(field: str) -> _OptionMatcher:
    def matcher(option: Option, context: Context) -> Json:
        right = interval(*_bounds(option, option.value))
        return match(_ports_of(option, context, field), right, negated=option.negated)

    return matcher


def _ports_of(option: Option, context: Context, field: str) -> Json:
    if context.protocol not in PORTED:
        raise RefusedError(str(option), "the line has no protocol with ports")
    return payload(context.protocol, field)


def _bounds(option: Option, text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    low = _number(option, first, 0, 65535)
    high = _number(option, last, 0, 65535) if colon else low
    if low > high:
        raise RefusedError(str(option), "the range ends before it begins")
    return low, high


def _number(option: Option, text: str, low: int, high: int) -> int:
    if not _NUMBER.fullmatch(text):
        raise RefusedError(str(option), f"'{text}' is no number known here")
    number = int(text, 16 if text.lower().startswith("0x") else 10)
    if not low <= number <= high:
        raise RefusedError(str(option), f"{text} is not within {low} and {high}")
    return number


def _tcp_flags(option: Option, _: Context) -> Json:
    if len(option.values) != 2:
        raise RefusedError(str(option), "takes two lists of flags")
    mask, wanted = (_flags(option, text) for text in option.values)
    left = masked(payload("tcp", "flags"), mask)
    return match(left, wanted, negated=option.negated)


def _flags(option: Option, text: str) -> int:
    names = text.split(",")
    if not set(names) <= _TCP_FLAGS.keys():
        raise RefusedError(str(option), f"'{text}' are no flags known here")
    return sum({_TCP_FLAGS[name] for name in names})


def _mark(left: Json) -> _OptionMatcher:
    def matcher(option: Option, _: Context) -> Json:
        text, slash, mask_text = option.value.partition("/")
        value = _number(option, text, 0, 0xFFFFFFFF)
        mask = _number(option, mask_text, 0, 0xFFFFFFFF) if slash else 0xFFFFFFFF
        if value & ~mask or not mask:
            raise RefusedError(str(option), "the mask leaves nothing of it to compare")
        bits = left if mask == 0xFFFFFFFF else masked(left, mask)
        return match(bits, value, negated=option.negated)

    return matcher


def _range(field: str) -> _OptionMatcher:
    def matcher(option: Option, context: Context) -> Json:
        first, dash, last = option.value.partition("-")
        ends = [_of_family(text, option, context) for text in (first, last if dash else first)]
        if int(ends[0]) > int(ends[1]):
            raise RefusedError(str(option), "the range ends before it begins")
        right = interval(*map(str, ends))
        return match(payload(context.header, field), right, negated=option.negated)

    return matcher


def _packet_type(option: Option, _: Context) -> Json:
    name = _PACKET_TYPES.get(option.value)
    if name is None:
        raise RefusedError(str(option), "the packet type has no equal here")
    return match(meta("pkttype"), name, negated=option.negated)


# Modules whose options belong together --------------------------------------------------------


def _icmp(part: Part, context: Context) -> Alternatives:
    """A type, or a type with a code; "not both" is two alternatives."""
    protocol = _ICMP[part.name]
    if (protocol == "icmp") is not (context.family is Family.IPV4):
        raise RefusedError(str(part), f"is not for {context.family.label}")
    found: list[Json] = []
    for option in part.options:
        if option.name not in ("--icmp-type", "--icmpv6-type"):
            raise RefusedError(str(option), "the option has no equal here")
        kind_text, slash, code_text = option.value.partition("/")
        if kind_text == "any" and not option.negated:
            continue
        kind = _number(option, kind_text, 0, 255)
        is_kind = _ECHO.get((protocol, kind), kind)
        found.append(match(payload(protocol, "type"), is_kind, negated=option.negated))
        if slash:
            code = match(payload(protocol, "code"), _number(option, code_text, 0, 255))
            if option.negated:
                return _not_both(match(payload(protocol, "type"), is_kind), code)
            found.append(code)
    return (tuple(found),)


def _not_both(one: Json, other: Json) -> Alternatives:
    """Not the one, or the one without the other."""
    return ((_opposite(one),), (one, _opposite(other)))


def _opposite(node: Json) -> Json:
    return {"match": node["match"] | {"op": "!="}}


def _multiport(part: Part, context: Context) -> Alternatives:
    """Ports in a list; "source or destination" is two alternatives, the second for the rest."""
    if len(part.options) != 1:
        raise RefusedError(str(part), "takes one list of ports")
    (option,) = part.options
    bounds = sorted(_bounds(option, text) for text in option.value.split(","))
    ports = [interval(*pair) for pair in _merged(bounds)]
    right: Any = ports[0] if len(ports) == 1 else {"set": ports}
    fields = {"--sports": ["sport"], "--dports": ["dport"], "--ports": ["sport", "dport"]}
    if option.name not in fields:
        raise RefusedError(str(option), "the option has no equal here")
    lefts = [_ports_of(option, context, field) for field in fields[option.name]]
    if option.negated or len(lefts) == 1:
        return (tuple(match(left, right, negated=option.negated) for left in lefts),)
    source, destination = lefts
    not_source = match(source, right, negated=True)
    return ((match(source, right),), (not_source, match(destination, right)))


def _merged(bounds: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges with those that overlap or touch made one: nft refuses them in a set."""
    first, last = bounds[0]
    for low, high in bounds[1:]:
        if low > last + 1:
            yield first, last
            first, last = low, high
        last = max(last, high)
    yield first, last


def _address_type(part: Part, context: Context) -> Alternatives:
    selectors = {"--src-type": "saddr", "--dst-type": "daddr"}
    found: list[Json] = []
    for option in part.options:
        if option.name not in selectors:
            raise RefusedError(str(option), "the option has no equal here")
        types = option.value.lower().split(",")
        single = context.family is Family.IPV4 or len(types) == 1
        if not single or not set(types) <= _ADDRESS_TYPES[context.family]:
            raise RefusedError(str(option), f"nft asks differently in {context.family.label}")
        left = {"fib": {"result": "type", "flags": [selectors[option.name]]}}
        right: Any = types[0] if len(types) == 1 else {"set": types}
        found.append(match(left, right, negated=option.negated))
    return (tuple(found),)


def _limit(part: Part, _: Context) -> Alternatives:
    options = {option.name: option for option in part.options}
    if not {"--limit"} <= options.keys() <= {"--limit", "--limit-burst"}:
        raise RefusedError(str(part), "takes --limit and --limit-burst")
    rate = options["--limit"]
    found = _RATE.fullmatch(rate.value)
    if found is None or found[2] not in _RATES or any(o.negated for o in part.options):
        raise RefusedError(str(part), "the rate has no equal here")
    burst = options.get("--limit-burst")
    packets = 5 if burst is None else _number(burst, burst.value, 1, 0xFFFFFFFF)
    limit = {"rate": int(found[1]), "burst": packets, "per": _RATES[found[2]]}
    return (({"limit": limit},),)


def _comment(part: Part, _: Context) -> Alternatives:
    """It becomes the rule's comment and matches every packet."""
    if any(o.name != "--comment" or o.negated or len(o.values) != 1 for o in part.options):
        raise RefusedError(str(part), "takes --comment with a text")
    return ((),)


# Connection tracking --------------------------------------------------------------------------


def _conntrack(part: Part, context: Context) -> Alternatives:
    """What is known of the connection.

    A packet without one is INVALID or UNTRACKED. If the states let it pass, iptables does not ask
    the rest, while for nft the rest does not hold: such packets get an alternative of their own.
    """
    names = [option.name for option in part.options]
    if len(set(names)) < len(names):
        raise RefusedError(str(part), "an option comes twice")
    asked = next((o for o in part.options if o.name in ("--ctstate", "--state")), None)
    others = tuple(_ct_field(o, context) for o in part.options if o is not asked)
    if asked is None:
        return (others,)
    listed = asked.value.lower().split(",")
    if not set(listed) <= {*_STATES, *_NAT}:
        raise RefusedError(str(asked), "the state has no equal here")
    states = [state for state in _STATES if state in listed]
    virtual = [status for status in _NAT if status in listed]
    if not virtual and not others:
        return ((_state(states, negated=asked.negated),),)
    return tuple(_with_connection(states, virtual, others, negated=asked.negated))


def _with_connection(
    states: list[str], virtual: list[str], others: tuple[Json, ...], *, negated: bool
) -> Iterator[tuple[Json, ...]]:
    without = [state for state in _UNTRACKED if (state in states) is not negated]
    tracked = [state for state in states if state not in _UNTRACKED]
    if without:
        yield (_state(without),)
    status = conntrack("status")
    if negated:
        # only a packet with a connection gets past what is asked behind its state
        before = [_state(tracked, negated=True)] if tracked else []
        if virtual:
            before.append(no_flag(status, virtual))
        yield (*before, *others)
        return
    if tracked:
        yield (_state(tracked), *others)
    if virtual:
        before = [_state(tracked, negated=True)] if tracked else []
        yield (*before, any_flag(status, virtual), *others)


def _state(states: list[str], *, negated: bool = False) -> Json:
    left = conntrack("state")
    if not negated:
        return any_flag(left, states)
    return match(left, states[0] if len(states) == 1 else {"set": states}, negated=True)


def _ct_field(option: Option, context: Context) -> Json:
    if option.name in _CT_ADDRESSES:
        direction, field = _CT_ADDRESSES[option.name]
        return _in_network(conntrack(f"{context.header} {field}", direction), option, context)
    if option.name in _CT_PORTS:
        if context.protocol not in PORTED:
            raise RefusedError(str(option), "nft asks for the protocol first, and -p does not say")
        direction, field = _CT_PORTS[option.name]
        right = interval(*_bounds(option, option.value))
        return match(conntrack(field, direction), right, negated=option.negated)
    if option.name == "--ctproto":
        return match(conntrack("protocol"), _protocol_named(option), negated=option.negated)
    if option.name == "--ctdir" and option.value in ("ORIGINAL", "REPLY"):
        return match(conntrack("direction"), option.value.lower(), negated=option.negated)
    if option.name == "--ctstatus":
        flags = option.value.lower().split(",")
        if set(flags) <= set(_STATUS):
            named = [flag.replace("_", "-") for flag in flags]
            return (no_flag if option.negated else any_flag)(conntrack("status"), named)
    raise RefusedError(str(option), "the option has no equal here")


_CT_ADDRESSES = {
    "--ctorigsrc": ("original", "saddr"),
    "--ctorigdst": ("original", "daddr"),
    "--ctreplsrc": ("reply", "saddr"),
    "--ctrepldst": ("reply", "daddr"),
}
_CT_PORTS = {
    "--ctorigsrcport": ("original", "proto-src"),
    "--ctorigdstport": ("original", "proto-dst"),
    "--ctreplsrcport": ("reply", "proto-src"),
    "--ctrepldstport": ("reply", "proto-dst"),
}

_PORTS: dict[str, _OptionMatcher] = {"sport": _port("sport"), "dport": _port("dport")}
_MODULES: dict[str, Matcher] = {
    "": _each(
        s=_address("saddr"),
        d=_address("daddr"),
        i=_interface("iifname"),
        o=_interface("oifname"),
        p=_protocol,
    ),
    "tcp": _each(**_PORTS, tcp_flags=_tcp_flags),
    "udp": _each(**_PORTS),
    "sctp": _each(**_PORTS),
    "dccp": _each(**_PORTS),
    "udplite": _each(**_PORTS),
    "multiport": _multiport,
    "conntrack": _conntrack,
    "state": _conntrack,
    "mark": _each(mark=_mark(meta("mark"))),
    "connmark": _each(mark=_mark(conntrack("mark"))),
    "iprange": _each(src_range=_range("saddr"), dst_range=_range("daddr")),
    "pkttype": _each(pkt_type=_packet_type),
    "addrtype": _address_type,
    "icmp": _icmp,
    "icmp6": _icmp,
    "limit": _limit,
    "comment": _comment,
}
