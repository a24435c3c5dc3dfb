"""What must pass and what must not, by hand: every gateway mode, protocol and family.

The expectations are Docker 28.5.2's, with the two deviations that README names. Nothing here asks
the evaluator.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.lab import HOST, OUTSIDE, Probe, ProbeProtocol
from nftbridge.model import Address, Family
from tests.kernel.hosts import LOOPBACK, PROTOCOLS, Site, site

pytestmark = pytest.mark.kernel

YES, NO = True, False
ECHO: ProbeProtocol = "icmp"
BOTH = tuple(Family)
V4 = (Family.IPV4,)
TCP: tuple[ProbeProtocol, ...] = ("tcp",)
UDP: tuple[ProbeProtocol, ...] = ("udp",)
SCTP: tuple[ProbeProtocol, ...] = ("sctp",)
ECHOES: tuple[ProbeProtocol, ...] = (ECHO,)


@dataclass(frozen=True, slots=True)
class Case:
    """`source` asks `target` (a node, or "loopback") on `port` by each protocol in each family."""

    passes: bool
    source: str
    target: str
    port: int = 0
    protocols: tuple[ProbeProtocol, ...] = TCP
    families: tuple[Family, ...] = BOTH
    answered_by: str = ""
    seen: str = ""
    """Whose address the answering node must see; "" for the source's own, "*" for any."""


