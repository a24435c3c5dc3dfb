"""Hosts of every kind that the model allows, valid by construction.

One description, `built`, two sources of choices: Hypothesis, which shrinks what fails, and a seeded
generator for the long run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from itertools import count
from random import Random
from typing import Protocol as Interface
from typing import TypeAlias, TypeVar

from hypothesis import strategies as st

from nftbridge.model import (
    Address,
    Container,
    Family,
    GatewayMode,
    Host,
    Mark,
    Network,
    Prefix,
    Protocol,
    Publication,
)

T = TypeVar("T")
_Claim: TypeAlias = tuple[Family, Protocol, int, Address | None]

UPLINKS = ("eth0", "eth1")
LOOPBACK_LINK = "loopback0"

# Few ports, so that containers, protocols and host addresses meet on the same ones.
_CONTAINER_PORTS = (80, 8000, 8002, 53)
_HOST_PORTS = (8000, 8001, 9000, 80)
_SPARE_PORTS = 20000
_COUNTS = (1, 1, 1, 2, 3)

_OWN = {
    Family.IPV4: ("198.51.100.1", "203.0.113.1", "192.0.2.7"),
    Family.IPV6: ("2001:db8:100::1", "2001:db8:101::1", "2001:db8:ffff::7"),
}
"""Addresses of the laboratory's uplinks, and one that lies on none of them."""
_LOOPBACK = {Family.IPV4: ("127.0.0.1", "127.0.0.2"), Family.IPV6: ("::1",)}
_UNSPECIFIED = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
_SNAT = {
    Family.IPV4: ("198.51.100.77", "203.0.113.77", "192.0.2.77"),
    Family.IPV6: ("2001:db8:100::77", "2001:db8:101::77", "2001:db8:ffff::77"),
}


_ACCEPT_MARKS = (Mark(0x1000, 0x1000), Mark(0x50000, 0x70000))
_TRUST_MARKS = (Mark(0x2000, 0x2000), Mark(0x80000002, 0x80000003))
"""One bit, and several of which some must be clear."""


class Choices(Interface):
    """Where decisions come from. The first option is the simplest."""

    def one_of(self, options: Sequence[T]) -> T:
        """One of these; what stands there twice is twice as likely."""
        ...

    def number(self, most: int) -> int:
        """From 0 to `most`."""
        ...


