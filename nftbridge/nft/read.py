"""From a listing of our table back to relations, and how it differs from the skeleton.

Written for what nft 0.9.8 to 1.1.7 print, which is not what they read: counters have values, a
family match is left out where a payload implies it, lists of one element may be scalars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from typing import Any

from nftbridge.backend import Belongings, RuleCounter
from nftbridge.model import counted
from nftbridge.nft.document import Command
from nftbridge.nft.lower import PLAIN, KernelSet, Setting, sets_of, skeleton
from nftbridge.nft.syntax import Json, is_list, is_object, unprefixed
from nftbridge.nft.validate import check_keys
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.flat import FlatKey, FlatRows, Scalar
from nftbridge.policy.program import Relation

BASELINE_CHAIN = "baseline-FORWARD"
"""Ours, there from boot to the first apply only: see `nftbridge.nft.baseline`."""

_PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_PAYLOADS = {"ipv4": "ip", "ipv6": "ip6"}
_UNWANTED = ("size", "auto-merge", "timeout", "gc-interval", "policy", "stmt")
"""What a set of ours never has: it would refuse, merge, drop or count elements."""

_PROTOCOL_SYNONYMS = {"icmpv6": "ipv6-icmp"}


@dataclass(slots=True)
class Listing:
    """What the kernel holds in our table, sorted by kind. `foreign` are names that are not ours."""

    table: Json = field(default_factory=dict[str, Any])
    chains: dict[str, Json] = field(default_factory=dict[str, Json])
    sets: dict[str, Json] = field(default_factory=dict[str, Json])
    rules: dict[str, list[Json]] = field(default_factory=dict[str, list[Json]])
    counters: list[RuleCounter] = field(default_factory=list[RuleCounter])
    others: list[tuple[str, Json]] = field(default_factory=list[tuple[str, Json]])

    @property
    def foreign(self) -> tuple[str, ...]:
        """Chains, sets, maps, counters, quotas and so on that somebody else put into the table."""
        ours = {chain.name for chain in skeleton().chains} | {s.name for s in skeleton().sets}
        ours.add(BASELINE_CHAIN)
        others = (body["name"] for _, body in self.others)
        return tuple(n for n in (*self.chains, *self.sets, *others) if n not in ours)

    @property
    def bereft(self) -> bool:
        """Whether not even DOCKER-USER is there."""
        return skeleton().users_chain not in self.chains

    @property
    def user_rules(self) -> int:
        """How many rules stand in DOCKER-USER."""
        return len(self.rules.get(skeleton().users_chain, []))


def users_property(listing: Listing) -> list[str]:
    """A phrase for everything in the table that is the user's and would be missed."""
    chain = skeleton().users_chain
    rules = [f"{counted(listing.user_rules, 'rule')} in {chain}"] if listing.user_rules else []
    return rules + [f"'{name}', which nftbridge did not make" for name in listing.foreign]


def belongings(listing: Listing) -> Belongings:
    """What is the user's in the table, each thing after what it refers to.

    Rules that this nft lists and cannot load, such as those of iptables-nft, are among it.
    """
    foreign = set(listing.foreign)
    chains = [("chain", body) for name, body in listing.chains.items() if name in foreign]
    sets = [
        (body["noun"], {key: value for key, value in body.items() if key != "noun"})
        for name, body in listing.sets.items()
        if name in foreign
    ]
    rules = [
        ("rule", body | {"expr": list(map(_uncounted, body["expr"]))})
        for name in (*(body["name"] for _, body in chains), skeleton().users_chain)
        for body in listing.rules.get(name, [])
    ]
    found = (*listing.others, *chains, *sets, *rules)
    # as the place of a new rule a handle would mean another rule
    return Belongings(
        tuple({"add": {k: {n: v for n, v in b.items() if n != "handle"}}} for k, b in found)
    )


def _uncounted(statement: Any) -> Any:
    """A statement as it was when nothing had been counted."""
    counts = is_object(statement) and is_object(statement.get("counter"))
    return {"counter": None} if counts else statement


def our_rules(listing: Listing) -> int:
    """How many rules stand in chains of ours, without DOCKER-USER."""
    chains, _ = ours(listing)
    return sum(len(listing.rules.get(name, [])) for name in chains)


def ours(listing: Listing) -> tuple[list[str], list[tuple[str, str]]]:
    """The names of our chains, without DOCKER-USER, and of our sets (noun, name)."""
    parts = skeleton()
    names = [BASELINE_CHAIN, *(c.name for c in parts.chains if c.name != parts.users_chain)]
    chains = [name for name in names if name in listing.chains]
    sets = [(listing.sets[s.name]["noun"], s.name) for s in parts.sets if s.name in listing.sets]
    return chains, sets


