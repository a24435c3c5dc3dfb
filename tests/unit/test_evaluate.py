"""What the program does to a packet, by hand: one hook at a time, then the whole way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.policy import rules
from nftbridge.policy.derive import derive
from nftbridge.policy.evaluate import Evaluator, Packet
from nftbridge.policy.path import Surroundings, answer, journey
from nftbridge.policy.program import Chain, Final, Jump
from nftbridge.policy.rules import CHAINS

RAW, PREROUTING, OUTPUT = rules.RAW_PREROUTING, rules.NAT_PREROUTING, rules.NAT_OUTPUT
FORWARD, POSTROUTING = rules.FILTER_FORWARD, rules.POSTROUTING
PEER, OWN, PEER6, OWN6 = "203.0.113.9", "198.51.100.1", "2001:db8:9::9", "2001:db8:100::1"
UNCONDITIONAL = {"user", "forward", "conntrack", "isolation", "to-bridge"}


@dataclass(frozen=True, slots=True)
class Case:
    """In `scenario`, at `hook`: the rules that match, last the one that decides, and the outcome.

    The rules that every forwarded packet passes are left out. `becomes` is "drop", or what the
    packet's destination or source has become, "masq", or "" if neither changes.
    """

    scenario: str
    hook: Chain
    packet: Packet
    matching: str
    becomes: str = ""


def packet(
    source: str, destination: str, port: int = 80, protocol: str = "tcp", iif: str = "eth0"
) -> Packet:
    return Packet(ip_address(source), ip_address(destination), protocol, port, iif)


def through(iif: str, oif: str, source: str, destination: str, port: int = 80) -> Packet:
    return replace(packet(source, destination, port, iif=iif), oif=oif)


def to_host(source: str, destination: str, port: int, iif: str = "eth0") -> Packet:
    return replace(packet(source, destination, port, iif=iif), to_host=True)


def leaving(oif: str, source: str, destination: str = PEER, port: int = 80) -> Packet:
    return through("", oif, source, destination, port)


def local(oif: str, source: str, destination: str, port: int = 80) -> Packet:
    return replace(leaving(oif, source, destination, port), from_host=True)


def known(of: Packet, state: str = "established") -> Packet:
    return replace(of, state=state)


ICMP = replace(through("eth0", "br-lab", PEER, "172.23.0.2", 0), protocol="icmp")
ICMP6 = replace(through("eth0", "br-lab", PEER6, "fd00:23::2", 0), protocol="ipv6-icmp")

CASES = (
    Case("13", RAW, packet(PEER, "172.20.0.2", iif="eth1"), "trusted-direct"),
    Case("13", RAW, packet(PEER6, "fd00:20::2", iif="eth1"), "trusted-direct"),
    Case("13", RAW, packet(PEER, "172.20.0.2"), "direct-access", "drop"),
    Case("02", RAW, packet(PEER, "172.20.0.2"), "direct-access", "drop"),
    Case("02", RAW, packet("172.20.0.3", "172.20.0.2", iif="br-front"), ""),
    Case("02", RAW, packet(PEER, "172.20.0.4"), ""),
    Case("14", RAW, packet(PEER, "172.20.0.2"), ""),
    Case("08", RAW, packet(PEER, "172.23.0.2"), ""),
    Case("16", RAW, packet("127.0.0.1", "127.0.0.1", 9090, iif="loopback0"), "mirrored-loopback"),
    Case("16", RAW, packet(PEER, "127.0.0.1", 9090), "remote-loopback", "drop"),
    Case("03", RAW, packet(PEER, "127.0.0.1", 9090), "remote-loopback", "drop"),
    Case("03", RAW, packet("127.0.0.1", "127.0.0.1", 9090, iif="lo"), ""),
    Case("03", RAW, packet(PEER, "127.0.0.1", 9090, "udp"), ""),
    Case("03", RAW, packet(PEER, "127.0.0.2", 9090), ""),
    # a published port of the host
    Case("02", PREROUTING, packet(PEER, OWN, 8080), ""),  # another host's, on its way through
    Case("02", PREROUTING, to_host(PEER, OWN, 22), "published-inbound"),
    Case(
        *("02", PREROUTING, to_host(PEER, OWN, 8080)),
        *("published-inbound, publish-anywhere", "172.20.0.2 80"),
    ),
    Case(
        *("04", PREROUTING, to_host(PEER6, OWN6, 8080)),
        *("published-inbound, publish-anywhere", "fd00:20::2 80"),
    ),
    Case("04", PREROUTING, to_host("fe80::9", OWN6, 8080), "published-inbound"),
    Case(
        *("03", PREROUTING, to_host(PEER, OWN, 8080)),
        *("published-inbound, publish", "172.20.0.2 80"),
    ),
    Case("03", PREROUTING, to_host(PEER, "198.51.100.2", 8080), "published-inbound"),
    Case(
        *("02", PREROUTING, to_host("172.20.0.3", OWN, 8080, "br-front")),
        "published-inbound, proxied-bridge",
    ),
    Case(
        *("16", PREROUTING, to_host("127.0.0.1", "127.0.0.1", 8080, "loopback0")),
        "published-inbound, proxied-mirrored",
    ),
    # without masquerading the proxy serves a network's own ports though nothing returns before
    Case("15", PREROUTING, to_host("172.25.0.3", OWN, 8060, "br-plain"), "published-inbound"),
    Case("15", PREROUTING, to_host("172.25.0.3", OWN, 8061, "br-plain"), "published-inbound"),
    Case(
        *("15", PREROUTING, to_host("172.21.0.2", OWN, 8061, "br-other")),
        *("published-inbound, publish", "172.25.0.2 81"),
    ),
    Case("02", OUTPUT, to_host(OWN, OWN, 22, ""), "published-local"),
    Case("02", OUTPUT, to_host("127.0.0.1", "127.0.0.1", 8080, ""), ""),
    Case(
        *("02", OUTPUT, to_host(OWN, OWN, 8080, "")),
        *("published-local, publish-anywhere", "172.20.0.2 80"),
    ),
    Case(
        *("04", OUTPUT, to_host("127.0.0.1", "127.0.0.1", 9090, "")),
        *("published-local, publish", "172.20.0.2 90"),
    ),
    # what is forwarded
    Case(
        *("05", FORWARD, through("br-tenants", "br-tenants", "172.20.0.3", "172.20.0.2")),
        *("into-bridge, icc-denied", "drop"),
    ),
    Case(
        *("02", FORWARD, through("br-front", "br-front", "172.20.0.3", "172.20.0.2")),
        "into-bridge, egress",
    ),
    Case(
        *("02", FORWARD, through("br-front", "eth0", "172.20.0.2", PEER)),
        "leaving-bridge, egress",
    ),
    Case(
        *("06", FORWARD, through("br-vault", "br-vault", "172.22.0.2", "172.22.0.3")),
        "icc-internal",
    ),
    Case(
        *("06", FORWARD, through("br-vault", "br-vault", "fe80::1", "fd00:22::3")),
        "icc-internal",
    ),
    Case(
        *("06", FORWARD, through("br-vault", "br-vault", "172.22.0.2", PEER)),
        *("out-of-internal", "drop"),
    ),
    Case(
        *("07", FORWARD, through("br-island", "br-island", "172.22.0.2", "172.22.0.3")),
        *("icc-denied", "drop"),
    ),
    Case(
        *("02", FORWARD, known(through("eth0", "br-front", PEER, "172.20.0.2", 5))),
        "established",
    ),
    Case(
        *("02", FORWARD, known(through("eth0", "br-front", PEER, "172.20.0.2", 5), "related")),
        "established",
    ),
    Case(
        *("06", FORWARD, through("eth0", "br-vault", PEER, "172.22.0.2")),
        *("into-internal", "drop"),
    ),
    Case(
        *("06", FORWARD, known(through("eth0", "br-vault", PEER, "172.22.0.2"))),
        *("into-internal", "drop"),
    ),
    Case(
        *("06", FORWARD, through("br-vault", "eth0", "172.22.0.2", PEER)),
        *("out-of-internal", "drop"),
    ),
    Case(  # deviation 1: whichever of the two networks is older
        *("06", FORWARD, through("br-vault", "br-lab", "172.22.0.2", "172.23.0.2")),
        *("out-of-internal", "drop"),
    ),
    Case(
        *("08", FORWARD, known(through("br-lab", "eth0", "172.23.0.2", PEER))),
        "routed-answers",
    ),
    Case(
        *("08", FORWARD, through("br-front", "br-lab", "172.20.0.2", "172.23.0.2")),
        "into-routed, into-bridge, open-port",
    ),
    Case(
        *("08", FORWARD, through("br-lab", "br-front", "172.23.0.2", "172.20.0.2")),
        *("leaving-bridge, into-other-bridge", "drop"),
    ),
    Case(
        *("02", FORWARD, through("eth0", "br-front", PEER, "172.20.0.2", 80)),
        "into-bridge, open-port",
    ),
    Case(
        *("02", FORWARD, through("eth0", "br-front", PEER, "172.20.0.2", 81)),
        *("into-bridge, unpublished", "drop"),
    ),
    Case("08", FORWARD, ICMP, "into-routed, into-bridge, routed-icmp"),
    Case("08", FORWARD, ICMP6, "into-routed, into-bridge, routed-icmp"),
    Case(
        *("08", FORWARD, replace(ICMP, oif="br-front", daddr=ip_address("172.20.0.2"))),
        *("into-bridge, unpublished", "drop"),
    ),
    Case(
        *("09", FORWARD, through("eth0", "br-legacy", PEER, "172.24.0.2", 81)),
        "into-bridge, unprotected",
    ),
    Case("02", FORWARD, through("eth0", "eth1", PEER, "192.0.2.1"), ""),
    # sources
    Case("04", POSTROUTING, local("br-front", OWN, "172.20.0.2"), "hairpin-masquerade"),
    Case("04", POSTROUTING, local("br-jobs", "172.21.0.1", "172.21.0.2"), "hairpin-snat", OWN),
    Case("04", POSTROUTING, local("br-jobs", OWN6, "fd00:21::2"), "hairpin-masquerade"),
    Case("02", POSTROUTING, local("br-front", OWN, "172.20.0.2"), ""),
    Case("02", POSTROUTING, leaving("eth0", "172.20.0.2"), "masquerade", "masq"),
    Case("02", POSTROUTING, leaving("br-front", "172.20.0.2", "172.20.0.3"), ""),
    Case("02", POSTROUTING, leaving("eth0", "172.21.0.2"), ""),
    Case("10", POSTROUTING, leaving("eth0", "172.26.0.2"), "snat", "198.51.100.77"),
    Case("10", POSTROUTING, leaving("eth0", "fd00:26::2", PEER6), "snat", "2001:db8:100::77"),
    Case("10", POSTROUTING, leaving("br-mail", "172.26.0.2", "172.26.0.3"), ""),
    Case(
        *("04", POSTROUTING, leaving("br-front", "172.20.0.2", "172.20.0.2", 80)),
        *("hairpin-self", "masq"),
    ),
    Case("04", POSTROUTING, leaving("br-front", "172.20.0.3", "172.20.0.2", 80), ""),
)


@cache
def evaluator(number: str) -> Evaluator:
    (path,) = Path("rulesets").glob(f"{number}-*/host.toml")
    return Evaluator(derive(config.load(str(path)).host))


def outcome(before: Packet, after: Packet | None) -> str:
    """As in `Case.becomes`."""
    if after is None:
        return "drop"
    if after.daddr != before.daddr:
        assert not after.to_host
        return f"{after.daddr} {after.dport}"
    if after.saddr != before.saddr:
        assert after.from_host
        return str(after.saddr)
    if after.from_host != before.from_host:
        return "masq"
    return ""


def _label(number: int) -> str:
    case = CASES[number]
    asked = case.packet
    return f"{number}: {case.hook.name} {case.scenario} {asked.saddr} {asked.daddr} {asked.dport}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=_label)
def test_the_rules_that_a_packet_meets(number: int) -> None:
    case = CASES[number]
    result = evaluator(case.scenario).hook(case.hook, case.packet)
    names = [step.rule.name for step in result.steps]
    assert ", ".join(n for n in names if n not in UNCONDITIONAL) == case.matching
    assert outcome(case.packet, result.packet) == case.becomes
    decided = result.decided
    if decided is not None:
        assert decided.rule.name == names[-1]


def test_every_rule_decides_somewhere() -> None:
    """A table asserts that it is complete; jumps and returns end nothing, so they need to match."""
    decided: set[str] = set()
    matched: set[str] = set()
    for case in CASES:
        result = evaluator(case.scenario).hook(case.hook, case.packet)
        matched |= {step.rule.name for step in result.steps}
        if result.decided:
            decided.add(result.decided.rule.name)
    every = [rule for chain in CHAINS for rule in chain.rules()]
    ending = {
        rule.name
        for rule in every
        if not isinstance(rule.verdict, Jump) and rule.verdict is not Final.RETURN
    }
    assert decided == ending
    assert matched == {rule.name for rule in every}


AROUND = Surroundings(
    frozenset({ip_address(OWN), ip_address(OWN6), ip_address("172.20.0.1")}),
    (
        (ip_network("172.20.0.0/14"), "eth7"),
        (ip_network("172.20.0.0/16"), "br-front"),
        (ip_network("172.21.0.0/16"), "br-jobs"),
        (ip_network("172.23.0.0/16"), "br-lab"),
        (ip_network("fd00:20::/64"), "br-front"),
    ),
    "eth0",
)


@pytest.mark.parametrize(
    ("address", "interface"),
    [
        ("172.20.0.2", "br-front"),
        ("172.22.0.2", "eth7"),
        ("fd00:20::2", "br-front"),
        ("172.20.0.1", ""),
        ("127.0.0.9", ""),
        ("::1", ""),
        (PEER, "eth0"),
        (PEER6, "eth0"),
    ],
)
def test_the_way_out(address: str, interface: str) -> None:
    assert AROUND.interface_to(ip_address(address)) == interface


def test_to_a_published_port_and_back() -> None:
    asked = packet(PEER, OWN, 8080)
    way = journey(evaluator("02"), asked, AROUND)
    hooks = [RAW, PREROUTING, FORWARD, POSTROUTING]
    assert [result.hook for result in way.results] == [hook.name for hook in hooks]
    assert str(way.decided) == "DOCKER, open-port"
    assert way.end is not None
    assert (str(way.end.daddr), way.end.dport, way.end.oif) == ("172.20.0.2", 80, "br-front")
    assert not way.end.to_host
    back = answer(evaluator("02"), asked, way.end, AROUND)
    assert [result.hook for result in back.results] == [RAW.name, FORWARD.name]
    assert str(back.decided) == "DOCKER-FORWARD, egress"
    assert back.end is not None
    assert (str(back.end.saddr), back.end.oif) == ("172.20.0.2", "eth0")
    assert back.end.state == "established"


def test_a_dropped_packet_goes_no_further() -> None:
    way = journey(evaluator("02"), packet(PEER, "172.20.0.2"), AROUND)
    assert [result.hook for result in way.results] == [RAW.name]
    assert way.end is None
    assert str(way.decided) == "raw-PREROUTING, direct-access"


def test_what_is_for_the_host_is_not_forwarded() -> None:
    asked = packet(PEER, OWN, 22)
    way = journey(evaluator("02"), asked, AROUND)
    assert [result.hook for result in way.results] == [RAW.name, PREROUTING.name]
    assert way.decided is None
    assert way.end is not None
    assert way.end.to_host
    back = answer(evaluator("02"), asked, way.end, AROUND)
    assert (back.results, back.end) == ((), way.end)


def test_to_the_outside_and_back() -> None:
    asked = packet("172.20.0.2", PEER, iif="br-front")
    way = journey(evaluator("02"), asked, AROUND)
    assert way.end is not None
    assert way.end.from_host
    assert way.end.oif == "eth0"
    back = answer(evaluator("02"), asked, way.end, AROUND)
    # translated back between the raw hook, where it was for the host, and this one
    assert [result.hook for result in back.results] == [FORWARD.name]
    assert str(back.decided) == "DOCKER-CT, established"
    assert back.end is not None
    assert back.end.oif == "br-front"


def test_an_answer_that_nothing_translates_meets_the_raw_hook() -> None:
    """Without masquerading the answer comes for a guarded address, and is dropped."""
    around = replace(AROUND, prefixes=((ip_network("172.25.0.0/16"), "br-plain"),))
    asked = packet("172.25.0.2", PEER, iif="br-plain")
    way = journey(evaluator("15"), asked, around)
    assert way.end is not None
    assert not way.end.from_host
    back = answer(evaluator("15"), asked, way.end, around)
    assert back.end is None
    assert str(back.decided) == "raw-PREROUTING, direct-access"


def test_what_the_host_sends() -> None:
    way = journey(evaluator("02"), replace(packet(OWN, OWN, 8080, iif=""), from_host=True), AROUND)
    assert [result.hook for result in way.results] == [OUTPUT.name, POSTROUTING.name]
    assert way.decided is None
    assert way.end is not None
    assert (str(way.end.daddr), way.end.oif) == ("172.20.0.2", "br-front")
    proxied = journey(evaluator("02"), packet("127.0.0.1", "127.0.0.1", 8080, iif=""), AROUND)
    assert [result.hook for result in proxied.results] == [OUTPUT.name]
    assert proxied.end is not None
    assert proxied.end.to_host


def test_connections_are_translated_by_their_first_packet() -> None:
    later = replace(packet(PEER, OWN, 8080), state="established")
    way = journey(evaluator("02"), later, AROUND)
    assert [result.hook for result in way.results] == [RAW.name]
    assert way.end is not None
    assert way.end.daddr == ip_address(OWN)
