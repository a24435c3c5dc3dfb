"""What `explain` says against what real packets do, from the model and from the kernel's rules."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Sequence
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.explain.outcome import sentence
from nftbridge.explain.question import Typed, read
from nftbridge.explain.way import Fate, Way, follow
from nftbridge.lab import HOST, Outcome, Probe
from nftbridge.lab.topology import Node, Topology
from nftbridge.model import Address, Host
from nftbridge.policy.catalogue import GUARDED, INTERNAL_BRIDGES, PROTECTED_BRIDGES
from nftbridge.policy.derive import derive
from nftbridge.policy.evaluate import Evaluator
from tests.kernel.hosts import Site, batched, every_probe, site

pytestmark = pytest.mark.kernel

SCENARIOS = (
    "03-published-on-loopback",
    "04-no-proxy",
    "05-icc-off",
    "06-internal",
    "08-routed",
    "09-nat-unprotected",
    "11-dual-stack",
    "13-trusted-interface",
    "15-no-masquerade",
    "16-wsl2-mirrored",
)


def hosts_addresses(topology: Topology) -> list[Address]:
    """Everything that `ip address` would list on the host."""
    found = [a.ip for bridge in topology.bridges for a in bridge.addresses]
    found += [a.ip for node in topology.nodes if node.link for a in node.link.addresses]
    return found + [a.ip for a in topology.host.addresses]


def typed(probe: Probe, source: Node, topology: Topology) -> Typed | None:
    """The probe as one would type it; None if its source has no address for it or asks itself."""
    own = [a.ip for a in source.addresses if a.version == probe.destination.version]
    addresses = hosts_addresses(topology)
    if source.name == HOST:
        destination = probe.destination
        local = destination in addresses or destination.is_loopback
        own = [destination] if local else [_near(topology, destination)]
    elif probe.destination in own:
        return None
    if not own or (source.link and not source.gateways):
        return None
    link = source.link
    iif = (link.bridge or link.name) if link else "host"
    return Typed(
        iif,
        str(own[0]),
        str(probe.destination),
        probe.protocol,
        None if probe.protocol == "icmp" else str(probe.port),
        host_addresses=tuple(map(str, addresses)),
    )


def _near(topology: Topology, destination: Address) -> Address:
    """The address that the host sends from: that on the interface to the destination."""
    nets = [a for bridge in topology.bridges for a in bridge.addresses]
    nets += [a for node in topology.nodes if node.link for a in node.link.addresses]
    found = (a.ip for a in nets if destination.version == a.version and destination in a.network)
    return next(found, IPv6Address("::1") if destination.version == 6 else ip_address("127.0.0.1"))


def answered(way: Way, topology: Topology) -> bool:
    """Whether somebody answers where explain says that the packet arrives."""
    end = way.end
    if not way.passes:
        return False
    node = topology.host
    if way.fate is not Fate.TO_HOST:
        owners = (n for n in topology.nodes if end.daddr in [a.ip for a in n.addresses])
        found = next(owners, None)
        if found is None:
            return False
        node = found
    return not way.question.ported or end.dport in node.ports


def wanted(place: Site) -> list[tuple[Probe, Typed]]:
    topology = place.lab.topology
    nodes = {node.name: node for node in topology.all_nodes}
    pairs = ((probe, typed(probe, nodes[probe.source], topology)) for probe in every_probe(place))
    return [(probe, question) for probe, question in pairs if question is not None]


def disagreements(
    host: Host, evaluator: Evaluator, asked: Sequence[tuple[Typed, Outcome]], topology: Topology
) -> list[str]:
    """The packets that fared otherwise than explain says."""
    wrong: list[str] = []
    for question, outcome in asked:
        way = follow(host, read(question), evaluator)
        if answered(way, topology) != outcome.reached:
            wrong.append(f"{outcome.probe}: {outcome.reply.value}, but: {sentence(way)}")
    return wrong


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_packets_fare_as_explained(scenario: str, tmp_path: Path) -> None:
    host = config.load(f"rulesets/{scenario}/host.toml").host
    with site(host, tmp_path, proxy_ports=(9090,)) as place:
        probes, questions = zip(*wanted(place), strict=True)
        outcomes = [o for some in batched(probes, 5000) for o in place.lab.probe_all(some)]
        topology = place.lab.topology
    asked = list(zip(questions, outcomes, strict=True))
    facts = derive(host)
    wrong = disagreements(host, Evaluator(facts), asked, topology)
    assert not wrong, f"{len(wrong)} of {len(asked)}:\n" + "\n".join(wrong[:20])
    assert {outcome.reached for outcome in outcomes} == {True, False}
    # the comparison is not blind: with what is protected forgotten, explain is wrong
    planted = Evaluator({**facts, GUARDED: (), PROTECTED_BRIDGES: (), INTERNAL_BRIDGES: ()})
    assert disagreements(host, planted, asked, topology)


WEB = "198.51.100.1"
"""The host's address on its first uplink; the outside client there has 198.51.100.9."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    host = config.load("rulesets/02-published-port/host.toml").host
    with site(host, tmp_path_factory.mktemp("state")) as found:
        yield found


def nft(place: Site, *commands: str) -> None:
    for command in ("flush chain inet nftbridge DOCKER-USER", *commands):
        words = ["nsenter", f"--net=/run/netns/{place.lab.netns}", "nft", command]
        subprocess.run(words, check=True, capture_output=True, text=True)


