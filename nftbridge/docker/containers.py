"""One inspected container (``GET /containers/ID/json``) as a container of the model per network.

Published ports are taken as they are bound (``NetworkSettings.Ports``), not as they were asked for:
ephemeral ports are numbers there, and default addresses are filled in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from nftbridge.docker.item import Item
from nftbridge.errors import Problem
from nftbridge.model import Address, Container, Family, Protocol, Publication
from nftbridge.model.checks import LAST_PORT, quoted

_SHARED = "container:"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A running container in one network, which is given by its ID and, for messages, its name."""

    network: str
    network_name: str
    container: Container


@dataclass(frozen=True, slots=True)
class InspectedContainer:
    """A container as Docker told it, with its end points in networks of every driver.

    It has none while it does not run, or if it lives in another container's network namespace.
    `links` are the containers that ``--link`` named, as Docker writes them. `sandbox` is where
    Docker keeps its network namespace, as Docker sees the file system; "" if there is none of its
    own, as on the host's network.
    """

    identity: str
    name: str
    endpoints: tuple[Endpoint, ...] = ()
    links: tuple[str, ...] = ()
    remarks: tuple[Problem, ...] = ()
    sandbox: str = ""


def container_of(inspect: Item) -> InspectedContainer:
    """What one container amounts to. Raises `InputError` if this is no inspected container."""
    identity, name = inspect["Id"].required(), inspect["Name"].required().removeprefix("/")
    if not inspect["State"]["Running"].flag():
        return InspectedContainer(identity, name)
    attachments = tuple(_attachments(inspect["NetworkSettings"]["Networks"]))
    bindings = tuple(_bindings(inspect["NetworkSettings"]["Ports"]))
    placed = _placed(attachments, bindings)
    endpoints = (_endpoint(name, a, placed.get(a.network, ())) for a in attachments)
    links = tuple(link.text() for link in inspect["HostConfig"]["Links"].elements())
    remarks = (*_shared(inspect, name), *_unserved(name, attachments, bindings, placed))
    own = any(a.ipv4 or a.ipv6 for a in attachments)
    sandbox = inspect["NetworkSettings"]["SandboxKey"].text() if own else ""
    return InspectedContainer(identity, name, tuple(endpoints), links, remarks, sandbox)


class _Binding(NamedTuple):
    """One port bound on one address; `host_port` is None where the network is routed."""

    protocol: Protocol
    address: Address
    container_port: int
    host_port: int | None

    @property
    def family(self) -> Family:
        return Family.of(self.address)

    def publication(self) -> Publication:
        return Publication(self.container_port, self.host_port, self.address, self.protocol)


@dataclass(frozen=True, slots=True)
class _Attachment:
    """An end point before it is known which ports it serves."""

    network: str
    network_name: str
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    gateways: frozenset[Family]
    priority: int

    def has(self, family: Family) -> bool:
        return (self.ipv4 if family is Family.IPV4 else self.ipv6) is not None


def _attachments(networks: Item) -> Iterator[_Attachment]:
    """Those that are in use; a container between two starts is attached in name only."""
    for name, settings in networks.members().items():
        if not settings["EndpointID"].text():
            continue
        gateways = ((Family.IPV4, "Gateway"), (Family.IPV6, "IPv6Gateway"))
        yield _Attachment(
            settings["NetworkID"].required(),
            name,
            settings["IPAddress"].address(IPv4Address),
            settings["GlobalIPv6Address"].address(IPv6Address),
            frozenset(family for family, key in gateways if settings[key].text()),
            settings["GwPriority"].number(),
        )


def _endpoint(name: str, attachment: _Attachment, bindings: Sequence[_Binding]) -> Endpoint:
    publish = _ranges(_publications(bindings, attachment))
    container = Container(name, attachment.ipv4, attachment.ipv6, publish)
    return Endpoint(attachment.network, attachment.network_name, container)


# --- which network serves a port -----------------------------------------------------------------


def _placed(
    attachments: Sequence[_Attachment], bindings: Sequence[_Binding]
) -> dict[str, list[_Binding]]:
    """The bindings by the ID of the network that serves them: the one of their default route.

    A network with gateways of both families comes first, whatever its priority (API 1.48) is;
    among equals the higher priority decides, then the name. A family that has no gateway is served
    where the other one is. (Seen with Docker 28.5.2.)
    """
    candidates = sorted(
        (a for a in attachments if a.gateways),
        key=lambda a: (-len(a.gateways), -a.priority, a.network_name),
    )
    placed: dict[str, list[_Binding]] = {}
    for binding in bindings:
        own = (a for a in candidates if binding.family in a.gateways)
        server = next(own, candidates[0] if candidates else None)
        if server is not None:
            placed.setdefault(server.network, []).append(binding)
    return placed


