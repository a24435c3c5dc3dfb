"""The words for every rule: why it drops and what to write instead, why it accepts or translates.

Tables by rule name; a test holds them against the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from nftbridge.explain.around import SOME_UPLINK
from nftbridge.explain.names import Names, Published
from nftbridge.model import Address, Network
from nftbridge.policy.evaluate import Packet, Step


@dataclass(frozen=True, slots=True)
class Case:
    """A packet at the rule that decides about it."""

    names: Names
    step: Step
    packet: Packet

    @property
    def coming(self) -> Network | None:
        """The network whose bridge it comes in by."""
        return self.names.network_on(self.packet.iif)

    @property
    def target(self) -> Network | None:
        """The network that its destination belongs to, by route or else by address."""
        going = self.names.network_on(self.packet.oif)
        return going or self.names.network_around(self.packet.daddr)

    @property
    def ported(self) -> bool:
        """Whether it is for a port."""
        return self.packet.dport != 0


class Stop(NamedTuple):
    """Why a packet is dropped, and what to write so that it is not."""

    why: str
    advice: str


Drops: TypeAlias = Mapping[str, Callable[[Case], Stop]]
Clauses: TypeAlias = Mapping[str, Callable[[Case], str]]


def socket_text(address: Address, port: int) -> str:
    """``172.20.0.2:81``, ``[fd00:20::2]:81``; the address alone where there is no port."""
    host = f"[{address}]" if address.version == 6 and port else str(address)
    return f"{host}:{port}" if port else host


def whose(names: Names, address: Address) -> str:
    """``container web of network frontend``, as much of it as is known; "" if nothing is."""
    network, container = names.network_around(address), names.container_at(address)
    if network is None:
        return ""
    if container is None:
        return f"network {network.name}, where the model has no container with that address"
    return f"container {container.name} of network {network.name}"


def place(names: Names, packet: Packet) -> str:
    """The packet's destination with the name of who has it in brackets."""
    owner = whose(names, packet.daddr)
    shown = socket_text(packet.daddr, packet.dport)
    return f"{shown} ({owner})" if owner else shown


def _called(network: Network | None) -> str:
    return f"network {network.name}" if network else "the network"


def _by(interface: str) -> str:
    return interface or "the host"


# Drops ---------------------------------------------------------------------------------------


def _direct_access(case: Case) -> Stop:
    packet, network = case.packet, case.target
    bridge = network.bridge if network else "their bridge"
    why = (
        f"{place(case.names, packet)} must not be addressed directly by way of"
        f" {_by(packet.iif)}, only from {bridge}"
    )
    if case.coming is not None and not _proxied(case):
        return Stop(why, _between_networks(case))
    if not case.ported:
        modes = '"routed"' if case.coming else _OPEN_MODES
        return Stop(why, f"set gateway_mode_{packet.family.value} = {modes} for {_called(network)}")
    opened = case.names.opening(packet.daddr, packet.protocol, packet.dport)
    if opened is not None and _is_outside(opened, packet):
        return Stop(why, f"{_front_door(case, opened)}, or {_trust(case)}")
    return Stop(why, f"{_publication(case)} and connect to the host's address, or {_NEIGHBOUR}")


_OPEN_MODES = '"nat-unprotected" or "routed"'
_NEIGHBOUR = "connect from the same network"


def _proxied(case: Case) -> bool:
    """Whether the network that it comes from reaches published ports of others, by the proxy."""
    coming = case.coming
    proxy = case.names.host.userland_proxy
    return bool(coming and proxy and coming.masquerade and not coming.internal)


def _is_outside(opened: Published, packet: Packet) -> bool:
    """Whether others than the host itself can use that publication."""
    bound = opened.publication.bound_address(packet.family)
    return opened.publication.host_port is not None and not (bound and bound.is_loopback)


def _between_networks(case: Case) -> str:
    """The advice for two networks that no proxy connects."""
    if case.coming is not None and case.coming.internal:
        return f"attach the sender to {_called(case.target)}, its own network is internal"
    mode = f'gateway_mode_{case.packet.family.value} = "routed"'
    opened = "" if not case.ported else " and open the port there"
    return (
        f"attach both containers to one network, or set {mode} for {_called(case.target)}{opened}"
    )


def _trust(case: Case) -> str:
    if case.coming is not None:
        return _NEIGHBOUR
    shown = "that uplink" if case.packet.iif == SOME_UPLINK else f'"{case.packet.iif}"'
    return f"set trusted_host_interfaces = [{shown}] for {_called(case.target)}"


def _publication(case: Case) -> str:
    """The advice to publish that port of that container."""
    network, packet = case.target, case.packet
    if network is None:
        return "publish the port"
    line = case.names.proposal(network, packet.family, packet.protocol, packet.dport)
    if case.names.container_at(packet.daddr) is None:
        return f"add a container with that address to network {network.name} ({line})"
    return f"publish it ({line})"


def _front_door(case: Case, opened: Published) -> str:
    """The advice to use what is published already."""
    publication, packet = opened.publication, case.packet
    port = (publication.host_port or 0) + packet.dport - publication.container_port
    bound = publication.bound_address(packet.family)
    where = f"port {port} of the host" if bound is None else socket_text(bound, port)
    return f"connect to {where}, publication {publication} of {opened.container.name}"


def _remote_loopback(case: Case) -> Stop:
    packet = case.packet
    found = case.names.published_at(packet.daddr, packet.protocol, packet.dport)
    shown = socket_text(packet.daddr, packet.dport)
    if found is None:  # the kernel holds a publication that the model does not have
        return Stop(f"{shown} is for programs on this host only", "publish it without 127.0.0.1")
    container, publication, suffix = found.container, found.publication, f"/{packet.protocol}"
    outside = packet.dport
    inside = publication.container_port + outside - (publication.host_port or 0)
    line = f'publish = ["{outside}:{inside}{"" if suffix == "/tcp" else suffix}"]'
    why = (
        f"publication {publication} of container {container.name} of network"
        f" {found.network.name} is for programs on this host only"
    )
    return Stop(why, f"publish it without the loopback address instead ({line})")


