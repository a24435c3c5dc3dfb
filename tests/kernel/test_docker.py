"""Real packets fare under nftbridge as under Docker 28.5.2's own rules.

A daemon's host and the golden states of Docker's own tests are built in namespaces. Docker's
iptables-save text is loaded and everything is asked; then nftbridge's rules are, and the same is
asked. Nothing here asks the evaluator.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import product
from pathlib import Path

import pytest

from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.lab import HOST, Laboratory, Node, Probe, ProbeProtocol, Reply
from nftbridge.model import Container, Family, Host, Prefix
from tests.golden.docker import goldens
from tests.kernel.docker_faults import CAPTURE_FAULTS, GOLDEN_FAULTS, Fault
from tests.kernel.docker_states import (
    CAPTURE,
    QUICK,
    RESTORE,
    Difference,
    State,
    captured,
    differences,
    different,
    docker,
    everything,
    fates,
    golden_states,
    nftbridge,
    two_networks,
)
from tests.kernel.hosts import Site, containers

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(
        not all(map(shutil.which, RESTORE.values())), reason="iptables-nft is not installed"
    ),
]
needs_capture = pytest.mark.skipif(
    not CAPTURE.exists(), reason="the capture of a Docker daemon is not beside the checkout"
)
STATES = golden_states()
needs_goldens = pytest.mark.skipif(
    not STATES, reason="Docker's golden states are not beside the checkout"
)

NEIGHBOUR = Container("neighbour", IPv4Address("192.168.0.3"), IPv6Address("fd49:efd7:54aa::3"))


@contextmanager
def built(host: Host, state: Path, uplinks: Sequence[str] = ("eth0",)) -> Generator[Site]:
    """`host` in namespaces, without rules; it answers on all published ports, as proxies would.

    WSL2's mirrored link sends 127.0.0.1 to the host, and so does another one.
    """
    published = {p.host_port for c in containers(host) for p in c.publish if p.host_port}
    inside = {p.container_port for c in containers(host) for p in c.publish}
    with Laboratory(
        host,
        uplinks=uplinks,
        loopback_links=("loopback0", "attack0"),
        ports={HOST: published | inside | {22}},
    ) as lab:
        target = Target(netns=lab.netns, state_directory=state)
        yield Site(host, lab, target, Engine(target, choose("nftables", target).backend))


def listed(found: dict[Probe, Difference]) -> str:
    return f"{len(found)} fare differently:\n" + "\n".join(
        f"{probe}: {difference}" for probe, difference in list(found.items())[:20]
    )


# the captured daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    with built(captured().host, tmp_path_factory.mktemp("daemon")) as place:
        yield place


def into_routed() -> set[Probe]:
    """Deviation 1: in the capture the routed network is younger than the internal one.

    Docker's RETURN and ACCEPT for it then stand above the drops, and it is reached from inside the
    internal network, on what is open there.
    """
    open_there: tuple[tuple[ProbeProtocol, int], ...] = (("icmp", 0), ("tcp", 80))
    routed = map(ip_address, ("172.23.0.10", "fd00:23::10"))
    asked = product(("in1", "in2"), routed, open_there)
    return {Probe(source, address, *port) for source, address, port in asked}


@needs_capture
def test_the_daemons_host_is_no_different(daemon: Site) -> None:
    found = differences(daemon, captured(), list(everything(daemon)))
    deviations = {probe: found.pop(probe) for probe in into_routed() if probe in found}
    assert not found, listed(found)
    assert deviations.keys() == into_routed()
    for probe, difference in deviations.items():
        assert difference.docker.reply is Reply.ANSWERED, str(probe)
        assert difference.ours.reply is Reply.SILENT, str(probe)


@needs_capture
def test_the_daemons_host_was_read_whole() -> None:
    host = captured().host
    names = ("bridge", "front", "noicc", "int", "routed", "unprot", "nomasq", "snat")
    assert tuple(network.name for network in host.networks) == names
    assert host.summary() == "8 networks, 12 containers, 14 published ports"


# the states of Docker's own tests


@pytest.fixture(scope="module")
def golden_sites(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[bool, Site]]:
    """A laboratory per way of serving the host's own ports, for sysctls go with it."""
    with ExitStack() as stack:
        yield {
            proxy: stack.enter_context(
                built(roomy(proxy=proxy), tmp_path_factory.mktemp("golden"), ("eth0", "eth1"))
            )
            for proxy in (True, False)
        }


