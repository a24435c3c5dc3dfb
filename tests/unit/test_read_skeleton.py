"""Whatever is changed in a listing of our chains, sets and rules, is noticed and named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from nftbridge.model import Host
from nftbridge.nft import document, lower, read
from nftbridge.nft.lower import KernelSet, skeleton
from nftbridge.nft.syntax import ChainDeclaration, Json, is_list, is_object
from tests.unit.fake_kernel import TABLE, FakeKernel, family_implied

CHAINS, SETS, RULES = skeleton().chains, skeleton().sets, skeleton().rules
NUMBERS = range(len(RULES))
Path = tuple[str | int, ...]


@pytest.fixture
def objects() -> list[Json]:
    """The listing of an empty host."""
    kernel = FakeKernel()
    kernel.commit(document.install(TABLE, lower.rows_in_kernel(Host())))
    return kernel.listing()


def differences(objects: list[Json]) -> list[str]:
    return list(read.skeleton_differences(read.parse(objects)))


def rules_of(objects: list[Json]) -> list[Json]:
    """The bodies of all rules, in the skeleton's order."""
    return [o["rule"] for o in objects if "rule" in o]


def index_of(objects: list[Json], number: int) -> int:
    return [i for i, o in enumerate(objects) if "rule" in o][number]


def place(number: int) -> str:
    chain = RULES[number].chain
    before = sum(line.chain == chain for line in RULES[:number])
    return f"rule {before + 1} of chain {chain} is not ours"


def length(chain: str) -> int:
    return sum(line.chain == chain for line in RULES)


def leaves(node: Any, at: Path = ()) -> Iterator[Path]:
    """Where strings, numbers and nulls stand, counters aside."""
    if is_object(node):
        for key, child in node.items():
            if key != "counter":
                yield from leaves(child, (*at, key))
    elif is_list(node):
        for index, child in enumerate(node):
            yield from leaves(child, (*at, index))
    else:
        yield at


def holder(node: Any, path: Path) -> Any:
    for step in path[:-1]:
        node = node[step]
    return node


def other(value: object) -> object:
    """Another value of that kind."""
    swaps = {"==": "!=", "!=": "==", "in": "==", "ipv4": "ipv6", "ipv6": "ipv4"}
    swaps |= {"ip": "ip6", "ip6": "ip", "saddr": "daddr", "daddr": "saddr"}
    swaps |= {"iifname": "oifname", "oifname": "iifname", "tcp": "udplite"}
    if isinstance(value, int):
        return value + 1
    return swaps.get(value, f"{value}x") if isinstance(value, str) else {"target": "DOCKER"}


def guard(family: str, op: str = "==") -> Json:
    return {"match": {"op": op, "left": {"meta": {"key": "nfproto"}}, "right": family}}


def guarded(number: int) -> str | None:
    """The family that our rule is limited to by a match of its own."""
    (first, *_) = RULES[number].json("")["rule"]["expr"]
    match = first.get("match", {})
    alone = match.get("left") == {"meta": {"key": "nfproto"}} and match["right"][0] != "@"
    return str(match["right"]) if alone else None


