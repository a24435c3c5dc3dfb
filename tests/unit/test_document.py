"""Transactions, run on a kernel made of dicts: what they lead to, and what they leave alone."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbridge import config
from nftbridge.model import Family
from nftbridge.nft import document, lower, read
from nftbridge.nft.document import Command
from nftbridge.nft.lower import sets_of, skeleton
from nftbridge.nft.syntax import ChainDeclaration
from nftbridge.policy import catalogue
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.flat import FlatKey, FlatRows, Scalar
from nftbridge.policy.program import Kind, Relation
from tests.unit.fake_kernel import ACCEPTED, REFUSED, TABLE, FakeKernel, RefusedError

SCENARIOS = {path.parent.name: path for path in sorted(Path("rulesets").glob("*/host.toml"))}
NOTHING: FlatRows = {relation: {} for relation in RELATIONS}
USERS_RULE = {
    "add": {
        "rule": {"family": "inet", "table": TABLE, "chain": "DOCKER-USER", "expr": [{"drop": None}]}
    }
}
SPOT = {"family": "inet", "table": TABLE}

COLUMNS: dict[Kind, dict[Family, tuple[Scalar, ...]]] = {
    Kind.INTERFACE: dict.fromkeys(Family, ("br-a", "br-b", "eth0")),
    Kind.PROTOCOL: dict.fromkeys(Family, ("tcp", "udp")),
    Kind.PORT: dict.fromkeys(Family, (1, 80, 65535)),
    Kind.ADDRESS: {Family.IPV4: ("10.0.0.1", "10.0.0.2"), Family.IPV6: ("fd00::1", "fd00::2")},
    Kind.PREFIX: {
        Family.IPV4: ("10.0.0.0/24", "10.0.1.0/31", "10.0.2.1/32"),
        Family.IPV6: ("fd00::/64", "fd01::1/128"),
    },
}


@cache
def rows_of(scenario: str) -> FlatRows:
    return lower.rows_in_kernel(config.load(str(SCENARIOS[scenario])).host)


def tuples(kinds: tuple[Kind, ...], family: Family) -> st.SearchStrategy[FlatKey]:
    return st.tuples(*(st.sampled_from(COLUMNS[kind][family]) for kind in kinds))


def keyed(relation: Relation, family: Family) -> st.SearchStrategy[tuple[FlatKey, FlatKey]]:
    keys = tuples(relation.key, family).map(lambda key: (family.value, *key))
    return st.tuples(keys, tuples(relation.value, family))


def rows_for(relation: Relation) -> st.SearchStrategy[dict[FlatKey, FlatKey]]:
    pairs = st.one_of(*(keyed(relation, family) for family in relation.families))
    return st.lists(pairs, max_size=4).map(dict)


ROWS = st.fixed_dictionaries({relation: rows_for(relation) for relation in RELATIONS})


def only(relation: Relation, key: FlatKey, *value: Scalar) -> FlatRows:
    """One row and no other."""
    return {r: {key: value} if r is relation else {} for r in RELATIONS}


def installed(rows: FlatRows) -> FakeKernel:
    kernel = FakeKernel()
    kernel.commit(document.install(TABLE, rows))
    return kernel


def held(kernel: FakeKernel) -> FlatRows:
    """What it holds, which must be whole."""
    listing = read.parse(kernel.listing())
    assert list(read.skeleton_differences(listing)) == []
    rows, strange = read.rows(listing)
    assert strange == ()
    return rows


def reinstalled(kernel: FakeKernel, rows: FlatRows) -> list[Command]:
    listing = read.parse(kernel.listing())
    return list(document.install(TABLE, rows, read.outdated(TABLE, listing)))


def verbs(commands: list[Command]) -> list[tuple[str, str, str]]:
    """(verb, kind, name) of each command."""
    return [
        (verb, kind, target.get("name", target.get("chain", "")))
        for command in commands
        for verb, body in command.items()
        for kind, target in body.items()
    ]


@pytest.mark.parametrize("case", REFUSED)
def test_the_fake_refuses_what_a_kernel_refuses(case: str) -> None:
    kernel = FakeKernel()
    with pytest.raises(RefusedError):
        kernel.commit(REFUSED[case])
    assert not kernel.present


@pytest.mark.parametrize("case", ACCEPTED)
def test_the_fake_takes_what_a_kernel_takes(case: str) -> None:
    FakeKernel().commit(ACCEPTED[case])


@pytest.mark.parametrize("before", SCENARIOS)
def test_a_change_leads_from_every_scenario_to_every_other(before: str) -> None:
    for after in SCENARIOS:
        kernel = installed(rows_of(before))
        kernel.commit(document.change(TABLE, rows_of(before), rows_of(after)))
        assert held(kernel) == rows_of(after), after


@given(ROWS, ROWS)
@settings(max_examples=60, deadline=None)
def test_a_change_leads_from_any_rows_to_any_others(before: FlatRows, after: FlatRows) -> None:
    kernel = installed(before)
    assert held(kernel) == before
    kernel.commit(document.change(TABLE, before, after))
    assert held(kernel) == after


@given(ROWS, ROWS)
@settings(max_examples=40, deadline=None)
def test_a_change_touches_only_sets_that_differ(before: FlatRows, after: FlatRows) -> None:
    commands = document.change(TABLE, before, after)
    touched = {name for _, _, name in verbs(commands)}
    differing = [relation for relation in RELATIONS if before[relation] != after[relation]]
    assert touched <= {s.name for relation in differing for s in sets_of(relation)}
    assert {kind for _, kind, _ in verbs(commands)} <= {"element", "set", "map"}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_is_sent_for_equal_rows(scenario: str) -> None:
    rows = rows_of(scenario)
    assert document.change(TABLE, rows, {r: dict(found) for r, found in rows.items()}) == []


def test_a_relation_that_was_never_read_is_empty() -> None:
    rows = rows_of("02-published-port")
    kernel = installed(NOTHING)
    kernel.commit(document.change(TABLE, {}, rows))
    assert held(kernel) == rows


def test_only_elements_that_differ_are_sent() -> None:
    old, new = dict(NOTHING), dict(NOTHING)
    old[catalogue.PUBLISHED_ANYWHERE] = {
        ("ipv4", "tcp", 80): ("10.0.0.1", 80),
        ("ipv4", "tcp", 81): ("10.0.0.1", 81),
        ("ipv6", "tcp", 80): ("fd00::1", 80),
    }
    new[catalogue.PUBLISHED_ANYWHERE] = old[catalogue.PUBLISHED_ANYWHERE] | {
        ("ipv4", "tcp", 81): ("10.0.0.2", 81)
    }

    def element(verb: str, name: str, old_value: Scalar) -> Command:
        elem = [[{"concat": ("tcp", 81)}, old_value]]
        return {verb: {"element": SPOT | {"name": name, "elem": elem}}}

    address, port = "published_anywhere_address4", "published_anywhere_port4"
    assert document.change(TABLE, old, new) == [
        element("delete", address, "10.0.0.1"),
        element("delete", port, 81),
        element("add", address, "10.0.0.2"),
        element("add", port, 81),
    ]


def test_interval_sets_are_flushed_and_filled_again() -> None:
    """Only those of the family that differs, and wholly."""
    old, new = dict(NOTHING), dict(NOTHING)
    kept: dict[FlatKey, FlatKey] = {("ipv4", "10.0.0.0/24"): (), ("ipv6", "fd00::/64"): ()}
    old[catalogue.MASQUERADED_SUBNETS] = kept | {("ipv4", "10.0.2.0/24"): ()}
    new[catalogue.MASQUERADED_SUBNETS] = kept | {("ipv4", "10.0.2.0/23"): ()}
    commands = document.change(TABLE, old, new)
    name = "masqueraded_subnets4"
    assert verbs(commands) == [("flush", "set", name), ("add", "element", name)]
    prefixes = [
        {"concat": [{"prefix": {"addr": "10.0.0.0", "len": 24}}, "ipv4"]},
        {"concat": [{"prefix": {"addr": "10.0.2.0", "len": 23}}, "ipv4"]},
    ]
    assert commands[1]["add"]["element"]["elem"] == prefixes


def test_an_interval_set_that_empties_is_only_flushed() -> None:
    old = only(catalogue.SNAT_SUBNETS, ("ipv6", "fd00::/64"), "2001:db8::1")
    commands = document.change(TABLE, old, NOTHING)
    assert verbs(commands) == [("flush", "map", "snat_subnets6")]


def test_rows_of_the_wrong_type_are_never_sent() -> None:
    wrong = only(catalogue.GUARDED, ("ipv4", "10.0.0.256"))
    with pytest.raises(ValueError, match="guarded4"):
        document.change(TABLE, NOTHING, wrong)
    with pytest.raises(ValueError, match="guarded4"):
        list(document.install(TABLE, wrong))


def test_what_is_wrong_in_the_kernel_can_be_deleted() -> None:
    old = only(catalogue.GUARDED, ("ipv4", "10.0.0.256"))
    ((verb, *_),) = verbs(document.change(TABLE, old, NOTHING))
    assert verb == "delete"


def test_an_install_over_any_state() -> None:
    for before, after in product(SCENARIOS, ("01-new-host", "17-many-networks")):
        kernel = installed(rows_of(before))
        kernel.commit([USERS_RULE])
        kernel.commit(document.install(TABLE, rows_of(after)))
        assert held(kernel) == rows_of(after)
        assert len(kernel.rules["DOCKER-USER"]) == 1


def test_an_install_mends_what_was_taken_and_put() -> None:
    kernel = installed(rows_of("17-many-networks"))
    kernel.commit([USERS_RULE])
    for chain, rules in kernel.rules.items():
        if chain != "DOCKER-USER":
            rules[:] = [*rules[1:], USERS_RULE["add"]["rule"] | {"chain": chain}]
    kernel.elements["guarded4"] = {'"10.9.9.9"': None}
    kernel.commit(document.install(TABLE, rows_of("02-published-port")))
    assert held(kernel) == rows_of("02-published-port")
    assert kernel.rules["DOCKER-USER"] == [USERS_RULE["add"]["rule"]]


@pytest.mark.parametrize("position", range(len(skeleton().sets)))
def test_a_set_declared_otherwise_is_deleted_first(position: int) -> None:
    """Of another noun, so that the deletion must use the one that is there."""
    rows = rows_of("17-many-networks")
    kernel, ours = installed(rows), skeleton().sets[position]
    body = {k: v for k, v in kernel.sets[ours.name].items() if k != "map"}
    kernel.sets[ours.name] = body if ours.declaration.value else body | {"map": "inet_service"}
    kernel.elements[ours.name] = {}
    with pytest.raises(RefusedError, match="declared otherwise"):
        kernel.commit(document.install(TABLE, rows))
    commands = reinstalled(kernel, rows)
    other = "set" if ours.declaration.value else "map"
    assert [v for v in verbs(commands) if v[0] == "delete"] == [("delete", other, ours.name)]
    kernel.commit(commands)
    assert held(kernel) == rows


@pytest.mark.parametrize("chain", skeleton().chains, ids=lambda chain: chain.name)
def test_a_chain_attached_elsewhere_is_deleted_first(chain: ChainDeclaration) -> None:
    rows = rows_of("17-many-networks")
    kernel = installed(rows)
    kernel.chains[chain.name] = kernel.chains[chain.name] | {"prio": 7, "hook": "input"}
    with pytest.raises(RefusedError, match="attached elsewhere"):
        kernel.commit(document.install(TABLE, rows))
    commands = reinstalled(kernel, rows)
    deleted = [name for verb, _, name in verbs(commands) if verb == "delete"]
    if chain.name == skeleton().users_chain:  # never ours to delete: the user is told
        assert deleted == []
        return
    assert deleted == [chain.name]
    kernel.commit(commands)
    assert held(kernel) == rows


def test_everything_declared_otherwise_at_once() -> None:
    rows = rows_of("17-many-networks")
    kernel = installed(rows)
    for name, body in kernel.chains.items():
        if name != skeleton().users_chain:
            kernel.chains[name] = body | {"prio": 7}
    for name, body in kernel.sets.items():
        kernel.sets[name] = body | {"size": 5}
    kernel.commit(reinstalled(kernel, rows))
    assert held(kernel) == rows


def test_a_removal_leaves_what_is_the_users() -> None:
    kernel = installed(rows_of("17-many-networks"))
    kernel.commit([USERS_RULE, {"add": {"chain": SPOT | {"name": "mine"}}}])
    chains, sets = read.ours(read.parse(kernel.listing()))
    kernel.commit(document.removal(TABLE, chains=chains, sets=sets))
    assert set(kernel.chains) == {"DOCKER-USER", "mine"}
    assert kernel.sets == {}
    assert kernel.rules == {"DOCKER-USER": [USERS_RULE["add"]["rule"]], "mine": []}


def test_a_removal_of_nothing_and_of_what_was_left() -> None:
    assert document.removal(TABLE, chains=(), sets=()) == []
    kernel = FakeKernel()
    kernel.commit([{"add": {"table": {"family": "inet", "name": TABLE}}}])
    kernel.commit([{"add": {"chain": SPOT | {"name": "DOCKER"}}}])
    chains, sets = read.ours(read.parse(kernel.listing()))
    kernel.commit(document.removal(TABLE, chains=chains, sets=sets))
    assert (kernel.chains, kernel.sets) == ({}, {})


def test_the_removal_of_the_table_takes_everything() -> None:
    kernel = installed(rows_of("17-many-networks"))
    kernel.commit(document.table_removal(TABLE))
    assert not kernel.present
    assert kernel.chains == {}
