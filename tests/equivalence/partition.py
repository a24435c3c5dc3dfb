"""The finite partition that a host's constants cut the packet space into.

Each field has one representative for each class of values that no constant of the host tells apart:
every constant itself, a neighbour inside each prefix, and "something else". A cell is one choice
for each field that the hook can see. The representatives come from the host, not from what the
program makes of it.

The whole product has millions of cells for a host of five networks. Where it exceeds
`Depth.whole`, these are taken: around `Depth.bases` meaningful packets (each pair of end points,
each publication from each of them, there and back) every cell that differs in at most
`Depth.differing` fields, and `Depth.sample` cells of the product at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from ipaddress import ip_address
from itertools import combinations, product
from math import prod
from random import Random
from typing import Any

from nftbridge.model import Address, Container, Family, Host, Network, Publication
from nftbridge.policy.derive import MIRRORED_INTERFACE
from nftbridge.policy.evaluate import Packet
from tests.equivalence.meaning import Hook

OUTSIDE = "eth0"
"""An interface that is no network's; models may trust it."""

_ELSEWHERE = {
    Family.IPV4: ("198.51.100.9", "127.0.0.1", "127.0.0.9"),
    Family.IPV6: ("2001:db8:100::9", "::1", "fe80::9", "febf::9", "fec0::9"),
}
"""Something else, the loopback addresses, and link-local ones with both ends of their prefix."""
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}
_OTHER_PORT = 4444
_ALL_BITS = 0xFFFFFFFF