CASES: dict[str, tuple[Case, ...]] = {
    "02-published-port": (
        Case(YES, OUTSIDE, HOST, 8080, families=V4, answered_by="web"),
        Case(YES, HOST, "web", 80, families=V4, seen="*"),
        Case(YES, HOST, "web", 81, families=V4, seen="*"),  # the host itself is never filtered
        Case(YES, "worker", "web", 81, PROTOCOLS, V4),
        Case(YES, "worker", OUTSIDE, 443, families=V4, seen=HOST),
        Case(YES, "worker", OUTSIDE, 0, ECHOES, V4),
        Case(NO, OUTSIDE, HOST, 8080, ("udp", "sctp"), V4),
        Case(NO, OUTSIDE, HOST, 8081, PROTOCOLS, V4),
        Case(NO, OUTSIDE, "web", 80, PROTOCOLS, V4),
        Case(NO, OUTSIDE, "web", 81, PROTOCOLS, V4),
        Case(NO, OUTSIDE, "worker", 0, ECHOES, V4),
    ),
    "03-published-on-loopback": (
        Case(YES, OUTSIDE, HOST, 8080, families=V4, answered_by="web"),
        Case(NO, OUTSIDE, HOST, 9090, families=V4),
        Case(NO, "outside-loopback0", "loopback", 9090, families=V4),
        Case(YES, "outside-loopback0", "loopback", 22, families=V4, answered_by=HOST),
    ),
    "04-no-proxy": (
        Case(YES, OUTSIDE, HOST, 8080, answered_by="web"),
        Case(YES, HOST, "loopback", 9090, families=V4, answered_by="web", seen="*"),
        Case(YES, "web", HOST, 8080, answered_by="web", seen="*"),  # hairpin to itself
        Case(YES, "worker", HOST, 8080, answered_by="web"),
        Case(NO, "queue", HOST, 8080),  # isolation holds for published ports, too
        Case(NO, OUTSIDE, HOST, 9090),
        Case(NO, "outside-loopback0", "loopback", 9090, families=V4),
    ),
    "05-icc-off": (
        Case(YES, OUTSIDE, HOST, 8080, answered_by="alice"),
        Case(YES, "bob", OUTSIDE, 443, seen=HOST),
        Case(NO, "bob", "alice", 80, PROTOCOLS),
        Case(NO, "alice", "bob", 81, PROTOCOLS),
        Case(NO, "bob", "alice", 0, ECHOES),
    ),
    "06-internal": (
        Case(YES, "backup", "db", 81, PROTOCOLS),
        Case(YES, "backup", "db", 0, ECHOES),
        Case(YES, HOST, "db", 81, PROTOCOLS, seen="*"),
        Case(NO, OUTSIDE, "db", 81, PROTOCOLS),
        Case(NO, "db", OUTSIDE, 443, PROTOCOLS),
        Case(NO, "db", OUTSIDE, 0, ECHOES),
        Case(NO, "db", "open", 80, PROTOCOLS),  # deviation 1: whatever the order of creation
        Case(NO, "open", "db", 81, PROTOCOLS),
        Case(NO, "db", "open", 0, ECHOES),
    ),
    "07-isolated": (
        Case(NO, "ping", "pong", 81, PROTOCOLS),
        Case(NO, OUTSIDE, "ping", 81, PROTOCOLS),
        Case(NO, "ping", OUTSIDE, 443, PROTOCOLS),
        Case(YES, OUTSIDE, HOST, 22),
    ),
    "08-routed": (
        Case(YES, OUTSIDE, "web", 80),
        Case(YES, OUTSIDE, "web", 53, UDP),
        Case(YES, OUTSIDE, "web", 3868, SCTP),
        Case(YES, OUTSIDE, "web", 0, ECHOES),
        Case(YES, "worker", "web", 80, seen="*"),  # open ports are open to other networks, too
        Case(YES, "web", OUTSIDE, 443),  # with its own address
        Case(NO, OUTSIDE, "web", 81, PROTOCOLS),
        Case(NO, OUTSIDE, "web", 53, ("tcp", "sctp")),
        Case(NO, OUTSIDE, HOST, 8053, UDP),  # host ports are not used
        Case(NO, "worker", "web", 81, PROTOCOLS),
        Case(NO, "web", "worker", 81, PROTOCOLS),
    ),
    "09-nat-unprotected": (
        Case(YES, OUTSIDE, HOST, 8050, answered_by="app"),
        Case(YES, OUTSIDE, HOST, 8051, UDP, answered_by="app"),
        Case(YES, OUTSIDE, HOST, 8052, SCTP, answered_by="app"),
        Case(YES, OUTSIDE, "app", 81, PROTOCOLS),
        Case(YES, OUTSIDE, "app", 0, ECHOES),
        Case(NO, "worker", "app", 81, PROTOCOLS),
        Case(NO, OUTSIDE, "worker", 81, PROTOCOLS),
        Case(NO, OUTSIDE, HOST, 8053, PROTOCOLS),
    ),
    "10-fixed-snat": (
        Case(YES, "mta", OUTSIDE, 443, PROTOCOLS, seen="snat"),
        Case(YES, OUTSIDE, HOST, 25, answered_by="mta"),
        Case(NO, OUTSIDE, "mta", 2525, PROTOCOLS),
    ),
    "11-dual-stack": (
        Case(YES, OUTSIDE, HOST, 8080, families=V4, answered_by="web"),
        Case(YES, OUTSIDE, "web", 80, families=(Family.IPV6,)),
        Case(NO, OUTSIDE, HOST, 8443, families=(Family.IPV6,)),
        Case(NO, OUTSIDE, "web", 443, families=(Family.IPV6,)),
        Case(NO, OUTSIDE, "web", 80, families=V4),
        Case(NO, OUTSIDE, HOST, 8086, families=V4),
        Case(YES, OUTSIDE, HOST, 8084, families=V4, answered_by="four"),
        Case(NO, OUTSIDE, HOST, 8084, families=(Family.IPV6,)),
        Case(YES, OUTSIDE, HOST, 8085, answered_by="both"),
        Case(NO, "outside-eth1", "uplink-eth1", 8085),
    ),
    "12-port-ranges": (
        Case(YES, OUTSIDE, HOST, 5060, ("tcp", "udp"), answered_by="sip"),
        Case(YES, OUTSIDE, HOST, 8000, UDP, answered_by="sip"),
        Case(YES, OUTSIDE, HOST, 8003, UDP, answered_by="sip"),
        Case(YES, OUTSIDE, HOST, 3869, SCTP, answered_by="sip"),
        Case(NO, OUTSIDE, HOST, 8004, UDP),
        Case(NO, OUTSIDE, HOST, 7999, UDP),
        Case(NO, OUTSIDE, HOST, 8000, ("tcp", "sctp")),
        Case(NO, OUTSIDE, HOST, 3870, SCTP),
    ),
    "13-trusted-interface": (
        Case(YES, "outside-eth1", "web", 80),
        Case(NO, "outside-eth1", "web", 81, PROTOCOLS),
        Case(NO, OUTSIDE, "web", 80, PROTOCOLS),
    ),
    "14-direct-routing": (
        Case(YES, OUTSIDE, "web", 80),
        Case(NO, OUTSIDE, "web", 81, PROTOCOLS),
        Case(NO, OUTSIDE, "web", 0, ECHOES),
        Case(NO, "outside-loopback0", "loopback", 9090, families=V4),
    ),
    "15-no-masquerade": (
        Case(YES, OUTSIDE, HOST, 8060, answered_by="web"),
        Case(YES, OUTSIDE, HOST, 8061, families=V4, answered_by="web"),
        Case(NO, "worker", HOST, 8060),  # its own network's ports are the proxy's business
        Case(NO, "worker", HOST, 8061, families=V4),
        Case(NO, "peer", HOST, 8060),
        Case(NO, "web", OUTSIDE, 443),  # the answer would come for a guarded address
    ),
    "16-wsl2-mirrored": (
        Case(YES, "outside-loopback0", "loopback", 9090, families=V4, answered_by=HOST),
        Case(NO, "outside-loopback0", "loopback", 8080, UDP, V4),
        Case(YES, OUTSIDE, HOST, 8080, families=V4, answered_by="web"),
    ),
}


