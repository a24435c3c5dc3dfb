"""Reading listings: what ours looks like, and what each element tells that is not ours.

Rules, chains and tables are in test_read_skeleton.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from nftbridge import config
from nftbridge.backend import RuleCounter
from nftbridge.model import Container, Family, Host, Network, Publication
from nftbridge.nft import document, lower, read
from nftbridge.nft.lower import KernelSet, skeleton
from nftbridge.nft.syntax import Json, is_list, is_object
from tests.unit.fake_kernel import TABLE, FakeKernel

MANY = config.load("rulesets/17-many-networks/host.toml").host
SMALL = config.load("rulesets/02-published-port/host.toml").host
ROUTED = config.load("rulesets/08-routed/host.toml").host
SETS = skeleton().sets
NARROW = Host(
    (
        Network("a", "br-a", (IPv4Network("10.0.0.1/32"), IPv6Network("fd00::1/128"))),
        Network("b", "br-b", (IPv4Network("10.0.1.0/31"), IPv6Network("fd01::/127"))),
        Network("c", "br-c", (IPv4Network("10.0.2.1/32"),), internal=True),
        Network(
            "d",
            "br-d",
            (IPv4Network("10.0.3.1/32"), IPv6Network("fd03::1/128")),
            host_ipv4=IPv4Address("192.0.2.1"),
            host_ipv6=IPv6Address("2001:db8::1"),
        ),
    )
)
"""Prefixes of full length, which nft lists as addresses."""


def listing_of(host: Host) -> list[Json]:
    kernel = FakeKernel()
    kernel.commit(document.install(TABLE, lower.rows_in_kernel(host)))
    return kernel.listing()


def body(objects: list[Json], kernel_set: KernelSet) -> Json:
    """The listed body of a set, to be changed in place."""
    noun = kernel_set.declaration.noun
    found: list[Json] = [o[noun] for o in objects if noun in o]
    return next(candidate for candidate in found if candidate["name"] == kernel_set.name)


def put(host: Host, kernel_set: KernelSet, *elements: object) -> tuple[str, ...]:
    """What is said of the elements if these are the only ones of that set."""
    objects = listing_of(host)
    body(objects, kernel_set)["elem"] = list(elements)
    listing = read.parse(objects)
    assert list(read.skeleton_differences(listing)) == []
    return read.rows(listing)[1]


def named(name: str) -> KernelSet:
    return next(kernel_set for kernel_set in SETS if kernel_set.name == name)


def complaint(kernel_set: KernelSet) -> str:
    return f"{kernel_set.declaration.noun} {kernel_set.name} holds an element that is not ours"


PARTS: dict[str, Any] = {
    "nf_proto": "ipv4",
    "ifname": "br-a",
    "inet_proto": "tcp",
    "inet_service": 80,
    "ipv4_addr": "10.0.0.1",
    "ipv6_addr": "fd00::1",
}


def key_of(kernel_set: KernelSet) -> Any:
    """A key that could be ours."""
    parts = parts_of(kernel_set)
    return parts[0] if len(parts) == 1 else {"concat": parts}


def parts_of(kernel_set: KernelSet) -> list[Any]:
    known = PARTS | {"nf_proto": (kernel_set.family or Family.IPV4).value}
    return [known[kind] for kind in kernel_set.declaration.key]


def element(kernel_set: KernelSet, key: Any) -> Any:
    value = kernel_set.declaration.value
    return [key, PARTS[value]] if value else key


each_set = pytest.mark.parametrize("kernel_set", SETS, ids=lambda s: s.name)


@pytest.mark.parametrize("host", [Host(), SMALL, ROUTED, MANY, NARROW], ids=Host.summary)
def test_what_was_installed_is_read_as_it_was(host: Host) -> None:
    listing = read.parse(listing_of(host))
    assert list(read.skeleton_differences(listing)) == []
    assert list(read.outdated(TABLE, listing)) == []
    assert read.rows(listing) == (lower.rows_in_kernel(host), ())
    assert listing.foreign == ()
    assert read.users_property(listing) == []


def test_lists_of_one_as_scalars() -> None:
    """As nft prints them from 1.1.4 on."""
    objects = listing_of(NARROW)
    scalars = 0
    for kernel_set in SETS:
        shown = body(objects, kernel_set)
        for part in ("flags", "elem"):
            if len(shown.get(part, ())) == 1:
                (shown[part],) = shown[part]
                scalars += 1
    assert scalars > len([s for s in SETS if s.declaration.interval])
    listing = read.parse(objects)
    assert list(read.skeleton_differences(listing)) == []
    assert list(read.outdated(TABLE, listing)) == []
    assert read.rows(listing) == (lower.rows_in_kernel(NARROW), ())


def test_lists_of_one_that_were_scalars() -> None:
    objects = listing_of(SMALL)
    for kernel_set in SETS:
        shown = body(objects, kernel_set)
        shown["type"] = shown["type"] if isinstance(shown["type"], list) else [shown["type"]]
        if "map" in shown:
            shown["map"] = [shown["map"]]
    listing = read.parse(objects)
    assert list(read.skeleton_differences(listing)) == []
    assert read.rows(listing) == (lower.rows_in_kernel(SMALL), ())


def test_the_only_element_of_each_map_as_a_scalar() -> None:
    """Key and value then stand where a list of elements may stand."""
    for kernel_set in (s for s in SETS if s.declaration.value):
        objects = listing_of(Host())
        shown = body(objects, kernel_set)
        shown["elem"] = element(kernel_set, key_of(kernel_set))
        as_scalar = read.rows(read.parse(objects))
        shown["elem"] = [shown["elem"]]
        assert as_scalar == read.rows(read.parse(objects))
        assert complaint(kernel_set) not in as_scalar[1]


def test_protocols_as_numbers() -> None:
    """As nft prints them where /etc/protocols is missing, or with -n."""
    numbers = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}
    for host in (MANY, ROUTED):
        objects = [with_protocols(o, numbers) for o in listing_of(host)]
        assert '"tcp"' not in str(objects).replace("'", '"')
        listing = read.parse(objects)
        assert list(read.skeleton_differences(listing)) == []
        assert read.rows(listing) == (lower.rows_in_kernel(host), ())


def test_another_name_of_a_protocol() -> None:
    objects = [with_protocols(o, {"ipv6-icmp": "icmpv6"}) for o in listing_of(ROUTED)]
    assert read.rows(read.parse(objects)) == (lower.rows_in_kernel(ROUTED), ())


def with_protocols(node: Any, names: dict[str, Any]) -> Any:
    if is_object(node):
        return {key: with_protocols(value, names) for key, value in node.items()}
    if is_list(node):
        return [with_protocols(item, names) for item in node]
    return names.get(node, node) if isinstance(node, str) else node


@each_set
def test_an_element_of_the_right_form_is_ours(kernel_set: KernelSet) -> None:
    """So that what is wrong in the other tests is what they made wrong."""
    assert complaint(kernel_set) not in put(
        Host(), kernel_set, element(kernel_set, key_of(kernel_set))
    )


@each_set
def test_a_catch_all_element_is_not_ours(kernel_set: KernelSet) -> None:
    assert complaint(kernel_set) in put(Host(), kernel_set, element(kernel_set, "*"))


@each_set
@pytest.mark.parametrize("attribute", ["timeout", "expires", "quota", "limit"])
def test_an_element_that_ends_or_counts_is_not_ours(kernel_set: KernelSet, attribute: str) -> None:
    wrapped = {"elem": {"val": key_of(kernel_set), attribute: 60}}
    assert complaint(kernel_set) in put(Host(), kernel_set, element(kernel_set, wrapped))


@each_set
def test_a_comment_or_a_counter_makes_an_element_no_other(kernel_set: KernelSet) -> None:
    for extra in ({"comment": "mine"}, {"counter": {"packets": 1, "bytes": 60}}):
        plain, wrapped = listing_of(Host()), listing_of(Host())
        key = key_of(kernel_set)
        body(plain, kernel_set)["elem"] = [element(kernel_set, key)]
        inner: Json = {"elem": {"val": key} | extra}
        body(wrapped, kernel_set)["elem"] = [element(kernel_set, inner)]
        assert read.rows(read.parse(wrapped)) == read.rows(read.parse(plain))
        assert complaint(kernel_set) not in read.rows(read.parse(wrapped))[1]


@each_set
def test_a_range_is_not_ours(kernel_set: KernelSet) -> None:
    kinds = kernel_set.declaration.key
    for position, kind in enumerate(kinds):
        parts = [PARTS[k] for k in kinds]
        parts[position] = {"range": [PARTS[kind], PARTS[kind]]}
        key = parts[0] if len(parts) == 1 else {"concat": parts}
        assert complaint(kernel_set) in put(Host(), kernel_set, element(kernel_set, key))


@each_set
def test_a_key_of_another_length_is_not_ours(kernel_set: KernelSet) -> None:
    parts = parts_of(kernel_set)
    for wrong in ([*parts, "br-b"], parts[:-1]):
        key = {"concat": wrong}
        assert complaint(kernel_set) in put(Host(), kernel_set, element(kernel_set, key))


@each_set
def test_a_column_of_another_kind_is_not_ours(kernel_set: KernelSet) -> None:
    """None of these can be a host's: what nft prints for a broken or foreign element."""
    wrong: dict[str, tuple[Any, ...]] = {
        "nf_proto": (7, "arp"),
        "ifname": ("@guarded4", "br*", "", 5),
        "inet_proto": (47, "gre"),
        "inet_service": (0, 65536, "http", True),
        "ipv4_addr": ("web", "fd00::1"),
        "ipv6_addr": ("web", "10.0.0.1"),
    }
    kinds = kernel_set.declaration.key
    for position, kind in enumerate(kinds):
        for value in wrong[kind]:
            parts = [PARTS[k] for k in kinds]
            parts[position] = value
            key = parts[0] if len(parts) == 1 else {"concat": parts}
            said = put(Host(), kernel_set, element(kernel_set, key))
            assert complaint(kernel_set) in said, value


