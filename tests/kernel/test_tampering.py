"""Our table changed behind our back, in ways that look almost right, on the real kernel.

Each time verify must say so, apply must mend it, and what is the user's must stay.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, netns
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.lab import OUTSIDE, Probe
from nftbridge.nft.document import Command, wrap
from nftbridge.nft.lower import skeleton
from nftbridge.policy import catalogue
from nftbridge.state import State
from tests.kernel.hosts import site
from tests.namespaces import nft
from tests.unit.fake_kernel import ACCEPTED, REFUSED

pytestmark = pytest.mark.kernel

MANY = config.load("rulesets/17-many-networks/host.toml").host
SMALL = config.load("rulesets/02-published-port/host.toml").host
NARROW = config.load("rulesets/16-wsl2-mirrored/host.toml").host
TABLE = ("inet", "nftbridge")
USERS_RULE = "ip saddr 203.0.113.66 counter packets 0 bytes 0 drop"


@pytest.fixture
def engine(target: Target) -> Engine:
    return Engine(target, choose("nftables", target).backend)


@pytest.fixture
def applied(engine: Engine, namespace: str) -> Engine:
    """With every network of the scenarios, and a rule of the user's."""
    engine.apply(MANY)
    nft(namespace, "add", "rule", *TABLE, "DOCKER-USER", USERS_RULE)
    assert not engine.verify()
    return engine


def text_of(namespace: str) -> str:
    """The table as text that can be loaded again."""
    return nft(namespace, "list", "table", *TABLE)


def rewritten(namespace: str, change: Callable[[str], str]) -> None:
    """Put the table in anew with its text changed."""
    before = text_of(namespace)
    after = change(before)
    assert after != before
    nft(namespace, "-f", "-", stdin=f"delete table inet nftbridge\n{after}")


def replaced(namespace: str, chain: str, pattern: str, replacement: str) -> None:
    """Replace the first rule of a chain that `pattern` is found in by itself, so changed."""
    for line in nft(namespace, "-a", "list", "chain", *TABLE, chain).splitlines():
        rule, found, handle = line.strip().partition(" # handle ")
        if found and not rule.endswith("{") and re.search(pattern, rule):
            # nft 1.0.6 lists a translation by two maps in a form that it does not read
            rule = rule.replace(":meta l4proto", " : meta l4proto")
            changed = re.sub(pattern, replacement, rule, count=1)
            nft(namespace, "replace", "rule", *TABLE, chain, "handle", handle, changed)
            return
    raise AssertionError(f"no rule of {chain} has {pattern}")


def assert_mended(engine: Engine, namespace: str) -> None:
    """Apply, and only apply, makes it clean; the user's rule is where it was."""
    users = nft(namespace, "-a", "list", "chain", *TABLE, "DOCKER-USER")
    assert USERS_RULE in users
    assert engine.verify(), "asking changed something"
    assert engine.apply(MANY)
    assert not engine.verify()
    assert not engine.plan(MANY)
    assert nft(namespace, "-a", "list", "chain", *TABLE, "DOCKER-USER") == users


def test_a_dormant_table_lets_everything_through_until_it_is_applied_again(tmp_path: Path) -> None:
    with site(SMALL, tmp_path) as place:
        web = place.lab.address("web")
        forbidden = Probe(OUTSIDE, web, "tcp", 81)
        published = Probe(OUTSIDE, place.lab.address("host"), "tcp", 8080)

        def passing() -> list[bool]:
            return [o.reached for o in place.lab.probe_all([forbidden, published])]

        assert passing() == [False, True]
        nft(place.lab.netns, "add", "table", *TABLE, "{ flags dormant; }")
        assert passing() == [True, False]
        (said,) = place.engine.verify().install
        assert "dormant" in said
        assert place.engine.apply(SMALL).install
        assert not place.engine.verify()
        assert passing() == [False, True]


def test_a_dormant_table_is_told_from_one_that_is_not(applied: Engine, namespace: str) -> None:
    nft(namespace, "add", "table", *TABLE, "{ flags dormant; }")
    assert any("dormant" in said for said in applied.verify().install)
    assert_mended(applied, namespace)
    assert "flags" not in text_of(namespace).split("set", 1)[0]


