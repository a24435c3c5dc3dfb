"""A listing of nft's (``nft -j list table``) as a ruleset. Odd statements stay as they are.

The words of rules and the devices of chains are taken from the plain listing (``nft -a``): JSON has
no words, and up to nft 1.0.6 no devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nftbridge.doctor.ruleset import Chain, Maker, Rule, Table
from nftbridge.explain.users import rule_text
from nftbridge.nft.syntax import Json, is_list, is_object

_RULE = re.compile(r"^\t\t(.+) # handle (\d+)$", re.MULTILINE)
_DEVICES = re.compile(
    r"^\tchain (\S+) \{.*\n\t\ttype \S+ hook \S+ devices?\b(.*) priority", re.MULTILINE
)
_DEVICE = re.compile(r'[^\s"{},=]+')


def table(family: str, name: str, objects: Iterable[object], plain: str = "") -> Table:
    """The table whose objects these are; whatever is no object of a table is passed over.

    `plain` is the same in nft's words, with handles; without it the words are made up.
    """
    words = {int(handle): text for text, handle in _RULE.findall(plain)}
    devices = {chain: tuple(_DEVICE.findall(named)) for chain, named in _DEVICES.findall(plain)}
    heads: dict[str, Json] = {}
    rules: dict[str, list[Rule]] = {}
    sets: dict[str, Json] = {}
    for kind, body in filter(None, map(_only, objects)):
        named = str(body.get("name", ""))
        if kind == "chain":
            heads[named] = body
        elif kind == "rule":
            rules.setdefault(str(body.get("chain", "")), []).append(_rule(body, words))
        elif kind in ("set", "map"):
            sets[named] = body
    chains = {n: _chain(head, rules.get(n, []), devices) for n, head in heads.items()}
    return Table(Maker.NFT, family, name, chains, sets)


def _only(node: object) -> tuple[str, Json] | None:
    """The kind and the body of an object of a listing."""
    if is_object(node) and len(node) == 1:
        ((kind, body),) = node.items()
        if is_object(body):
            return kind, body
    return None


def _chain(head: Json, rules: list[Rule], devices: Mapping[str, tuple[str, ...]]) -> Chain:
    name = str(head.get("name", ""))
    return Chain(
        name,
        tuple(rules),
        hook=str(head.get("hook", "")),
        kind=str(head.get("type", "filter")),
        priority=_number(head.get("prio", 0)),
        policy=str(head.get("policy", "accept")),
        devices=devices.get(name, ()),
    )


def _rule(body: Json, words: Mapping[int, str]) -> Rule:
    found = body.get("expr", [])
    statements = tuple(node for node in found if is_object(node)) if is_list(found) else ()
    handle = _number(body.get("handle", 0))
    return Rule.of(statements, words.get(handle) or _made_up(statements), handle)


def _made_up(statements: tuple[Json, ...]) -> str:
    try:
        return rule_text({"expr": statements})
    except (AttributeError, KeyError, LookupError, TypeError, ValueError):
        return str(statements)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