def test_an_element_without_its_value_is_not_ours() -> None:
    for kernel_set in (s for s in SETS if s.declaration.value):
        key = key_of(kernel_set)
        assert complaint(kernel_set) in put(Host(), kernel_set, [key], [key])


def test_maps_that_hold_different_keys() -> None:
    """Such a row is in neither, and is said to be torn."""
    objects = listing_of(SMALL)
    body(objects, named("published_anywhere_port4"))["elem"] = []
    rows, strange = read.rows(read.parse(objects))
    assert strange == ("the maps of published_anywhere hold different keys",)
    relation = named("published_anywhere_port4").relation
    assert rows == lower.rows_in_kernel(SMALL) | {relation: {}}


def test_a_torn_family_leaves_the_other_as_it_is() -> None:
    network = Network(
        "a",
        "br-a",
        (IPv4Network("10.0.0.0/24"), IPv6Network("fd00::/64")),
        containers=(
            Container(
                "c", IPv4Address("10.0.0.2"), IPv6Address("fd00::2"), (Publication(80, 8080),)
            ),
        ),
    )
    objects = listing_of(Host((network,)))
    body(objects, named("published_anywhere_address4"))["elem"] = []
    rows, strange = read.rows(read.parse(objects))
    assert len(strange) == 1
    relation = named("published_anywhere_address4").relation
    assert rows[relation] == {("ipv6", "tcp", 8080): ("fd00::2", 80)}


