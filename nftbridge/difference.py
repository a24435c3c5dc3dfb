"""Two host documents side by side: which networks differ, found without making sense of the rest.

A document is what a host file holds, as plain data. That of the last apply is on record and known
to be consistent, so networks that are the same in both need neither reading nor rows: no two
networks have a row in common, because bridges, subnets and published ports are theirs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

Document: TypeAlias = Mapping[str, Any]
_Networks: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """The networks of either document that the other lacks or has otherwise; `same` are in both."""

    options: Document
    held: _Networks
    wanted: _Networks
    same: _Networks

    def document(self, networks: _Networks) -> Document:
        """A document of these networks alone, with the options that both documents have."""
        return {**self.options, "network": networks}


def difference(held: object, wanted: object) -> Difference | None:
    """What differs; None if the options do, or one of the two is no document worth comparing."""
    ours, theirs = _networks(held), _networks(wanted)
    if ours is None or theirs is None or _options(held) != _options(wanted):
        return None
    return Difference(
        _options(wanted),
        [network for name, network in ours.items() if theirs.get(name) != network],
        [network for name, network in theirs.items() if ours.get(name) != network],
        [network for name, network in theirs.items() if ours.get(name) == network],
    )


def _options(document: object) -> Document:
    found = cast("Document", document)
    return {key: value for key, value in found.items() if key != "network"}


def _networks(document: object) -> dict[str, dict[str, Any]] | None:
    """The networks by name; None where something is not what a host file may hold."""
    if not isinstance(document, Mapping):
        return None
    networks = cast("Document", document).get("network", [])
    if not isinstance(networks, list):
        return None
    listed = cast("list[object]", networks)
    found: dict[str, dict[str, Any]] = {}
    for item in listed:
        network = cast("dict[str, Any]", item) if type(item) is dict else {}
        name = network.get("name")
        if not isinstance(name, str) or name in found:
            return None
        found[name] = network
    return found
