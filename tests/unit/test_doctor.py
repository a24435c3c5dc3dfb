"""The doctor's pure parts: reading rules, following packets, and the table of diagnoses."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbridge.doctor import iptables, nftables
from nftbridge.doctor.case import Case
from nftbridge.doctor.diagnoses import DIAGNOSES, examine
from nftbridge.doctor.docker import Remains
from nftbridge.doctor.facts import Facts
from nftbridge.doctor.finding import Finding, Severity
from nftbridge.doctor.owners import owner
from nftbridge.doctor.routing import Route
from nftbridge.doctor.ruleset import Maker, Table
from nftbridge.doctor.traffic import traffic, translated_ports
from nftbridge.doctor.walk import Decision, Verdict, decide, sets_marks
from nftbridge.explain.matching import Seen
from nftbridge.model import Container, GatewayMode, Host, Network, Publication
from nftbridge.policy.evaluate import Packet

ROOT = Path(__file__).parents[2]
WEB = IPv4Address("172.20.0.2")
ASKED = Packet(ip_address("9.9.9.9"), ip_address("192.0.2.1"), "tcp", 8080, "eth0")
PUBLISHED = dataclasses.replace(ASKED, daddr=WEB, dport=80, oif="br-front")
ANSWER = Packet(WEB, ip_address("9.9.9.9"), "tcp", 0, "br-front", "eth0", "established")
EGRESS = Packet(WEB, ip_address("9.9.9.9"), "tcp", 443, "br-front", "eth0")


def seen(packet: Packet) -> Seen:
    if packet is PUBLISHED:
        return Seen(packet, ASKED, packet)
    return Seen(packet, ASKED, PUBLISHED) if packet is ANSWER else Seen(packet, packet, packet)


def saved(*lines: str, table: str = "filter", maker: Maker = Maker.IPTABLES_LEGACY) -> Table:
    """A table as iptables-save prints it; chains that lines name are made."""
    named = dict.fromkeys(line.split()[1] for line in lines if line.startswith("-A "))
    heads = [f":{c} {'ACCEPT' if c in BUILT_IN else '-'} [0:0]" for c in (*BUILT_IN, *named)]
    text = "\n".join([f"*{table}", *dict.fromkeys(heads), *lines, "COMMIT", ""])
    (found,) = iptables.tables(f"# comment\n{text}", maker, "ip")
    return found


BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")


def through(table: Table, packet: Packet, **more: Any) -> Decision:
    base = next(c for c in table.chains.values() if c.hook == "forward")
    return decide(table, base, seen(packet), **more)


# Lines of iptables -----------------------------------------------------------------------------

MATCHES: list[tuple[str, list[Packet]]] = [
    ("-s 172.20.0.0/16", [ANSWER, EGRESS]),
    ("! -s 172.20.0.2/32", [PUBLISHED]),
    ("-d 172.20.0.2/32", [PUBLISHED]),
    ("-i br-front ! -o br-front", [ANSWER, EGRESS]),
    ("-i br-+", [ANSWER, EGRESS]),
    ("-o eth0", [ANSWER, EGRESS]),
    ("-p tcp", [PUBLISHED, ANSWER, EGRESS]),
    ("-p udp", []),
    ("-p 6", [PUBLISHED, ANSWER, EGRESS]),
    ("-p icmp", []),
    ("-p tcp -m tcp --dport 80", [PUBLISHED]),
    ("-p tcp -m tcp ! --dport 80", [ANSWER, EGRESS]),
    ("-p tcp -m tcp --dport 400:500", [EGRESS]),
    ("-p tcp -m tcp --sport 80", [ANSWER]),
    ("-p tcp -m multiport --dports 22,79:81", [PUBLISHED]),
    ("-m conntrack --ctstate RELATED,ESTABLISHED", [ANSWER]),
    ("-m conntrack ! --ctstate RELATED,ESTABLISHED", [PUBLISHED, EGRESS]),
    ("-m state --state NEW", [PUBLISHED, EGRESS]),
    ("-m conntrack --ctstate DNAT", [PUBLISHED, ANSWER]),
    ("-p tcp -m conntrack --ctorigdstport 8080", [PUBLISHED, ANSWER, EGRESS][:2]),
    ("-m conntrack --ctorigdst 192.0.2.1/32", [PUBLISHED, ANSWER]),
    ("-m conntrack --ctdir REPLY", [ANSWER]),
    ("-m addrtype --dst-type LOCAL", []),
    ("-m addrtype ! --dst-type LOCAL", [PUBLISHED, ANSWER, EGRESS]),
    ("-m mark --mark 0x1/0x1", []),
    ("-m mark ! --mark 0x1", [PUBLISHED, ANSWER, EGRESS]),
    ('-m comment --comment "it\'s -j DROP"', [PUBLISHED, ANSWER, EGRESS]),
]


@pytest.mark.parametrize(("words", "matching"), MATCHES)
def test_what_a_line_matches(words: str, matching: list[Packet]) -> None:
    table = saved(f"-A FORWARD {words} -j DROP")
    for packet in (PUBLISHED, ANSWER, EGRESS):
        decision = through(table, packet)
        expected = Verdict.DROP if packet in matching else Verdict.ACCEPT
        assert (decision.verdict, decision.doubts) == (expected, ()), packet


TARGETS: list[tuple[tuple[str, ...], Verdict, str]] = [
    (("-A FORWARD -j REJECT --reject-with icmp-port-unreachable",), Verdict.DROP, "FORWARD"),
    (("-A FORWARD -j LOG --log-prefix x", "-A FORWARD -j DROP"), Verdict.DROP, "FORWARD"),
    (("-A FORWARD -j ACCEPT", "-A FORWARD -j DROP"), Verdict.ACCEPT, "FORWARD"),
    (("-A FORWARD -j own", "-A own -j DROP"), Verdict.DROP, "own"),
    (("-A FORWARD -j own", "-A own -j RETURN", "-A own -j DROP"), Verdict.ACCEPT, "FORWARD"),
    (
        ("-A FORWARD -g own", "-A FORWARD -j DROP", "-A own -p udp -j DROP"),
        Verdict.ACCEPT,
        "FORWARD",
    ),
    (("-A FORWARD -j own", "-A own -j FORWARD"), Verdict.ACCEPT, "FORWARD"),
    (("-A FORWARD -j CT --notrack",), Verdict.UNTRACKED, "FORWARD"),
    (("-A FORWARD -j DNAT --to-destination 10.0.0.1:80",), Verdict.TRANSLATE, "FORWARD"),
]


@pytest.mark.parametrize(("lines", "verdict", "chain"), TARGETS)
def test_where_a_packet_ends(lines: tuple[str, ...], verdict: Verdict, chain: str) -> None:
    decision = through(saved(*lines), EGRESS)
    assert (decision.verdict, decision.place.chain.name) == (verdict, chain)


def test_a_policy() -> None:
    (table,) = iptables.tables("*filter\n:FORWARD DROP [1:2]\nCOMMIT\n", Maker.IPTABLES_NFT, "ip6")
    decision = through(table, EGRESS)
    assert decision.verdict is Verdict.DROP
    assert str(decision.place) == "table filter of ip6tables-nft, chain FORWARD: policy drop"


def test_a_line_that_is_not_understood_is_a_doubt_only_where_it_matters() -> None:
    odd = "-A FORWARD -m recent --rcheck --name x -j"
    dropped = through(saved(f"{odd} ACCEPT", "-A FORWARD -j DROP"), EGRESS)
    assert dropped.verdict is Verdict.DROP
    assert [str(place.rule and place.rule.text) for place in dropped.doubts] == [
        odd[11:] + " ACCEPT"
    ]
    assert through(saved(f"{odd} DROP", "-A FORWARD -j DROP"), EGRESS).doubts == ()
    passed = through(saved(f"{odd} DROP"), EGRESS)
    assert passed.verdict is Verdict.ACCEPT
    assert len(passed.doubts) == 1
    # whatever it says, it is about other packets
    assert through(saved(f"-A FORWARD -p udp {odd[11:]} DROP"), EGRESS).doubts == ()


def test_marks_are_known_as_long_as_nobody_sets_any() -> None:
    marked = saved("-A FORWARD -m mark --mark 0x1 -j DROP")
    assert not sets_marks([marked])
    assert through(marked, EGRESS).doubts == ()
    assert sets_marks([marked, saved("-A PREROUTING -j MARK --set-xmark 0x1/0x1", table="mangle")])
    assert len(through(marked, EGRESS, mark=None).doubts) == 1


# What Docker left --------------------------------------------------------------------------------

EXTERNAL = "-m set --match-set docker-ext-bridges-v4 dst"
LAYOUTS: dict[str, tuple[str, ...]] = {
    "Docker up to 1.9, or parts of a later one": (
        "-A FORWARD -o docker0 -j DOCKER",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT",
    ),
    "Docker 28.0.0": (
        "-A FORWARD -j DOCKER-USER",
        f"-A FORWARD {EXTERNAL} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-A FORWARD {EXTERNAL} -j DOCKER",
        "-A FORWARD -i docker0 -j ACCEPT",
        "-A DOCKER ! -i docker0 -o docker0 -j DROP",
        "-A DOCKER-USER -s 203.0.113.9/32 -j DROP",
    ),
    "Docker 28.2 to 28.5": (
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-FORWARD",
        "-A DOCKER-FORWARD -j DOCKER-CT",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_left_over_layouts(layout: str) -> None:
    lines = (*LAYOUTS[layout], "-A FORWARD -i eth7 -o eth8 -j DROP", "-A FORWARD -i eth7 -j DROP")
    remains = Remains((saved(*lines),))
    assert remains.layout == layout
    (command,) = remains.removal()
    assert command.endswith("| iptables-legacy-restore -w --noflush")
    assert "eth7" not in command
    assert "DOCKER-USER" not in command


def test_docker_user_alone_is_not_left_over() -> None:
    remains = Remains((saved("-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN"),))
    assert not remains
    assert list(remains.removal()) == []


def test_lines_of_other_bridges_are_not_dockers() -> None:
    lines = ("-A FORWARD -i virbr0 -o virbr0 -j ACCEPT", "-A FORWARD -i br-0123456789ab -j ACCEPT")
    assert not Remains((saved(*lines),))


def test_ip6tables_legacy_deletes_by_number() -> None:
    text = "*filter\n:FORWARD ACCEPT [0:0]\n:DOCKER - [0:0]\n-A FORWARD -i a -j DROP\n"
    text += "-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 -o docker0 -j ACCEPT\nCOMMIT\n"
    (table,) = iptables.tables(text, Maker.IPTABLES_LEGACY, "ip6")
    (command,) = Remains((table,)).removal()
    assert "'-D FORWARD 3' '-D FORWARD 2' '-F DOCKER' '-X DOCKER'" in command


# Diagnoses ---------------------------------------------------------------------------------------

FRONT = Network(
    "front",
    "br-front",
    (ip_network("172.20.0.0/16"), ip_network("fd00:20::/64")),
    containers=(Container("web", ipv4=WEB, publish=(Publication(80, 8080),)),),
)
HEALTHY = Facts(
    sysctls={
        "ipv4/ip_forward": "1",
        "ipv6/conf/all/forwarding": "1",
        "ipv4/conf/br-front/rp_filter": "0",
    },
    interfaces={"br-front": True, "eth0": True},
    addresses=(ip_address("127.0.0.1"), ip_address("172.20.0.1"), ip_address("192.0.2.1")),
    routes=(
        Route(ip_network("0.0.0.0/0"), "eth0"),
        Route(ip_network("192.0.2.0/24"), "eth0"),
        Route(ip_network("172.20.0.0/16"), "br-front"),
        Route(ip_network("::/0"), "eth0"),
        Route(ip_network("fd00:20::/64"), "br-front"),
    ),
)


def findings(facts: Facts, *networks: Network) -> tuple[Finding, ...]:
    host = Host(networks or (FRONT,))
    found = tuple(traffic(host, facts, translated_ports(facts.tables)))
    return examine(Case(host, facts, found))


def test_a_healthy_host_has_no_findings() -> None:
    assert findings(HEALTHY) == ()


def test_each_thing_that_is_wrong_is_tried_on_a_real_kernel() -> None:
    """Not by hand-waving: each diagnosis is named by a test that mends it, or has to be in here."""
    tried = "".join(path.read_text() for path in (ROOT / "tests/kernel").glob("test_doctor*.py"))
    names = {d.name for d in DIAGNOSES if d.severity.wrong}
    assert {name for name in names if f'"{name}"' not in tried} == set()


def test_names_are_unique() -> None:
    assert len({d.name for d in DIAGNOSES}) == len(DIAGNOSES)


def test_leaks_come_first_and_remarks_last() -> None:
    drop = saved("-A FORWARD -j DROP")
    facts = dataclasses.replace(HEALTHY, tables=(drop,), drift="x", unread=("y",), interfaces={})
    order = [finding.severity for finding in findings(facts)]
    assert order == sorted(order)
    assert {*order} == {*Severity}


def test_forwarding_is_needed_by_families_and_networks_that_route() -> None:
    off = dataclasses.replace(
        HEALTHY, sysctls={"ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": "0"}
    )
    assert [f.where for f in findings(off)] == [
        "net.ipv4.ip_forward",
        "net.ipv6.conf.all.forwarding",
    ]
    internal = Network("data", "br-front", (ip_network("172.20.0.0/16"),), internal=True)
    assert findings(off, internal) == ()


def test_a_host_that_listens_to_routers_goes_on_listening() -> None:
    sysctls = {**HEALTHY.sysctls, "ipv6/conf/all/forwarding": "0"}
    facts = dataclasses.replace(HEALTHY, sysctls=sysctls, listening=("eth0.7",))
    (found,) = findings(facts)
    assert found.commands == (
        "sysctl -w net.ipv6.conf.eth0/7.accept_ra=2",
        "sysctl -w net.ipv6.conf.all.forwarding=1",
    )


def test_a_running_docker_s_rules_are_its_own() -> None:
    table = saved("-A FORWARD -j DOCKER-FORWARD", "-A DOCKER-FORWARD -o br-x -j DROP")
    facts = dataclasses.replace(HEALTHY, tables=(table,), daemons=frozenset({"dockerd"}))
    assert [f.diagnosis for f in findings(facts)] == ["docker-runs"]
    left = dataclasses.replace(facts, daemons=frozenset[str]())
    assert [f.diagnosis for f in findings(left)] == ["docker-remains"]
    assert not any(f.severity.wrong for f in findings(left))


def test_the_chains_of_our_own_backend_are_not_left_over() -> None:
    table = saved("-A FORWARD -j DOCKER-FORWARD", "-A DOCKER-FORWARD -o br-x -j DROP")
    assert findings(dataclasses.replace(HEALTHY, tables=(table,), backend="iptables")) == ()


def test_strict_reverse_paths_elsewhere_are_remarked() -> None:
    sysctls = {**HEALTHY.sysctls, "ipv4/conf/eth1/rp_filter": "1"}
    routes = (*HEALTHY.routes, Route(ip_network("203.0.113.0/24"), "eth1"))
    (found,) = findings(dataclasses.replace(HEALTHY, sysctls=sysctls, routes=routes))
    assert (found.diagnosis, found.severity) == ("reverse-path-strict", Severity.REMARK)
    assert "only to those to whom a route leads by eth1" in found.sentence


OWNERS = {
    ("ip", "docker-bridges"): "Docker",
    ("inet", "netavark"): "Podman",
    ("inet", "cni_hostport"): "CNI portmap",
    ("ip", "libvirt_network"): "libvirt",
    ("inet", "incus"): "Incus",
    ("ip", "kube-proxy"): "kube-proxy",
    ("inet", "firewalld"): "firewalld",
    ("inet", "filter"): "",
}


@pytest.mark.parametrize(("family", "name"), OWNERS)
def test_whose_table_it_is(family: str, name: str) -> None:
    assert owner(nftables.table(family, name, [])) == OWNERS[family, name]


def test_neighbours_are_named_and_nothing_is_wrong() -> None:
    table = nftables.table("inet", "netavark", [])
    (found,) = findings(dataclasses.replace(HEALTHY, tables=(table,)))
    assert found.sentence.startswith("table inet netavark is Podman's")
    assert not found.severity.wrong


def test_a_publication_among_many_is_found_by_the_port_that_is_taken() -> None:
    many = tuple(Publication(port, port) for port in range(2000, 2500))
    network = dataclasses.replace(FRONT, containers=(Container("web", ipv4=WEB, publish=many),))
    rule = "-A PREROUTING -p tcp -m tcp --dport 2345 -j DNAT --to-destination 10.0.0.9:80"
    (found,) = findings(dataclasses.replace(HEALTHY, tables=(saved(rule, table="nat"),)), network)
    assert found.diagnosis == "port-taken"
    assert found.traffic == ("front: published port 2345:2345/tcp, IPv4",)
    assert found.commands == (f"iptables-legacy -w -t nat -D {rule.removeprefix('-A ')}",)


def test_routed_ports_are_opened_by_their_bridge() -> None:
    network = dataclasses.replace(FRONT, gateway_mode_ipv4=GatewayMode.ROUTED)
    table = nftables.table(
        "inet",
        "filter",
        [
            {
                "chain": {
                    "name": "f",
                    "type": "filter",
                    "hook": "forward",
                    "prio": 0,
                    "policy": "drop",
                }
            }
        ],
    )
    (found,) = findings(dataclasses.replace(HEALTHY, tables=(table,)), network)
    assert found.commands == (
        """nft 'add rule inet filter f iifname "br-front" accept'""",
        """nft 'add rule inet filter f oifname "br-front" accept'""",
    )


# Nothing that others wrote breaks it -------------------------------------------------------------

WORDS = """
    match op left right meta key payload protocol field ct dir vmap data set elem range prefix addr
    len jump target goto fib flags result drop accept & limit xt map
