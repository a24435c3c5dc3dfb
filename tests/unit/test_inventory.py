"""Changes one by one leave the rows, and give the verdict, that the whole host would."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbridge import config, journal
from nftbridge.errors import InputError
from nftbridge.inventory import DoubtfulError, Inventory
from nftbridge.model import Container, GatewayMode, Host, Network, Protocol, Publication
from nftbridge.model.changes import (
    Attach,
    Change,
    Create,
    Delete,
    Detach,
    Publish,
    Withdraw,
    changed,
)
from nftbridge.nft import document, lower
from nftbridge.plan import compare
from nftbridge.policy import catalogue

# Few values, so that they meet
NETWORKS = ("a", "b", "c")
CONTAINERS = ("web", "db")

addresses = st.sampled_from(
    [None, *map(IPv4Address, ("0.0.0.0", "127.0.0.1", "192.0.2.1")), IPv6Address("::1")]
)
publications = st.builds(
    Publication,
    container_port=st.integers(80, 82),
    host_port=st.none() | st.integers(8000, 8004) | st.just(65535),
    host_address=addresses,
    protocol=st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP]),
    count=st.sampled_from([1, 1, 2, 3]),
)
containers = st.builds(
    Container,
    name=st.sampled_from((*CONTAINERS, "")),
    ipv4=st.sampled_from([None, *(IPv4Address(f"10.0.{i}.{j}") for i in (0, 1) for j in (2, 3))]),
    ipv6=st.sampled_from([None, IPv6Address("fd00::2"), IPv6Address("fd00:1::2")]),
    publish=st.lists(publications, max_size=3).map(tuple),
)
modes = st.sampled_from([GatewayMode.NAT, *GatewayMode])
networks = st.builds(
    Network,
    name=st.sampled_from(NETWORKS),
    bridge=st.sampled_from(["br-a", "br-b", "br-c", "lo"]),
    subnets=st.lists(
        st.sampled_from(
            [ip_network(p) for p in ("10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/16", "fd00::/64")]
        ),
        max_size=2,
    ).map(tuple),
    internal=st.sampled_from([False, False, True]),
    icc=st.booleans(),
    masquerade=st.booleans(),
    gateway_mode_ipv4=modes,
    gateway_mode_ipv6=modes,
    host_ipv4=st.sampled_from([None, IPv4Address("192.0.2.9")]),
    containers=st.lists(containers, max_size=2).map(tuple),
)
names, boxes = st.sampled_from(("a", "a", *NETWORKS)), st.sampled_from(("web", *CONTAINERS))
plain = st.builds(
    Publication, st.just(80), st.integers(8000, 8002), addresses, count=st.integers(1, 2)
)
changes = st.one_of(
    st.builds(Publish, st.just("a"), st.just("web"), plain),
    st.builds(Publish, st.just("a"), st.just("web"), plain),
    st.builds(Create, networks),
    st.builds(Delete, names),
    st.builds(Attach, names, containers),
    st.builds(Detach, names, boxes),
    st.builds(Publish, names, boxes, publications),
    st.builds(Withdraw, names, boxes, publications),
)
options = st.builds(
    Host, userland_proxy=st.booleans(), wsl2_mirrored=st.booleans(), ipv6=st.booleans()
)
START = (
    Network("a", "br-a", (ip_network("10.0.0.0/24"), ip_network("fd00::/64"))),
    Network("b", "br-b", (ip_network("10.0.1.0/24"),), gateway_mode_ipv4=GatewayMode.ROUTED),
)
WEB = Container("web", IPv4Address("10.0.0.2"), IPv6Address("fd00::2"))
DB = Container("db", IPv4Address("10.0.1.2"), None, (Publication(80), Publication(80)))


def start(host: Host) -> Host:
    first, second = START
    web, db = replace(first, containers=(WEB,)), replace(second, containers=(DB,))
    return replace(host, networks=(web, db))


def withdrawals(host: Host) -> list[Change]:
    """Of what is there, which chance would hardly name."""
    found: list[Change] = []
    for network in host.networks:
        for container in network.containers:
            found += [Withdraw(network.name, container.name, p) for p in container.publish]
    return found


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_each_change_is_as_good_as_a_fresh_host(data: st.DataObject) -> None:
    host = start(data.draw(options))
    inventory = Inventory(host, lower.rows_in_kernel)
    for _ in range(data.draw(st.integers(1, 12))):
        there = withdrawals(host)
        change = data.draw(changes | st.sampled_from(there) if there else changes)
        wanted, verdict = after(host, change)
        if wanted is None:
            with pytest.raises((InputError, DoubtfulError)) as refusal:
                inventory.change([change])
            assert isinstance(refusal.value, DoubtfulError) or str(refusal.value) == verdict
            assert inventory.host() == host
            continue
        removed, added = inventory.change([change])
        way = compare(lower.rows_in_kernel(host), lower.rows_in_kernel(wanted))
        assert (removed, added) == (way.removed, way.added)
        assert inventory.host() == ordered(wanted)
        described = journal.after(config.host_to_data(host), [journal.change_to_data(change)])
        assert described == config.host_to_data(wanted)
        host = ordered(wanted)


def after(host: Host, change: Change) -> tuple[Host | None, str]:
    """The host after the change, or what a fresh host says against it."""
    try:
        return changed(host, [change]), ""
    except InputError as error:
        return None, str(error)


def ordered(host: Host) -> Host:
    """As an inventory keeps it: equal publications of a container stand together."""
    inventory = Inventory(host, lower.rows_in_kernel)
    return inventory.host()


@settings(max_examples=300, deadline=None)
@given(options, st.lists(changes, min_size=2, max_size=6))
def test_several_changes_are_one_way(host: Host, several: list[Change]) -> None:
    host = start(host)
    try:
        wanted = changed(host, several)
    except InputError:
        with pytest.raises((InputError, DoubtfulError)):
            Inventory(host, lower.rows_in_kernel).change(several)
        return
    try:
        removed, added = Inventory(host, lower.rows_in_kernel).change(several)
    except DoubtfulError:
        return  # consistent only at the end
    way = compare(lower.rows_in_kernel(host), lower.rows_in_kernel(wanted))
    assert (removed, added) == (way.removed, way.added)


def test_a_port_that_two_publications_open_stays_open_until_both_are_gone() -> None:
    inventory = Inventory(start(Host()), lower.rows_in_kernel)
    first, second = Publication(80, 8000), Publication(80, 8001)
    assert catalogue.OPEN_PORTS in inventory.change([Publish("a", "web", first)])[1]
    assert catalogue.OPEN_PORTS not in inventory.change([Publish("a", "web", second)])[1]
    assert catalogue.OPEN_PORTS not in inventory.change([Withdraw("a", "web", first)])[0]
    assert catalogue.OPEN_PORTS in inventory.change([Withdraw("a", "web", second)])[0]


def test_prefixes_do_not_come_and_go_in_one_transaction() -> None:
    """nft 0.9.8 refuses that where they overlap."""
    inventory = Inventory(start(Host()), lower.rows_in_kernel)
    wider = replace(START[0], subnets=(ip_network("10.0.0.0/25"),))
    removed, added = inventory.change([Delete("a"), Create(wider)])
    assert not document.can_exchange(removed, added)
    with pytest.raises(ValueError, match="prefixes"):
        document.exchange("nftbridge", removed, added)
    assert document.exchange("nftbridge", removed, {})
    assert document.exchange("nftbridge", {}, added)
