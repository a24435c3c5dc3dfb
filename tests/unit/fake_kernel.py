"""A kernel made of dicts: as much of nf_tables as our transactions use, and how nft lists it.

It is strict where the kernel is (`REFUSED`, which tests/kernel/test_tampering.py tries on the real
one) and in one thing stricter: an interval set may be flushed and filled, never exchanged.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from copy import deepcopy
from ipaddress import ip_network
from typing import Any

from nftbridge.nft.document import Command
from nftbridge.nft.syntax import Json, is_list, is_object

TABLE = "nftbridge"
_SPOT = {"family": "inet", "table": TABLE}
_TABLE = {"add": {"table": {"family": "inet", "name": TABLE}}}


class RefusedError(Exception):
    """What a kernel says no to."""


class FakeKernel:
    """One table. A refused transaction changes nothing."""

    def __init__(self) -> None:
        self.present = False
        self.chains: dict[str, Json] = {}
        self.rules: dict[str, list[Json]] = {}
        self.sets: dict[str, Json] = {}
        self.elements: dict[str, dict[str, object]] = {}

    def commit(self, commands: Iterable[Command]) -> None:
        """Run all of `commands` or none."""
        trial = deepcopy(self)
        for command in commands:
            ((verb, body),) = command.items()
            ((kind, target),) = body.items()
            trial._run(verb, kind, target)
        self.__dict__ = trial.__dict__

    def _run(self, verb: str, kind: str, target: Json) -> None:
        kind = "set" if kind == "map" else kind
        {
            ("add", "table"): self._add_table,
            ("delete", "table"): self._delete_table,
            ("add", "chain"): self._add_chain,
            ("flush", "chain"): self._flush_chain,
            ("delete", "chain"): self._delete_chain,
            ("add", "rule"): self._add_rule,
            ("add", "set"): self._add_set,
            ("flush", "set"): self._flush_set,
            ("delete", "set"): self._delete_set,
            ("add", "element"): self._add_elements,
            ("delete", "element"): self._delete_elements,
        }[verb, kind](target)

    def _add_table(self, _: Json) -> None:
        self.present = True

    def _delete_table(self, _: Json) -> None:
        _must(self.present, "no such table")
        self.__init__()  # type: ignore[misc]  # empty again

    def _add_chain(self, target: Json) -> None:
        _must(self.present, "no such table")
        held = self.chains.setdefault(target["name"], target)
        _must(held == target, "the chain is attached elsewhere")
        self.rules.setdefault(target["name"], [])

    def _flush_chain(self, target: Json) -> None:
        _must(target["name"] in self.chains, "no such chain")
        self.rules[target["name"]] = []

    def _delete_chain(self, target: Json) -> None:
        name = target["name"]
        _must(name in self.chains, "no such chain")
        _must(not self.rules[name], "the chain has rules")
        _must(name not in self._referred(), "the chain is jumped to")
        del self.chains[name], self.rules[name]

    def _add_rule(self, target: Json) -> None:
        _must(target["chain"] in self.chains, "no such chain")
        for name in _names(target["expr"]):
            _must(name in self.chains or name in self.sets, f"no such chain or set: {name}")
        self.rules[target["chain"]].append(target)

    def _add_set(self, target: Json) -> None:
        _must(self.present, "no such table")
        held = self.sets.setdefault(target["name"], target)
        _must(held == target, "the set is declared otherwise")
        self.elements.setdefault(target["name"], {})

    def _flush_set(self, target: Json) -> None:
        _must(target["name"] in self.sets, "no such set")
        self.elements[target["name"]] = {}

    def _delete_set(self, target: Json) -> None:
        name = target["name"]
        _must(name in self.sets, "no such set")
        _must(name not in self._referred(), "a rule refers to the set")
        del self.sets[name], self.elements[name]

    def _add_elements(self, target: Json) -> None:
        _must(target["name"] in self.sets, "no such set")
        held = self.elements[target["name"]]
        for key, value in self._pairs(target):
            _must(held.setdefault(key, value) == value, f"{key} has another value")

    def _delete_elements(self, target: Json) -> None:
        _must(target["name"] in self.sets, "no such set")
        _must("flags" not in self.sets[target["name"]], "an interval set is filled anew")
        held = self.elements[target["name"]]
        for key, value in self._pairs(target):
            _must(key in held, f"no element {key}")
            _must(held.pop(key) == value, f"{key} has another value")

    def _pairs(self, target: Json) -> Iterator[tuple[str, object]]:
        is_map = "map" in self.sets[target["name"]]
        _must(bool(target["elem"]), "a list of no elements")
        for item in target["elem"]:
            key, value = item if is_map else (item, None)
            yield json.dumps(key), value

    def _referred(self) -> set[str]:
        return {name for rules in self.rules.values() for r in rules for name in _names(r["expr"])}

    def listing(self) -> list[Json]:
        """What ``nft -j -a list table`` prints: handles, counts, and no more than it must."""
        objects: list[Json] = [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"table": {"family": "inet", "name": TABLE, "handle": 1}},
        ]
        for name, declared in self.sets.items():
            body = declared | {"handle": 2}
            if held := self.elements[name]:
                body["elem"] = [_listed(key, value) for key, value in held.items()]
            objects.append({"map" if "map" in declared else "set": body})
        objects += [{"chain": body | {"handle": 3}} for body in self.chains.values()]
        objects += [{"rule": _listed_rule(r)} for rules in self.rules.values() for r in rules]
        return deepcopy(objects)


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RefusedError(otherwise)


def _names(node: Any) -> Iterator[str]:
    """Every chain and set that a rule names."""
    if is_object(node):
        for key, value in node.items():
            if key == "target":
                yield value
            yield from _names(value)
    elif is_list(node):
        for item in node:
            yield from _names(item)
    elif isinstance(node, str) and node.startswith("@"):
        yield node.removeprefix("@")


def _listed(key: str, value: object) -> object:
    shown = _shortened(json.loads(key))
    return shown if value is None else [shown, value]


def _shortened(key: Any) -> Any:
    """A prefix of full length is listed as an address."""
    if is_object(key) and "concat" in key:
        return {"concat": [_shortened(part) for part in key["concat"]]}
    if is_object(key) and "prefix" in key:
        network = ip_network(f"{key['prefix']['addr']}/{key['prefix']['len']}")
        return key["prefix"]["addr"] if network.num_addresses == 1 else key
    return key


def _listed_rule(rule: Json) -> Json:
    statements = [s | {"counter": _COUNTED} if "counter" in s else s for s in rule["expr"]]
    if family_implied(statements):
        del statements[0]
    return rule | {"expr": statements, "handle": 4}


_COUNTED = {"packets": 3, "bytes": 180}


def family_implied(statements: list[Json]) -> bool:
    """Whether they begin with a match of the family that nft's listing leaves out.

    It does if a payload of that family follows, wherever in the rule.
    """
    match = statements[0].get("match", {})
    if match.get("left") != {"meta": {"key": "nfproto"}}:
        return False
    payload = {"ipv4": "ip", "ipv6": "ip6"}.get(match["right"])
    return f'"protocol": "{payload}"' in json.dumps(statements[1:])


def _element(verb: str, name: str, *elements: object) -> Command:
    return {verb: {"element": _SPOT | {"name": name, "elem": list(elements)}}}


def _set(verb: str, name: str, **more: object) -> Command:
    return {verb: {"map" if "map" in more else "set": _SPOT | {"name": name} | more}}


def _chain(verb: str, name: str, **more: object) -> Command:
    return {verb: {"chain": _SPOT | {"name": name} | more}}


def _rule(chain: str, *statements: Json) -> Command:
    return {"add": {"rule": _SPOT | {"chain": chain, "expr": list(statements)}}}


_PORTS = _set("add", "ports", type="inet_service")
_AWAY = _set("add", "away", type="inet_service", map="inet_service")
_MATCH = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "@names"}}
_NAMES = _set("add", "names", type="ifname")
_HOOK = {"type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}

REFUSED: dict[str, list[Command]] = {
    "chain without table": [_chain("add", "a")],
    "flush of no chain": [_TABLE, _chain("flush", "a")],
    "chain attached elsewhere": [_TABLE, _chain("add", "a"), _chain("add", "a", **_HOOK)],
    "rule without chain": [_TABLE, _rule("a", {"accept": None})],
    "jump to nowhere": [_TABLE, _chain("add", "a"), _rule("a", {"jump": {"target": "b"}})],
    "chain jumped to": [
        *(_TABLE, _chain("add", "a"), _chain("add", "b")),
        *(_rule("a", {"jump": {"target": "b"}}), _chain("delete", "b")),
    ],
    "set referred to": [
        *(_TABLE, _NAMES, _chain("add", "a")),
        *(_rule("a", _MATCH, {"accept": None}), _set("delete", "names")),
    ],
    "set of another type": [_TABLE, _PORTS, _set("add", "ports", type="ifname")],
    "flush of no set": [_TABLE, _set("flush", "ports")],
    "element without set": [_TABLE, _element("add", "ports", 80)],
    "missing element": [_TABLE, _PORTS, _element("delete", "ports", 80)],
    "another value": [
        *(_TABLE, _AWAY, _element("add", "away", [80, 8080])),
        _element("add", "away", [80, 8081]),
    ],
}
"""Documents that are refused."""

ACCEPTED: dict[str, list[Command]] = {
    "everything twice": [
        *(_TABLE, _TABLE, _chain("add", "a", **_HOOK), _chain("add", "a", **_HOOK)),
        *(_PORTS, _PORTS, _element("add", "ports", 80), _element("add", "ports", 80)),
    ],
    "another value after deletion": [
        *(_TABLE, _AWAY, _element("add", "away", [80, 8080])),
        *(_element("delete", "away", [80, 8080]), _element("add", "away", [80, 8081])),
    ],
    "another value after flush": [
        *(_TABLE, _AWAY, _element("add", "away", [80, 8080])),
        *(_set("flush", "away", map="inet_service"), _element("add", "away", [80, 8081])),
    ],
    "set no longer referred to": [
        *(_TABLE, _NAMES, _chain("add", "a"), _rule("a", _MATCH, {"accept": None})),
        *(_chain("flush", "a"), _set("delete", "names"), _chain("delete", "a")),
    ],
}
"""Documents that are taken."""