@pytest.mark.parametrize("number", NUMBERS)
def test_a_rule_that_is_gone_or_doubled(number: int, objects: list[Json]) -> None:
    index, chain = index_of(objects, number), RULES[number].chain
    count = length(chain)
    doubled = [*objects[:index], objects[index], *objects[index:]]
    for changed, found in (
        (objects[:index] + objects[index + 1 :], count - 1),
        (doubled, count + 1),
    ):
        assert differences(changed) == [f"chain {chain} has {found} rules instead of {count}"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_rule_in_another_chain(number: int, objects: list[Json]) -> None:
    rules_of(objects)[number]["chain"] = "mine"
    count = length(RULES[number].chain)
    expected = f"chain {RULES[number].chain} has {count - 1} rules instead of {count}"
    assert differences(objects) == [expected]


@pytest.mark.parametrize(
    ("first", "second"),
    [(a, b) for a, b in pairwise(NUMBERS) if RULES[a].chain == RULES[b].chain],
)
def test_neighbours_that_changed_places(first: int, second: int, objects: list[Json]) -> None:
    a, b = index_of(objects, first), index_of(objects, second)
    objects[a], objects[b] = objects[b], objects[a]
    assert differences(objects) == [place(first)]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_constant_of_a_rule(number: int, objects: list[Json]) -> None:
    rule = rules_of(objects)[number]
    for path in leaves(rule["expr"]):
        spot = holder(rule["expr"], path)
        before = spot[path[-1]]
        spot[path[-1]] = other(before)
        assert differences(objects) == [place(number)], path
        spot[path[-1]] = before
    assert differences(objects) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_every_statement_of_a_rule(number: int, objects: list[Json]) -> None:
    """Taken out, put in twice, exchanged with the next."""
    rule = rules_of(objects)[number]
    ours: list[Json] = rule["expr"]
    for index, statement in enumerate(ours):
        gone, doubled = ours[:index] + ours[index + 1 :], [*ours[:index], statement, *ours[index:]]
        for changed in (gone, doubled):
            rule["expr"] = changed
            assert differences(objects) == [place(number)], changed
    for index in range(len(ours) - 1):
        swapped = [*ours[:index], ours[index + 1], ours[index], *ours[index + 2 :]]
        rule["expr"] = swapped
        assert differences(objects) == [place(number)], swapped


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("verdict", ["accept", "drop", "return", "masquerade", "continue"])
def test_another_verdict(number: int, verdict: str, objects: list[Json]) -> None:
    rule = rules_of(objects)[number]
    if verdict in rule["expr"][-1]:
        return
    rule["expr"][-1] = {verdict: None}
    assert differences(objects) == [place(number)]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_comment(number: int, objects: list[Json]) -> None:
    rule = rules_of(objects)[number]
    for comment in ("", "user's", RULES[number].comment.upper()):
        rule["comment"] = comment
        assert differences(objects) == [place(number)]
    del rule["comment"]
    assert differences(objects) == [place(number)]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_a_match_of_the_family_where_there_was_none(
    number: int, family: str, objects: list[Json]
) -> None:
    """It is ours only where we wrote it and nft leaves it out."""
    rule = rules_of(objects)[number]
    listed = rule["expr"]
    rule["expr"] = [guard(family), *listed]
    kept = listed[0] == guard(family)
    expected = [] if guarded(number) == family and not kept else [place(number)]
    assert differences(objects) == expected
    for added in (
        guard(family, "!="),
        guard("arp"),
        {"match": guard(family)["match"] | {"op": "<"}},
    ):
        rule["expr"] = [added, *listed]
        assert differences(objects) == [place(number)]
        rule["expr"] = [*listed, added]
        assert differences(objects) == [place(number)]


@pytest.mark.parametrize("number", [n for n in NUMBERS if guarded(n)])
def test_the_match_of_the_family_negated_or_gone(number: int, objects: list[Json]) -> None:
    rule, family = rules_of(objects)[number], guarded(number)
    assert family is not None
    ours = RULES[number].json("")["rule"]["expr"]
    rule["expr"] = ours
    assert differences(objects) == []
    rule["expr"] = [guard(family, "!="), *ours[1:]]
    assert differences(objects) == [place(number)]
    rule["expr"] = [*ours[1:], ours[0]]
    assert differences(objects) == [place(number)]
    rule["expr"] = ours[1:]
    assert differences(objects) == ([] if family_implied(ours) else [place(number)])


def test_the_match_of_the_family_matters_in_some_rules() -> None:
    """Those without an address: their family is nowhere but in that match."""
    matters = {
        RULES[number].comment
        for number in NUMBERS
        if guarded(number) and not family_implied(RULES[number].json("")["rule"]["expr"])
    }
    expected = {"publish-anywhere", "publish-anywhere, not to its own network", "hairpin-snat"}
    assert matters == expected


def test_the_order_in_a_set_of_constants_does_not_matter(objects: list[Json]) -> None:
    text = json.dumps(objects).replace('["tcp", "udp", "sctp"]', '["sctp", "tcp", "udp"]')
    assert text != json.dumps(objects)
    assert differences(json.loads(text)) == []


@pytest.mark.parametrize("chain", [c.name for c in CHAINS if not length(c.name)])
def test_a_chain_without_rules_of_ours(chain: str, objects: list[Json]) -> None:
    rule = {"rule": {"chain": chain, "expr": [{"drop": None}]}}
    assert chain == skeleton().users_chain
    assert differences([*objects, rule]) == []


ATTRIBUTES: tuple[Json, ...] = (
    {"type": "mark"},
    {"type": ["mark", "mark"]},
    {"type": []},
    {"flags": ["timeout"]},
    {"flags": ["interval", "timeout"]},
    {"flags": ["constant"]},
    {"flags": "dynamic"},
    {"size": 65535},
    {"size": 0},
    {"auto-merge": True},
    {"timeout": 3600},
    {"gc-interval": 60},
    {"policy": "memory"},
    {"stmt": [{"counter": None}]},
    {"map": "verdict"},
)


@pytest.mark.parametrize("kernel_set", SETS, ids=lambda s: s.name)
def test_a_set(kernel_set: KernelSet, objects: list[Json]) -> None:
    noun, name = kernel_set.declaration.noun, kernel_set.name
    index = next(i for i, o in enumerate(objects) if o.get(noun, {}).get("name") == name)
    ours: Json = objects[index][noun]
    assert differences(objects[:index] + objects[index + 1 :]) == [f"{noun} {name} is missing"]
    reordered = {"type": ours["type"][::-1]}  # of a single type, its name spelled backwards
    palindrome = ours["type"] == ours["type"][::-1]
    for changed in (*ATTRIBUTES, *(() if palindrome else (reordered,))):
        objects[index] = {noun: ours | changed}
        assert differences(objects) == [f"{noun} {name} is declared otherwise"], changed
        assert deletions(objects) == [{noun: _named(name)}]
    for attribute in ("type", "flags", "map"):
        if attribute in ours:
            objects[index] = {noun: {k: v for k, v in ours.items() if k != attribute}}
            assert differences(objects) == [f"{noun} {name} is declared otherwise"], attribute
    another = "set" if noun == "map" else "map"
    objects[index] = {another: ours}
    assert differences(objects) == [f"{noun} {name} is declared otherwise"]
    assert deletions(objects) == [{another: _named(name)}]
    objects[index] = {noun: ours}
    assert differences(objects) == []
    assert deletions(objects) == []


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_a_chain(chain: ChainDeclaration, objects: list[Json]) -> None:
    index = next(i for i, o in enumerate(objects) if o.get("chain", {}).get("name") == chain.name)
    ours: Json = objects[index]["chain"]
    missing = f"chain {chain.name} is missing"
    assert missing in differences(objects[:index] + objects[index + 1 :])
    users = chain.name == skeleton().users_chain
    for changed in ({"type": "route"}, {"hook": "ingress"}, {"prio": 7}, {"policy": "drop"}):
        objects[index] = {"chain": ours | changed}
        assert differences(objects) == [f"chain {chain.name} is attached elsewhere"]
        assert deletions(objects) == ([] if users else [{"chain": _named(chain.name)}])
    for attribute in ("type", "hook", "prio", "policy"):
        if attribute in ours:
            objects[index] = {"chain": {k: v for k, v in ours.items() if k != attribute}}
            assert differences(objects) == [f"chain {chain.name} is attached elsewhere"]


def deletions(objects: list[Json]) -> list[Json]:
    return [command["delete"] for command in read.outdated(TABLE, read.parse(objects))]


def _named(name: str) -> Json:
    return {"family": "inet", "table": TABLE, "name": name}


@pytest.mark.parametrize("flags", ["dormant", ["dormant"], ["owner"], ["\x02"], 1], ids=repr)
def test_table_flags(flags: object, objects: list[Json]) -> None:
    next(o for o in objects if "table" in o)["table"]["flags"] = flags
    (said,) = differences(objects)
    assert "dormant" in said


@pytest.mark.parametrize("flags", [[], "", None], ids=repr)
def test_no_table_flags(flags: object, objects: list[Json]) -> None:
    next(o for o in objects if "table" in o)["table"]["flags"] = flags
    assert differences(objects) == []


def test_nothing_at_all() -> None:
    said = differences([{"table": {"family": "inet", "name": TABLE}}])
    with_rules = [chain.name for chain in CHAINS if length(chain.name)]
    assert said == [
        *(f"chain {chain.name} is missing" for chain in CHAINS),
        *(f"{s.declaration.noun} {s.name} is missing" for s in SETS),
        *(f"chain {name} has 0 rules instead of {length(name)}" for name in with_rules),
    ]
