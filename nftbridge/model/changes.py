"""Changes to a host: what comes or goes, as data, and what a host is after them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from nftbridge.errors import InputError, Problem
from nftbridge.model.checks import quoted
from nftbridge.model.host import Host
from nftbridge.model.parts import Container, Network, Publication


@dataclass(frozen=True, slots=True)
class Create:
    """A network comes, with its containers."""

    network: Network


@dataclass(frozen=True, slots=True)
class Delete:
    """The network of that name goes, with its containers."""

    network: str


@dataclass(frozen=True, slots=True)
class Attach:
    """A container comes to the network of that name, with what it publishes."""

    network: str
    container: Container


@dataclass(frozen=True, slots=True)
class Detach:
    """The container of that name goes from the network of that name."""

    network: str
    container: str


@dataclass(frozen=True, slots=True)
class Publish:
    """A publication comes to a container."""

    network: str
    container: str
    publication: Publication


@dataclass(frozen=True, slots=True)
class Withdraw:
    """A publication goes from a container."""

    network: str
    container: str
    publication: Publication


Change: TypeAlias = Create | Delete | Attach | Detach | Publish | Withdraw


def changed(host: Host, changes: Iterable[Change]) -> Host:
    """`host` after the changes, in this order; what comes, comes last among its kind.

    Raises `InputError` if the result is inconsistent, or if what goes is not there.
    """
    networks = {network.name: network for network in host.networks}
    added: list[Network] = []
    for change in changes:
        match change:
            case Create(network) if network.name in networks:
                added.append(network)  # let the host say what is wrong with that
            case Create(network):
                networks[network.name] = network
            case Delete(name):
                _there(networks, name)
                del networks[name]
            case _:
                network = _there(networks, change.network)
                networks[network.name] = _changed(network, change)
    return replace(host, networks=(*networks.values(), *added))


def _changed(network: Network, change: Attach | Detach | Publish | Withdraw) -> Network:
    containers = list(network.containers)
    if isinstance(change, Attach):
        return replace(network, containers=(*containers, change.container))
    place = next((i for i, c in enumerate(containers) if c.name == change.container), None)
    if place is None:
        raise missing_container(network.name, change.container)
    if isinstance(change, Detach):
        del containers[place]
        return replace(network, containers=tuple(containers))
    published = list(containers[place].publish)
    if isinstance(change, Publish):
        published.append(change.publication)
    elif change.publication in published:
        published.remove(change.publication)
    else:
        raise missing_publication(change)
    containers[place] = replace(containers[place], publish=tuple(published))
    return replace(network, containers=tuple(containers))


def _there(networks: dict[str, Network], name: str) -> Network:
    if name not in networks:
        raise missing_network(name)
    return networks[name]


def missing_network(name: str) -> InputError:
    """What is raised for a change to a network that does not exist."""
    return _missing("", f"there is no network {quoted(name)}")


def missing_container(network: str, name: str) -> InputError:
    """What is raised for a change to a container that does not exist."""
    return _missing(f"network {quoted(network)}", f"there is no container {quoted(name)}")


def missing_publication(change: Withdraw) -> InputError:
    """What is raised if a container does not publish what it is to withdraw."""
    place = f"container {quoted(change.container)} of network {quoted(change.network)}"
    return _missing(place, f"{change.publication} is not published")


def _missing(where: str, message: str) -> InputError:
    return InputError((Problem(where, message, "name one that is there"),))
