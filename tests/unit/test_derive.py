"""Which rows a host has: the conditions that no scenario in rulesets/ tells apart."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from nftbridge.model import (
    Container,
    Family,
    GatewayMode,
    Host,
    Network,
    Prefix,
    Protocol,
    Publication,
)
from nftbridge.nft import lower
from nftbridge.policy import catalogue as known
from nftbridge.policy.derive import derive, owners
from nftbridge.policy.flat import flat_rows
from nftbridge.policy.program import Key, Owner, Relation

V4, V6 = IPv4Address("10.0.0.2"), IPv6Address("fd00::2")
SUBNETS: tuple[Prefix, ...] = (IPv4Network("10.0.0.0/24"), IPv6Network("fd00::/64"))
SNAT = IPv4Address("192.0.2.1")
LOOPBACK = IPv4Address("127.0.0.1")
NETWORK = Network("net", "br-a", SUBNETS)
ROUTED = replace(
    NETWORK, gateway_mode_ipv4=GatewayMode.ROUTED, gateway_mode_ipv6=GatewayMode.ROUTED
)
OPEN = replace(
    NETWORK,
    gateway_mode_ipv4=GatewayMode.NAT_UNPROTECTED,
    gateway_mode_ipv6=GatewayMode.NAT_UNPROTECTED,
)


def web(*publish: Publication, network: Network = NETWORK) -> Network:
    return replace(network, containers=(Container("web", V4, V6, publish),))


def keys(host: Host, relation: Relation, family: Family = Family.IPV4) -> list[Key]:
    return [row.key for row in derive(host)[relation] if row.family is family]


def filled(host: Host) -> set[str]:
    return {relation.name for relation, rows in derive(host).items() if rows}


def test_routed_without_a_proxy() -> None:
    """Hairpin rows whatever the mode; but nothing is published that one could reach oneself by."""
    host = Host((web(Publication(80, 8080), network=ROUTED),), userland_proxy=False)
    for family, address in ((Family.IPV4, V4), (Family.IPV6, V6)):
        assert keys(host, known.HAIRPIN_MASQUERADE, family) == [("br-a",)]
        assert keys(host, known.OPEN_PORTS, family) == [("br-a", address, "tcp", 80)]
    assert filled(host) == {
        *("all_bridges", "bridges", "same_bridge", "routed_bridges", "routed_icmp"),
        *("protected_bridges", "open_ports", "hairpins", "hairpin_masquerade"),
    }


def test_routed_with_a_proxy() -> None:
    host = Host((web(Publication(80, 8080), network=ROUTED),))
    assert filled(host) == {
        *("all_bridges", "bridges", "same_bridge", "routed_bridges", "routed_icmp"),
        *("protected_bridges", "open_ports", "proxied_bridges", "proxied_loopback"),
    }


def test_routed_without_a_proxy_and_with_a_fixed_source() -> None:
    host = Host((replace(ROUTED, host_ipv4=SNAT),), userland_proxy=False)
    facts = derive(host)
    snat = [(row.key, row.value) for row in facts[known.HAIRPIN_SNAT]]
    assert snat == [(("br-a",), (SNAT,))]
    assert keys(host, known.HAIRPIN_MASQUERADE) == []
    assert keys(host, known.HAIRPIN_MASQUERADE, Family.IPV6) == [("br-a",)]
    assert facts[known.SNAT_SUBNETS] == facts[known.MASQUERADED_SUBNETS] == ()


@pytest.mark.parametrize("masquerade", [True, False])
def test_hairpin_rows_do_not_ask_for_masquerading(masquerade: bool) -> None:
    host = Host((replace(NETWORK, masquerade=masquerade),), userland_proxy=False)
    assert keys(host, known.HAIRPIN_MASQUERADE) == [("br-a",)]
    assert bool(keys(host, known.MASQUERADED_SUBNETS)) is masquerade
    assert bool(keys(host, known.SUBNET_BRIDGES)) is masquerade
    assert keys(host, known.PROXIED_BRIDGES) == []


@pytest.mark.parametrize("masquerade", [True, False])
def test_the_proxy_serves_masquerading_bridges_only(masquerade: bool) -> None:
    host = Host((replace(NETWORK, masquerade=masquerade),))
    assert bool(keys(host, known.PROXIED_BRIDGES)) is masquerade
    assert keys(host, known.HAIRPIN_MASQUERADE) == []
    assert keys(host, known.PROXIED_LOOPBACK) == [(IPv4Network("127.0.0.0/8"),)]
    assert keys(host, known.PROXIED_LOOPBACK, Family.IPV6) == [(IPv6Network("::1/128"),)]


@pytest.mark.parametrize("proxy", [True, False])
@pytest.mark.parametrize("mirrored", [True, False, None])
def test_a_mirrored_loopback(mirrored: bool | None, proxy: bool) -> None:
    """Windows reaches the publication either way; the proxy is asked only where there is one."""
    bound = Publication(80, 8080, LOOPBACK)
    host = Host((web(bound),), userland_proxy=proxy, wsl2_mirrored=mirrored)
    mirrored_rows = [(LOOPBACK, "tcp", 8080, "loopback0")] if mirrored else []
    assert keys(host, known.MIRRORED_PUBLISHED) == mirrored_rows
    assert keys(host, known.LOOPBACK_PUBLISHED) == [(LOOPBACK, "tcp", 8080)]
    assert keys(host, known.MIRRORED_INTERFACES) == ([("loopback0",)] if mirrored and proxy else [])
    assert keys(host, known.MIRRORED_INTERFACES, Family.IPV6) == []
    assert bool(keys(host, known.PROXIED_LOOPBACK)) is proxy


def test_loopback_rows_are_for_addresses_of_ipv4_loopback() -> None:
    publish = (
        Publication(80, 8080, IPv6Address("::1")),
        Publication(80, 8081, SNAT),
        Publication(80, 8082),
        Publication(80, 8083, IPv4Address("127.3.2.1")),
    )
    host = Host((web(*publish),), wsl2_mirrored=True)
    for relation in (known.LOOPBACK_PUBLISHED, known.MIRRORED_PUBLISHED):
        assert [row.key[0] for row in derive(host)[relation]] == [IPv4Address("127.3.2.1")]
    assert keys(host, known.PUBLISHED, Family.IPV6) == [(IPv6Address("::1"), "tcp", 8080)]


@pytest.mark.parametrize("proxy", [True, False])
def test_a_container_port_published_twice_is_opened_once(proxy: bool) -> None:
    first, second = Publication(80, 8080), Publication(80, 8081)
    host = Host((web(first, second),), userland_proxy=proxy)
    facts = derive(host)
    for relation in (known.OPEN_PORTS, *(() if proxy else (known.SELF_PUBLISHED,))):
        assert [row.family for row in facts[relation]] == list(Family)
        assert {row.owner for row in facts[relation]} == {Owner("net", "web", str(first))}
    assert keys(host, known.PUBLISHED_ANYWHERE) == [("tcp", 8080), ("tcp", 8081)]
    published = [row.owner.publication for row in facts[known.PUBLISHED_ANYWHERE]]
    assert published == [str(p) for _ in Family for p in (first, second)]


def test_ranges_that_overlap_open_each_port_once() -> None:
    first, second = Publication(80, 8080, count=3), Publication(79, 9079, count=3)
    host = Host((web(first, second),))
    rows = [row for row in derive(host)[known.OPEN_PORTS] if row.family is Family.IPV4]
    assert [(row.key[-1], row.owner.publication) for row in rows] == [
        *((port, str(first)) for port in (80, 81, 82)),
        (79, str(second)),
    ]
    assert [key[-1] for key in keys(host, known.PUBLISHED_ANYWHERE)] == [
        *(8080, 8081, 8082, 9079, 9080, 9081)
    ]


def test_the_same_port_of_another_protocol_or_container_is_another() -> None:
    udp = Publication(80, 8080, protocol=Protocol.UDP)
    other = Container("other", IPv4Address("10.0.0.3"), None, (Publication(80, 8081),))
    network = web(Publication(80, 8080), udp)
    host = Host((replace(network, containers=(*network.containers, other)),))
    assert keys(host, known.OPEN_PORTS) == [
        ("br-a", V4, "tcp", 80),
        ("br-a", V4, "udp", 80),
        ("br-a", IPv4Address("10.0.0.3"), "tcp", 80),
    ]


def test_the_first_in_each_family_opens_the_port() -> None:
    """A publication that does not cover a family leaves the port to the next one there."""
    first, second = Publication(80, 8080, IPv4Address("0.0.0.0")), Publication(80, 8081)
    rows = derive(Host((web(first, second),)))[known.OPEN_PORTS]
    assert [(row.family, row.owner.publication) for row in rows] == [
        (Family.IPV4, str(first)),
        (Family.IPV6, str(second)),
    ]


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("10.0.0.2/32", ("10.0.0.2",)),
        ("10.0.0.2/31", ("10.0.0.2", "10.0.0.3")),
        ("fd00::2/128", ("fd00::2",)),
        ("fd00::2/127", ("fd00::2", "fd00::3")),
    ],
)
def test_the_smallest_subnets(subnet: str, addresses: tuple[str, ...]) -> None:
    prefix = ip_network(subnet)
    family = Family.of(prefix)
    containers = tuple(
        Container(address, ipv4=found) if found.version == 4 else Container(address, ipv6=found)
        for address in addresses
        for found in (ip_address(address),)
    )
    host = Host((Network("net", "br-a", (prefix,), containers=containers),))
    assert keys(host, known.MASQUERADED_SUBNETS, family) == [(prefix,)]
    assert keys(host, known.SUBNET_BRIDGES, family) == [(prefix, "br-a")]
    assert keys(host, known.GUARDED, family) == [(ip_address(a),) for a in addresses]
    assert flat_rows(host)[known.MASQUERADED_SUBNETS] == {(family.value, subnet): ()}
    internal = Host((replace(host.networks[0], internal=True),))
    assert keys(internal, known.INTERNAL_SUBNETS, family) == [("br-a", prefix)]


def test_what_is_open_anyway_needs_no_open_port() -> None:
    host = Host((web(Publication(80, 8080), network=OPEN),), userland_proxy=False)
    assert keys(host, known.OPEN_PORTS) == keys(host, known.PROTECTED_BRIDGES) == []
    assert keys(host, known.UNPROTECTED_BRIDGES) == [("br-a",)]
    assert keys(host, known.SELF_PUBLISHED) == [(V4, V4, "tcp", 80)]
    assert keys(host, known.GUARDED) == []


def test_modes_are_each_family_s_own() -> None:
    host = Host((web(Publication(80, 8080), network=replace(ROUTED, gateway_mode_ipv4=OPEN_V4)),))
    assert keys(host, known.ROUTED_BRIDGES) == []
    assert keys(host, known.ROUTED_ICMP, Family.IPV6) == [("br-a", "ipv6-icmp")]
    assert keys(host, known.PUBLISHED_ANYWHERE) == [("tcp", 8080)]
    assert keys(host, known.PUBLISHED_ANYWHERE, Family.IPV6) == []


OPEN_V4 = GatewayMode.NAT_UNPROTECTED


@pytest.mark.parametrize("direct", [True, False])
def test_trusted_interfaces_matter_where_addresses_are_guarded(direct: bool) -> None:
    network = replace(web(), trusted_host_interfaces=("eth1", "eth2", "eth1"))
    host = Host((network,), allow_direct_routing=direct)
    trusted = [(V4, "eth1"), (V4, "eth2")]
    assert keys(host, known.TRUSTED_ACCESS) == ([] if direct else trusted)
    assert keys(host, known.GUARDED) == ([] if direct else [(V4,)])
    assert keys(host, known.GUARDED_INTERFACES) == ([] if direct else [(V4, "br-a")])


@pytest.mark.parametrize("icc", [True, False])
def test_an_internal_network(icc: bool) -> None:
    """Nothing of its containers, and no translation, whatever else is said of it."""
    network = replace(web(), internal=True, icc=icc, host_ipv4=SNAT)
    host = Host((network,), userland_proxy=False)
    within = "icc_internal" if icc else "icc_denied"
    names = {"internal_bridges", "internal_subnets", "internal_pairs", within}
    assert filled(host) == {*names, "all_bridges", "hairpins"}
    assert keys(host, known.INTERNAL_PAIRS) == []
    assert keys(host, known.INTERNAL_PAIRS, Family.IPV6) == [("br-a", "br-a")]


def test_a_family_that_is_off_has_no_rows() -> None:
    for family in Family:
        ipv4 = family is Family.IPV4
        facts = derive(Host((web(Publication(80, 8080)),), ipv4=ipv4, ipv6=not ipv4))
        assert {row.family for rows in facts.values() for row in rows} == {family}


def test_own_ports_are_left_out_only_where_the_bridge_is_returned_for() -> None:
    """What nftables is spared: rows for bridges that an earlier rule has returned for."""
    publish = (Publication(80, 8080), Publication(81, 8081, SNAT))
    for masquerade in (True, False):
        host = Host((replace(web(*publish), masquerade=masquerade),))
        for relation in (known.OWN_PUBLISHED, known.OWN_PUBLISHED_ANYWHERE):
            rows = flat_rows(host)[relation]
            assert rows
            assert lower.rows_in_kernel(host)[relation] == ({} if masquerade else rows)
        without = Host((web(*publish),), userland_proxy=False)
        assert keys(without, known.OWN_PUBLISHED) == []
        assert keys(without, known.OWN_PUBLISHED_ANYWHERE) == []


def test_owners_are_numbered_in_the_order_of_creation() -> None:
    publish = (Publication(80, 8080), Publication(81, 8081))
    host = Host((web(*publish), Network("b", "br-b", (IPv4Network("10.1.0.0/24"),))))
    expected = [
        Owner(),
        Owner("net"),
        Owner("net", "web"),
        *(Owner("net", "web", str(p)) for p in publish),
        Owner("b"),
    ]
    found = owners(host)
    assert sorted(found, key=lambda owner: found[owner]) == expected


def test_of_equal_owners_the_first_counts() -> None:
    routed = (Publication(80), Publication(80))
    host = Host((web(*routed, network=ROUTED),))
    assert owners(host)[Owner("net", "web", "80/tcp")] == 3
    assert keys(host, known.OPEN_PORTS) == [("br-a", V4, "tcp", 80)]