def parse(objects: list[Json]) -> Listing:
    """The list under ``nftables`` of a JSON listing, sorted by kind."""
    listing = Listing()
    for item in objects:
        for kind, body in item.items():
            if kind == "table":
                listing.table = body
            elif kind == "chain":
                listing.chains[body["name"]] = body
            elif kind in ("set", "map"):
                listing.sets[body["name"]] = body | {"noun": kind}
            elif kind == "rule":
                listing.rules.setdefault(body["chain"], []).append(body)
                listing.counters.extend(_counter(body))
            elif "name" in body:
                listing.others.append((kind, body))
    return listing


def rows(listing: Listing) -> tuple[FlatRows, tuple[str, ...]]:
    """Every row that the kernel holds, and a phrase for each set with elements that are no rows."""
    found: FlatRows = {}
    strange: list[str] = []
    for relation in RELATIONS:
        found[relation], phrases = _rows_of(relation, listing)
        strange += phrases
    return found, tuple(strange)


def skeleton_differences(listing: Listing, setting: Setting = PLAIN) -> Iterator[str]:
    """Each way in which chains, sets and rules are not what they ought to be, as a phrase."""
    if listing.table.get("flags"):  # their names are not reliable: nft 1.0.6 prints rubbish
        yield "the table has flags; if it is dormant, none of its chains is run"
    if BASELINE_CHAIN in listing.chains:
        yield f"the boot baseline is in force: chain {BASELINE_CHAIN} drops what is forwarded"
    for chain in skeleton(setting).chains:
        if chain.name not in listing.chains:
            yield f"chain {chain.name} is missing"
        elif _chain_signature(listing.chains[chain.name]) != _expected_chain(chain.name, setting):
            yield f"chain {chain.name} is attached elsewhere"
    for kernel_set in skeleton().sets:
        if kernel_set.name not in listing.sets:
            yield f"{kernel_set.declaration.noun} {kernel_set.name} is missing"
        elif not _same_declaration(kernel_set, listing.sets[kernel_set.name]):
            yield f"{kernel_set.declaration.noun} {kernel_set.name} is declared otherwise"
    yield from _rule_differences(listing, setting)


def _rule_differences(listing: Listing, setting: Setting) -> Iterator[str]:
    expected = _expected_rules(setting)
    for chain in skeleton().chains:
        if chain.name == skeleton().users_chain:
            continue
        held = [_canonical_rule(rule) for rule in listing.rules.get(chain.name, [])]
        wanted = expected.get(chain.name, [])
        if len(held) != len(wanted):
            yield f"chain {chain.name} has {len(held)} rules instead of {len(wanted)}"
        elif held != wanted:
            pairs = zip(held, wanted, strict=True)
            position = next(i for i, (here, ours) in enumerate(pairs, start=1) if here != ours)
            yield f"rule {position} of chain {chain.name} is not ours"


def outdated(table: str, listing: Listing, setting: Setting = PLAIN) -> list[Command]:
    """Deletions of our chains and sets that cannot be kept because they are declared otherwise.

    The boot baseline is among them.
    """
    spot = {"family": "inet", "table": table}
    chains = [
        {"delete": {"chain": spot | {"name": chain.name}}}
        for chain in skeleton().chains
        if chain.name in listing.chains
        and chain.name != skeleton().users_chain
        and _chain_signature(listing.chains[chain.name]) != _expected_chain(chain.name, setting)
    ]
    if BASELINE_CHAIN in listing.chains:
        chains.append({"delete": {"chain": spot | {"name": BASELINE_CHAIN}}})
    sets = [
        {"delete": {listing.sets[s.name]["noun"]: spot | {"name": s.name}}}
        for s in skeleton().sets
        if s.name in listing.sets and not _same_declaration(s, listing.sets[s.name])
    ]
    return chains + sets


def _rows_of(relation: Relation, listing: Listing) -> tuple[dict[FlatKey, FlatKey], list[str]]:
    """The rows of one relation, its value columns joined."""
    columns: dict[int | None, dict[FlatKey, Scalar]] = {}
    strange: list[str] = []
    for kernel_set in sets_of(relation):
        held = columns.setdefault(kernel_set.column, {})
        body = listing.sets.get(kernel_set.name)
        if body is not None and _same_declaration(kernel_set, body):
            try:
                held.update(_elements(kernel_set, body))
            except (ValueError, TypeError, KeyError, IndexError):
                noun = kernel_set.declaration.noun
                strange.append(f"{noun} {kernel_set.name} holds an element that is not ours")
    first = next(iter(columns.values()))
    if any(other.keys() != first.keys() for other in columns.values()):
        strange.append(f"the maps of {relation.name} hold different keys")
    if None in columns:
        return dict.fromkeys(first, ()), strange
    held_by_all = [k for k in first if all(k in column for column in columns.values())]
    return {k: tuple(column[k] for column in columns.values()) for k in held_by_all}, strange