RULES: dict[str, tuple[str, str, str]] = {
    "family negated": ("DOCKER-NAT", "^meta nfproto ipv4", "meta nfproto != ipv4"),
    "family of dnat gone": ("DOCKER-NAT", "^meta nfproto ipv4 (?=meta l4proto)", ""),
    "family of return gone": ("DOCKER-NAT-BRIDGE", "^meta nfproto ipv4 (?=meta nfproto)", ""),
    "family of snat negated": ("DOCKER-HAIRPIN", "^meta nfproto ipv4", "meta nfproto != ipv4"),
    "family added": ("DOCKER-CT", "^", "meta nfproto ipv6 "),
    "family excluded": ("DOCKER-CT", "^", "meta nfproto != ipv4 "),
    "comment changed": ("DOCKER", 'comment "unpublished"', 'comment "open-port"'),
    "comment gone": ("DOCKER", 'comment "unpublished"', ""),
    "another set": ("DOCKER", "@protected_bridges", "@unprotected_bridges"),
    "other operator": ("DOCKER", "!= @same_bridge", "@same_bridge"),
    "another verdict": ("DOCKER-ISOLATION-STAGE-2", "drop", "accept"),
    "another constant": ("DOCKER-LOOPBACK", '"lo"', '"eth0"'),
    "gate by jump": ("DOCKER-NAT", "goto", "jump"),
    "gate elsewhere": ("nat-POSTROUTING", "goto DOCKER-HAIRPIN ", "goto DOCKER-SUBNETS "),
    "another state": ("DOCKER-CT", "established,related", "established,related,new"),
    "another protocol": ("DOCKER-NAT", "tcp, udp, sctp", "tcp, udp, udplite"),
    "without counter": ("DOCKER-CT", "counter packets [0-9]+ bytes [0-9]+", ""),
    "another target": ("filter-FORWARD", "DOCKER-FORWARD", "DOCKER-CT"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_is_almost_ours(name: str, applied: Engine, namespace: str) -> None:
    chain, pattern, replacement = RULES[name]
    replaced(namespace, chain, pattern, replacement)
    (said,) = applied.verify().install
    assert re.fullmatch(f"rule [0-9]+ of chain {chain} is not ours", said)
    assert_mended(applied, namespace)


@pytest.mark.parametrize("rule", ["meta nfproto != ipv4 accept", "accept", "counter", "continue"])
@pytest.mark.parametrize("verb", ["insert", "add"])
def test_a_rule_beside_ours(verb: str, rule: str, applied: Engine, namespace: str) -> None:
    for chain in (c.name for c in skeleton().chains if c.name != "DOCKER-USER"):
        nft(namespace, verb, "rule", *TABLE, chain, rule)
        assert any(f"chain {chain} has" in said for said in applied.verify().install)
    assert_mended(applied, namespace)


# nft 1.0.6 itself crashes on a catch-all element of an interval set without concatenation
CATCH_ALL = [
    ("bridges", "{ * }"),
    ("same_bridge", "{ * }"),
    ("guarded4", "{ * }"),
    ("open_ports6", "{ * }"),
    ("internal_subnets4", "{ * }"),
    ("subnet_bridges6", "{ * }"),
    ("published_anywhere_address4", "{ * : 172.30.0.3 }"),
    ("published_anywhere_port4", "{ * : 22 }"),
    ("published_address6", "{ * : fd00:30::3 }"),
    ("hairpin_snat4", "{ * : 192.0.2.1 }"),
]


@pytest.mark.parametrize(("name", "element"), CATCH_ALL, ids=[name for name, _ in CATCH_ALL])
def test_a_catch_all_element(name: str, element: str, applied: Engine, namespace: str) -> None:
    nft(namespace, "add", "element", *TABLE, name, element)
    assert any(f" {name} holds an element" in said for said in applied.verify().install)
    assert_mended(applied, namespace)
    assert "*" not in text_of(namespace)


FOREIGN_ELEMENTS = [
    ("masqueraded_subnets4", "{ 192.0.2.3-192.0.2.9 . ipv4 }"),
    ("masqueraded_subnets4", "{ 192.0.2.0/24 . ipv6 }"),
    ("internal_subnets4", '{ "br-x" . 192.0.2.3-192.0.2.9 }'),
    ("bridges", '{ ipv4 . "@guarded4" }'),
]


@pytest.mark.parametrize(("name", "element"), FOREIGN_ELEMENTS)
def test_an_element_that_is_no_row(
    name: str, element: str, applied: Engine, namespace: str
) -> None:
    nft(namespace, "add", "element", *TABLE, name, element)
    assert any(f" {name} holds an element" in said for said in applied.verify().install)
    assert_mended(applied, namespace)


DECLARATIONS: dict[str, tuple[str, str]] = {
    "size": ("guarded4", "type ipv4_addr\n\t\tsize 65535"),
    "timeout": ("guarded4", "type ipv4_addr\n\t\ttimeout 1h"),
    "flags timeout": ("guarded4", "type ipv4_addr\n\t\tflags timeout"),
    "flags dynamic": ("guarded4", "type ipv4_addr\n\t\tsize 9999\n\t\tflags dynamic"),
    "gc-interval": ("guarded4", "type ipv4_addr\n\t\tflags timeout\n\t\tgc-interval 1h"),
    "policy": ("guarded4", "type ipv4_addr\n\t\tpolicy memory"),
    "counter": ("guarded4", "type ipv4_addr\n\t\tcounter"),
    "interval": ("guarded4", "type ipv4_addr\n\t\tflags interval"),
    "size of a map": ("hairpin_snat4", "type ifname : ipv4_addr\n\t\tsize 65535"),
    "timeout of a map": ("hairpin_snat4", "type ifname : ipv4_addr\n\t\ttimeout 1h"),
}


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_set_declared_almost_like_ours(name: str, applied: Engine, namespace: str) -> None:
    declared, body = DECLARATIONS[name]
    head = re.compile(rf"((?:set|map) {declared} {{\n\t\t)type [^\n]*")
    rewritten(namespace, lambda text: head.sub(lambda found: found[1] + body, text, count=1))
    assert any(said.endswith(f" {declared} is declared otherwise") for said in said_of(applied))
    assert_mended(applied, namespace)


def said_of(engine: Engine) -> tuple[str, ...]:
    return engine.verify().install


def test_elements_that_end(applied: Engine, namespace: str) -> None:
    """A set that lets them, with all our elements, one of which ends within the hour."""
    head = re.compile(r"(set guarded4 {\n\t\ttype ipv4_addr\n)(\t\telements = { )([0-9.]+)")
    ending = r"\1\t\tflags timeout\n\2\3 timeout 1h"
    rewritten(namespace, lambda text: head.sub(ending, text, count=1))
    assert "expires" in nft(namespace, "list", "set", *TABLE, "guarded4")
    assert said_of(applied) == ("set guarded4 is declared otherwise",)
    assert_mended(applied, namespace)
    assert "expires" not in nft(namespace, "list", "set", *TABLE, "guarded4")


@pytest.mark.parametrize(
    "declaration",
    [
        "map guarded4 { type ipv4_addr : verdict; elements = { 10.0.0.1 : accept } }",
        "map guarded4 { type ipv4_addr : ipv4_addr; }",
        "set published_address4 { type ipv4_addr . inet_proto . inet_service; }",
        "set hairpin_snat4 { type ifname; }",
    ],
)
def test_a_set_where_a_map_should_be_and_the_reverse(
    declaration: str, engine: Engine, namespace: str
) -> None:
    engine.apply(MANY)
    users = f"chain DOCKER-USER {{ {USERS_RULE}; }}"
    old = "delete table inet nftbridge"
    nft(namespace, "-f", "-", stdin=f"{old}\ntable inet nftbridge {{ {declaration}\n{users}\n}}")
    name = declaration.split()[1]
    assert any(said.endswith(f" {name} is declared otherwise") for said in said_of(engine))
    assert_mended(engine, namespace)


def test_the_users_objects_survive_a_removal(applied: Engine, namespace: str) -> None:
    for words in (
        ("counter", *TABLE, "hits"),
        ("quota", *TABLE, "monthly", "{ over 5 mbytes; }"),
        ("limit", *TABLE, "slowly", "{ rate 5/second; }"),
        ("set", *TABLE, "friends", "{ type ipv4_addr; elements = { 192.0.2.5 } }"),
        ("rule", *TABLE, "DOCKER-USER", "ip saddr @friends counter name hits accept"),
    ):
        nft(namespace, "add", *words)
    assert not applied.verify()
    assert set(applied.status().observation.foreign) == {"hits", "monthly", "slowly", "friends"}
    before = users_part(namespace)
    assert len(applied.remove(everything=False).kept) == 5
    assert users_part(namespace) == before
    left = names(namespace)
    assert left == {"DOCKER-USER", "hits", "monthly", "slowly", "friends"}
    assert not applied.verify()
    assert applied.apply(MANY)
    assert users_part(namespace) == before
    assert applied.remove(everything=True).kept == ()
    assert "nftbridge" not in nft(namespace, "list", "tables")


def test_a_removal_is_clean_though_the_user_has_a_chain(applied: Engine, namespace: str) -> None:
    nft(namespace, "add", "chain", *TABLE, "mine")
    nft(namespace, "add", "rule", *TABLE, "mine", "counter")
    assert not applied.verify()
    applied.remove(everything=False)
    assert names(namespace) == {"DOCKER-USER", "mine"}
    assert not applied.verify()


def objects(namespace: str) -> list[tuple[str, dict[str, Any]]]:
    listed = json.loads(nft(namespace, "-j", "list", "table", *TABLE))["nftables"]
    return [(kind, body) for item in listed for kind, body in item.items() if kind != "metainfo"]


def names(namespace: str) -> set[str]:
    """Of everything in the table that has one."""
    return {b["name"] for kind, b in objects(namespace) if "name" in b and kind != "table"}


def users_part(namespace: str) -> list[dict[str, Any]]:
    """What is the user's, with the handles by which the kernel knows it."""
    listed = (json.loads(nft(namespace, "-j", "-a", "list", "table", *TABLE)))["nftables"]
    ours = {s.name for s in skeleton().sets} | {c.name for c in skeleton().chains}
    ours -= {"DOCKER-USER"}
    return [
        item
        for item in listed
        for kind, body in item.items()
        if kind not in ("metainfo", "table") and body.get("chain", body.get("name")) not in ours
    ]


def test_what_was_announced_and_not_done_is_withdrawn(applied: Engine, target: Target) -> None:
    """Killed before the kernel was asked: the next apply has nothing to do but to forget it."""
    with netns.inside(target.netns):
        state = State(target.state_directory, target.table, netns.cookie())
    state.announce(config.host_to_data(SMALL), "nftables")
    assert state.pending() == [SMALL]
    assert not applied.verify()
    assert not applied.apply(MANY)
    assert state.pending() == []
    assert state.applied() == MANY
    assert not list(target.state_directory.rglob("pending.json*"))


def test_a_pending_host_counts_only_while_it_is_pending(applied: Engine, target: Target) -> None:
    """Otherwise its rows, put in by somebody else, would pass for ours."""
    with netns.inside(target.netns):
        State(target.state_directory, target.table, netns.cookie()).announce(
            config.host_to_data(SMALL), "nftables"
        )
    applied.apply(MANY)
    element = "{ ipv4 . br-front }"
    assert target.netns is not None
    nft(target.netns, "add", "element", *TABLE, "bridges", element)
    assert set(applied.verify().removed) == {catalogue.BRIDGES}


@pytest.mark.parametrize("case", [*REFUSED, *ACCEPTED])
def test_the_fake_kernel_answers_as_this_one_does(case: str, namespace: str) -> None:
    """What tests/unit/test_document.py runs on."""
    commands: list[Command] = REFUSED.get(case) or ACCEPTED[case]
    command = ["ip", "netns", "exec", namespace, "nft", "-j", "-f", "-"]
    document = json.dumps(wrap(commands))
    done = subprocess.run(command, input=document, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) is (case in REFUSED), done.stderr or done.stdout
    assert bool(nft(namespace, "list", "tables")) is (case in ACCEPTED)
