"""The laboratory itself: its probes arrive, fail if something is in the way, and nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import product
from pathlib import Path
from typing import get_args

import pytest

from nftbridge.errors import InputError, UnavailableError
from nftbridge.lab import Laboratory, Outcome, Probe, ProbeProtocol, Reply, sweep
from nftbridge.model import Container, Family, GatewayMode, Host, Network, Publication

pytestmark = pytest.mark.kernel

PORT = 81
PROTOCOLS: tuple[ProbeProtocol, ...] = get_args(ProbeProtocol)
WITH_PORTS: tuple[ProbeProtocol, ...] = ("tcp", "udp", "sctp")
NETNS_DIRECTORY = Path("/var/run/netns")


def network(number: int, *names: str, internal: bool = False) -> Network:
    """172.20.N.0/24 and fd00:N::/64 with these containers; the first one publishes 808N -> 80."""
    publish = () if internal else (Publication(80, 8080 + number),)
    containers = tuple(
        Container(
            name,
            ipv4=IPv4Address(f"172.20.{number}.{index}"),
            ipv6=IPv6Address(f"fd00:{number}::{index}"),
            publish=publish if name == names[0] else (),
        )
        for index, name in enumerate(names, start=2)
    )
    subnets = (IPv4Network(f"172.20.{number}.0/24"), IPv6Network(f"fd00:{number}::/64"))
    return Network(f"net{number}", f"br-{number}", subnets, internal, containers=containers)


HOST = Host((network(1, "web", "app"), network(2, "db"), network(3, "vault", internal=True)))


@pytest.fixture(scope="module")
def lab() -> Generator[Laboratory, None, None]:
    with Laboratory(HOST, uplinks=("eth0", "eth1"), loopback_links=("loopback0",)) as running:
        yield running


@contextmanager
def ruleset(lab: Laboratory, chains: str) -> Generator[None, None, None]:
    """`chains` in a table of the laboratory's host, for a while."""
    nft = ["nsenter", f"--net=/run/netns/{lab.netns}", "nft"]
    table = f"table inet obstacle {{\n{chains}\n}}\n"
    subprocess.run([*nft, "-f", "-"], input=table, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run([*nft, "delete", "table", "inet", "obstacle"], check=True)


def probes(
    lab: Laboratory,
    pairs: Iterable[tuple[str, str]],
    protocols: Iterable[ProbeProtocol] = PROTOCOLS,
    families: Iterable[Family] = tuple(Family),
) -> list[Probe]:
    """One probe per pair of source and destination node, protocol and family."""
    return [
        Probe(source, lab.address(destination, family), protocol, 0 if protocol == "icmp" else PORT)
        for (source, destination), protocol, family in product(pairs, protocols, families)
    ]


def unreached(outcomes: Iterable[Outcome]) -> list[str]:
    return [f"{o.probe}: {o.reply.value} {o.error}" for o in outcomes if not o.reached]


def lab_names(prefix: str) -> list[str]:
    return sorted(p.name for p in NETNS_DIRECTORY.glob(f"{prefix}*"))


def eventually_gone(prefix: str) -> bool:
    end = time.monotonic() + 10
    while lab_names(prefix) and time.monotonic() < end:
        time.sleep(0.02)
    return not lab_names(prefix)


def test_without_rules_every_node_reaches_every_node(lab: Laboratory) -> None:
    outcomes = lab.probe_all(probes(lab, product(lab.nodes, lab.nodes)))
    assert len(outcomes) == len(lab.nodes) ** 2 * len(PROTOCOLS) * len(Family)
    assert unreached(outcomes) == []


def test_answers_name_the_node_the_source_and_the_port(lab: Laboratory) -> None:
    for outcome in lab.probe_all(probes(lab, [("outside", "db"), ("vault", "app")], WITH_PORTS)):
        probe = outcome.probe
        family = Family.of(probe.destination)
        assert outcome.answered_by == {"outside": "db", "vault": "app"}[probe.source]
        assert outcome.seen_source == lab.address(probe.source, family)
        assert outcome.answered_port == PORT


def test_containers_answer_on_their_published_ports_only(lab: Laboratory) -> None:
    combinations = product(("web", "app"), WITH_PORTS[:2])
    asked = [Probe("outside", lab.address(node), p, 80) for node, p in combinations]
    replies = [outcome.reply for outcome in lab.probe_all(asked)]
    assert replies == [Reply.ANSWERED, Reply.ANSWERED, Reply.REFUSED, Reply.REFUSED]


@pytest.mark.parametrize(("protocol", "family"), list(product(PROTOCOLS, Family)))
def test_a_drop_stops_its_protocol_and_family_and_no_other(
    lab: Laboratory, protocol: ProbeProtocol, family: Family
) -> None:
    number = "ipv6-icmp" if protocol == "icmp" and family is Family.IPV6 else protocol
    rule = f"meta nfproto {family.value} meta l4proto {number} drop"
    asked = probes(lab, [("outside", "web"), ("web", "outside"), ("web", "db"), ("host", "web")])
    with ruleset(lab, f"chain f {{ type filter hook forward priority 0; {rule}; }}"):
        outcomes = lab.probe_all(asked, timeout=0.4)
    for outcome in outcomes:
        probe = outcome.probe
        hit = probe.protocol == protocol and Family.of(probe.destination) is family
        expected = Reply.SILENT if hit and probe.source != "host" else Reply.ANSWERED
        assert outcome.reply is expected, probe
    assert unreached(lab.probe_all(asked)) == []


@pytest.mark.parametrize("family", list(Family))
def test_a_drop_on_the_way_out_is_told_from_silence(lab: Laboratory, family: Family) -> None:
    rule = f"meta nfproto {family.value} oifname br-1 drop"
    with ruleset(lab, f"chain o {{ type filter hook output priority 0; {rule}; }}"):
        outcomes = lab.probe_all(probes(lab, [("host", "web")], ["udp", "sctp"], [family]))
    assert [outcome.reply for outcome in outcomes] == [Reply.UNREACHABLE] * 2


def test_a_reject_is_a_refusal(lab: Laboratory) -> None:
    rules = "meta l4proto tcp reject with tcp reset; meta l4proto udp reject"
    with ruleset(lab, f"chain f {{ type filter hook forward priority 0; {rules}; }}"):
        outcomes = lab.probe_all(probes(lab, [("outside", "web")], ["tcp", "udp"]))
    assert {outcome.reply for outcome in outcomes} == {Reply.REFUSED}


@pytest.mark.parametrize("protocol", WITH_PORTS)
@pytest.mark.parametrize("family", list(Family))
def test_translations_show(lab: Laboratory, protocol: ProbeProtocol, family: Family) -> None:
    ip = "ip" if family is Family.IPV4 else "ip6"
    target = {4: "172.20.1.2:80", 6: "[fd00:1::2]:80"}[family.version]
    rules = f"""
        chain d {{ type nat hook prerouting priority -100;
                   {protocol} dport 8080 dnat {ip} to {target}; }}
        chain s {{ type nat hook postrouting priority 100; oifname eth0 masquerade; }}
    """
    with ruleset(lab, rules):
        inward, outward = lab.probe_all(
            [
                Probe("outside", lab.address("host", family), protocol, 8080),
                Probe("app", lab.address("outside", family), protocol, PORT),
            ]
        )
    assert (inward.answered_by, inward.answered_port) == ("web", 80)
    assert inward.seen_source == lab.address("outside", family)
    assert outward.answered_by == "outside"
    assert outward.seen_source == lab.address("host", family)


@pytest.mark.parametrize("proxy", [True, False])
def test_a_container_reaches_itself_through_the_host_on_hairpin_ports_only(*, proxy: bool) -> None:
    rules = """
        chain d { type nat hook prerouting priority -100; tcp dport 8081 dnat ip to 172.20.1.2:80; }
        chain s { type nat hook postrouting priority 100; ip saddr 172.20.1.2 masquerade; }
    """
    with Laboratory(Host((network(1, "web"),), userland_proxy=proxy)) as lab, ruleset(lab, rules):
        (outcome,) = lab.probe_all([Probe("web", lab.address("host"), "tcp", 8081)])
    assert outcome.reply is (Reply.SILENT if proxy else Reply.ANSWERED)
    assert outcome.answered_by == (None if proxy else "web")


def test_only_a_loopback_link_reaches_the_hosts_loopback(lab: Laboratory) -> None:
    sources = ("outside-loopback0", "outside")
    loopback = IPv4Address("127.0.0.1")
    asked = [Probe(source, loopback, p, PORT) for source in sources for p in WITH_PORTS]
    outcomes = lab.probe_all(asked)
    assert [o.answered_by for o in outcomes] == ["host"] * 3 + ["outside"] * 3
    assert outcomes[0].seen_source == lab.address("outside-loopback0")


def test_a_held_connection_shows_whether_it_is_alive(lab: Laboratory) -> None:
    connection = lab.connect("outside", lab.address("web"), 80)
    assert connection.answer.node == "web"
    assert connection.alive()
    with ruleset(lab, "chain f { type filter hook forward priority 0; tcp sport 80 drop; }"):
        assert not connection.alive(timeout=0.3)
    assert connection.alive(timeout=5)
    connection.close()
    with pytest.raises(ConnectionError, match="Connection refused"):
        lab.connect("outside", lab.address("app"), 80)


def test_silent_probes_do_not_wait_for_each_other(lab: Laboratory) -> None:
    asked = probes(lab, product(("outside", "db", "host"), ("web", "app"))) * 13
    rule = "iifname eth0 drop; oifname br-1 drop"
    start = time.monotonic()
    with ruleset(lab, f"chain f {{ type filter hook forward priority 0; {rule}; }}"):
        outcomes = lab.probe_all(asked)
    assert len(outcomes) > 600
    assert {o.reply for o in outcomes if o.probe.source != "host"} == {Reply.SILENT}
    assert unreached(o for o in outcomes if o.probe.source == "host") == []
    assert time.monotonic() - start < 5


def test_internal_networks_without_routes() -> None:
    with Laboratory(Host((network(3, "vault", internal=True),)), internal_routes=False) as lab:
        (outcome,) = lab.probe_all(probes(lab, [("vault", "outside")], ["tcp"], [Family.IPV4]))
        assert outcome.reply is Reply.UNREACHABLE
        assert unreached(lab.probe_all(probes(lab, [("host", "vault")]))) == []


def test_the_host_owns_the_addresses_that_the_model_names() -> None:
    named = Network(
        "n",
        "br-n",
        (IPv4Network("172.20.9.0/24"), IPv6Network("fd00:9::/64")),
        host_ipv4=IPv4Address("192.0.2.77"),
        host_ipv6=IPv6Address("2001:db8:100::77"),
        gateway_mode_ipv6=GatewayMode.ROUTED,
        containers=(Container("a", ipv4=IPv4Address("172.20.9.1"), ipv6=IPv6Address("fd00:9::1")),),
    )
    with Laboratory(Host((named,)), ports={"host": (7,)}) as lab:
        asked = [Probe("outside", a, "tcp", 7) for a in (named.host_ipv4, named.host_ipv6) if a]
        outcomes = [*lab.probe_all(asked), *lab.probe_all(probes(lab, [("host", "outside")]))]
        assert unreached(outcomes) == []
        # Not the second address of the uplink, which is as good a match for the destination.
        seen = [o.seen_source for o in outcomes if o.answered_by == "outside"]
        assert set(seen) == {lab.address("host", family) for family in Family}
        # A container has the subnet's first address here, so the gateway takes the next one.
        assert (
            unreached(lab.probe_all([Probe("outside", IPv4Address("172.20.9.2"), "tcp", 7)])) == []
        )


def test_names_go_with_the_context() -> None:
    with Laboratory(HOST) as lab:
        prefix = lab.netns.removesuffix("host")
        assert len(lab_names(prefix)) == len(lab.nodes)
    assert lab_names(prefix) == []
    with pytest.raises(RuntimeError, match="not running"):
        lab.probe_all(probes(lab, [("host", "web")]))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_names_go_after_an_exception(error: type[BaseException]) -> None:
    prefix = ""
    with pytest.raises(error), Laboratory(HOST) as lab:  # noqa: PT012  the body has to raise
        prefix = lab.netns.removesuffix("host")
        raise error
    assert prefix
    assert lab_names(prefix) == []


def test_a_laboratory_that_cannot_be_built_leaves_nothing() -> None:
    own = f"nftb-{os.getpid()}-"
    before = lab_names(own)
    with (
        pytest.raises(UnavailableError, match=r"laboratory, web: .*65535"),
        Laboratory(HOST, ports={"web": (99999,)}),
    ):
        pytest.fail("it was built")
    assert lab_names(own) == before


HOLDER = """
import sys, time
from ipaddress import IPv4Network
from nftbridge.lab import Laboratory
from nftbridge.model import Host, Network
with Laboratory(Host((Network("n", "br-n", (IPv4Network("172.20.1.0/24"),)),))) as lab:
    print(lab.netns, flush=True)
    time.sleep(60)
"""


@contextmanager
def holder() -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """Another process that holds a laboratory, and the prefix of its namespaces."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip().removesuffix("host")
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_names_go_when_the_process_is_killed(number: signal.Signals) -> None:
    with holder() as (process, prefix):
        assert f"-{process.pid}-" in prefix
        assert len(lab_names(prefix)) == 2
        process.send_signal(number)
        process.wait()
        assert eventually_gone(prefix)


def test_sweep_removes_what_dead_processes_left(lab: Laboratory) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, foreign = f"nftb-{gone.pid}-0-host", f"other-{gone.pid}-0-host"
    for name in (left, foreign):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        assert left in sweep()
        assert lab_names(left) == []
        assert lab_names(foreign) == [foreign]
        assert lab.netns in lab_names("nftb-")
    finally:
        subprocess.run(["ip", "netns", "delete", foreign], check=True)


def test_the_initial_namespace_is_not_touched() -> None:
    def everything() -> list[str]:
        commands = ("ip -o link", "ip -o address", "ip rule", "nft -s list ruleset")
        settings = ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/rp_filter")
        shown = [subprocess.check_output(c.split(), text=True) for c in commands]
        return shown + [Path("/proc/sys/net", key).read_text() for key in settings]

    before = everything()
    with Laboratory(HOST) as lab:
        lab.probe_all(probes(lab, [("outside", "web")]))
        assert everything() == before
    assert everything() == before


def test_only_root_can_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnavailableError, match="sudo"), Laboratory(HOST):
        pytest.fail("it was built")


def test_wrong_names_are_told_at_once(lab: Laboratory) -> None:
    with pytest.raises(InputError, match="'br-1' is taken"):
        Laboratory(HOST, uplinks=("br-1",))
    with pytest.raises(LookupError, match="no node 'wbe'"):
        Laboratory(HOST, ports={"wbe": (1,)})
    with pytest.raises(LookupError, match="no node 'wbe'"):
        lab.probe_all([Probe("wbe", lab.address("db"), "icmp")])


def test_containers_of_one_name_are_called_by_their_network() -> None:
    lab = Laboratory(Host((network(1, "web", "host"), network(2, "web", "app"))))
    assert lab.nodes == ("host", "outside", "net1/web", "net1/host", "net2/web", "app")
    assert len(set(map(lab.namespace, lab.nodes))) == len(lab.nodes)