def probes(place: Site, case: Case) -> Iterator[Probe]:
    for family, protocol in product(case.families, case.protocols):
        yield Probe(case.source, address_of(place, case.target, family), protocol, case.port)


def address_of(place: Site, name: str, family: Family) -> Address:
    if name == "loopback":
        return LOOPBACK[0] if family is Family.IPV4 else LOOPBACK[1]
    if name == "snat":
        network = place.host.networks[0]
        found = network.snat_address(family)
        assert found is not None
        return found
    if name.startswith("uplink-"):
        link = name.removeprefix("uplink-")
        links = (n.link for n in place.lab.topology.nodes if n.link and n.link.name == link)
        return next(a.ip for a in next(links).addresses if a.version == family.version)
    return place.lab.address(name, family)


@pytest.mark.parametrize("scenario", CASES)
def test_what_must_pass_passes_and_nothing_else(scenario: str, tmp_path: Path) -> None:
    host = config.load(f"rulesets/{scenario}/host.toml").host
    # on a host with a proxy, somebody listens on the port that the proxy would serve
    ports = (9090,) if scenario == "16-wsl2-mirrored" else ()
    with site(host, tmp_path, proxy_ports=ports) as place:
        asked = [(case, probe) for case in CASES[scenario] for probe in probes(place, case)]
        outcomes = place.lab.probe_all([probe for _, probe in asked])
        for (case, probe), outcome in zip(asked, outcomes, strict=True):
            assert outcome.reached is case.passes, f"{probe}: {outcome.reply.value}"
            if case.answered_by:
                assert outcome.answered_by == case.answered_by, str(probe)
            if case.passes and case.seen != "*" and probe.protocol != ECHO:
                expected = address_of(place, case.seen or case.source, Family.of(probe.destination))
                assert outcome.seen_source == expected, str(probe)


def test_every_scenario_is_asked() -> None:
    scenarios = {path.parent.name for path in Path("rulesets").glob("*/host.toml")}
    assert scenarios - set(CASES) == {"01-new-host", "17-many-networks"}


def test_every_mode_protocol_and_family_is_asked_both_ways() -> None:
    """A table asserts that it is complete."""
    by_mode = {
        "nat": ("12-port-ranges", "02-published-port", "05-icc-off"),
        "nat-unprotected": ("09-nat-unprotected",),
        "routed": ("08-routed",),
        "internal": ("06-internal",),
    }
    for scenarios in by_mode.values():
        asked = {
            (protocol, family, case.passes)
            for scenario in scenarios
            for case in CASES[scenario]
            for protocol in case.protocols
            for family in case.families
        }
        assert asked >= set(product(PROTOCOLS, Family, (YES, NO)))