def _icc_denied(case: Case) -> Stop:
    why = f"containers of {_called(case.coming)} must not talk to each other (icc = false)"
    return Stop(why, "set icc = true, or put the two into a network of their own")


def _into_internal(case: Case) -> Stop:
    name = _called(case.target)
    why = f"{name} is internal, nothing from elsewhere enters it"
    attach = f"attach the sender to {name}, or " if case.coming else ""
    return Stop(why, f"{attach}set internal = false and publish the port")


def _out_of_internal(case: Case) -> Stop:
    name = _called(case.coming)
    why = f"{name} is internal, nothing leaves it"
    return Stop(why, "set internal = false, or attach the container to a second network")


def _into_other_bridge(case: Case) -> Stop:
    coming, going = case.coming, case.target
    why = f"{_called(coming)} and {_called(going)} are isolated from each other"
    if case.ported and _proxied(case):
        advice = "attach both containers to one network"
        return Stop(why, f"{advice}, or connect to a published port on the host's address")
    return Stop(why, _between_networks(case))


def _unpublished(case: Case) -> Stop:
    if not case.ported:
        why = f"{case.packet.protocol} from elsewhere is not let in to {_called(case.target)}"
        advice = f"set gateway_mode_{case.packet.family.value} = {_OPEN_MODES}"
        return Stop(why, f"{advice}, or {_NEIGHBOUR}")
    why = f"nothing published on {place(case.names, case.packet)}"
    return Stop(why, f"{_publication(case)} or {_NEIGHBOUR}")


DROPS: Drops = {
    "direct-access": _direct_access,
    "remote-loopback": _remote_loopback,
    "icc-denied": _icc_denied,
    "into-internal": _into_internal,
    "out-of-internal": _out_of_internal,
    "into-other-bridge": _into_other_bridge,
    "unpublished": _unpublished,
}
"""By rule: why it drops, and what would let the packet pass."""


def drop(case: Case) -> Stop:
    """The words for a drop; a rule that is not in the table is one of the user's own."""
    found = DROPS.get(case.step.rule.name)
    if found is not None:
        return found(case)
    why = f"{case.step.rule.name} of yours says so ({case.step.rule.reason})"
    return Stop(why, "take it out, or put an accept before it")


def dropped_answer(case: Case) -> Stop:
    """The words for an answer that is dropped: `case` is the answer, not what it answers."""
    packet, network = case.packet, case.target
    if case.step.rule.name != "direct-access" or network is None or network.masquerade:
        return drop(case)
    why = (
        f"only {network.bridge} may carry packets to {place(case.names, packet)}, which leave"
        " with their own address (masquerade = false)"
    )
    return Stop(why, f"set masquerade = true for network {network.name}, or {_trust(case)}")


# Accepts -------------------------------------------------------------------------------------


def _trusted_direct(case: Case) -> str:
    return f"{_called(case.target)} trusts {case.packet.iif}"


def _mirrored_loopback(case: Case) -> str:
    return f"Windows may use loopback publications through {case.packet.iif}"


def _egress(case: Case) -> str:
    if case.packet.iif == case.packet.oif:
        return f"containers of {_called(case.coming)} may talk to each other"
    return f"containers of {_called(case.coming)} may start connections"


def _icc_internal(case: Case) -> str:
    return f"containers of {_called(case.coming)}, which is internal, may talk to each other"


def _established(_: Case) -> str:
    return "it belongs to a connection that was let through"


def _routed_answers(case: Case) -> str:
    return f"{_called(case.coming)} is routed and answers whoever was let in"


def _open_port(case: Case) -> str:
    found = case.names.opening(case.packet.daddr, case.packet.protocol, case.packet.dport)
    if found is None:
        return f"port {case.packet.dport} is open there"
    opened = f"port {case.packet.dport} of container {found.container.name}"
    return f"publication {found.publication} opens {opened}"


def _routed_icmp(case: Case) -> str:
    return f"ICMP may enter {_called(case.target)}, which is routed"


def _unprotected(case: Case) -> str:
    return f"every port of {_called(case.target)} is open (gateway mode nat-unprotected)"


ACCEPTS: Clauses = {
    "trusted-direct": _trusted_direct,
    "mirrored-loopback": _mirrored_loopback,
    "egress": _egress,
    "icc-internal": _icc_internal,
    "established": _established,
    "routed-answers": _routed_answers,
    "open-port": _open_port,
    "routed-icmp": _routed_icmp,
    "unprotected": _unprotected,
}
"""By rule: why it accepts."""


def accept(case: Case) -> str:
    """The words for an accept; a rule that is not in the table is one of the user's own."""
    found = ACCEPTS.get(case.step.rule.name)
    if found is not None:
        return found(case)
    return f"{case.step.rule.name} of yours says so ({case.step.rule.reason})"


# Translations --------------------------------------------------------------------------------


def _fixed(case: Case) -> str:
    return f"with the fixed address {case.packet.saddr}"


def _masqueraded(_: Case) -> str:
    return "masqueraded with the host's address"


SOURCES: Clauses = {
    "masquerade": _masqueraded,
    "hairpin-masquerade": _masqueraded,
    "hairpin-self": _masqueraded,
    "snat": _fixed,
    "hairpin-snat": _fixed,
}
"""By rule: which source the packet has afterwards."""

DESTINATIONS = ("publish", "publish-anywhere")
"""The rules that translate the destination; they all have the same words, the publication's."""
