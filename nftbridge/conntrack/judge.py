"""Flows judged by what the rules make of a first packet.

Those of networks that are another kind now, and those that nobody knows by what rules they came.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from nftbridge.conntrack.revoked import Flow, Judgement, Links, Packed
from nftbridge.model import Address, Host, Network, Prefix
from nftbridge.policy.evaluate import Evaluator, Packet
from nftbridge.policy.path import Surroundings, journey

_NAMES = {
    int(socket.IPPROTO_ICMP): "icmp",
    int(socket.IPPROTO_TCP): "tcp",
    int(socket.IPPROTO_UDP): "udp",
    int(socket.IPPROTO_ICMPV6): "ipv6-icmp",
    int(socket.IPPROTO_SCTP): "sctp",
}

_Outcome: TypeAlias = tuple[Address, int, Address, bool]
"""Where a packet goes, and from whom it then seems to come."""

_UNKNOWN = "?"
"""An interface that no row names: the way to everything that is not on a link of the host."""


def judgement(held: Host, wanted: Host, networks: Iterable[Network]) -> Judgement:
    """Tells whether `wanted` drops or translates otherwise what `held` did not, of these networks.

    Both hosts are whole, and their `wsl2_mirrored` is settled.
    """
    subnets = tuple(subnet for network in networks for subnet in network.subnets)
    before, after = _Rules(held), _Rules(wanted)
    known: dict[tuple[object, ...], bool] = {}

    is_inside = _inside(subnets)

    def otherwise(flow: Flow, links: Links) -> bool:
        if not any(map(is_inside, (flow.source, flow.destination, flow.reply_source))):
            return False
        places = (_place(end, is_inside, links) for end in (flow.source, flow.destination))
        key = (*places, flow.protocol, flow.port)
        if key not in known:
            then, now = before.outcome(flow, links), after.outcome(flow, links)
            known[key] = then is not None and then != now
        return known[key]

    return otherwise


def intrusion(wanted: Host) -> Judgement:
    """Tells whether a flow came in while `wanted` was not in force, as far as one can tell.

    That is one that no rule of ours has translated, and that they drop or translate. `wanted`
    is whole, and its `wsl2_mirrored` is settled.
    """
    subnets = tuple(subnet for network in wanted.networks for subnet in network.subnets)
    rules = _Rules(wanted)
    known: dict[tuple[object, ...], bool] = {}
    is_inside = _inside(subnets)

    def is_none_of_theirs(flow: Flow, links: Links) -> bool:
        ends = flow.source, flow.destination
        if flow.translated or not (links.is_own(ends[1]) or any(map(is_inside, ends))):
            return False
        key = (*(_place(end, is_inside, links) for end in ends), flow.protocol, flow.port)
        if key not in known:
            now = rules.outcome(flow, links)
            known[key] = now is None or now[:2] != (ip_address(ends[1]), flow.port)
        return known[key]

    return is_none_of_theirs


def _inside(subnets: tuple[Prefix, ...]) -> Callable[[Packed], bool]:
    """Whether an address is in one of them; asked once of each, as thousands of flows share few."""

    @cache
    def is_inside(address: Packed) -> bool:
        return _within(ip_address(address), subnets)

    return is_inside


def _place(address: Packed, is_inside: Callable[[Packed], bool], links: Links) -> Packed | bool:
    """The address, or of one that is far off all that the rules may ask: if it is link-local."""
    near = links.interface(address) or links.is_own(address) or is_inside(address)
    return address if near else ip_address(address).is_link_local


@dataclass(slots=True)
class _Rules:
    """The rules of one host, and what they make of a flow's first packet."""

    host: Host
    evaluator: Evaluator = field(init=False)
    prefixes: tuple[tuple[Prefix, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator.of(self.host)
        self.prefixes = tuple((s, n.bridge) for n in self.host.networks for s in n.subnets)

    def outcome(self, flow: Flow, links: Links) -> _Outcome | None:
        """How the packet leaves the host or reaches it; None if it is dropped."""
        source, destination = ip_address(flow.source), ip_address(flow.destination)
        ends = (source, destination, ip_address(flow.reply_source))
        own = frozenset(end for end in ends if links.is_own(end.packed))
        around = Surroundings(own, (*self.prefixes, *self._linked(ends, links)), _UNKNOWN)
        sent = source in own
        packet = Packet(
            saddr=source,
            daddr=destination,
            protocol=_NAMES.get(flow.protocol, str(flow.protocol)),
            dport=flow.port,
            iif="" if sent else around.interface_to(source),
            from_host=sent,
        )
        end = journey(self.evaluator, packet, around).end
        return None if end is None else (end.daddr, end.dport, end.saddr, end.from_host)

    def _linked(self, ends: Iterable[Address], links: Links) -> Iterable[tuple[Prefix, str]]:
        """Whom the host's links lead to and the model says nothing of."""
        for end in ends:
            interface = links.interface(end.packed)
            if interface and not _within(end, (prefix for prefix, _ in self.prefixes)):
                yield ip_network(end), interface


def _within(address: Address, subnets: Iterable[Prefix]) -> bool:
    return any(address.version == s.version and address in s for s in subnets)
