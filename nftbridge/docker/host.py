"""All networks and containers of an Engine as one host, and what the host leaves out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nftbridge.docker.containers import InspectedContainer
from nftbridge.docker.item import Item
from nftbridge.docker.networks import BUILT_IN, ID_SHOWN, InspectedNetwork
from nftbridge.errors import Problem
from nftbridge.model import Container, Host, Network, host_findings
from nftbridge.model.checks import quoted


@dataclass(frozen=True, slots=True)
class Inspected:
    """What Docker told, whoever asked: each container and network, and ``GET /info`` or null."""

    networks: tuple[InspectedNetwork, ...]
    containers: tuple[InspectedContainer, ...]
    info: Item


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """Options of the daemon that its API does not tell; None where the user does not say either."""

    userland_proxy: bool | None = None
    allow_direct_routing: bool | None = None


@dataclass(frozen=True, slots=True)
class Import:
    """A host, and `remarks`: what it leaves out, and what had to be assumed."""

    host: Host
    remarks: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a network is left out, and what to do about it, if anything."""

    reason: str
    hint: str = ""


def host_of(inspected: Inspected, options: DaemonOptions) -> Import:
    """The host that these make up, networks and containers by name.

    A network that the model refuses is left out with a remark. Raises `InputError` if the others
    are not consistent together.
    """
    inspected = _in_order(inspected)
    remarks = [*_about_options(options), *_about_engine(inspected.info)]
    networks: list[Network] = []
    names = Counter(network.name for network in inspected.networks)
    inside = _containers(inspected)
    for found in inspected.networks:
        members = inside[found.identity]
        network = _whole(found, members, unique=names[found.name] == 1)
        if isinstance(network, Network):
            networks.append(network)
            remarks += found.remarks
        elif members or found.driver not in BUILT_IN:
            remarks.append(_left_out(found, members, network))
    remarks += (remark for container in inspected.containers for remark in container.remarks)
    remarks += _about_endpoints(inspected)
    return Import(_host(networks, options), tuple(remarks))


def _in_order(inspected: Inspected) -> Inspected:
    """The same in an order that does not depend on when things were made."""
    networks = sorted(inspected.networks, key=lambda n: (n.name, n.identity))
    containers = sorted(inspected.containers, key=lambda c: (c.name, c.identity))
    return replace(inspected, networks=tuple(networks), containers=tuple(containers))


def _host(networks: Sequence[Network], options: DaemonOptions) -> Host:
    """Docker looks for WSL2's mirrored mode by itself, as "auto" does."""
    return Host(
        tuple(networks),
        userland_proxy=options.userland_proxy is not False,
        allow_direct_routing=options.allow_direct_routing is True,
        wsl2_mirrored=None,
    )


def _containers(inspected: Inspected) -> dict[str, list[Container]]:
    """The containers of each network, by its ID: as they tell it, or else as the network does."""
    inside: dict[str, list[Container]] = {network.identity: [] for network in inspected.networks}
    for container in inspected.containers:
        for endpoint in container.endpoints:
            inside.setdefault(endpoint.network, []).append(endpoint.container)
    for network, member in _strangers(inspected):
        inside[network.identity].append(member)
    return {identity: sorted(found, key=lambda c: c.name) for identity, found in inside.items()}


def _strangers(inspected: Inspected) -> Iterator[tuple[InspectedNetwork, Container]]:
    """End points that only their network tells of, such as those of swarm's gateways."""
    known = {container.identity for container in inspected.containers}
    for network in inspected.networks:
        for identity, member in network.members.items():
            if identity not in known:
                yield network, member


def _whole(
    found: InspectedNetwork, containers: Sequence[Container], *, unique: bool
) -> Network | Refusal:
    """The network with its containers, or why the model cannot hold it.

    Its ID tells it from others of the same name.
    """
    if found.network is None:
        return Refusal(found.left_out)
    name = found.name if unique else f"{found.name}-{found.identity[:ID_SHOWN]}"
    network = replace(found.network, name=name, containers=tuple(containers))
    finding = next(host_findings([network]), None)
    return network if finding is None else Refusal(finding.message, finding.hint)


# --- remarks -------------------------------------------------------------------------------------


def _left_out(
    found: InspectedNetwork, containers: Sequence[Container], refusal: Refusal
) -> Problem:
    names = ", ".join(quoted(container.name) for container in containers)
    whose = f"; containers: {names}" if names else ""
    message = f"is left out: {refusal.reason}{whose}"
    return Problem(f"network {quoted(found.name)}", message, refusal.hint)


def _about_options(options: DaemonOptions) -> Iterator[Problem]:
    for name, value, assumed in (
        ("userland_proxy", options.userland_proxy, "true"),
        ("allow_direct_routing", options.allow_direct_routing, "false"),
    ):
        if value is None:
            option = name.replace("_", "-")
            message = f"{assumed} is assumed, since Docker's API does not tell"
            hint = f"say --{option} or --no-{option}, as the daemon was started"
            yield Problem(f"host.{name}", message, hint)


def _about_engine(info: Item) -> Iterator[Problem]:
    if info["Swarm"]["LocalNodeState"].text("inactive") != "inactive":
        message = "is in use: ports of services and traffic between nodes are left out"
        yield Problem("swarm", message, "leave Docker's own firewall on")
    if any("rootless" in option.text() for option in info["SecurityOptions"].elements()):
        message = "the networks are in a network namespace of Docker's own, not in the host's"
        yield Problem("rootless mode", message, "name that one with --netns when you apply")


def _about_endpoints(inspected: Inspected) -> Iterator[Problem]:
    """What is known of an end point's container, but not of its network, or the reverse."""
    networks = {network.identity: network for network in inspected.networks}
    for container in inspected.containers:
        place = f"container {quoted(container.name)}"
        for endpoint in container.endpoints:
            network = networks.get(endpoint.network)
            if network is None:
                message = f"is left out of network {quoted(endpoint.network_name)}"
                hint = "docker network inspect tells of it"
                yield Problem(place, f"{message}, which was not inspected", hint)
            elif container.links and network.links:
                message = "its --link is left out: Docker opens ports to it in spite of icc = false"
                yield Problem(place, message, "a rule in DOCKER-USER can do the same")
    for network, member in _strangers(inspected):
        message = f"was not inspected, only its network {quoted(network.name)}: no port is open"
        place = f"container {quoted(member.name)}"
        yield Problem(place, message, "docker container inspect tells what it publishes")
