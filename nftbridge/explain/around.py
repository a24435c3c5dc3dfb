"""What the model does not say of the host and an explanation needs: its addresses and routes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from nftbridge.errors import Problem
from nftbridge.explain.names import Names
from nftbridge.explain.question import Question
from nftbridge.model import Address
from nftbridge.policy.path import Surroundings

SOME_UPLINK = "an uplink"
"""Stands for the interface out where nobody said which; no real one has a space in its name."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """The host as it is taken to be; `notes` says what of it is guessed."""

    surroundings: Surroundings
    notes: tuple[str, ...]


def assume(names: Names, question: Question) -> Assumed:
    """The host's addresses and routes, as far as the model and the question tell, else guessed."""
    known = {*names.own, *question.host_addresses}
    source = question.source
    if not question.iif and names.container_at(source) is None:
        known.add(source)
    own, notes = set(known), list[str]()
    destination = question.destination
    if not (destination in known or destination.is_loopback or names.network_around(destination)):
        told = bool(question.oif or question.host_addresses)
        if not told and _comes_from_outside(names, question):
            own.add(destination)
        if not told:
            notes.append(_guess(destination, is_own=destination in own))
    prefixes = [(s, n.bridge) for n in names.host.networks for s in n.subnets]
    if question.iif and names.network_around(source) is None:
        prefixes.append((ip_network(source), question.iif))  # the answer goes back the same way
    around = Surroundings(frozenset(own), tuple(prefixes), question.oif or SOME_UPLINK)
    return Assumed(around, (*notes, *_notes(names, question)))


def doubts(names: Names, question: Question) -> Iterator[Problem]:
    """What is odd about the question; it is followed all the same."""
    source, iif, network = question.source, question.iif, names.network_on(question.iif)
    around = names.network_around(source)
    if iif and source.is_loopback:
        hint = "give --in host if the host itself sends it"
        yield Problem("--src", f"the kernel takes no packets from {source} by {iif}", hint)
    elif network and around is not network and not source.is_link_local:
        subnets = ", ".join(map(str, network.subnets))
        message = f"{source} does not belong to {iif}, which has {subnets}"
        yield Problem("--src", message, f"give the address of a container of '{network.name}'")
    elif iif and network is None and around:
        message = f"{source} belongs to {around.bridge}, not to {iif}"
        yield Problem("--src", message, f"give --in {around.bridge}, or an address from outside")
    elif not iif and names.container_at(source) and around:
        message = f"{source} is not the host's: container '{_at(names, source)}' has it"
        yield Problem("--src", message, f"give --in {around.bridge}")
    yield from _unused_way_out(names, question)


def _unused_way_out(names: Names, question: Question) -> Iterator[Problem]:
    network = names.network_around(question.destination)
    if network and question.oif not in ("", network.bridge):
        message = f"not used: {question.destination} lies in the subnet of {network.bridge}"
        yield Problem("--out", message, "leave it out")


def _comes_from_outside(names: Names, question: Question) -> bool:
    return bool(question.iif) and names.network_on(question.iif) is None


def _guess(address: Address, *, is_own: bool) -> str:
    if is_own:
        return (
            f"{address} is assumed to be an address of the host, since it lies in no subnet of the"
            " model; --host-address or --out would tell"
        )
    return f"{address} is assumed to be elsewhere, not the host's; --host-address would tell"


def _notes(names: Names, question: Question) -> Iterator[str]:
    family = question.family
    if family not in names.host.families():
        yield f"the host file switches {family.label} off: no rule concerns it"
    if question.destination in names.gateways:
        network = names.network_around(question.destination)
        bridge = network.bridge if network else ""
        yield f"{question.destination} is assumed to be the address of {bridge}, the first there"


def _at(names: Names, address: Address) -> str:
    container = names.container_at(address)
    return container.name if container else ""
