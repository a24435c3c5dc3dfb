"""A listing of nft's (``nft -j list table``) as a ruleset. Odd statements stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nftbridge.doctor.ruleset import Chain, Maker, Rule, Table
from nftbridge.explain.users import rule_text
from nftbridge.nft.syntax import Json, is_list, is_object


def table(family: str, name: str, objects: Iterable[object]) -> Table:
    """The table whose objects these are; whatever is no object of a table is passed over."""
    heads: dict[str, Json] = {}
    rules: dict[str, list[Rule]] = {}
    sets: dict[str, Json] = {}
    for kind, body in filter(None, map(_only, objects)):
        named = str(body.get("name", ""))
        if kind == "chain":
            heads[named] = body
        elif kind == "rule":
            rules.setdefault(str(body.get("chain", "")), []).append(_rule(body))
        elif kind in ("set", "map"):
            sets[named] = body
    chains = {n: _chain(n, head, rules.get(n, [])) for n, head in heads.items()}
    return Table(Maker.NFT, family, name, chains, sets)


def _only(node: object) -> tuple[str, Json] | None:
    """The kind and the body of an object of a listing."""
    if is_object(node) and len(node) == 1:
        ((kind, body),) = node.items()
        if is_object(body):
            return kind, body
    return None


def _chain(name: str, head: Json, rules: list[Rule]) -> Chain:
    return Chain(
        name,
        tuple(rules),
        hook=str(head.get("hook", "")),
        kind=str(head.get("type", "filter")),
        priority=_number(head.get("prio", 0)),
        policy=str(head.get("policy", "accept")),
    )


def _rule(body: Json) -> Rule:
    found = body.get("expr", [])
    statements = tuple(node for node in found if is_object(node)) if is_list(found) else ()
    shown: Json = {"expr": statements}
    return Rule.of(statements, _text(shown), _number(body.get("handle", 0)))


def _text(shown: Json) -> str:
    try:
        return rule_text(shown)
    except (AttributeError, KeyError, LookupError, TypeError, ValueError):
        return str(shown["expr"])


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
