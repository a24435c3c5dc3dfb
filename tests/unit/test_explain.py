"""`explain` from the model alone: every sentence, both families, every scenario."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.explain.outcome import advice, sentence
from nftbridge.explain.question import Question, Typed, read
from nftbridge.explain.sentences import ACCEPTS, DESTINATIONS, DROPS, SOURCES
from nftbridge.explain.show import lines, to_data
from nftbridge.explain.way import Fate, Way, follow
from nftbridge.model import Address, Family, Host
from nftbridge.policy.program import Dnat, Final, Rule, Snat
from nftbridge.policy.rules import CHAINS
from nftbridge.style import Style

OUTSIDE = "198.51.100.9"
OUTSIDE_6 = "2001:db8:100::9"


@cache
def host_of(scenario: str) -> Host:
    return config.load(f"rulesets/{scenario}/host.toml").host


def put(packet: str, oif: str = "", own: tuple[str, ...] = ()) -> Question:
    """`packet` is ``IN SOURCE DESTINATION PROTOCOL [PORT]``."""
    iif, source, destination, protocol, *port = packet.split()
    return read(Typed(iif, source, destination, protocol, port[0] if port else None, oif, own))


def ask(host: Host, packet: str, oif: str = "", own: tuple[str, ...] = ()) -> Way:
    return follow(host, put(packet, oif, own))


# scenario, packet -> the sentence at the end
SENTENCES: dict[tuple[str, str], str] = {
    ("02-published-port", f"eth0 {OUTSIDE} 192.0.2.1 tcp 8080"): (
        "translated to container web of network frontend (172.20.0.2:80) by publication"
        " 8080:80/tcp, accepted in DOCKER: publication 8080:80/tcp opens port 80 of container web"
    ),
    ("02-published-port", f"eth0 {OUTSIDE} 192.0.2.1 tcp 8081"): (
        "delivered to the host itself: no container publishes 192.0.2.1:8081/tcp, a service of"
        " the host may answer"
    ),
    ("02-published-port", f"eth0 {OUTSIDE} 192.0.2.1 icmp"): (
        "delivered to the host itself, which answers: no rule of ours concerns it"
    ),
    ("02-published-port", "br-front 172.20.0.3 172.20.0.1 tcp 8080"): (
        "delivered to the host itself, where the userland proxy serves publication 8080:80/tcp"
        " of container web of network frontend"
    ),
    ("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 tcp 80"): (
        "dropped in raw-PREROUTING: 172.20.0.2:80 (container web of network frontend) must not be"
        " addressed directly by way of eth0, only from br-front; connect to port 8080 of the host,"
        ' publication 8080:80/tcp of web, or set trusted_host_interfaces = ["eth0"] for network'
        " frontend"
    ),
    ("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 tcp 81"): (
        "dropped in raw-PREROUTING: 172.20.0.2:81 (container web of network frontend) must not be"
        " addressed directly by way of eth0, only from br-front; publish it (publish ="
        ' ["8081:81"]) and connect to the host\'s address, or connect from the same network'
    ),
    ("12-port-ranges", f"eth0 {OUTSIDE_6} fd00:27::2 udp 9002"): (
        "dropped in raw-PREROUTING: [fd00:27::2]:9002 (container sip of network media) must not be"
        " addressed directly by way of eth0, only from br-media; connect to port 8002 of the host,"
        ' publication 8000-8003:9000-9003/udp of sip, or set trusted_host_interfaces = ["eth0"]'
        " for network media"
    ),
    ("11-dual-stack", f"eth0 {OUTSIDE} 172.21.0.5 icmp"): (
        "dropped in raw-PREROUTING: 172.21.0.5 (container both of network plain) must not be"
        " addressed directly by way of eth0, only from br-plain; set gateway_mode_ipv4 ="
        ' "nat-unprotected" or "routed" for network plain'
    ),
    ("02-published-port", "br-front 172.20.0.3 1.1.1.1 udp 53"): (
        "leaves by an uplink for 1.1.1.1:53, masqueraded with the host's address, accepted in"
        " DOCKER-FORWARD: containers of network frontend may start connections"
    ),
    ("03-published-on-loopback", f"eth0 {OUTSIDE} 127.0.0.1 tcp 9090"): (
        "dropped in raw-PREROUTING: publication 127.0.0.1:9090:80/tcp of container web of network"
        " frontend is for programs on this host only; publish it without the loopback address"
        ' instead (publish = ["9090:80"])'
    ),
    ("03-published-on-loopback", "lo 127.0.0.1 127.0.0.1 tcp 9090"): (
        "delivered to the host itself, where the userland proxy serves publication"
        " 127.0.0.1:9090:80/tcp of container web of network frontend"
    ),
    ("04-no-proxy", "host 127.0.0.1 127.0.0.1 tcp 9090"): (
        "translated to container web of network frontend (172.20.0.2:90) by publication"
        " 127.0.0.1:9090:90/tcp, masqueraded with the host's address: what the host itself sends"
        " is not filtered"
    ),
    ("04-no-proxy", "host 198.51.100.1 198.51.100.1 tcp 5672"): (
        "translated to container queue of network jobs (172.21.0.2:5672) by publication"
        " 5672:5672/tcp, with the fixed address 198.51.100.1: what the host itself sends is not"
        " filtered"
    ),
    ("04-no-proxy", "br-front 172.20.0.2 172.20.0.1 tcp 8080"): (
        "translated to container web of network frontend (172.20.0.2:80) by publication"
        " 8080:80/tcp, masqueraded with the host's address, accepted in DOCKER-FORWARD: containers"
        " of network frontend may talk to each other"
    ),
    ("04-no-proxy", "host ::1 ::1 tcp 8080"): (
        "lost: translated to [fd00:20::2]:80 (container web of network frontend), but the kernel"
        " lets nothing from ::1 leave by br-front; use 127.0.0.1 or another address of the host"
    ),
    ("04-no-proxy", "br-jobs 172.21.0.2 172.21.0.1 tcp 8080"): (
        "dropped in DOCKER-ISOLATION-STAGE-2: network jobs and network frontend are isolated from"
        " each other; attach both containers to one network, or set gateway_mode_ipv4 ="
        ' "routed" for network frontend and open the port there'
    ),
    ("04-no-proxy", "eth0 fe80::9 fd00:20::1 tcp 8080"): (
        "delivered to the host itself: peers with link-local addresses such as fe80::9 are not"
        " translated to 8080:80/tcp of container web of network frontend; connect from a routable"
        " address"
    ),
    ("05-icc-off", "br-tenants fd00:20::3 fd00:20::2 tcp 80"): (
        "dropped in DOCKER-FORWARD: containers of network tenants must not talk to each other"
        " (icc = false); set icc = true, or put the two into a network of their own"
    ),
    ("06-internal", f"eth0 {OUTSIDE} 172.22.0.2 tcp 81"): (
        "dropped in DOCKER-ISOLATION-STAGE-1: network vault is internal, nothing from elsewhere"
        " enters it; set internal = false and publish the port"
    ),
    ("06-internal", "br-vault fd00:22::2 2606:4700::1 tcp 443"): (
        "dropped in DOCKER-ISOLATION-STAGE-1: network vault is internal, nothing leaves it; set"
        " internal = false, or attach the container to a second network"
    ),
    ("06-internal", "br-vault 172.22.0.3 172.22.0.2 sctp 81"): (
        "passes to 172.22.0.2:81 (container db of network vault), accepted in DOCKER-FORWARD:"
        " containers of network vault, which is internal, may talk to each other"
    ),
    ("06-internal", "host 172.22.0.1 172.22.0.2 tcp 81"): (
        "passes to 172.22.0.2:81 (container db of network vault): what the host itself sends is"
        " not filtered"
    ),
    ("07-isolated", "br-island 172.22.0.2 172.22.0.3 icmp"): (
        "dropped in DOCKER-FORWARD: containers of network island must not talk to each other"
        " (icc = false); set icc = true, or put the two into a network of their own"
    ),
    ("08-routed", f"eth0 {OUTSIDE_6} fd00:23::2 icmp"): (
        "passes to fd00:23::2 (container web of network lab), accepted in DOCKER: ICMP may enter"
        " network lab, which is routed"
    ),
    ("08-routed", f"eth0 {OUTSIDE} 172.23.0.2 udp 53"): (
        "passes to 172.23.0.2:53 (container web of network lab), accepted in DOCKER: publication"
        " 8053:53/udp opens port 53 of container web"
    ),
    ("08-routed", f"eth0 {OUTSIDE} 172.23.0.2 tcp 81"): (
        "dropped in DOCKER: nothing published on 172.23.0.2:81 (container web of network lab);"
        ' publish it (publish = ["81"]) or connect from the same network'
    ),
    ("08-routed", f"eth0 {OUTSIDE} 172.23.0.77 udp 81"): (
        "dropped in DOCKER: nothing published on 172.23.0.77:81 (network lab, where the model has"
        " no container with that address); add a container with that address to network lab"
        ' (publish = ["81/udp"]) or connect from the same network'
    ),
    ("08-routed", f"eth0 {OUTSIDE} 192.0.2.1 udp 8053"): (
        "delivered to the host itself: host ports such as that of 8053:53/udp are not used; network"
        " lab is routed, connect to 172.23.0.2 itself"
    ),
    ("08-routed", "br-lab 172.23.0.2 1.1.1.1 tcp 443"): (
        "leaves by an uplink for 1.1.1.1:443, with its own address, accepted in DOCKER-FORWARD:"
        " containers of network lab may start connections"
    ),
    ("09-nat-unprotected", f"eth0 {OUTSIDE} 172.24.0.2 tcp 81"): (
        "passes to 172.24.0.2:81 (container app of network legacy), accepted in DOCKER: every port"
        " of network legacy is open (gateway mode nat-unprotected)"
    ),
    ("09-nat-unprotected", "br-front 172.20.0.2 172.24.0.2 tcp 81"): (
        "dropped in DOCKER-ISOLATION-STAGE-2: network frontend and network legacy are isolated"
        " from each other; attach both containers to one network, or connect to a published port"
        " on the host's address"
    ),
    ("10-fixed-snat", "br-mail fd00:26::2 2606:4700::1 tcp 25"): (
        "leaves by an uplink for [2606:4700::1]:25, with the fixed address 2001:db8:100::77,"
        " accepted in DOCKER-FORWARD: containers of network mail may start connections"
    ),
    ("13-trusted-interface", f"eth1 {OUTSIDE} 172.20.0.2 tcp 80"): (
        "passes to 172.20.0.2:80 (container web of network frontend), accepted in DOCKER:"
        " publication 8080:80/tcp opens port 80 of container web, and network frontend trusts eth1"
    ),
    ("13-trusted-interface", f"eth1 {OUTSIDE} 172.20.0.2 tcp 81"): (
        "dropped in DOCKER: nothing published on 172.20.0.2:81 (container web of network"
        ' frontend); publish it (publish = ["8081:81"]) or connect from the same network'
    ),
    ("14-direct-routing", f"eth0 {OUTSIDE_6} fd00:20::2 icmp"): (
        "dropped in DOCKER: ipv6-icmp from elsewhere is not let in to network frontend; set"
        ' gateway_mode_ipv6 = "nat-unprotected" or "routed", or connect from the same network'
    ),
    ("15-no-masquerade", "br-plain 172.25.0.2 1.1.1.1 tcp 443"): (
        "leaves by an uplink for 1.1.1.1:443, with its own address, accepted in DOCKER-FORWARD:"
        " containers of network plain may start connections, but the answer is dropped in"
        " raw-PREROUTING: only br-plain may carry packets to 172.25.0.2 (container web of network"
        " plain), which leave with their own address (masquerade = false); set masquerade = true"
        " for network plain, or set trusted_host_interfaces = [that uplink] for network plain"
    ),
    ("16-wsl2-mirrored", "loopback0 127.0.0.1 127.0.0.1 tcp 9090"): (
        "delivered to the host itself, where the userland proxy serves publication"
        " 127.0.0.1:9090:80/tcp of container web of network frontend (Windows may use loopback"
        " publications through loopback0)"
    ),
    ("17-many-networks", "br-fixed 172.37.0.3 172.36.0.2 tcp 80"): (
        "dropped in raw-PREROUTING: 172.36.0.2:80 (container own-2 of network own) must not be"
        " addressed directly by way of br-fixed, only from br-own; connect to port 8036 of the"
        " host, publication 8036:80/tcp of own-2, or connect from the same network"
    ),
}


@pytest.mark.parametrize(("scenario", "packet"), SENTENCES)
def test_the_sentence_at_the_end(scenario: str, packet: str) -> None:
    way = ask(host_of(scenario), packet)
    told = SENTENCES[scenario, packet]
    assert sentence(way) == told
    shown = list(lines(way, Style()))
    assert shown[-1] == told
    data = to_data(way)
    assert (data["sentence"], data["passes"]) == (told, way.passes)
    json.dumps(data)
    assert told.endswith(advice(way)) or way.fate is Fate.LOST


def _rules(*verdicts: Final) -> set[str]:
    return {rule.name for chain in CHAINS for rule in chain.rules() if rule.verdict in verdicts}


def test_every_rule_has_its_words() -> None:
    """A table asserts that it is complete, and holds nothing that there is not."""
    every = [rule for chain in CHAINS for rule in chain.rules()]
    assert set(DROPS) == _rules(Final.DROP)
    assert set(ACCEPTS) == _rules(Final.ACCEPT)
    fixed = {rule.name for rule in every if isinstance(rule.verdict, Snat)}
    assert set(SOURCES) == fixed | _rules(Final.MASQUERADE)
    assert set(DESTINATIONS) == {rule.name for rule in every if isinstance(rule.verdict, Dnat)}


def test_every_rule_is_met_above() -> None:
    """Each drop, accept and translation decides somewhere in the table, answers included."""
    met = {name for key in SENTENCES for name in _met(ask(host_of(key[0]), key[1]))}
    wanted = {rule.name for chain in CHAINS for rule in chain.rules() if _is_final(rule)}
    assert wanted - met == set()


def _is_final(rule: Rule) -> bool:
    deciding = (Final.DROP, Final.ACCEPT, Final.MASQUERADE)
    return rule.verdict in deciding or isinstance(rule.verdict, Dnat | Snat)


def _met(way: Way) -> set[str]:
    journeys = [journey for journey in (way.there, way.back) if journey]
    results = [result for journey in journeys for result in journey.results]
    return {result.decided.rule.name for result in results if result.decided}


def test_every_scenario_and_family_is_asked() -> None:
    asked = {scenario for scenario, _ in SENTENCES}
    there = {path.parent.name for path in Path("rulesets").glob("*/host.toml")}
    assert there - asked == {"01-new-host"}
    families = {ask(host_of(s), p).question.family for s, p in SENTENCES}
    assert families == set(Family)


def test_what_nobody_concerns() -> None:
    passing = "eth0 198.51.100.9 203.0.113.5 tcp 80"
    forwarded = ask(host_of("02-published-port"), passing, oif="eth1")
    assert sentence(forwarded) == "leaves by eth1 for 203.0.113.5:80: no rule of ours concerns it"
    assert not any("assumed" in note for note in forwarded.assumptions)
    off = replace(host_of("11-dual-stack"), ipv6=False)
    way = ask(off, f"eth0 {OUTSIDE_6} fd00:21::5 tcp 81")
    assert way.passes
    assert "no rule of ours concerns it" in sentence(way)
    assert any("IPv6 off" in note for note in way.assumptions)


def test_without_br_netfilter_a_bridge_is_not_seen() -> None:
    question = put("br-tenants 172.20.0.3 172.20.0.2 tcp 80")
    way = follow(host_of("05-icc-off"), question, bridged=False)
    assert (way.fate, way.passes) == (Fate.BRIDGED, True)
    assert "passes within br-tenants to container alice of network tenants" in sentence(way)
    assert "br_netfilter" in sentence(way)
    assert list(lines(way, Style()))
    assert to_data(way)["hooks"] == []
    seen = follow(host_of("05-icc-off"), question)
    assert any("br_netfilter" in note for note in seen.assumptions)


def test_what_is_guessed_is_said_and_can_be_told() -> None:
    host = host_of("02-published-port")
    inbound = f"eth0 {OUTSIDE} 192.0.2.1 tcp 8080"
    (note, _) = ask(host, inbound).assumptions
    assert note.startswith("192.0.2.1 is assumed to be an address of the host")
    told = ask(host, inbound, own=("192.0.2.1", "::2"))
    assert not any("assumed" in n for n in told.assumptions)
    assert ask(host, inbound, own=("192.0.2.2",)).fate is Fate.LEAVES
    outbound = "br-front 172.20.0.3 192.0.2.1 tcp 8080"
    way = ask(host, outbound)
    assert way.assumptions[0].startswith("192.0.2.1 is assumed to be elsewhere")
    assert way.fate is Fate.LEAVES
    assert ask(host, outbound, own=("192.0.2.1",)).fate is Fate.TO_HOST


@pytest.mark.parametrize(
    ("scenario", "packet", "oif", "warned"),
    [
        ("02-published-port", "br-front 10.0.0.1 1.1.1.1 tcp 80", "", "does not belong to br-fro"),
        ("11-dual-stack", "br-plain fd00:20::2 2001:db8::1 tcp 80", "", "does not belong to br-pl"),
        ("02-published-port", "eth0 172.20.0.3 192.0.2.1 tcp 80", "", "belongs to br-front, not"),
        ("02-published-port", "eth0 127.0.0.1 192.0.2.1 tcp 80", "", "takes no packets from 127"),
        ("02-published-port", "host 172.20.0.3 1.1.1.1 tcp 80", "", "'worker' has it"),
        ("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 tcp 80", "eth1", "--out: not used"),
    ],
)
def test_odd_questions_are_followed_with_a_warning(
    scenario: str, packet: str, oif: str, warned: str
) -> None:
    (warning,) = ask(host_of(scenario), packet, oif=oif).warnings
    assert warned in str(warning)
    assert warning.hint


def test_ordinary_questions_are_not_warned_about() -> None:
    for scenario, packet in SENTENCES:
        warnings = ask(host_of(scenario), packet).warnings
        assert not warnings or "loopback0" in packet


def test_addresses_that_the_model_names_are_the_host_s() -> None:
    way = ask(host_of("11-dual-stack"), "br-front 172.20.0.2 198.51.100.1 tcp 8085")
    assert way.fate is Fate.TO_HOST
    expected: Address = ip_address("198.51.100.1")
    assert expected in way.around.own
