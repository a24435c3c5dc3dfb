"""All networks and containers of an Engine as one host, and what the host leaves out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import cast

from nftbridge.docker.containers import InspectedContainer
from nftbridge.docker.item import Item
from nftbridge.docker.networks import BUILT_IN, ID_SHOWN, InspectedNetwork
from nftbridge.errors import Problem
from nftbridge.model import Container, Finding, Host, Network, host_findings
from nftbridge.model.checks import Path, quoted


@dataclass(frozen=True, slots=True)
class Inspected:
    """What Docker told, whoever asked: each container and network, and ``GET /info`` or null.

    Not `whole`: there is more to come.
    """

    networks: tuple[InspectedNetwork, ...]
    containers: tuple[InspectedContainer, ...]
    info: Item
    whole: bool = True


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """Options of the daemon that its API does not tell; None where nobody else does either."""

    userland_proxy: bool | None = None
    allow_direct_routing: bool | None = None
    ip_masq: bool | None = None

    def otherwise(self, other: DaemonOptions) -> DaemonOptions:
        """These, and what the other ones say of what they do not."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return DaemonOptions(*(its if mine is None else mine for mine, its in pairs))


UNKNOWN = DaemonOptions()


@dataclass(frozen=True, slots=True)
class Import:
    """A host, and `remarks`: what it leaves out, and what had to be assumed."""

    host: Host
    remarks: tuple[Problem, ...]


def host_of(inspected: Inspected, options: DaemonOptions) -> Import:
    """The host that these make up, networks and containers by name.

    What the model cannot hold, or refuses, is left out with a remark.
    """
    networks, remarks = _networks_of(inspected, (), options)
    about = (*_about_options(options), *_about_engine(inspected.info))
    return Import(replace(empty(options), networks=networks), (*about, *remarks))


def joined(own: Host, inspected: Inspected, options: DaemonOptions = UNKNOWN) -> Import:
    """`own` with Docker's networks after its own ones.

    What does not go together with `own` is left out with a remark, as what the model refuses is. A
    network of Docker's that only has the name of one in `own` gets its ID behind it.
    """
    networks, remarks = _networks_of(inspected, own.networks, options)
    return Import(replace(own, networks=networks), (*_about_swarm(inspected.info), *remarks))


def in_swarm(info: Item) -> bool:
    """Whether ``GET /info`` says that the Engine is a node of a swarm, or about to become one.

    Of all that it says, this alone counts for `joined`.
    """
    return info["Swarm"]["LocalNodeState"].text("inactive") != "inactive"


def clashes(own: Host, inspected: Inspected) -> tuple[Problem, ...]:
    """What in `own` does not go together with what Docker has: names, bridges, subnets, ports."""
    theirs, _ = _networks_of(inspected, (), UNKNOWN)
    networks = (*theirs, *own.networks)
    return tuple(
        Problem(_place(f.path, networks), _told(f, networks), f.hint)
        for f in host_findings(networks)
    )


def _networks_of(
    inspected: Inspected, own: tuple[Network, ...], options: DaemonOptions
) -> tuple[tuple[Network, ...], tuple[Problem, ...]]:
    """The networks that are consistent, `own` ones first, and remarks about all others."""
    denied = _about_masquerading(inspected, options)
    inspected = _masqueraded(_in_order(inspected), options)
    inside = _containers(inspected)
    networks = (*own, *_whole(inspected.networks, inside, [network.name for network in own]))
    networks, refused = _consistent(networks, len(own))
    remarks = (
        *_about_networks(inspected.networks, inside),
        *(remark for container in inspected.containers for remark in container.remarks),
        *_about_endpoints(inspected),
        *denied,
        *refused,
    )
    return networks, remarks


def _masqueraded(inspected: Inspected, options: DaemonOptions) -> Inspected:
    """The same with the default bridge as the daemon was told, which it says of no such network."""
    if options.ip_masq is False:
        return inspected
    networks = (
        replace(one, network=replace(one.network, masquerade=True))
        if one.unmasked and one.network is not None
        else one
        for one in inspected.networks
    )
    return replace(inspected, networks=tuple(networks))


def _in_order(inspected: Inspected) -> Inspected:
    """The same in an order that does not depend on when things were made."""
    networks = sorted(inspected.networks, key=lambda n: (n.name, n.identity))
    containers = sorted(inspected.containers, key=lambda c: (c.name, c.identity))
    return replace(inspected, networks=tuple(networks), containers=tuple(containers))


def empty(options: DaemonOptions) -> Host:
    """A host without networks; Docker looks for WSL2's mirrored mode by itself, as "auto" does."""
    return Host(
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
    found: Sequence[InspectedNetwork],
    inside: Mapping[str, Sequence[Container]],
    taken: Sequence[str],
) -> Iterator[Network]:
    """The bridges with their containers; an ID tells networks of the same name apart."""
    names = Counter([*taken, *(network.name for network in found)])
    for one in found:
        if one.network is not None:
            unique, short = names[one.name] == 1, one.identity[:ID_SHOWN]
            name = one.name if unique else f"{one.name}-{short}"
            name = name if name.isprintable() else short  # no rule depends on it
            yield replace(one.network, name=name, containers=tuple(inside[one.identity]))


# --- what the model refuses ----------------------------------------------------------------------


