"""What the matches of iptables are in nft, module by module.

The source is the kernel's code of each module (net/netfilter/xt_*.c) beside nft's expressions. A
match becomes alternatives, each a list of nft's matches: usually one; several where nft cannot say
"or". They exclude one another, so a packet meets the rule's target once, as in iptables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from nftbridge.model import Family
from nftbridge.nft.syntax import Json
from nftbridge.translate.connection import connection
from nftbridge.translate.line import Line, Option, Part, RefusedError
from nftbridge.translate.nodes import conntrack, interval, masked, match, meta, payload
from nftbridge.translate.values import (
    PORTED,
    Alternatives,
    Context,
    bounds,
    in_network,
    number,
    of_family,
    protocol_named,
)

_ICMP = {"icmp": "icmp", "icmp6": "icmpv6"}

_TCP_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}
_PACKET_TYPES = {"unicast": "host", "broadcast": "broadcast", "multicast": "multicast"}
_ECHO = {("icmp", 8): "echo-request", ("icmp", 0): "echo-reply"} | {
    ("icmpv6", 128): "echo-request",
    ("icmpv6", 129): "echo-reply",
}
_RATES = {"sec": "second", "min": "minute", "hour": "hour", "day": "day"}
_RATE = re.compile(r"(\d{1,9})/(\w+)", re.ASCII)
_HARDWARE = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_PROBABILITY = re.compile(r"[01]\.\d{11}", re.ASCII)
_CERTAIN = 1 << 31
"""What a probability of 1 is for xt_statistic."""

_MOST = (1 << 31) - 1
"""The highest number that nft's JSON has for ``numgen``."""

# IPv6 asks differently: there UNICAST has LOCAL in it, and several types must hold all at once
_ADDRESS_TYPES = {
    Family.IPV4: {"unspec", "unicast", "local", "broadcast", "anycast", "multicast"}
    | {"blackhole", "unreachable", "prohibit"},
    Family.IPV6: {"local", "multicast"},
}


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
        return in_network(payload(context.header, field), option, context)

    return matcher


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
    return match(meta("l4proto"), protocol_named(option), negated=option.negated)


def _port(field: str) -> _OptionMatcher:
    def matcher(option: Option, context: Context) -> Json:
        right = interval(*bounds(option, option.value))
        return match(_ports_of(option, context, field), right, negated=option.negated)

    return matcher


def _ports_of(option: Option, context: Context, field: str) -> Json:
    if context.protocol not in PORTED:
        raise RefusedError(str(option), "the line has no protocol with ports")
    return payload(context.protocol, field)


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
        value = number(option, text, 0, 0xFFFFFFFF)
        mask = number(option, mask_text, 0, 0xFFFFFFFF) if slash else 0xFFFFFFFF
        if value & ~mask or not mask:
            raise RefusedError(str(option), "the mask leaves nothing of it to compare")
        bits = left if mask == 0xFFFFFFFF else masked(left, mask)
        return match(bits, value, negated=option.negated)

    return matcher


def _range(field: str) -> _OptionMatcher:
    def matcher(option: Option, context: Context) -> Json:
        first, dash, last = option.value.partition("-")
        ends = [of_family(text, option, context) for text in (first, last if dash else first)]
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


def _length(option: Option, _: Context) -> Json:
    """Both count from the network header on, and what was trimmed or put together before.

    Up to Linux 6.2 iptables takes an IPv6 packet over 65535 bytes for a short one.
    """
    right = interval(*bounds(option, option.value))
    return match(meta("length"), right, negated=option.negated)


def _hardware(option: Option, _: Context) -> Json:
    """Both hold for packets from a device with an Ethernet header only, also when negated."""
    address = option.value.lower()
    if not _HARDWARE.fullmatch(address):
        raise RefusedError(str(option), "is no hardware address")
    return match(payload("ether", "saddr"), address, negated=option.negated)


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
        kind = number(option, kind_text, 0, 255)
        is_kind = _ECHO.get((protocol, kind), kind)
        found.append(match(payload(protocol, "type"), is_kind, negated=option.negated))
        if slash:
            code = match(payload(protocol, "code"), number(option, code_text, 0, 255))
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
    listed = sorted(bounds(option, text) for text in option.value.split(","))
    ports = [interval(*pair) for pair in _merged(listed)]
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


