"""Two host documents side by side: which networks differ, found without making sense of the rest.

A document is what a host file holds, as plain data. That of the last apply is on record and known
to be consistent, so networks that are the same in both need neither reading nor rows: no two
networks have a row in common, because bridges, subnets and published ports are theirs alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, TypeAlias, cast

from nftbridge import schema
from nftbridge.model import Host, Prefix, Publication
from nftbridge.notation import PLAIN

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


def stands_apart(found: Difference, held: Host, wanted: Host) -> bool:
    """Whether the networks that differ, read as `held` and `wanted`, cannot collide with the rest.

    Interfaces, subnets and ports that are new must not be taken by a network that is in both. If it
    is not certain, the answer is no, and the whole has to be read to find out.
    """
    bridges = {network.bridge for network in wanted.networks}
    subnets = _subnets(wanted) - _subnets(held)
    ports = _ports(wanted) - _ports(held)
    try:
        return not any(
            network["bridge"] in bridges
            or (subnets and any(_overlaps(text, subnets) for text in network["subnets"]))
            or (ports and not ports.isdisjoint(_ports_in(network)))
            for network in found.same
        )
    except (KeyError, TypeError, ValueError):
        return False


def _subnets(host: Host) -> set[Prefix]:
    return {subnet for network in host.networks for subnet in network.subnets}


def _overlaps(text: str, subnets: set[Prefix]) -> bool:
    there = ip_network(text)
    return any(there.version == s.version and there.overlaps(s) for s in subnets)


_Port: TypeAlias = tuple[str, int]
"""Protocol and number, on whichever address."""


def _ports(host: Host) -> set[_Port]:
    return {
        port
        for network in host.networks
        for container in network.containers
        for publication in container.publish
        for port in _ports_of(publication)
    }


def _ports_of(publication: Publication) -> Iterator[_Port]:
    first = publication.host_port
    if first is not None:
        protocol = publication.protocol.value
        yield from ((protocol, port) for port in range(first, first + publication.count))


def _ports_in(network: Mapping[str, Any]) -> Iterator[_Port]:
    """The host ports of a network in a document; raises `ValueError` if one cannot be read."""
    for container in network.get("container", ()):
        for item in container.get("publish", ()):
            plain = PLAIN.fullmatch(item) if isinstance(item, str) else None
            if plain is not None:
                yield "tcp", int(plain[1])
                continue
            found = schema.read_item(item)
            if found is None:
                raise ValueError(item)
            yield from _ports_of(found)


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