def _consistent(
    networks: tuple[Network, ...], own: int
) -> tuple[tuple[Network, ...], list[Problem]]:
    """The networks without what violates a rule of the model, and remarks about that.

    Of a publication only itself goes, such as one that binds an address twice; else its network.
    The first `own` networks stay as they are, since they are consistent without the others.
    """
    remarks: list[Problem] = []
    while findings := list(host_findings(networks)):
        ports = [finding for finding in findings if "publish" in finding.path]
        culprits = ports or findings[:1]
        remarks += (_refused(finding, networks, own) for finding in culprits)
        places = {finding.path for finding in culprits}
        networks = tuple(
            _without(network, index, places)
            for index, network in enumerate(networks)
            if ports or index != _culprit(culprits[0], own)[1]
        )
    return networks, remarks


def _culprit(finding: Finding, own: int) -> Path:
    """Of two networks, the one that is not fixed: a smaller subnet is found fault with first."""
    fixed = cast("int", finding.path[1]) < own
    return finding.other if fixed and finding.other is not None else finding.path


def _without(network: Network, index: int, places: set[Path]) -> Network:
    """A network without the publications at these places."""
    if not any(place[1] == index for place in places):
        return network
    containers = (
        replace(
            container,
            publish=tuple(
                publication
                for k, publication in enumerate(container.publish)
                if ("network", index, "container", j, "publish", k) not in places
            ),
        )
        for j, container in enumerate(network.containers)
    )
    return replace(network, containers=tuple(containers))


def _refused(finding: Finding, networks: Sequence[Network], own: int) -> Problem:
    path, told = _culprit(finding, own), _told(finding, networks)
    if path != finding.path:
        told = f"of {_network_at(finding.path, networks)}, {told}"
    match finding.path:
        case ("network", int(i), "container", int(j), "publish", int(k)):
            message = f"{networks[i].containers[j].publish[k]} is left out: {told}"
        case _:
            message = f"is left out, so that no rule guards it: {told}"
    return Problem(_place(path, networks), message, finding.hint)


def _told(finding: Finding, networks: Sequence[Network]) -> str:
    return finding.told(lambda path: _network_at(path, networks))


def _place(path: Path, networks: Sequence[Network]) -> str:
    """The container of a publication, else the network."""
    match path:
        case ("network", int(i), "container", int(j), "publish", _):
            container = networks[i].containers[j]
            return f"container {quoted(container.name)} of {_network_at(path, networks)}"
        case _:
            return _network_at(path, networks)


def _network_at(path: Path, networks: Sequence[Network]) -> str:
    return f"network {quoted(networks[cast('int', path[1])].name)}"


# --- remarks -------------------------------------------------------------------------------------


def _about_networks(
    found: Sequence[InspectedNetwork], inside: Mapping[str, Sequence[Container]]
) -> Iterator[Problem]:
    """Those of every Engine that are no bridges matter where they are used."""
    for network in found:
        containers = inside[network.identity]
        yield from network.remarks
        if network.network is None and (containers or network.driver not in BUILT_IN):
            names = ", ".join(quoted(container.name) for container in containers)
            message = f"is left out: {network.left_out}"
            if names:
                message += f"; containers: {names}"
            yield Problem(f"network {quoted(network.name)}", message)


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


def _about_masquerading(inspected: Inspected, options: DaemonOptions) -> Iterator[Problem]:
    for one in inspected.networks if options.ip_masq is None else ():
        if one.unmasked:
            message = "is taken to be masqueraded: without a firewall of its own Docker denies it"
            hint = "say --ip-masq or --no-ip-masq, as the daemon was started"
            yield Problem(f"network {quoted(one.name)}", message, hint)


def _about_engine(info: Item) -> Iterator[Problem]:
    """From API 1.49 on it tells what it programs; 28.5.2 does so with iptables off, too."""
    driver = info["FirewallBackend"]["Driver"].text()
    if driver:
        message = f"may be on ({driver}): its rules and these would be in force together"
        hint = 'it is off with "iptables": false in daemon.json, which Docker\'s API does not tell'
        yield Problem("Docker's own firewall", message, hint)
    yield from _about_swarm(info)
    if any("rootless" in option.text() for option in info["SecurityOptions"].elements()):
        message = "the networks are in a network namespace of Docker's own, not in the host's"
        yield Problem("rootless mode", message, "name that one with --netns when you apply")


def _about_swarm(info: Item) -> Iterator[Problem]:
    if in_swarm(info):
        message = "is in use: ports of services and traffic between nodes are left out"
        yield Problem("swarm", message, "leave Docker's own firewall on")


def _about_endpoints(inspected: Inspected) -> Iterator[Problem]:
    """What the rules for single end points leave out, and what of them was not inspected."""
    linking = {network.identity for network in inspected.networks if network.links}
    for container in inspected.containers:
        if container.links and any(end.network in linking for end in container.endpoints):
            message = "its --link is left out: Docker opens ports to it in spite of icc = false"
            hint = "a rule in DOCKER-USER can do the same"
            yield Problem(f"container {quoted(container.name)}", message, hint)
    if inspected.whole:
        yield from _about_halves(inspected)


def _about_halves(inspected: Inspected) -> Iterator[Problem]:
    """What is known of an end point's container, but not of its network, or the reverse."""
    known = {network.identity for network in inspected.networks}
    for container in inspected.containers:
        for endpoint in container.endpoints:
            if endpoint.network not in known:
                message = f"is left out of network {quoted(endpoint.network_name)}"
                hint = "docker network inspect tells of it"
                place = f"container {quoted(container.name)}"
                yield Problem(place, f"{message}, which was not inspected", hint)
    for network, member in _strangers(inspected):
        message = f"was not inspected, only its network {quoted(network.name)}: no port is open"
        place = f"container {quoted(member.name)}"
        yield Problem(place, message, "docker container inspect tells what it publishes")