def _elements(kernel_set: KernelSet, body: Json) -> dict[FlatKey, Scalar]:
    """Key -> value of every element. Raises `ValueError` and the like for what we never put in."""
    declaration, order = kernel_set.declaration, kernel_set.order
    implied = () if 0 in order or kernel_set.family is None else (kernel_set.family.value,)
    in_order = order[0] <= order[-1]
    found: dict[FlatKey, Scalar] = {}
    for item in _listed(body.get("elem", []), of_pairs=kernel_set.column is not None):
        key, value = item if kernel_set.column is not None else (item, 0)
        parts = _unwrapped(key)
        parts = parts["concat"] if is_object(parts) and "concat" in parts else [parts]
        pairs = zip(parts, declaration.key, strict=True)
        columns = tuple(_scalar(p, kind, interval=declaration.interval) for p, kind in pairs)
        row = (*implied, *(columns if in_order else columns[::-1]))
        found[row] = _scalar(value, declaration.value, interval=False)
    check_keys(kernel_set, found)
    return found


def _unwrapped(key: Any) -> Any:
    """Elements with a comment are wrapped in ``elem``; those with a time-out are not ours."""
    if is_object(key) and "elem" in key:
        if not key["elem"].keys() <= {"val", "comment", "counter"}:
            raise ValueError(f"{key} is no plain element")
        return key["elem"]["val"]
    return key


def _scalar(value: Any, kind: str, *, interval: bool) -> Scalar:
    if is_object(value):
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        raise ValueError(f"{value} is a range or something else that is not ours")
    if kind == "inet_proto":
        return str(_PROTOCOL_NAMES.get(value, _PROTOCOL_SYNONYMS.get(value, value)))
    if interval and kind.endswith("_addr"):
        return str(ip_network(value))  # a prefix of full length is listed as an address
    return value if isinstance(value, int) else str(value)


def _listed(value: Any, *, of_pairs: bool = False) -> list[Any]:
    """A list as it is; a scalar, as newer nft prints a list of one, as a list."""
    if not is_list(value):
        return [value]
    is_one_pair = of_pairs and len(value) == 2 and not all(is_list(v) for v in value)
    return [value] if is_one_pair else value


def _counter(rule: Json) -> Iterator[RuleCounter]:
    for statement in rule["expr"]:
        counted = statement.get("counter")
        if is_object(counted):
            name = rule.get("comment", "")
            yield RuleCounter(rule["chain"], name, counted["packets"], counted["bytes"])


def _chain_signature(body: Json) -> tuple[object, ...]:
    return tuple(body.get(part) for part in ("type", "hook", "prio", "policy"))


@cache
def _expected_chain(name: str, setting: Setting) -> tuple[object, ...]:
    chain = next(c for c in skeleton(setting).chains if c.name == name)
    return _chain_signature(chain.json("")["chain"])


def _same_declaration(kernel_set: KernelSet, body: Json) -> bool:
    expected = kernel_set.declaration.json("")[kernel_set.declaration.noun]
    if any(attribute in body for attribute in _UNWANTED):
        return False
    return body["noun"] == kernel_set.declaration.noun and all(
        _listed(body.get(part, [])) == _listed(expected.get(part, []))
        for part in ("type", "map", "flags")
    )


@cache
def _expected_rules(setting: Setting) -> dict[str, list[object]]:
    expected: dict[str, list[object]] = {}
    for line in skeleton(setting).rules:
        expected.setdefault(line.chain, []).append(_canonical_rule(line.json("")["rule"]))
    return expected


def _canonical_rule(rule: Json) -> object:
    """A rule as the family it is limited to, its other statements, and its comment.

    nft leaves a match of the family out of a listing if a payload that follows implies it.
    """
    statements = [_canonical(statement) for statement in rule["expr"]]
    family = _family_match(statements[0]) if statements else None
    if family is not None:
        del statements[0]
    implied = {f for f, protocol in _PAYLOADS.items() if _has_payload(statements, protocol)}
    if family is not None:
        implied.add(family)
    return sorted(implied), statements, rule.get("comment")


def _family_match(statement: Any) -> str | None:
    """The family, if that is what a statement compares for equality."""
    match = statement.get("match") if is_object(statement) else None
    if is_object(match) and match["left"] == {"meta": {"key": "nfproto"}} and match["op"] == "==":
        return match["right"] if match["right"] in _PAYLOADS else None
    return None


def _has_payload(node: Any, protocol: str) -> bool:
    if is_object(node):
        payload = node.get("payload")
        found = is_object(payload) and payload.get("protocol") == protocol
        return found or any(_has_payload(child, protocol) for child in node.values())
    return is_list(node) and any(_has_payload(child, protocol) for child in node)


def _canonical(node: Any) -> Any:
    """The node without counter values, with sets in a fixed order and lists of one unwrapped."""
    if is_object(node):
        if "counter" in node:
            return {"counter": None}
        if is_object(node.get("match")):
            node = {**node, "match": unprefixed(node["match"])}
        return {k: _members(v) if k == "set" else _canonical(v) for k, v in node.items()}
    if is_list(node):
        return _canonical(node[0]) if len(node) == 1 else [_canonical(item) for item in node]
    return _PROTOCOL_NAMES.get(node, node) if isinstance(node, int) else node


def _members(value: Any) -> Any:
    return sorted(map(str, map(_canonical, _listed(value))))
