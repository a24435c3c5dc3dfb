"""A packet's way through the host, hook by hook, and the way of its answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from nftbridge.model import Address, Prefix
from nftbridge.policy.evaluate import Evaluator, Packet, Result, Step
from nftbridge.policy.program import Chain
from nftbridge.policy.rules import (
    FILTER_FORWARD,
    NAT_OUTPUT,
    NAT_PREROUTING,
    POSTROUTING,
    RAW_PREROUTING,
)

_TRANSLATING = (NAT_PREROUTING, NAT_OUTPUT, POSTROUTING)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the rules do not know of the host: its own addresses, and interfaces by prefix.

    `default` is the interface of everything that no prefix contains.
    """

    own: frozenset[Address]
    prefixes: tuple[tuple[Prefix, str], ...]
    default: str

    def interface_to(self, address: Address) -> str:
        """The interface that packets to `address` leave by; "" if they are for the host itself."""
        if self.is_own(address):
            return ""
        found = [(p, i) for p, i in self.prefixes if p.version == address.version and address in p]
        return max(found, key=lambda pair: pair[0].prefixlen)[1] if found else self.default

    def is_own(self, address: Address) -> bool:
        """Whether `address` is one of the host's."""
        return address in self.own or address.is_loopback


@dataclass(frozen=True, slots=True)
class Journey:
    """What happened at each hook, and the packet at the end (None: dropped)."""

    results: tuple[Result, ...]
    end: Packet | None

    @property
    def decided(self) -> Step | None:
        """The rule that settled its fate: what dropped it, else filter-FORWARD's accept."""
        if self.end is None:
            return self.results[-1].decided
        return next((r.decided for r in self.results if r.hook == FILTER_FORWARD.name), None)


def journey(evaluator: Evaluator, packet: Packet, around: Surroundings) -> Journey:
    """Follow a packet that arrives by `packet.iif`, or that the host sends if that is empty."""
    results: list[Result] = []
    current = replace(packet, to_host=around.is_own(packet.daddr))
    for chain in _hooks(packet):
        if chain in (FILTER_FORWARD, POSTROUTING):
            current = replace(current, oif=around.interface_to(current.daddr))
            if not current.oif:
                break  # delivered to the host itself
        if chain in _TRANSLATING and current.state != "new":
            continue  # translations are decided by a connection's first packet
        result = evaluator.hook(chain, current)
        results.append(result)
        if result.packet is None:
            return Journey(tuple(results), None)
        current = result.packet
    return Journey(tuple(results), current)


def answer(evaluator: Evaluator, asked: Packet, delivered: Packet, around: Surroundings) -> Journey:
    """The way of the answer to `asked`, which reached its destination as `delivered`.

    Connection tracking undoes translations: after the raw hook it is addressed to who asked.
    """
    if not delivered.oif:
        return Journey((), delivered)  # the host itself answers
    back = Packet(
        saddr=delivered.daddr,
        daddr=asked.saddr,
        protocol=asked.protocol,
        dport=0,
        iif=delivered.oif,
        state="established",
    )
    translated = delivered.from_host and not asked.from_host
    if not translated:
        return journey(evaluator, back, around)
    forward = evaluator.hook(FILTER_FORWARD, replace(back, oif=around.interface_to(asked.saddr)))
    return Journey((forward,), forward.packet)


def _hooks(packet: Packet) -> Iterator[Chain]:
    if packet.iif:
        yield from (RAW_PREROUTING, NAT_PREROUTING, FILTER_FORWARD, POSTROUTING)
    else:
        yield from (NAT_OUTPUT, POSTROUTING)
