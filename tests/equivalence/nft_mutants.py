"""Planted faults in what is sent to nft: rules, statements, sets and maps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias

from nftbridge.model import Family, Host
from nftbridge.nft import document, lower
from nftbridge.nft.syntax import is_object
from tests.equivalence.compare import TABLE
from tests.equivalence.meaning import Reading
from tests.equivalence.mutants import Mutant, hooks_of
from tests.equivalence.nft_reading import NftReading, as_listed

Objects: TypeAlias = list[dict[str, Any]]
Edit: TypeAlias = Callable[[Objects], bool]
"""Plants the fault; False if there is nothing to plant it in."""

_FAMILIES = {"ipv4": "ipv6", "ipv6": "ipv4"}


def listing_mutants() -> Iterator[Mutant]:
    """Every fault of a rule, and every set without its rows."""
    objects = _sent(Host())
    for place, item in enumerate(objects):
        ((kind, body),) = item.items()
        if kind == "rule":
            yield from _rule_mutants(place, body, _title(objects, place))
        elif kind in ("set", "map"):
            hooks = _users(objects, body["name"])
            yield Mutant(f"nftables, empty: {body['name']}", hooks, _edited(_emptied(place)))
    yield from _map_mutants(objects)


def _sent(host: Host) -> Objects:
    """Objects to be edited: fresh ones each time."""
    objects: Objects = json.loads(_sent_text(host))
    return objects


@cache
def _sent_text(host: Host) -> str:
    rows, setting = lower.rows_in_kernel(host), lower.Setting.of(host)
    return json.dumps(as_listed(document.install(TABLE, rows, (), setting)))


def _edited(edit: Edit) -> Callable[[Host, Family], Reading | None]:
    def read(host: Host, _: Family) -> Reading | None:
        objects = _sent(host)
        return NftReading(objects) if edit(objects) else None

    return read


def _title(objects: Objects, place: int) -> str:
    """Chain, comment and, where there are several of that name, which one."""
    body = objects[place]["rule"]
    name = f"{body['chain']}, {body['comment']}"
    same = [
        i
        for i, item in enumerate(objects)
        if "rule" in item
        and (item["rule"]["chain"], item["rule"]["comment"]) == (body["chain"], body["comment"])
    ]
    return name if len(same) == 1 else f"{name} {('IPv4', 'IPv6')[same.index(place)]}"


def _rule_mutants(place: int, body: dict[str, Any], title: str) -> Iterator[Mutant]:
    hooks = hooks_of(body["chain"])
    yield Mutant(f"nftables, no rule: {title}", hooks, _edited(_removed(place)))
    for number, statement in enumerate(body["expr"]):
        if "goto" in statement:
            yield Mutant(f"nftables, jump: {title}", hooks, _edited(_jumping(place, number)))
        match = statement.get("match")
        if match is None:
            continue
        what = f"{title}, {_said(match)}"
        yield Mutant(f"nftables, no match: {what}", hooks, _edited(_without(place, number)))
        if match["op"] == "!=":
            yield Mutant(f"nftables, no !=: {what}", hooks, _edited(_with_op(place, number, "==")))
        if match["left"] == {"meta": {"key": "nfproto"}} and match["right"] in _FAMILIES:
            yield Mutant(
                f"nftables, other family: {what}", hooks, _edited(_other_family(place, number))
            )


def _said(match: dict[str, Any]) -> str:
    right = match["right"]
    if is_object(right):
        right = next(iter(right))
    return f"{match['op']} {right if isinstance(right, str) else ' '.join(right)}"


def _removed(place: int) -> Edit:
    def edit(objects: Objects) -> bool:
        del objects[place]
        return True

    return edit


def _without(place: int, number: int) -> Edit:
    def edit(objects: Objects) -> bool:
        del objects[place]["rule"]["expr"][number]
        return True

    return edit


def _jumping(place: int, number: int) -> Edit:
    def edit(objects: Objects) -> bool:
        statement = objects[place]["rule"]["expr"][number]
        statement["jump"] = statement.pop("goto")
        return True

    return edit


def _with_op(place: int, number: int, op: str) -> Edit:
    def edit(objects: Objects) -> bool:
        objects[place]["rule"]["expr"][number]["match"]["op"] = op
        return True

    return edit


def _other_family(place: int, number: int) -> Edit:
    def edit(objects: Objects) -> bool:
        match = objects[place]["rule"]["expr"][number]["match"]
        match["right"] = _FAMILIES[match["right"]]
        return True

    return edit


def _emptied(place: int) -> Edit:
    def edit(objects: Objects) -> bool:
        (body,) = objects[place].values()
        return bool(body.pop("elem", []))

    return edit


def _users(objects: Objects, name: str) -> tuple[Any, ...]:
    chains = [
        item["rule"]["chain"]
        for item in objects
        if "rule" in item and f"@{name}'" in str(item["rule"]["expr"])
    ]
    return tuple(dict.fromkeys(hook for chain in chains for hook in hooks_of(chain)))


def _map_mutants(objects: Objects) -> Iterator[Mutant]:
    """Maps with two keys' values exchanged; address and port maps standing for each other."""
    for place, item in enumerate(objects):
        if "map" in item:
            name = item["map"]["name"]
            hooks = _users(objects, name)
            yield Mutant(f"nftables, exchanged values: {name}", hooks, _edited(_exchanged(place)))
    for place, item in enumerate(objects):
        for statement in item["rule"]["expr"] if "rule" in item else ():
            if "port" in statement.get("dnat", {}):
                hooks, title = hooks_of(item["rule"]["chain"]), _title(objects, place)
                yield Mutant(
                    f"nftables, address for port: {title}", hooks, _edited(_columns(place))
                )


def _exchanged(place: int) -> Edit:
    """Every key with the value of the key before it."""

    def edit(objects: Objects) -> bool:
        elements: list[list[Any]] = objects[place]["map"].get("elem", [])
        values = [value for _, value in elements]
        shifted = values[-1:] + values[:-1]
        objects[place]["map"]["elem"] = [
            [key, value] for (key, _), value in zip(elements, shifted, strict=True)
        ]
        return shifted != values

    return edit


def _columns(place: int) -> Edit:
    """The rule's two maps exchanged; the kernel would refuse it, and so does the reading."""

    def edit(objects: Objects) -> bool:
        for statement in objects[place]["rule"]["expr"]:
            if "dnat" in statement:
                to = statement["dnat"]
                to["addr"], to["port"] = to["port"], to["addr"]
        return True

    return edit
