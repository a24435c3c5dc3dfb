"""Conditions of the routes: what is wanted is refused, or leads elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.doctor.case import Case
from nftbridge.doctor.finding import Evidence
from nftbridge.doctor.passage import stages
from nftbridge.doctor.routing import REFUSING, Choice, Route, Sent, sent
from nftbridge.model import Prefix
from nftbridge.policy.evaluate import Packet

_ENDS = {
    "blackhole": "discards them",
    "unreachable": "refuses them",
    "prohibit": "refuses them",
    "local": "keeps them on the host",
}


def misrouted(case: Case) -> Iterator[Evidence]:
    """A packet for a container does not leave by its bridge, or one for others is refused."""
    found: dict[tuple[Route | None, Choice | None, str], tuple[Packet, Sent, list[str]]] = {}
    for traffic in case.traffic:
        for stage in stages(traffic.way) if traffic.wanted else ():
            packet = stage.after
            if stage.hook == "forward" and _is_known(case, packet):
                way = sent(packet, case.facts.choices, case.facts.routes)
                if _is_wrong(case, packet, way):
                    key = way.route, way.choice, packet.oif if packet.oif in case.bridges else ""
                    found.setdefault(key, (packet, way, []))[2].append(str(traffic))
    for packet, way, kinds in found.values():
        words = {"what": _what(way), "mend": _mend(case, packet, way)}
        words["destination"] = str(packet.daddr)
        yield Evidence(words, tuple(dict.fromkeys(kinds)))


def _is_known(case: Case, packet: Packet) -> bool:
    """Whether anything is known of routes at all; a bridge that is down has none."""
    down = packet.oif in case.bridges and not case.facts.interfaces.get(packet.oif)
    return bool(case.facts.routes) and not down


def _is_wrong(case: Case, packet: Packet, way: Sent) -> bool:
    if packet.oif in case.bridges:
        return way.interface != packet.oif
    return way.kind in REFUSING


def _what(way: Sent) -> str:
    if way.route is not None:
        ends = _ENDS.get(way.kind, f"leads by {way.route.interface}")
        asked = f", asked by {way.choice}," if way.route.table not in ("main", "local") else ""
        return f"route '{way.route}'{asked} {ends}"
    if way.choice is not None:
        return f"{way.choice} of `ip rule` {_ENDS[way.kind]}"
    return "no route leads there"


def _mend(case: Case, packet: Packet, way: Sent) -> str:
    """For containers their subnets are looked up in main first; for others the obstacle goes."""
    ip, route, choice = f"ip -{packet.daddr.version}", way.route, way.choice
    subnet = _subnet(case, packet)
    if subnet is None:
        return f"{ip} route del {route}" if route else f"{ip} rule del pref {way.priority}"
    if choice is not None and choice.table not in ("main", "local"):
        return f"{ip} rule add to {subnet} lookup main pref {max(way.priority - 1, 0)}"
    if route is not None and route.prefix.prefixlen >= subnet.prefixlen:
        if way.kind == "local":
            return f"{ip} address flush dev {route.interface} to {route.prefix}"
        return f"{ip} route del {route}"
    return f"{ip} route add {subnet} dev {packet.oif}"


def _subnet(case: Case, packet: Packet) -> Prefix | None:
    """The subnet of the network that the packet is for."""
    subnets = (s for n in case.host.networks if n.bridge == packet.oif for s in n.subnets)
    return next((subnet for subnet in subnets if packet.daddr in subnet), None)
