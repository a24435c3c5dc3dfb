"""The nouns of the model, smallest first: address families, publications, containers, networks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Prefix: TypeAlias = IPv4Network | IPv6Network


class Family(StrEnum):
    """A layer-3 family; the value is nftables' name of it (datatype ``nf_proto``)."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @classmethod
    def of(cls, thing: Address | Prefix) -> Family:
        """The family of an address or a prefix."""
        return cls.IPV4 if thing.version == 4 else cls.IPV6

    @property
    def version(self) -> int:
        """4 or 6, as `ipaddress` counts."""
        return 4 if self is Family.IPV4 else 6

    @property
    def label(self) -> str:
        """The name people write."""
        return f"IPv{self.version}"


class Protocol(StrEnum):
    """A transport protocol whose ports can be published."""

    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class GatewayMode(StrEnum):
    """How a family reaches and leaves a network's containers (Docker's ``gateway_mode_*``)."""

    NAT = "nat"
    NAT_UNPROTECTED = "nat-unprotected"
    ROUTED = "routed"
    ISOLATED = "isolated"


class IpForward(StrEnum):
    """What to do where the kernel does not forward packets."""

    CHECK = "check"
    """Say so."""
    ENABLE = "enable"
    """Switch it on, for the families of networks that need it."""


@dataclass(frozen=True, slots=True)
class Publication:
    """`count` consecutive container ports that the host answers for.

    `host_address` None means every local address of every family that the container has;
    ``0.0.0.0`` and ``::`` mean every local address of that family. `host_port` may be None only
    on routed networks, where nothing is translated and only the container port is opened.
    """

    container_port: int
    host_port: int | None = None
    host_address: Address | None = None
    protocol: Protocol = Protocol.TCP
    count: int = 1

    def __str__(self) -> str:
        host = "" if self.host_address is None else f"{_bracketed(self.host_address)}:"
        outside = "" if self.host_port is None else f"{_span(self.host_port, self.count)}:"
        return f"{host}{outside}{_span(self.container_port, self.count)}/{self.protocol.value}"

    def bound_address(self, family: Family) -> Address | None:
        """The one host address it is bound to in `family`; None if it is bound to all of them."""
        if self.host_address is None or self.host_address.is_unspecified:
            return None
        return self.host_address if Family.of(self.host_address) is family else None

    def covers(self, family: Family) -> bool:
        """Whether it publishes in `family` at all (the container's own addresses aside)."""
        return self.host_address is None or Family.of(self.host_address) is family


class Protection(StrEnum):
    """What keeps packets out and not every kernel can do; the value is its name in host files."""

    ICC = "icc"
    DIRECT_ACCESS = "direct-access"


@dataclass(frozen=True, slots=True)
class Mark:
    """Some of the 32 bits of a packet's mark (fwmark): those of `mask` are as in `value`.

    The mark belongs to the host: it is lost where a packet enters another network namespace.
    """

    value: int
    mask: int

    def __str__(self) -> str:
        """As iptables writes it: ``0x1000/0x1000``."""
        return f"{self.value:#x}/{self.mask:#x}"

    def is_on(self, mark: int) -> bool:
        """Whether a packet with this mark carries it."""
        return mark & self.mask == self.value

    def put_on(self, mark: int) -> int:
        """The mark of a packet after it was set: the other bits stay as they are."""
        return mark & ~self.mask | self.value


@dataclass(frozen=True, slots=True)
class Priorities:
    """Where nftables' base chains stand at their hooks, smaller is earlier; Docker's by default.

    `dstnat` is for nat-PREROUTING and nat-OUTPUT. The built-in chains of iptables cannot be moved.
    """

    raw: int = -300
    dstnat: int = -100
    forward: int = 0
    srcnat: int = 100


DOCKERS_PRIORITIES = Priorities()
"""Those that the built-in chains of iptables have."""


@dataclass(frozen=True, slots=True)
class Container:
    """One end point on a bridge: at most one address per family."""

    name: str
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    publish: tuple[Publication, ...] = ()

    def address(self, family: Family) -> Address | None:
        """Its address of `family`."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Network:
    """One Linux bridge with its subnets, options and containers."""

    name: str
    bridge: str
    subnets: tuple[Prefix, ...]
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    gateway_mode_ipv4: GatewayMode = GatewayMode.NAT
    gateway_mode_ipv6: GatewayMode = GatewayMode.NAT
    host_ipv4: IPv4Address | None = None
    host_ipv6: IPv6Address | None = None
    trusted_host_interfaces: tuple[str, ...] = ()
    containers: tuple[Container, ...] = ()

    def subnet(self, family: Family) -> Prefix | None:
        """Its subnet of `family`, if it has one."""
        return next((s for s in self.subnets if Family.of(s) is family), None)

    def gateway_mode(self, family: Family) -> GatewayMode:
        """Its gateway mode in `family`."""
        return self.gateway_mode_ipv4 if family is Family.IPV4 else self.gateway_mode_ipv6

    def snat_address(self, family: Family) -> Address | None:
        """The fixed source address for traffic that leaves the host; None means masquerade."""
        return self.host_ipv4 if family is Family.IPV4 else self.host_ipv6

    def is_routed(self, family: Family) -> bool:
        """Whether `family` is routed to the containers without any translation."""
        return self.gateway_mode(family) is GatewayMode.ROUTED


def counted(number: int, noun: str) -> str:
    """``1 network``, ``2 networks``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"
