"""Two host documents side by side: what differs, found without making sense of the rest.

A document is what a host file holds, as plain data. That of the last apply is on record and known
to be consistent, so what is the same in both needs neither reading nor rows. No two networks have a
row in common, because bridges, subnets and published ports are theirs alone; no two containers of a
network, because addresses are; and no two publications of a container but those that open one port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple, TypeAlias, cast

from nftbridge import schema
from nftbridge.model import Address, Family, Host, Prefix
from nftbridge.notation import PLAIN

Document: TypeAlias = Mapping[str, Any]
_Table: TypeAlias = dict[str, Any]
_Items: TypeAlias = list[Any]
"""A list `publish`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The networks of either document that the other lacks or has otherwise; `same` are in both.

    A network whose containers alone differ stands in all three, with those of them that belong
    there; and so does a container of which only what it publishes differs.
    """

    options: Document
    held: list[_Table]
    wanted: list[_Table]
    same: list[_Table]

    def document(self, networks: list[_Table]) -> Document:
        """A document of these networks alone, with the options that both documents have."""
        return {**self.options, "network": networks}


# --- what is new beside what is the same ----------------------------------------------------------


def stands_apart(found: Difference, held: Host, wanted: Host) -> bool:
    """Whether what differs, read as `held` and `wanted`, cannot collide with the rest.

    Interfaces, subnets and ports that are new must not be taken by anything that is in both, nor
    names and addresses within a network. If it is not certain, the answer is no, and the whole has
    to be read to find out.
    """
    bridges = _bridges(wanted) - _bridges(held)
    subnets = _subnets(wanted) - _subnets(held)
    ports = {(protocol, port) for _, protocol, port, _ in _claims(wanted) - _claims(held)}
    members = _members(wanted) - _members(held)
    try:
        return not any(
            network["bridge"] in bridges
            or (subnets and any(_overlaps(text, subnets) for text in network["subnets"]))
            or (ports and not ports.isdisjoint(_ports_in(network)))
            or (members and not members.isdisjoint(_members_in(network)))
            for network in found.same
        )
    except (KeyError, TypeError, ValueError):
        return False


def _bridges(host: Host) -> set[str]:
    return {network.bridge for network in host.networks}


def _subnets(host: Host) -> set[Prefix]:
    return {subnet for network in host.networks for subnet in network.subnets}


def _overlaps(text: str, subnets: set[Prefix]) -> bool:
    there = ip_network(text)
    return any(there.version == s.version and there.overlaps(s) for s in subnets)


_Claim: TypeAlias = tuple[Family, str, int, Address | None]
"""A published port: family, protocol, number and the address it is bound to (None: every one)."""


def _claims(host: Host) -> set[_Claim]:
    return {
        (family, publication.protocol.value, port, publication.bound_address(family))
        for network in host.networks
        for container in network.containers
        for family in Family
        if container.address(family) is not None and not network.is_routed(family)
        for publication in container.publish
        if publication.covers(family) and publication.host_port is not None
        for port in range(publication.host_port, publication.host_port + publication.count)
    }


def _ports_in(network: _Table) -> set[_Port]:
    """The host ports of a network in a document."""
    boxes = network.get("container", ())
    return set[_Port]().union(*(_host_ports(box.get("publish", [])) for box in boxes))


_Member: TypeAlias = tuple[str, str | Address]
"""A network, and a name or an address that only one of its containers may have."""


def _members(host: Host) -> set[_Member]:
    return {
        (network.name, mark)
        for network in host.networks
        for container in network.containers
        for mark in (container.name, *map(container.address, Family))
        if mark is not None
    }


def _members_in(network: _Table) -> Iterator[_Member]:
    for container in network.get("container", ()):
        yield network["name"], container["name"]
        texts = (container.get(family.value) for family in Family)
        yield from ((network["name"], ip_address(text)) for text in texts if text is not None)


# --- what differs ---------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """Of two versions of a table: what is in the one, in the other, and in both."""

    held: _Table
    wanted: _Table
    same: _Table


def difference(held: object, wanted: object) -> Difference | None:
    """What differs; None if the options do, or one of the two is no document worth comparing."""
    if not isinstance(held, Mapping) or not isinstance(wanted, Mapping):
        return None
    before, after = cast("Document", held), cast("Document", wanted)
    ours, theirs = _by_name(before.get("network", [])), _by_name(after.get("network", []))
    options = _but("network", after)
    if ours is None or theirs is None or _but("network", before) != options:
        return None
    return Difference(options, *_divided(ours, theirs, _network_parts))


def _divided(
    ours: dict[str, _Table],
    theirs: dict[str, _Table],
    parts_of: Callable[[_Table, _Table], _Parts | None],
) -> tuple[list[_Table], list[_Table], list[_Table]]:
    """Tables by name: those held, those wanted, those in both; `parts_of` divides one of them."""
    held, wanted, same = list[_Table](), list[_Table](), list[_Table]()
    for name in {**ours, **theirs}:
        before, after = ours.get(name), theirs.get(name)
        if before is None or after is None:
            held += [] if before is None else [before]
            wanted += [] if after is None else [after]
        elif before == after:
            same.append(after)
        elif parts := parts_of(before, after):
            held.append(parts.held)
            wanted.append(parts.wanted)
            same.append(parts.same)
        else:
            held.append(before)
            wanted.append(after)
    return held, wanted, same


def _network_parts(before: _Table, after: _Table) -> _Parts | None:
    """By containers; None if more than these differs."""
    ours, theirs = _by_name(before.get("container", [])), _by_name(after.get("container", []))
    traits = _but("container", after)
    if ours is None or theirs is None or _but("container", before) != traits:
        return None
    divided = _divided(ours, theirs, _container_parts)
    return _Parts(*({**traits, "container": containers} for containers in divided))


def _container_parts(before: _Table, after: _Table) -> _Parts | None:
    """By what it publishes; None if more than that differs, or if what differs shares a port."""
    traits = _but("publish", after)
    if _but("publish", before) != traits:
        return None
    ours, theirs = before.get("publish", []), after.get("publish", [])
    try:
        held, wanted = _publications(_beside(ours, theirs)), _publications(_beside(theirs, ours))
        shared = held.keys() & wanted.keys()  # in other words
        same = [*_common(theirs, ours), *(wanted[found] for found in shared)]
        gone, come = (
            [item for key, item in found.items() if key not in shared] for found in (held, wanted)
        )
        if not _openings([*gone, *come]).isdisjoint(_openings(same)):
            return None
    except (TypeError, ValueError):
        return None
    return _Parts(*({**traits, "publish": items} for items in (gone, come, same)))


def _common(items: _Items, others: _Items) -> _Items:
    """The items that `others` has in the same words; raises `ValueError` if one is there twice.

    Texts are compared as they are: nothing is read that a large container goes on to publish.
    """
    texts = [item for item in items if isinstance(item, str)]
    if len(set(texts)) < len(texts):
        raise ValueError(items)
    theirs = {item for item in others if isinstance(item, str)}
    return [text for text in texts if text in theirs]


def _beside(items: _Items, others: _Items) -> _Items:
    """The items that `others` does not have in the same words."""
    texts = {item for item in others if isinstance(item, str)}
    return [item for item in items if not isinstance(item, str) or item not in texts]


class _Published(NamedTuple):
    """A publication; `host_port` and `container_port` are the first of `number`."""

    protocol: str
    host_port: int | None
    container_port: int
    number: int
    host_address: Address | None = None


def _publications(items: _Items) -> dict[_Published, object]:
    """The items by what they say; raises `ValueError` if two say the same."""
    found = {_read(item): item for item in items}
    if len(found) < len(items):
        raise ValueError(items)
    return found


_Port: TypeAlias = tuple[str, int]
"""A protocol and a number."""


def _host_ports(items: _Items) -> set[_Port]:
    """What is taken on the host, at whatever address."""
    plain, others = _plain_and_others(items)
    ports = {("tcp", int(host_port)) for host_port, _ in plain}
    ports |= {port for o in others if o.host_port is not None for port in _ports(o, o.host_port)}
    return ports


def _openings(items: _Items) -> set[_Port]:
    """The container ports."""
    plain, others = _plain_and_others(items)
    ports = {("tcp", int(container_port)) for _, container_port in plain}
    ports |= {port for o in others for port in _ports(o, o.container_port)}
    return ports


def _ports(found: _Published, first: int) -> Iterator[_Port]:
    return ((found.protocol, first + n) for n in range(found.number))


def _plain_and_others(items: _Items) -> tuple[list[tuple[str, str]], list[_Published]]:
    """The items: host port and container port of plain ones, and what all others say.

    Nearly all are plain, in files with thousands.
    """
    found = (PLAIN.fullmatch(item) if isinstance(item, str) else None for item in items)
    plain = [(ports[1], ports[2]) for ports in found if ports is not None]
    if len(plain) == len(items):
        return plain, []
    return plain, [_read(item) for item in items if not _is_plain(item)]


def _is_plain(item: object) -> bool:
    return isinstance(item, str) and PLAIN.fullmatch(item) is not None


def _read(item: object) -> _Published:
    """One item of a list `publish`; raises `ValueError` if it cannot be read."""
    found = schema.read_item(item)
    if found is None:
        raise ValueError(item)
    protocol, address = found.protocol.value, found.host_address
    return _Published(protocol, found.host_port, found.container_port, found.count, address)


def _but(key: str, table: Document) -> Document:
    return {name: value for name, value in table.items() if name != key}


def _by_name(tables: object) -> dict[str, _Table] | None:
    """Tables by name; None where something is not what a host file may hold."""
    if not isinstance(tables, list):
        return None
    found: dict[str, _Table] = {}
    for item in cast("list[object]", tables):
        table = cast("_Table", item) if type(item) is dict else {}
        name = table.get("name")
        if not isinstance(name, str) or name in found:
            return None
        found[name] = table
    return found