_UNSEEN: dict[Hook, tuple[str, ...]] = {
    Hook.RAW: ("oif", "state", "mark"),  # before routing, before connection tracking
    # translations are decided by a connection's first packet
    Hook.INBOUND: ("oif", "state", "mark"),
    Hook.OUTPUT: ("iif", "state", "mark"),
    Hook.FORWARD: (),
    Hook.POSTROUTING: ("iif", "state", "mark"),  # iptables refuses -i here
}


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of the product is taken, see the module."""

    whole: int = 2000
    bases: int = 8
    differing: int = 1
    sample: int = 400


LONG = Depth(whole=20_000, bases=3, differing=2, sample=2_000)
"""For the long run."""


class Partition:
    """The cells of one host in one family."""

    def __init__(self, host: Host, family: Family) -> None:
        self._host = host
        self._family = family

    def cells(self, hook: Hook, depth: Depth) -> Iterator[Packet]:
        """Cells of that hook, each once; the same ones every time."""
        axes = self.axes(hook)
        if prod(map(len, axes.values())) <= depth.whole:
            yield from (_packet(values) for values in product(*axes.values()))
            return
        random = Random(f"{hook} {self._family}")
        found = dict.fromkeys(self._around(axes, depth, random))
        for _ in range(depth.sample):
            found[_packet([_chosen(values, random) for values in axes.values()])] = None
        yield from found

    def axes(self, hook: Hook) -> dict[str, Sequence[Any]]:
        """The representatives of each field, in `Packet`'s order; one where the hook is blind."""
        interfaces = tuple(self._interfaces())
        seen: dict[str, Sequence[Any]] = {
            "saddr": self._addresses,
            "daddr": self._addresses,
            "protocol": ("tcp", "udp", "sctp", _ICMP[self._family], "gre"),
            "dport": tuple(self._ports()),
            "iif": interfaces,
            "oif": interfaces,
            "state": ("new", "established", "related", "invalid"),
            "from_host": (False, True),
            "to_host": (False, True),
            "mark": tuple(self._marks()),
        }
        blind = {"iif": ("",), "oif": ("",), "state": ("new",), "mark": (0,)}
        return {f: blind[f] if f in _UNSEEN[hook] else values for f, values in seen.items()}

    def _around(
        self, axes: dict[str, Sequence[Any]], depth: Depth, random: Random
    ) -> Iterator[Packet]:
        bases = list(self.bases())
        for base in random.sample(bases, min(depth.bases, len(bases))):
            centre = {f: getattr(base, f) for f in axes}
            blind = {f: values[0] for f, values in axes.items() if len(values) == 1}
            for changed in combinations(axes, depth.differing):
                spread = [axes[f] if f in changed else (v,) for f, v in (centre | blind).items()]
                yield from (_packet(values) for values in product(*spread))

    def bases(self) -> Iterator[Packet]:
        """Packets that somebody may really send."""
        ends = [*self._ends, (OUTSIDE, ip_address(_ELSEWHERE[self._family][0]), None)]
        for iif, saddr, _ in ends:
            for oif, daddr, container in ends:
                for protocol, port in _inside(container):
                    yield Packet(saddr, daddr, protocol, port, iif, oif)
            for oif, _, container in self._ends:
                for publication in container.publish if container else ():
                    yield self._at_host(publication, iif, oif, saddr)

    def _at_host(self, publication: Publication, iif: str, oif: str, saddr: Address) -> Packet:
        bound = publication.bound_address(self._family) or self._addresses[0]
        port = publication.host_port or publication.container_port
        packet = Packet(saddr, bound, publication.protocol.value, port, iif, oif, to_host=True)
        return replace(packet, from_host=saddr.is_loopback)

    @cached_property
    def _ends(self) -> list[tuple[str, Address, Container | None]]:
        """The containers' bridges and addresses."""
        found: list[tuple[str, Address, Container | None]] = []
        for network, container in _containers(self._host):
            address = container.address(self._family)
            if address is not None:
                found.append((network.bridge, address, container))
        return found

    @cached_property
    def _addresses(self) -> tuple[Address, ...]:
        found = [ip_address(text) for text in _ELSEWHERE[self._family]]
        for network in self._host.networks:
            subnet, fixed = network.subnet(self._family), network.snat_address(self._family)
            # the prefix's ends, and next to them what it does not contain
            found += (
                [] if subnet is None else [subnet[0], subnet[-1], subnet[0] - 1, subnet[-1] + 1]
            )
            found += [] if fixed is None else [fixed]
        found += [address for _, address, _ in self._ends]
        for _, container in _containers(self._host):
            bound = (p.bound_address(self._family) for p in container.publish)
            found += [address for address in bound if address is not None]
        return tuple(dict.fromkeys(found))

    def _interfaces(self) -> Iterator[str]:
        found = [OUTSIDE, "", "lo", MIRRORED_INTERFACE, "eth1", "br"]
        for network in self._host.networks:
            found += [network.bridge, *network.trusted_host_interfaces]
        yield from dict.fromkeys(found)

    def _marks(self) -> Iterator[int]:
        """No mark, all bits, and each mark with its mask, alone and beside other bits."""
        found = [0]
        for mark in (self._host.accept_mark, self._host.trust_mark):
            if mark is not None:
                found += [mark.value, mark.mask, mark.put_on(_ALL_BITS), _ALL_BITS]
        yield from dict.fromkeys(found)

    def _ports(self) -> Iterator[int]:
        """All ports of each range, and what lies behind it."""
        found = [_OTHER_PORT, 0]
        for _, container in _containers(self._host):
            for publication in container.publish:
                firsts = (publication.host_port, publication.container_port)
                for first in (first for first in firsts if first is not None):
                    found += range(first, first + publication.count + 1)
        yield from dict.fromkeys(found)


def _chosen(values: Sequence[Any], random: Random) -> Any:
    """One of them; a field that the hook is blind to costs no choice."""
    return values[0] if len(values) == 1 else random.choice(values)


def _packet(values: Sequence[Any]) -> Packet:
    return Packet(*values)


def _containers(host: Host) -> Iterator[tuple[Network, Container]]:
    for network in host.networks:
        for container in network.containers:
            yield network, container


def _inside(container: Container | None) -> Iterator[tuple[str, int]]:
    """Ports that something may be opened on, and one that nothing is."""
    for publication in container.publish if container else ():
        yield publication.protocol.value, publication.container_port
    yield "tcp", _OTHER_PORT