@dataclass(frozen=True, slots=True)
class Seeded:
    """Choices of a seeded generator."""

    random: Random

    def one_of(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    def number(self, most: int) -> int:
        return self.random.randint(0, most)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Hypothesis' choices."""

    draw: st.DrawFn

    def one_of(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def number(self, most: int) -> int:
        return self.draw(st.integers(0, most))


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Every kind of host."""
    return built(_Drawn(draw))


def seeded(seed: int) -> Host:
    """The host of that number."""
    return built(Seeded(Random(seed)))


def built(choices: Choices) -> Host:
    """A host of one to five networks."""
    ports = _Ports(choices)
    number = choices.number(4) + 1
    networks = tuple(_Builder(choices, ports, n, number).network() for n in range(number))
    return Host(
        networks,
        # mostly both: a family that is off has nothing to compare
        ipv4=choices.one_of((True,) * 9 + (False,)),
        ipv6=choices.one_of((True,) * 9 + (False,)),
        userland_proxy=choices.one_of((True, False)),
        allow_direct_routing=choices.one_of((False, False, True)),
        wsl2_mirrored=choices.one_of((False, True)),
        accept_mark=choices.one_of((None, None, *_ACCEPT_MARKS)),
        trust_mark=choices.one_of((None, None, *_TRUST_MARKS)),
    )


@dataclass(slots=True)
class _Ports:
    """Gives out host ports that collide with none given before."""

    choices: Choices
    taken: set[_Claim] = field(default_factory=set[_Claim])
    spare: Iterator[int] = field(default_factory=lambda: count(_SPARE_PORTS, 10))

    def first(
        self, families: Sequence[Family], protocol: Protocol, number: int, bound: Address | None
    ) -> int:
        """The first of `number` free ports, a favourite one if it is free."""
        wanted = self.choices.one_of(_HOST_PORTS)
        if not self._free(families, protocol, wanted, number, bound):
            wanted = next(self.spare)
        for port in range(wanted, wanted + number):
            self.taken.update((family, protocol, port, bound) for family in families)
        return wanted

    def _free(
        self,
        families: Sequence[Family],
        protocol: Protocol,
        first: int,
        number: int,
        bound: Address | None,
    ) -> bool:
        """A port of every address collides with the same port of any."""
        return not any(
            (family, protocol, port) == claim[:3] and (bound in (None, claim[3]) or not claim[3])
            for family in families
            for port in range(first, first + number)
            for claim in self.taken
        )


@dataclass(frozen=True, slots=True)
class _Builder:
    """Builds network `index` of `number`: names and prefixes follow from the index."""

    choices: Choices
    ports: _Ports
    index: int
    number: int

    def network(self) -> Network:
        one_of = self.choices.one_of
        internal = one_of((False, False, False, True))
        modes = tuple(m for m in GatewayMode if internal or m is not GatewayMode.ISOLATED)
        network = Network(
            name=f"net{self.index}",
            bridge=f"br-{self.index}",
            subnets=one_of((self._subnets(), self._subnets(), *((s,) for s in self._subnets()))),
            internal=internal,
            icc=one_of((True, True, False)),
            masquerade=one_of((True, True, False)),
            gateway_mode_ipv4=one_of(modes),
            gateway_mode_ipv6=one_of(modes),
            host_ipv4=one_of((None, None, *map(IPv4Address, _SNAT[Family.IPV4]))),
            host_ipv6=one_of((None, None, *map(IPv6Address, _SNAT[Family.IPV6]))),
            trusted_host_interfaces=self._trusted(),
        )
        return self._with_containers(network)

    def _subnets(self) -> tuple[Prefix, ...]:
        """Odd lengths too; the prefixes of neighbours are neighbours."""
        return (
            IPv4Network((int(IPv4Address("172.20.0.0")) + (self.index << 12), 20)),
            ip_network(f"fd00:20:0:{self.index:x}::/64"),
        )

    def _trusted(self) -> tuple[str, ...]:
        """An uplink, both, or the bridge of some network, perhaps of this one."""
        bridge = f"br-{self.choices.number(self.number - 1)}"
        return self.choices.one_of(((), (), ("eth1",), UPLINKS, (bridge,), (bridge, "eth0")))

    def _with_containers(self, network: Network) -> Network:
        made = tuple(
            self._container(network, c) for c in range(self.choices.one_of((0, 1, 2, 2, 3)))
        )
        return replace(network, containers=made)

    def _container(self, network: Network, index: int) -> Container:
        present = {s.version: s.network_address + 2 + index for s in network.subnets}
        four, six = present.get(4), present.get(6)
        if len(present) == 2:
            keep = self.choices.one_of(((4, 6), (4, 6), (4,), (6,)))
            four, six = (four if 4 in keep else None), (six if 6 in keep else None)
        assert not isinstance(four, IPv6Address)
        assert not isinstance(six, IPv4Address)
        bare = Container(f"c{self.index}{index}", four, six)
        wanted = 0 if network.internal else self.choices.number(3)
        return Container(
            bare.name, four, six, tuple(self._publication(network, bare) for _ in range(wanted))
        )

    def _publication(self, network: Network, container: Container) -> Publication:
        one_of = self.choices.one_of
        families = [f for f in Family if container.address(f) is not None]
        protocol, number = one_of(tuple(Protocol)), one_of(_COUNTS)
        inside, address = one_of(_CONTAINER_PORTS), self._host_address(network)
        shape = Publication(inside, None, address, protocol, number)
        covered = [family for family in families if shape.covers(family)]
        if all(network.is_routed(f) for f in covered) and one_of((True, False)):
            return shape
        bound = None if address is None or address.is_unspecified else address
        first = self.ports.first(covered, protocol, number, bound)
        return Publication(inside, first, address, protocol, number)

    def _host_address(self, network: Network) -> Address | None:
        """All of the host's, all of a family, one of it, loopback, the bridge's own."""
        family = self.choices.one_of(tuple(Family))
        gateways = [str(s.network_address + 1) for s in network.subnets]
        specific = (*_OWN[family], *_LOOPBACK[family], *_LOOPBACK[family], *gateways)
        text = self.choices.one_of((None, _UNSPECIFIED[family], specific, specific))
        if isinstance(text, tuple):
            text = self.choices.one_of(text)
        return None if text is None else ip_address(text)