def _unserved(
    name: str,
    attachments: Sequence[_Attachment],
    bindings: Sequence[_Binding],
    placed: dict[str, list[_Binding]],
) -> Iterator[Problem]:
    """Remarks on bound ports that no rule is made for."""
    where = f"container {quoted(name)}"
    if bindings and not placed:
        ports = ", ".join(dict.fromkeys(str(b.publication()) for b in bindings))
        message = f"{ports} is left out: none of its networks has a gateway to serve it"
        yield Problem(where, message, "ports of swarm's networks are swarm's")
    for attachment in attachments:
        mine = placed.get(attachment.network, ())
        for binding in mine:
            if not attachment.has(binding.family) and binding not in _everywhere(mine):
                message = f"{binding.publication()} is left out: it has no {binding.family.label}"
                hint = "Docker's proxy process serves it without rules, if there is one"
                yield Problem(where, f"{message} address", hint)


def _shared(inspect: Item, name: str) -> Iterator[Problem]:
    mode = inspect["HostConfig"]["NetworkMode"].text()
    if mode.startswith(_SHARED):
        other = mode.removeprefix(_SHARED)[:12]
        message = f"is left out: it lives in the network namespace of container {other}"
        yield Problem(f"container {quoted(name)}", message, "what that one publishes is for both")


# --- bindings as publications --------------------------------------------------------------------


def _bindings(ports: Item) -> Iterator[_Binding]:
    """``"80/tcp": null`` is a port that the image exposes, and nothing is bound to it."""
    for key, bound in ports.members().items():
        number, _, name = key.partition("/")
        if name not in set(Protocol) or not _is_port(number):
            ports.refuse(f"bindings by port and protocol, such as 80/tcp; {quoted(key)} is none")
        for item in bound.elements():
            for address in _bound_addresses(item["HostIp"]):
                yield _Binding(Protocol(name), address, int(number), _host_port(item["HostPort"]))


def _bound_addresses(item: Item) -> tuple[Address, ...]:
    """An empty text means all addresses of both families."""
    try:
        found = [ip_address(text) for text in (item.text(),) if text]
    except ValueError:
        item.refuse("an IP address")
    return tuple(found) or (IPv4Address(0), IPv6Address(0))


def _host_port(item: Item) -> int | None:
    text = item.text()
    if text in {"", "0"}:
        return None
    return int(text) if _is_port(text) else item.refuse("a port in quotes")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6 and 0 < int(text) <= LAST_PORT


def _everywhere(bindings: Iterable[_Binding]) -> set[_Binding]:
    """Those that are bound to all addresses of both families, both of each pair."""
    wild = {binding for binding in bindings if binding.address.is_unspecified}
    other: dict[Family, Address] = {Family.IPV4: IPv6Address(0), Family.IPV6: IPv4Address(0)}
    return {binding for binding in wild if binding._replace(address=other[binding.family]) in wild}


def _publications(bindings: Sequence[_Binding], attachment: _Attachment) -> Iterator[Publication]:
    everywhere = _everywhere(bindings)
    for binding in bindings:
        if binding not in everywhere:
            if attachment.has(binding.family):
                yield binding.publication()
        elif binding.family is Family.IPV4:
            yield replace(binding.publication(), host_address=None)


def _ranges(publications: Iterable[Publication]) -> tuple[Publication, ...]:
    """Single ports that follow one another, as ranges; by protocol, address and port."""
    found: list[Publication] = []
    for publication in sorted(publications, key=_along):
        last = found[-1] if found else None
        if last is not None and publication == _next(last):
            found[-1] = replace(last, count=last.count + 1)
        else:
            found.append(publication)
    return tuple(sorted(found, key=_shown))


def _next(last: Publication) -> Publication:
    """The single port that would make `last` longer."""
    container = last.container_port + last.count
    host = None if last.host_port is None else last.host_port + last.count
    return replace(last, container_port=container, host_port=host, count=1)


def _along(publication: Publication) -> tuple[str, str, int, int]:
    """Sorts ports with the same distance between inside and outside one after another."""
    inside, outside = publication.container_port, publication.host_port
    distance = LAST_PORT if outside is None else outside - inside
    return publication.protocol, str(publication.host_address), distance, inside


def _shown(publication: Publication) -> tuple[str, int, int, str]:
    inside, outside = publication.container_port, publication.host_port
    return publication.protocol, outside or 0, inside, str(publication.host_address)
