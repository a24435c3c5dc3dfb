"""Where the kernel sends a packet: the rules of ip-rule(8), the tables that they ask, the routes.

A rule with a selector that is not known here is taken not to match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from nftbridge.model import Address, Prefix
from nftbridge.policy.evaluate import Packet

REFUSING = frozenset({"blackhole", "unreachable", "prohibit"})
"""Routes, and actions of rules, that end a packet."""

_SELECTORS = frozenset(
    {"src", "srclen", "dst", "dstlen", "iif", "fwmark", "fwmask", "ipproto", "not"}
    | {"dport", "dport_start", "dport_end"}
)
_OTHERWISE = frozenset(
    {"priority", "table", "action", "goto", "suppress_prefixlen", "protocol", "proto"}
)
_ALL_BITS = 0xFFFFFFFF
_EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Route:
    """A route; a prefix length of 0 makes it a default route. `kind` is ip-route(8)'s type."""

    prefix: Prefix
    interface: str
    metric: int = 0
    table: str = "main"
    kind: str = "unicast"

    def __str__(self) -> str:
        words = [] if self.kind == "unicast" else [self.kind]
        words.append(str(self.prefix))
        words += ["dev", self.interface] if self.kind == "unicast" else []
        words += ["table", self.table] if self.table != "main" else []
        return " ".join([*words, *(["metric", str(self.metric)] if self.metric else [])])


@dataclass(frozen=True, slots=True)
class Choice:
    """A rule of ip-rule(8): which packets it is for, and the table that they are looked up in.

    `action` takes the place of a table; a `goto` that of both. Routes of at most `suppressed` bits
    do not count.
    """

    priority: int
    source: Prefix
    destination: Prefix
    table: str = ""
    action: str = ""
    goto: int | None = None
    suppressed: int = -1
    iif: str = ""
    mark: tuple[int, int] | None = None
    protocol: str = ""
    ports: range | None = None
    inverted: bool = False
    understood: bool = True

    def takes(self, packet: Packet) -> bool:
        """Whether it is for that packet, of which nobody has set a mark."""
        if packet.daddr.version != self.source.version or not self.understood:
            return False
        asked = (
            packet.saddr in self.source,
            packet.daddr in self.destination,
            self.iif in ("", packet.iif),
            self.mark is None or self.mark[0] & self.mark[1] == 0,
            self.protocol in ("", packet.protocol),
            self.ports is None or packet.dport in self.ports,
        )
        return all(asked) is not self.inverted

    def __str__(self) -> str:
        return f"rule {self.priority}"


def _usual(version: int) -> tuple[Choice, ...]:
    everything = _EVERYTHING[version]
    found = ((0, "local"), (32766, "main"), (32767, "default"))
    return tuple(Choice(p, everything, everything, table) for p, table in found)


USUAL = (*_usual(4), *_usual(6))
"""The rules of a host on which nobody has made any."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What becomes of a packet, by which route (None: there is none) and by which rule."""

    route: Route | None = None
    choice: Choice | None = None

    @property
    def kind(self) -> str:
        """The type of the route or the action of the rule; "" if no route leads there."""
        if self.route is not None:
            return self.route.kind
        return "" if self.choice is None else self.choice.action

    @property
    def priority(self) -> int:
        """The rule's."""
        return 0 if self.choice is None else self.choice.priority

    @property
    def interface(self) -> str:
        """The interface that it leaves by; "" if it does not."""
        return self.route.interface if self.route and self.kind == "unicast" else ""


def sent(packet: Packet, choices: Iterable[Choice], routes: Iterable[Route]) -> Sent:
    """Where a packet goes that comes in by `packet.iif`."""
    known, beginning = tuple(routes), 0
    for choice in sorted(choices, key=lambda each: each.priority):
        if choice.priority < beginning or not choice.takes(packet):
            continue
        if choice.goto is not None:
            beginning = choice.goto
        elif choice.action in REFUSING:
            return Sent(None, choice)
        else:
            route = best(packet.daddr, (r for r in known if r.table == choice.table))
            if route and route.kind != "throw" and route.prefix.prefixlen > choice.suppressed:
                return Sent(route, choice)
    return Sent()


def best(address: Address, routes: Iterable[Route]) -> Route | None:
    """The route to `address`: of the longest prefix, and of these of the lowest metric."""
    fitting = (r for r in routes if r.prefix.version == address.version and address in r.prefix)
    return min(fitting, key=lambda r: (-r.prefix.prefixlen, r.metric), default=None)


def route(body: Mapping[str, Any], version: int) -> Route | None:
    """A route as ``ip -json route`` lists it; None if it is dead or says nothing known."""
    flags = body.get("flags") or ()
    hops = body.get("nexthops") or [body]
    prefix = _prefix(body.get("dst", "default"), None, version)
    if "dead" in flags or prefix is None or not isinstance(hops[0], Mapping):
        return None
    return Route(
        prefix,
        str(hops[0].get("dev", "")),
        int(body.get("metric", 0)),
        str(body.get("table", "main")),
        str(body.get("type", "unicast")),
    )


def choice(body: Mapping[str, Any], version: int) -> Choice:
    """A rule as ``ip -json rule`` lists it."""
    source = _prefix(body.get("src", "all"), body.get("srclen"), version)
    destination = _prefix(body.get("dst", "all"), body.get("dstlen"), version)
    first = body.get("dport_start", body.get("dport"))
    last = body.get("dport_end", first)
    mark = body.get("fwmark")
    mask = int(str(body.get("fwmask", _ALL_BITS)), 0)
    return Choice(
        int(body.get("priority", 0)),
        source or _EVERYTHING[version],
        destination or _EVERYTHING[version],
        str(body.get("table", "")),
        str(body.get("action", "")),
        body.get("goto"),
        int(body.get("suppress_prefixlen", -1)),
        str(body.get("iif", "")),
        None if mark is None else (int(str(mark), 0), mask),
        str(body.get("ipproto", "")),
        None if first is None or last is None else range(int(first), int(last) + 1),
        inverted="not" in body,
        understood=source is not None and destination is not None and _named(body) <= _SELECTORS,
    )


def _named(body: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(body) - _OTHERWISE


def _prefix(text: object, length: object, version: int) -> Prefix | None:
    if text in ("all", "default"):
        return _EVERYTHING[version]
    try:
        return ip_network(f"{text}/{length}" if length is not None else str(text), strict=False)
    except ValueError:
        return None
