"""Nodes of libnftables-json(5) that matches and targets are made of."""

from __future__ import annotations

from typing import Any

from nftbridge.nft.syntax import Json


def meta(key: str) -> Json:
    """Packet meta data, e.g. ``meta mark``."""
    return {"meta": {"key": key}}


def payload(protocol: str, field: str) -> Json:
    """A header field, e.g. ``ip saddr``."""
    return {"payload": {"protocol": protocol, "field": field}}


def conntrack(key: str, direction: str = "") -> Json:
    """Connection tracking, e.g. ``ct state`` or ``ct original ip saddr``."""
    return {"ct": {"key": key} | ({"dir": direction} if direction else {})}


def masked(left: Json, mask: Any) -> Json:
    """The bits of a field that a mask has."""
    return {"&": [left, mask]}


def match(left: Json, right: Any, *, negated: bool = False) -> Json:
    """The field is that value, in that range or set; negated: it is not."""
    return {"match": {"op": "!=" if negated else "==", "left": left, "right": right}}


def any_flag(left: Json, flags: list[str]) -> Json:
    """At least one of the flags is set."""
    return {"match": {"op": "in", "left": left, "right": flags[0] if len(flags) == 1 else flags}}


def no_flag(left: Json, flags: list[str]) -> Json:
    """None of the flags is set."""
    return match(masked(left, flags[0] if len(flags) == 1 else {"|": flags}), 0)


def interval(first: Any, last: Any) -> Any:
    """One value, or all of a range."""
    return first if first == last else {"range": [first, last]}
