"""Every rule of a consistent host: one row per kind of violation, and near misses that are fine."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest

from nftbridge.errors import InputError
from nftbridge.model import (
    Container,
    GatewayMode,
    Host,
    Network,
    Publication,
    host_findings,
)
from nftbridge.model.parts import Protocol

ROUTED, ISOLATED = GatewayMode.ROUTED, GatewayMode.ISOLATED
LOCAL = ip_address("127.0.0.1")
BOTH = ("10.0.0.0/24", "fd00::/64")


def network(name: str = "a", bridge: str = "br-a", *subnets: str, **options: Any) -> Network:
    """A network with the subnets as text; without any it takes 10.0.0.0/24."""
    prefixes = tuple(map(ip_network, subnets or ("10.0.0.0/24",)))
    return Network(name, bridge, prefixes, **options)


def holding(*containers: Container, **options: Any) -> tuple[Network, ...]:
    """One dual-stack network with these containers."""
    return (network("a", "br-a", *BOTH, containers=containers, **options),)


def box(name: str = "web", number: int = 2, *publish: Publication) -> Container:
    """A container with an IPv4 address that ends in `number`."""
    return Container(name, IPv4Address(f"10.0.0.{number}"), None, publish)


def other(*publish: Publication) -> Network:
    """A second network, whose container has an address of each family."""
    peer = Container("db", IPv4Address("10.1.0.2"), IPv6Address("fd01::2"), publish)
    return network("b", "br-b", "10.1.0.0/24", "fd01::/64", containers=(peer,))


DUAL = Container("dual", IPv4Address("10.0.0.2"), IPv6Address("fd00::2"), (Publication(80, 80),))
SIX = Container("six", None, IPv6Address("fd00::2"), (Publication(80),))

VIOLATIONS: list[tuple[str, tuple[Network, ...], str, str, str]] = [
    ("name empty", (network(""),), "network[0].name", "the name is empty", "write a name"),
    ("name control", (network("a\n"),), "network[0].name", "'a\\n' cannot be", "printable"),
    ("name surrogate", (network("\ud800"),), "network[0].name", "cannot be printed", "printable"),
    ("bridge empty", (network("a", ""),), "network[0].bridge", "is empty", "br-front"),
    ("bridge long", (network("a", "b" * 16),), "network[0].bridge", "16 bytes long", "br-front"),
    ("bridge slash", (network("a", "b/r"),), "network[0].bridge", "holds '/'", "br-front"),
    (
        "trusted interface",
        (network(trusted_host_interfaces=("eth0", "lo")),),
        "network[0].trusted_host_interfaces[1]",
        "'lo' cannot be named here",
        "eth1",
    ),
    (
        "no subnet",
        (Network("a", "br-a", ()),),
        "network[0].subnets",
        "a network needs a subnet",
        "subnets = [",
    ),
    (
        "two of a family",
        (network("a", "br-a", "10.0.0.0/24", "fd00::/64", "10.1.0.0/24"),),
        "network[0].subnets[2]",
        "10.1.0.0/24 is a second IPv4 subnet beside 10.0.0.0/24",
        "second network",
    ),
    (
        "loopback subnet",
        (network("a", "br-a", "127.0.0.0/8"),),
        "network[0].subnets[0]",
        "cannot be a container subnet",
        "private prefix",
    ),
    (
        "everything",
        (network("a", "br-a", "::/0"),),
        "network[0].subnets[0]",
        "::/0 cannot be a container subnet",
        "private prefix",
    ),
    (
        "isolated",
        (network(gateway_mode_ipv6=ISOLATED),),
        "network[0].gateway_mode_ipv6",
        "'isolated' is for internal networks only",
        "internal = true",
    ),
    (
        "source address",
        (network(host_ipv4=LOCAL),),
        "network[0].host_ipv4",
        "127.0.0.1 cannot be a source address",
        "address of this host",
    ),
    (
        "container name empty",
        holding(box("")),
        "network[0].container[0].name",
        "the name is empty",
        "write a name",
    ),
    (
        "container twice",
        holding(box("web", 2), box("web", 3)),
        "network[0].container[1].name",
        "container name 'web' is taken already by network[0].container[0].name",
        "may stand once",
    ),
    (
        "address twice",
        holding(box("web", 2), box("db", 2)),
        "network[0].container[1].ipv4",
        "container address '10.0.0.2' is taken already by network[0].container[0].ipv4",
        "may stand once",
    ),
    (
        "address without subnet",
        (network(containers=(Container("six", None, IPv6Address("fd00::2")),)),),
        "network[0].container[0].ipv6",
        "fd00::2 has no subnet: network 'a' has none of IPv6",
        "add an IPv6 subnet",
    ),
    (
        "address outside",
        (network("a", "br-a", "10.1.0.0/24", containers=(box(),)),),
        "network[0].container[0].ipv4",
        "10.0.0.2 lies outside 10.1.0.0/24",
        "inside 10.1.0.0/24",
    ),
    (
        "network address",
        holding(box("web", 0)),
        "network[0].container[0].ipv4",
        "network or broadcast address",
        "between",
    ),
    (
        "broadcast address",
        holding(box("web", 255)),
        "network[0].container[0].ipv4",
        "network or broadcast address",
        "between",
    ),
    (
        "publish on internal",
        holding(box("web", 2, Publication(80, 80)), internal=True),
        "network[0].container[0].publish",
        "network 'a' is internal",
        "remove publish",
    ),
    (
        "no host port",
        holding(box("web", 2, Publication(80))),
        "network[0].container[0].publish[0]",
        "the host port is missing",
        "HOST_PORT:80",
    ),
    (
        "no host port in one of two families",
        holding(
            Container("w", IPv4Address("10.0.0.2"), IPv6Address("fd00::2"), (Publication(80),)),
            gateway_mode_ipv6=ROUTED,
        ),
        "network[0].container[0].publish[0]",
        "the host port is missing",
        "only routed networks",
    ),
    (
        "host port zero",
        holding(box("web", 2, Publication(80, 0))),
        "network[0].container[0].publish[0]",
        "host port 0 is out of range",
        "1 to 65535",
    ),
    (
        "container port beyond the end",
        holding(box("web", 2, Publication(65535, 80, count=2))),
        "network[0].container[0].publish[0]",
        "container port 65536 is out of range",
        "1 to 65535",
    ),
    (
        "empty range",
        holding(box("web", 2, Publication(80, 80, count=0))),
        "network[0].container[0].publish[0]",
        "the port range is empty",
        "lower port first",
    ),
    (
        "multicast host address",
        holding(box("web", 2, Publication(80, 80, ip_address("224.0.0.1")))),
        "network[0].container[0].publish[0]",
        "cannot publish on 224.0.0.1",
        "unicast",
    ),
    (
        "network twice",
        (network(), network("a", "br-b", "10.1.0.0/24")),
        "network[1].name",
        "name 'a' is taken already by network[0].name",
        "may stand once",
    ),
    (
        "bridge twice",
        (network(), network("b", "br-a", "10.1.0.0/24")),
        "network[1].bridge",
        "bridge 'br-a' is taken already by network[0].bridge",
        "may stand once",
    ),
    (
        "same subnet",
        (network(), network("b", "br-b")),
        "network[1].subnets[0]",
        "10.0.0.0/24 overlaps 10.0.0.0/24 of network[0].subnets[0]",
        "prefix of its own",
    ),
    (
        "subnet within an earlier one",
        (
            network("a", "br-a", "10.0.0.0/8"),
            network("b", "br-b", "11.0.0.0/8"),
            network("c", "br-c", "10.255.0.0/16"),
        ),
        "network[2].subnets[0]",
        "10.255.0.0/16 overlaps 10.0.0.0/8 of network[0].subnets[0]",
        "prefix of its own",
    ),
    (
        "subnet within a later one",
        (network("a", "br-a", "fd00::/64"), network("b", "br-b", "fd00::/16")),
        "network[0].subnets[0]",
        "fd00::/64 overlaps fd00::/16 of network[1].subnets[0]",
        "prefix of its own",
    ),
    (
        "same port in one container",
        holding(box("web", 2, Publication(80, 80), Publication(81, 80))),
        "network[0].container[0].publish[1]",
        "of container 'web' of network 'a', at network[0].container[0].publish[0]",
        "another host port",
    ),
    (
        "same port across networks",
        (*holding(box("web", 2, Publication(80, 80, LOCAL))), other(Publication(80, 80, LOCAL))),
        "network[1].container[0].publish[0]",
        "127.0.0.1:80:80/tcp of container 'db' of network 'b' collides with",
        "another host port",
    ),
    (
        "wildcard over a specific address",
        (*holding(box("web", 2, Publication(80, 80, LOCAL))), other(Publication(80, 80))),
        "network[1].container[0].publish[0]",
        "collides with 127.0.0.1:80:80/tcp",
        "address of its own",
    ),
    (
        "unspecified address over a specific one",
        (
            *holding(box("web", 2, Publication(80, 80, ip_address("0.0.0.0")))),
            other(Publication(80, 80, ip_address("192.0.2.1"))),
        ),
        "network[1].container[0].publish[0]",
        "collides with 0.0.0.0:80:80/tcp",
        "address of its own",
    ),
    (
        "in both families, told once",
        (network("a", "br-a", *BOTH, containers=(DUAL,)), other(Publication(80, 80))),
        "network[1].container[0].publish[0]",
        "collides with 80:80/tcp",
        "another host port",
    ),
    (
        "range over a port",
        (
            *holding(box("web", 2, Publication(80, 8005))),
            other(Publication(1, 8000, None, Protocol.TCP, 10)),
        ),
        "network[1].container[0].publish[0]",
        "8000-8009:1-10/tcp of container 'db' of network 'b' collides with 8005:80/tcp",
        "another host port",
    ),
    (
        "range that reaches past a shorter one",
        (
            *holding(box("web", 2, Publication(1, 1, count=100), Publication(200, 101))),
            other(Publication(300, 100)),
        ),
        "network[1].container[0].publish[0]",
        "collides with 1-100:1-100/tcp",
        "another host port",
    ),
]


@pytest.mark.parametrize(
    ("networks", "where", "message", "hint"),
    [row[1:] for row in VIOLATIONS],
    ids=[row[0] for row in VIOLATIONS],
)
def test_violation(networks: tuple[Network, ...], where: str, message: str, hint: str) -> None:
    findings = list(host_findings(networks))
    assert [finding.where for finding in findings] == [where]
    assert message in findings[0].message
    assert hint in findings[0].hint
    with pytest.raises(InputError) as caught:
        Host(networks)
    assert [problem.where for problem in caught.value.problems] == [where]
    assert message in caught.value.problems[0].message


CONSISTENT: list[tuple[str, tuple[Network, ...]]] = [
    ("nothing", ()),
    ("neighbouring subnets", (network(), network("b", "br-b", "10.0.1.0/24"))),
    ("isolated and internal", (network(internal=True, gateway_mode_ipv4=ISOLATED),)),
    ("container in two networks", (*holding(box("db")), other())),
    ("point to point", (network("a", "br-a", "10.0.0.2/31", containers=(box(),)),)),
    ("routed without host port", holding(box("web", 2, Publication(80)), gateway_mode_ipv4=ROUTED)),
    ("routed in the only family it has", holding(SIX, gateway_mode_ipv6=ROUTED)),
    (
        "routed does not bind",
        holding(
            box("a", 2, Publication(80, 80)),
            box("b", 3, Publication(80, 80)),
            gateway_mode_ipv4=ROUTED,
        ),
    ),
    (
        "another protocol",
        holding(box("web", 2, Publication(80, 80), Publication(80, 80, None, Protocol.UDP))),
    ),
    (
        "another address",
        (
            *holding(box("web", 2, Publication(80, 80, LOCAL))),
            other(Publication(80, 80, ip_address("192.0.2.1"))),
        ),
    ),
    (
        "another family",
        (
            *holding(box("web", 2, Publication(80, 80, ip_address("0.0.0.0")))),
            other(Publication(80, 80, ip_address("::"))),
        ),
    ),
    (
        "wildcard of a container without the family",
        (
            *holding(box("web", 2, Publication(80, 80))),
            other(Publication(80, 80, ip_address("::"))),
        ),
    ),
    (
        "neighbouring ranges",
        holding(box("web", 2, Publication(1, 1, count=10), Publication(1, 11, count=10))),
    ),
]


@pytest.mark.parametrize(
    "networks", [row[1] for row in CONSISTENT], ids=[row[0] for row in CONSISTENT]
)
def test_consistent(networks: tuple[Network, ...]) -> None:
    assert list(host_findings(networks)) == []


def test_repeated_lines_give_one_finding_each() -> None:
    """Reporting every pair of them would take quadratic time and space."""
    networks = holding(box("web", 2, *[Publication(80, 80)] * 3000))
    findings = list(host_findings(networks))
    assert len(findings) == 2999
    assert {finding.other for finding in findings} == {("network", 0, "container", 0, "publish", 0)}


def test_wildcard_is_told_about_every_address_it_covers() -> None:
    addresses = [ip_address(f"192.0.2.{n}") for n in range(1, 4)]
    bound = [Publication(80, 80, address) for address in addresses]
    findings = list(host_findings(holding(box("web", 2, *bound, Publication(80, 80)))))
    assert len(findings) == 3
    assert len({finding.other for finding in findings}) == 3


def test_wildcard_is_not_told_about_thousands() -> None:
    bound = [Publication(80, 80, ip_address(f"192.0.2.{n}")) for n in range(200)]
    wild = [Publication(80, 80)] * 200
    assert len(list(host_findings(holding(box("web", 2, *bound, *wild))))) == 200 * 10
