"""What an apply revokes, and which flows live by it."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbridge.conntrack.judge import judgement
from nftbridge.conntrack.revoked import Flow, Links, Selection, departed, reshaped, revoked
from nftbridge.model import Container, GatewayMode, Host, Network, Protocol, Publication
from nftbridge.plan import compare
from nftbridge.policy.flat import flat_rows

TCP, UDP = 6, 17
WEB, OTHER, GATEWAY = "172.20.0.2", "172.20.0.3", "172.20.0.1"
OUTSIDE, HERE = "198.51.100.9", "192.0.2.1"
NAMES = Publication(53, 5353, protocol=Protocol.UDP)
PAGES = Publication(80, 8080)


def packed(text: str) -> bytes:
    return ip_address(text).packed


LINKS = Links(
    frozenset({packed(HERE), packed(GATEWAY)}),
    lambda address: "br-front" if address.startswith(packed(WEB)[:3]) else "",
)


def host(*publish: Publication, second: tuple[Publication, ...] = (), **traits: Any) -> Host:
    boxes = (
        Container("web", IPv4Address(WEB), publish=publish),
        Container("other", IPv4Address(OTHER), publish=second),
    )
    network = Network("front", "br-front", (IPv4Network("172.20.0.0/16"),), containers=boxes)
    return Host((replace(network, **traits),))


def flow(
    source: str, to: tuple[str, int], end: tuple[str, int] | None = None, protocol: int = UDP
) -> Flow:
    there = end or to
    return Flow(protocol, packed(source), packed(to[0]), to[1], packed(there[0]), there[1])


def ends(held: Host, wanted: Host, which: Flow, *, tcp: bool = False) -> bool:
    """Whether `which` ends on the way from the one host to the other."""
    way = compare(flat_rows(held), flat_rows(wanted))
    left = departed(held, wanted, way.removed)
    found = revoked(way.removed, way.added, tcp=tcp, left=left)
    if networks := reshaped(held, wanted):
        found = replace(found, judge=judgement(held, wanted, networks))
    return bool(found) and found.concerns(which, LINKS)


TRANSLATED = flow(OUTSIDE, (HERE, 5353), (WEB, 53))
DIRECT = flow(OUTSIDE, (WEB, 53))
PAGE = flow(OUTSIDE, (HERE, 8080), (WEB, 80), TCP)
EGRESS = flow(WEB, (OUTSIDE, 53))


@pytest.mark.parametrize(
    ("held", "wanted", "which", "end"),
    [
        (host(NAMES), host(), TRANSLATED, True),
        (host(NAMES), host(second=(NAMES,)), TRANSLATED, True),
        (host(NAMES), host(NAMES, PAGES), TRANSLATED, False),
        (host(NAMES, PAGES), host(NAMES), TRANSLATED, False),
        # the same translation by another row: bound to the address that the flow came to
        (host(NAMES), host(replace(NAMES, host_address=IPv4Address(HERE))), TRANSLATED, False),
        (host(NAMES), host(replace(NAMES, host_address=IPv4Address(GATEWAY))), TRANSLATED, True),
        # untranslated UDP to a port that is published now, and to the same port of others
        (host(), host(NAMES), flow(OUTSIDE, (HERE, 5353)), True),
        (host(), host(NAMES), flow(WEB, (OUTSIDE, 5353)), False),
        (host(), host(NAMES), flow(OUTSIDE, (HERE, 5354)), False),
        (host(), host(PAGES), flow(OUTSIDE, (HERE, 8080), protocol=TCP), False),
        # permission: from elsewhere, not from the host or the bridge itself
        (host(NAMES), host(), DIRECT, True),
        (host(NAMES), host(), flow(GATEWAY, (WEB, 53)), False),
        (host(NAMES), host(), flow(OTHER, (WEB, 53)), False),
        (host(NAMES), host(), flow(OUTSIDE, (WEB, 54)), False),
        (host(NAMES), host(NAMES, bridge="br-new"), TRANSLATED, False),
        # networks that are another kind now
        (host(), host(internal=True), EGRESS, True),
        (host(), host(masquerade=False), EGRESS, True),
        (host(), host(host_ipv4=IPv4Address(HERE)), EGRESS, True),
        (host(), host(icc=False), EGRESS, False),
        (host(), host(icc=False), flow(WEB, (OTHER, 53)), True),
        (host(), host(icc=False), flow(WEB, (GATEWAY, 53)), False),
        (host(NAMES), host(NAMES, gateway_mode_ipv4=GatewayMode.ROUTED), TRANSLATED, True),
        (host(NAMES), host(NAMES, masquerade=False), TRANSLATED, False),
        (host(NAMES), Host(), EGRESS, True),
        (host(NAMES), Host(), flow(OUTSIDE, (HERE, 53)), False),
        (Host(), host(NAMES), EGRESS, False),
    ],
)
def test_which_flows_end(held: Host, wanted: Host, which: Flow, end: bool) -> None:
    assert ends(held, wanted, which) is end
    assert not ends(held, wanted, which._replace(protocol=TCP))


def test_tcp_ends_only_where_that_is_wanted() -> None:
    assert not ends(host(PAGES), host(), PAGE)
    assert ends(host(PAGES), host(), PAGE, tcp=True)
    assert not ends(host(PAGES, NAMES), host(PAGES), PAGE, tcp=True)


def test_nothing_is_revoked_by_what_nobody_can_notice() -> None:
    for held, wanted in ((host(PAGES), host()), (host(), host(PAGES)), (host(NAMES), host(NAMES))):
        way = compare(flat_rows(held), flat_rows(wanted))
        assert not revoked(way.removed, way.added, tcp=False)
        assert not reshaped(held, wanted)


def selections(held: Host, wanted: Host, *, tcp: bool = False) -> set[Selection]:
    way = compare(flat_rows(held), flat_rows(wanted))
    left = departed(held, wanted, way.removed)
    return set(revoked(way.removed, way.added, tcp=tcp, left=left).selections())


def test_the_kernel_is_told_what_to_look_for() -> None:
    names, pages = Selection(4, UDP, 5353), Selection(4, TCP, 8080)
    assert selections(host(), host(NAMES)) == {names}
    assert selections(host(NAMES), host()) == {Selection(4, UDP)}, "answers are not looked for"
    two_ports = replace(NAMES, container_port=NAMES.container_port), replace(NAMES, host_port=5354)
    assert selections(host(*two_ports), host(NAMES)) == {Selection(4, UDP, 5354)}
    assert pages not in selections(host(PAGES, NAMES), host(NAMES))


def test_the_kernel_is_told_little_where_much_is_looked_for() -> None:
    many = tuple(Publication(n, n, protocol=Protocol.UDP) for n in range(1, 100))
    assert selections(host(), host(*many)) == {Selection(4, UDP)}
    assert selections(host(*many, PAGES), host(), tcp=True) == {
        Selection(4, UDP),
        Selection(4, TCP),
    }
    bare = Network("front", "br-front", (IPv4Network("172.20.0.0/16"),))
    assert selections(host(*many), Host((bare,))) == {Selection(4)}, "a container is gone"


SOME = st.lists(
    st.sampled_from([NAMES, PAGES, Publication(81, 81), Publication(54, 54)]), unique=True
)


@given(SOME, SOME, st.sampled_from([WEB, OTHER, OUTSIDE]))
def test_what_both_hosts_translate_alike_never_ends(
    before: list[Publication], after: list[Publication], source: str
) -> None:
    for kept in set(before) & set(after):
        number = UDP if kept.protocol is Protocol.UDP else TCP
        assert kept.host_port is not None
        which = flow(source, (HERE, kept.host_port), (WEB, kept.container_port), number)
        assert not ends(host(*before), host(*after), which, tcp=True)


@given(SOME, SOME)
def test_what_only_the_first_host_translates_always_ends(
    before: list[Publication], after: list[Publication]
) -> None:
    for gone in set(before) - set(after):
        number = UDP if gone.protocol is Protocol.UDP else TCP
        assert gone.host_port is not None
        which = flow(OUTSIDE, (HERE, gone.host_port), (WEB, gone.container_port), number)
        assert ends(host(*before), host(*after), which, tcp=True)


@given(SOME, SOME, st.sampled_from([WEB, OTHER, OUTSIDE]), st.sampled_from([53, 54, 80, 81, 5353]))
def test_what_ends_is_looked_for(
    before: list[Publication], after: list[Publication], source: str, port: int
) -> None:
    ours = [p for p in (*before, *after) if p.host_port is not None]
    ways = [flow(source, (HERE, p.host_port or 0), (WEB, p.container_port)) for p in ours]
    ways += [flow(source, (HERE, port)), flow(source, (WEB, port)), flow(WEB, (source, port))]
    held, wanted = host(*before), host(*after)
    for which in (w._replace(protocol=number) for w in ways for number in (TCP, UDP)):
        if ends(held, wanted, which, tcp=True):
            looked_at = Selection(len(which.source), which.protocol, which.port)
            found = selections(held, wanted, tcp=True)
            assert any(selection.includes(looked_at) for selection in found)