def test_elements_of_a_set_declared_otherwise_are_not_read() -> None:
    objects = listing_of(SMALL)
    body(objects, named("guarded4"))["type"] = "ifname"
    rows, strange = read.rows(read.parse(objects))
    assert strange == ()
    assert rows[named("guarded4").relation] == {}


def test_more_rows_and_other_rows_are_read_as_they_are() -> None:
    container = replace(SMALL.networks[0].containers[0], ipv4=IPv4Address("172.20.0.9"))
    network = replace(SMALL.networks[0], containers=(container,))
    objects = listing_of(replace(SMALL, networks=(network,)))
    assert read.rows(read.parse(objects))[0] != lower.rows_in_kernel(SMALL)


FOREIGN: tuple[Json, ...] = (
    {"chain": {"name": "mine"}},
    {"set": {"name": "bad guys", "type": "ipv4_addr"}},
    {"map": {"name": "ports", "type": "inet_service", "map": "verdict"}},
    {"counter": {"name": "hits", "packets": 0, "bytes": 0}},
    {"quota": {"name": "monthly", "bytes": 5, "used": 0, "inv": False}},
    {"limit": {"name": "slowly", "rate": 5, "per": "second"}},
    {"ct helper": {"name": "ftp", "type": "ftp", "protocol": "tcp"}},
    {"ct timeout": {"name": "patient"}},
    {"ct expectation": {"name": "expected"}},
    {"secmark": {"name": "sealed"}},
    {"synproxy": {"name": "proxy"}},
    {"flowtable": {"name": "fast", "hook": "ingress", "prio": 0}},
)


@pytest.mark.parametrize("thing", FOREIGN, ids=lambda thing: next(iter(thing)))
def test_what_somebody_else_put_into_the_table_is_known(thing: Json) -> None:
    ((kind, what),) = thing.items()
    spot = {"family": "inet", "table": TABLE, "handle": 99}
    listing = read.parse([*listing_of(SMALL), {kind: what | spot}])
    assert listing.foreign == (what["name"],)
    assert read.users_property(listing) == [f"'{what['name']}', which nftbridge did not make"]
    assert list(read.skeleton_differences(listing)) == []
    assert read.rows(listing) == (lower.rows_in_kernel(SMALL), ())


def test_the_users_rules_are_counted() -> None:
    objects = listing_of(SMALL)
    rule: Json = {"rule": {"chain": "DOCKER-USER", "expr": [{"drop": None}]}}
    listing = read.parse([*objects, rule, rule])
    assert listing.user_rules == 2
    assert read.users_property(listing) == ["2 rules in DOCKER-USER"]
    assert list(read.skeleton_differences(listing)) == []


def test_counters_are_read_by_rule() -> None:
    listing = read.parse(listing_of(SMALL))
    counted = [
        line for line in skeleton().rules if {"counter": None} in line.json("")["rule"]["expr"]
    ]
    assert listing.counters == [RuleCounter(c.chain, c.comment, 3, 180) for c in counted]


def test_what_is_ours_to_delete() -> None:
    listing = read.parse([*listing_of(SMALL), *FOREIGN])
    chains, sets = read.ours(listing)
    parts = skeleton()
    assert chains == [c.name for c in parts.chains if c.name != parts.users_chain]
    assert sets == [(s.declaration.noun, s.name) for s in parts.sets]