def live(place: Site, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    """What ``explain --live`` says about the client's packet to the published port."""
    state = str(place.target.state_directory)
    words = ["--netns", place.lab.netns, "--state-dir", state, "--backend", "nftables", "--json"]
    packet = ["--in", "eth0", "--src", "198.51.100.9", "--dst", WEB, "--proto", "tcp"]
    assert main(["explain", *more, "--live", *words, *packet, "--dport", "8080"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def reached(place: Site) -> bool:
    (outcome,) = place.lab.probe_all([Probe("outside", ip_address(WEB), "tcp", 8080)])
    return outcome.reached


ADD = "add rule inet nftbridge DOCKER-USER"
TCP = f"{ADD} meta l4proto tcp ct original proto-dst"
PASSES, DROPPED = True, False
USER_RULES: dict[str, tuple[bool, tuple[str, ...]]] = {
    "nothing": (PASSES, ()),
    "drop by source": (DROPPED, (f"{ADD} ip saddr 198.51.100.0/24 counter drop",)),
    "drop another source": (PASSES, (f"{ADD} ip saddr 203.0.113.0/24 drop",)),
    "drop by published port": (DROPPED, (f"{TCP} 8080 drop",)),
    "drop another published port": (PASSES, (f"{TCP} 80 drop",)),
    "but one source": (DROPPED, (f"{TCP} 8080 iifname eth0 ip saddr != 203.0.113.0/24 drop",)),
    "but its source": (PASSES, (f"{TCP} 8080 iifname eth0 ip saddr != 198.51.100.0/24 drop",)),
    "the container's port": (DROPPED, (f"{ADD} tcp dport 80 reject",)),
    "accept answers only": (DROPPED, (f"{ADD} ct state established accept", f"{ADD} drop")),
    "accept the way there only": (DROPPED, (f"{ADD} iifname eth0 accept", f"{ADD} drop")),
    "accept both ways": (
        PASSES,
        (f"{ADD} iifname eth0 accept", f"{ADD} oifname eth0 accept", f"{ADD} drop"),
    ),
    "drop answers": (DROPPED, (f"{ADD} ip daddr 198.51.100.9 drop",)),
    "a chain and a set": (
        DROPPED,
        (
            "add set inet nftbridge bad { type ipv4_addr; flags interval; }",
            "add element inet nftbridge bad { 198.51.100.0/28 }",
            "add chain inet nftbridge mine",
            "add rule inet nftbridge mine ip saddr @bad drop",
            f"{ADD} ct status dnat jump mine",
        ),
    ),
}


@pytest.mark.parametrize("name", USER_RULES)
def test_user_rules_are_understood(
    name: str, place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    passes, rules = USER_RULES[name]
    nft(place, *rules)
    told = live(place, capsys)
    assert told["passes"] is passes, told["sentence"]
    assert reached(place) is passes
    assert told["uncertain"] == []
    chain = "mine" if name == "a chain and a set" else "DOCKER-USER"
    assert passes is (f"dropped in {chain}: rule " not in told["sentence"])


def test_a_rule_that_cannot_be_understood(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    nft(place, f"{ADD} ip saddr 203.0.113.1 drop", f"{ADD} meta mark 7 drop")
    told = live(place, capsys)
    assert told["sentence"].startswith("uncertain, since rule 2 of DOCKER-USER (meta mark 7 drop")
    assert "cannot be understood: meta mark 7" in told["sentence"]
    assert told["passes"] is True
    nft(place, f"{ADD} tcp dport 81 meta mark 7 drop")
    assert live(place, capsys)["uncertain"] == []  # whatever the mark: it is for another port


def test_the_kernel_s_rows_decide_and_the_file_has_the_names(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "rulesets/03-published-on-loopback/host.toml"
    told = live(place, capsys, other)
    assert told["hooks"][1]["rule"] == "publish-anywhere"
    assert any("not as the model says" in note for note in told["assumptions"])
    assert "container web of network frontend" in told["sentence"]


def test_a_row_that_is_gone_is_noticed(place: Site, capsys: pytest.CaptureFixture[str]) -> None:
    row = "element inet nftbridge open_ports4 { br-front . 172.20.0.2 . tcp . 80 }"
    nft(place, f"delete {row}")
    try:
        told = live(place, capsys)
        assert told["passes"] is reached(place) is False
        assert told["sentence"].startswith("dropped in DOCKER: nothing published on 172.20.0.2:80")
        assert any("not as the model says" in note for note in told["assumptions"])
    finally:
        nft(place, f"add {row}")


def test_a_chain_with_a_hook_of_its_own_is_not_followed(
    place: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    nft(place, "add chain inet nftbridge own { type filter hook forward priority 5; }")
    told = live(place, capsys)
    assert told["uncertain"] == ["the chain own of yours has a hook of its own and is not followed"]
    nft(place, "delete chain inet nftbridge own")


def test_nothing_there(place: Site, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    packet = ["--in", "eth0", "--src", "198.51.100.9", "--dst", WEB, "--proto", "icmp", "--live"]
    where = ["--netns", place.lab.netns, "--backend", "nftables"]
    assert main(["explain", *packet, *where, "--table", "other"]) == 5
    assert "nothing of ours is in table inet other" in capsys.readouterr().err
    assert main(["explain", *packet, *where, "--state-dir", str(tmp_path)]) == 1
    assert "no apply is on record" in capsys.readouterr().err
