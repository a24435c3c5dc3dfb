"""What firewalld has to hold for a host. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from nftbridge.model import Family, Host
from nftbridge.policy import catalogue as known
from nftbridge.policy.derive import derive

ZONE = "docker"
"""The zone that all bridges are in, ours and Docker's."""


class Policy(NamedTuple):
    """A firewalld policy: what it does with packets from zones to zones."""

    name: str
    description: str
    ingress: str
    egress: str
    target: str


FORWARDING = Policy(
    "docker-forwarding", "allow forwarding to the docker zone", "ANY", ZONE, "ACCEPT"
)
"""As Docker makes it."""

OPENING = (
    Policy(
        "nftbridge-in",
        "host ports that nftbridge publishes, for packets from elsewhere; StrictForwardPorts=yes",
        "ANY",
        "ANY",
        "CONTINUE",
    ),
    Policy(
        "nftbridge-own",
        "host ports that nftbridge publishes, for packets of the host; StrictForwardPorts=yes",
        "HOST",
        "ANY",
        "CONTINUE",
    ),
)
"""Hold the published ports where StrictForwardPorts=yes: its chains for forward and output."""

# With StrictForwardPorts firewalld lets a translated packet pass only if its original port is that
# of one of its own forward-ports, whichever they are. A plain forward-port would also translate:
# every packet to that port, wherever it goes to, those of containers to the outside included. So
# ours is for a destination that no packet has, and would leave it as it is.
_NOWHERE = {
    Family.IPV4: "192.0.0.8",  # RFC 7600: the dummy address
    Family.IPV6: "100::",  # RFC 6666: the discard-only prefix
}


class Opening(NamedTuple):
    """Host ports `first` to `last` of one family, translated to containers."""

    family: Family
    protocol: str
    first: int
    last: int

    @property
    def rich_rule(self) -> str:
        """As a forward-port in firewalld's language, in the form that it prints."""
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        nowhere = _NOWHERE[self.family]
        return (
            f'rule family="{self.family.value}" destination address="{nowhere}" forward-port '
            f'port="{ports}" protocol="{self.protocol}" to-port="{ports}" to-addr="{nowhere}"'
        )

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.family.value} {self.protocol} {ports}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one host needs of firewalld: its bridges in our zone, its published ports passed."""

    bridges: frozenset[str] = frozenset()
    openings: tuple[Opening, ...] = ()


def bridges(host: Host | None) -> frozenset[str]:
    """The bridges of a host; None is a host without networks."""
    return frozenset(network.bridge for network in host.networks) if host else frozenset()


def openings(host: Host | None) -> tuple[Opening, ...]:
    """The host ports of a host that rules translate."""
    return tuple(_merged(_translated_ports(host))) if host else ()


def _translated_ports(host: Host) -> Iterator[tuple[Family, str, int]]:
    """The host ports that rules translate; those of routed networks are not among them."""
    facts = derive(host)
    for relation in (known.PUBLISHED, known.PUBLISHED_ANYWHERE):
        for row in facts[relation]:
            protocol, port = row.key[-2:]
            yield row.family, str(protocol), int(str(port))


def _merged(ports: Iterable[tuple[Family, str, int]]) -> Iterator[Opening]:
    """Ports that follow each other as one range."""
    current: Opening | None = None
    for family, protocol, port in sorted(set(ports)):
        if current and (*current[:2], current.last + 1) == (family, protocol, port):
            current = current._replace(last=port)
            continue
        if current:
            yield current
        current = Opening(family, protocol, port, port)
    if current:
        yield current