def _merged(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Sorted ranges with those that overlap or touch made one: nft refuses them in a set."""
    first, last = ranges[0]
    for low, high in ranges[1:]:
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
    packets = 5 if burst is None else number(burst, burst.value, 1, 0xFFFFFFFF)
    limit = {"rate": int(found[1]), "burst": packets, "per": _RATES[found[2]]}
    return (({"limit": limit},),)


def counts(part: Part) -> bool:
    """Whether it makes a difference to a packet which others were asked about before it."""
    return part.name == "limit" or any(option.name == "--every" for option in part.options)


def _statistic(part: Part, _: Context) -> Alternatives:
    options = {option.name: option for option in part.options}
    mode = options.pop("--mode", Option(""))
    if mode == Option("--mode", ("random",)) and options.keys() == {"--probability"}:
        return ((_random(options["--probability"]),),)
    if mode == Option("--mode", ("nth",)) and {"--every"} <= options.keys() <= _NTH:
        return ((_nth(options["--every"], options.get("--packet")),),)
    raise RefusedError(str(part), "the options have no equal here")


_NTH = {"--every", "--packet"}


def _random(option: Option) -> Json:
    """As xt_statistic asks: 31 random bits are less than the probability of as many bits."""
    if not _PROBABILITY.fullmatch(option.value):
        raise RefusedError(str(option), "the probability cannot be understood")
    wanted = round(float(option.value) * _CERTAIN)
    if not 0 < wanted < _CERTAIN:
        raise RefusedError(str(option), "it means every packet, or none: nft has no match for it")
    operator = ">=" if option.negated else "<"
    left = masked(meta("random"), _CERTAIN - 1)
    return {"match": {"op": operator, "left": left, "right": wanted}}


def _nth(every: Option, packet: Option | None) -> Json:
    """Both count from 0, which is the first packet that is asked about."""
    number_of_all = number(every, every.value, 1, _MOST)
    if packet is not None and packet.negated:
        raise RefusedError(str(packet), "cannot be negated")
    first = 0 if packet is None else number(packet, packet.value, 0, number_of_all - 1)
    left: Json = {"numgen": {"mode": "inc", "mod": number_of_all}}
    return match(left, first, negated=every.negated)


_ABOUT_TIME = {
    "--monthdays": "nft has no word for days of the month",
    "--weekdays": "nft takes the day from the kernel's time zone, iptables from UTC",
    "--kerneltz": "nft has no hours or dates in the kernel's time zone",
}
_LOCAL_TIME = (
    "nft reads and lists it in local time: put back after that has changed, it would be another"
)


def _time(part: Part, _: Context) -> Alternatives:
    """Refused: in nft's words the same rule is open at other hours once it was listed and loaded.

    That happens when a table is made anew with what was in it, in summer time or another zone.
    """
    asked = {option.name: option for option in part.options}
    for name, reason in _ABOUT_TIME.items():
        if name in asked:
            raise RefusedError(str(asked[name]), reason)
    raise RefusedError(str(part), _LOCAL_TIME)


def _comment(part: Part, _: Context) -> Alternatives:
    """It becomes the rule's comment and matches every packet."""
    if any(o.name != "--comment" or o.negated or len(o.values) != 1 for o in part.options):
        raise RefusedError(str(part), "takes --comment with a text")
    return ((),)


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
    "conntrack": connection,
    "state": connection,
    "mark": _each(mark=_mark(meta("mark"))),
    "connmark": _each(mark=_mark(conntrack("mark"))),
    "iprange": _each(src_range=_range("saddr"), dst_range=_range("daddr")),
    "pkttype": _each(pkt_type=_packet_type),
    "addrtype": _address_type,
    "icmp": _icmp,
    "icmp6": _icmp,
    "limit": _limit,
    "length": _each(length=_length),
    "mac": _each(mac_source=_hardware),
    "statistic": _statistic,
    "time": _time,
    "comment": _comment,
}