"""
KEYS = tuple(WORDS.split())


def match(left: object, right: object, operator: str) -> dict[str, object]:
    return {"match": {"op": operator, "left": left, "right": right}}


NODES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    | st.sampled_from(["@s", "iifname", "established", "10.0.0.1", "br*", "accept"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(KEYS),
        inner,
        max_size=3,
    ),
    max_leaves=12,
)  # fmt: skip
SHAPED = st.builds(
    match,
    st.sampled_from(
        [
            {"meta": {"key": "iifname"}},
            {"payload": {"protocol": "ip", "field": "saddr"}},
            {"payload": {"protocol": "tcp", "field": "dport"}},
            {"ct": {"key": "state"}},
            {"fib": {"result": "type", "flags": ["daddr"]}},
            {"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]},
        ]
    )
    | NODES,
    NODES,
    st.sampled_from(["==", "!=", "in", "<", "&"]),
)


@settings(deadline=None)
@given(st.lists(SHAPED | NODES, max_size=4), st.lists(NODES, max_size=2))
def test_no_rule_of_others_breaks_it(statements: list[Any], elements: list[Any]) -> None:
    listed = [
        {"chain": {"name": "f", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"rule": {"chain": "f", "handle": 1, "expr": [*statements, {"accept": None}]}},
        {"set": {"name": "s", "elem": elements}},
    ]
    table = nftables.table("inet", "odd", listed)
    for packet in (PUBLISHED, ANSWER, EGRESS):
        assert through(table, packet).verdict in Verdict
    findings(dataclasses.replace(HEALTHY, tables=(table,)))


@settings(deadline=None)
@given(st.text(alphabet="-AjDFORWARD!\"'mpsid 1/:\n*", max_size=80))
def test_no_line_of_others_breaks_it(noise: str) -> None:
    text = f"*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {noise}\n-A FORWARD -j DROP\nCOMMIT\n"
    for table in iptables.tables(text, Maker.IPTABLES_LEGACY, "ip"):
        if "FORWARD" in table.chains:
            through(table, EGRESS)
        Remains((table,)).layout  # noqa: B018 - it must not raise