def roomy(*, proxy: bool) -> Host:
    """The state with the most addresses, and a second container, which no state's rules know."""
    network = next(
        network
        for state in STATES
        for network in state.host.networks
        if network.host_ipv4 and network.containers[0].publish
    )
    crowded = replace(network, containers=(*network.containers, NEIGHBOUR))
    return Host((crowded,), userland_proxy=proxy)


def asked(place: Site, state: State) -> list[Probe]:
    """What is worth asking in the families that the state is of.

    No state is about the host's port 22, about what outside nodes want of each other, or about the
    links that are there to send 127.0.0.1 only.
    """
    ends = [node for node in place.lab.topology.nodes if node.link and not node.link.bridge]
    outside = {node.name for node in ends}
    far = {address.ip for node in ends for address in node.addresses}
    dull = {subnet for node in ends if node.sends_loopback for subnet in networks(node)}
    return [
        probe
        for probe in everything(place)
        if Family.of(probe.destination) in state.rules
        and probe.port != 22
        and not (probe.source in outside and probe.destination in far)
        and not any(probe.destination in subnet for subnet in dull)
    ]


def networks(node: Node) -> Iterator[Prefix]:
    return (address.network for address in node.addresses)


@needs_goldens
@pytest.mark.parametrize("state", STATES, ids=lambda state: "+".join([*state.rules, state.name]))
def test_no_golden_state_is_different(state: State, golden_sites: dict[bool, Site]) -> None:
    place = golden_sites[state.host.userland_proxy]
    found = differences(place, state, asked(place, state))
    assert not found, listed(found)


@needs_goldens
def test_every_golden_state_is_compared() -> None:
    assert sum(len(state.rules) for state in STATES) == len(goldens())
    assert len({(state.name, *state.rules) for state in STATES}) == len(STATES)


# the second deviation, which neither of them shows


def test_traffic_of_the_host_itself_comes_before_the_subnets(tmp_path: Path) -> None:
    """Deviation 2: the host asks a port of the earlier network by its address in the later one.

    With that source address it is of the later network's subnet, and leaves by the earlier one's
    bridge: lines of both networks in POSTROUTING want it.
    """
    with built(two_networks().host, tmp_path) as place:
        state = two_networks()
        probes = [p for p in everything(place) if Family.of(p.destination) is Family.IPV4]
        found = differences(place, state, probes)
    deviation = found.pop(Probe(HOST, ip_address("172.31.0.1"), "tcp", 8080), None)
    assert not found, listed(found)
    assert deviation is not None
    assert deviation.docker.seen_source == ip_address("10.99.0.2")
    assert deviation.ours == replace(deviation.docker, seen_source=ip_address("172.30.0.1"))


# the comparison itself


def assert_noticed(
    place: Site, state: State, faults: Sequence[Fault], compared: Sequence[Probe]
) -> None:
    probes = [fault.probe for fault in faults]
    assert set(probes) <= set(compared), "what the comparison does not ask it cannot notice"
    assert not differences(place, state, probes)
    with nftbridge(place, state.host):
        ours = fates(place, probes)
    for fault in faults:
        with docker(place, fault.planted_in(state).rules):
            noticed = any(
                fault.probe in different(fates(place, probes, timeout), ours)
                for timeout in (QUICK, None)
            )
        assert noticed, f"{fault.probe} fares no differently with {fault.edit}"


@needs_capture
def test_a_fault_in_the_daemons_rules_is_noticed(daemon: Site) -> None:
    assert_noticed(daemon, captured(), CAPTURE_FAULTS, list(everything(daemon)))


@needs_goldens
@pytest.mark.parametrize("name", GOLDEN_FAULTS)
def test_a_fault_in_a_golden_state_is_noticed(name: str, golden_sites: dict[bool, Site]) -> None:
    state = next(state for state in STATES if state.name == name)
    place = golden_sites[state.host.userland_proxy]
    assert set(state.rules) == set(Family)
    assert_noticed(place, state, GOLDEN_FAULTS[name], asked(place, state))
