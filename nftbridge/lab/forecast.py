"""What the rules, by the evaluator's reading, will make of a probe in a laboratory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from nftbridge.lab.probe import Probe
from nftbridge.lab.topology import HOST, InterfaceAddress, Node, Topology
from nftbridge.model import Address, Family, Host, Prefix
from nftbridge.policy.evaluate import Evaluator, Packet, Step
from nftbridge.policy.path import Journey, Surroundings, answer, journey

_LOOPBACK_IPV6 = IPv6Address("::1")
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}


@dataclass(frozen=True, slots=True)
class Forecast:
    """Whether the probe should be answered, and the ways there and back, as far as they went.

    `there` is None where no packet meets the host's rules: the source asks itself, has no address
    or route of that family, or the two sit on one bridge whose packets netfilter does not see.
    """

    reached: bool
    there: Journey | None = None
    back: Journey | None = None

    @property
    def decided(self) -> Step | None:
        """The rule that decided; None if none did."""
        ways = [way for way in (self.there, self.back) if way is not None]
        lost = next((way for way in ways if way.end is None), None)
        return (lost or ways[0]).decided if ways else None


class Forecaster:
    """Foresees the outcomes of probes in the laboratory with `topology`, built for `host`."""

    def __init__(self, host: Host, topology: Topology, *, bridges_filtered: bool) -> None:
        self._evaluator = Evaluator.of(host)
        self._topology = topology
        self._bridges_filtered = bridges_filtered
        self._around = surroundings(topology)
        self._nodes = {node.name: node for node in topology.all_nodes}

    def expect(self, probe: Probe) -> Forecast:
        """The outcome of one probe."""
        source, destination = self._nodes[probe.source], probe.destination
        if destination in [a.ip for a in source.addresses]:  # such packets stay in its namespace
            return Forecast(self._answers(destination, probe.protocol, probe.port))
        packet = self._packet(source, probe)
        if packet is None:
            return Forecast(reached=False)
        on_link = _on_link(source, destination)
        if on_link is None:
            return self._routed(probe, packet, self._around)
        if not self._bridges_filtered:
            return Forecast(self._answers(destination, probe.protocol, probe.port))
        prefixes = (*self._around.prefixes, on_link)  # even if the bridge itself has no address
        return self._routed(probe, packet, replace(self._around, prefixes=prefixes))

    def _routed(self, probe: Probe, packet: Packet, around: Surroundings) -> Forecast:
        """The outcome of a packet that meets the host's rules."""
        there = journey(self._evaluator, packet, around)
        if there.end is None:
            return Forecast(reached=False, there=there)
        end = there.end
        # the kernel lets nothing from ::1 leave by another interface, whatever rules translated it
        stuck = packet.saddr == _LOOPBACK_IPV6 and end.oif
        lost = stuck or not self._leads_to(end.oif, end.daddr)
        if lost or not self._answers(end.daddr, probe.protocol, end.dport):
            return Forecast(reached=False, there=there)
        back = answer(self._evaluator, packet, end, around)
        return Forecast(back.end is not None, there, back)

    def _packet(self, source: Node, probe: Probe) -> Packet | None:
        """The probe as it meets the host's first hook; None if it cannot leave its source."""
        destination = probe.destination
        family = Family.of(destination)
        protocol = _ICMP[family] if probe.protocol == "icmp" else probe.protocol
        port = 0 if probe.protocol == "icmp" else probe.port
        if source.name == HOST:
            saddr = self._host_source(destination)
            packet = Packet(saddr, destination, protocol, port, from_host=True)
            return None if saddr is destination and not self._around.is_own(destination) else packet
        own = next((a for a in source.addresses if a.version == family.version), None)
        if own is None or source.link is None:
            return None
        routed = any(g.version == family.version for g in source.gateways)
        if destination not in own.network and not routed:
            return None
        iif = source.link.bridge or source.link.name
        return Packet(own.ip, destination, protocol, port, iif=iif)

    def _host_source(self, destination: Address) -> Address:
        """The address that the host sends from: that of the interface to the destination."""
        if destination.is_loopback:
            return destination
        towards = self._around.interface_to(destination)
        for name, addresses in _interfaces(self._topology):
            if name == towards:
                found = (a.ip for a in addresses if a.version == destination.version)
                return next(found, destination)
        return destination

    def _leads_to(self, interface: str, address: Address) -> bool:
        """Whether the owner of an address is behind that interface of the host ("": the host)."""
        node = self._owner(address)
        link = node.link if node is not None else None
        return interface == ((link.bridge or link.name) if link is not None else "")

    def _answers(self, address: Address, protocol: str, port: int) -> bool:
        node = self._owner(address)
        return node is not None and (protocol == "icmp" or port in node.ports)

    def _owner(self, address: Address) -> Node | None:
        if self._around.is_own(address):
            return self._topology.host
        owners = (n for n in self._topology.nodes if address in [a.ip for a in n.addresses])
        return next(owners, None)


def _on_link(source: Node, destination: Address) -> tuple[Prefix, str] | None:
    """The prefix and the bridge by which a container reaches a neighbour without being routed."""
    if source.link is None or source.link.bridge is None:
        return None
    own = (a.network for a in source.addresses if a.version == destination.version)
    return next(((prefix, source.link.bridge) for prefix in own if destination in prefix), None)


def surroundings(topology: Topology) -> Surroundings:
    """The host's addresses and routes in that laboratory."""
    named = [(name, a) for name, found in _interfaces(topology) for a in found]
    prefixes = [(a.network, name) for name, a in named]  # without an address there is no route
    own = {a.ip for _, a in named} | {a.ip for a in topology.host.addresses}
    outside = next((n.link.name for n in topology.nodes if n.link and not n.link.bridge), "")
    return Surroundings(frozenset(own), tuple(prefixes), outside)


def _interfaces(topology: Topology) -> Iterator[tuple[str, tuple[InterfaceAddress, ...]]]:
    """The host's interfaces that have addresses, with these."""
    for bridge in topology.bridges:
        yield bridge.name, bridge.addresses
    for node in topology.nodes:
        if node.link and not node.link.bridge:
            yield node.link.name, node.link.addresses
