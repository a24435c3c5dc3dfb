"""The doctor on a healthy host, asked about a packet, before odd rules, and in his words."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nftbridge.cli import main
from nftbridge.doctor.gather import gather
from nftbridge.lab.topology import HOST
from tests.kernel.patient import Patient
from tests.kernel.test_doctor_firewalls import FIREWALLS

pytestmark = pytest.mark.kernel


def test_a_healthy_host(patient: Patient) -> None:
    assert patient.all_pass()
    assert patient.doctor()["findings"] == []


def flow(patient: Patient, port: int = 8080) -> tuple[str, ...]:
    client, host = patient.address("outside"), patient.address(HOST)
    packet = ("--in", "eth0", "--src", str(client), "--dst", str(host))
    return (*packet, "--proto", "tcp", "--dport", str(port))


def test_asked_about_a_packet_it_names_who_decides(patient: Patient) -> None:
    told = patient.doctor(*flow(patient))
    assert told["sentence"].startswith("translated to container web of network front")
    assert told["wrong"] is False
    patient.sh(f"nft -f - <<'END'\n{FIREWALLS['one that ends in a reject']}\nEND")
    told = patient.doctor(*flow(patient))
    (decider,) = [chain for chain in told["chains"] if chain["verdict"] == "dropped"]
    assert (decider["table"], decider["chain"]) == ("table inet mine", "checks")
    assert decider["rule"] == "reject with icmpx admin-prohibited"
    (found,) = told["findings"]
    assert found["traffic"] == ["front: the packet asked about"]
    assert found["where"] == "table inet mine, chain checks: 'reject with icmpx admin-prohibited'"
    assert patient.published() is False
    patient.run(found)
    assert patient.published()
    assert not patient.egress()  # nothing more was opened than what was asked about


def test_a_packet_that_we_drop_ourselves_is_no_finding(patient: Patient) -> None:
    told = patient.doctor(*flow(patient)[:4], "--dst", "172.20.0.2", "--proto", "icmp")
    assert "dropped" in told["sentence"]
    assert told["findings"] == []


def test_a_packet_asked_about_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--in", "eth0"]) == 1
    assert "give --in and --dst at least" in capsys.readouterr().err


@pytest.mark.parametrize("version", [4, 6])
def test_a_packet_asked_about_without_protocol_and_source(version: int, patient: Patient) -> None:
    host, web = patient.address(HOST, version), patient.address("web", version)
    asked = ("--in", "eth0", "--dst", str(host), "--dport", "8080")
    told = patient.doctor(*asked)
    assert told["wrong"] is False
    protocol, source = told["assumed"]
    assert protocol == "--proto tcp"
    uplink = {4: "198.51.100.", 6: "2001:db8:100::"}[version]
    assert source.startswith(f"--src {uplink}")
    assert "translated to container web" in told["sentence"]
    family = "ip" if version == 4 else "ip6"
    patient.sh(
        f"nft 'add table {family} own; add chain {family} own f"
        " { type filter hook forward priority 0; };"
        f" add rule {family} own f {family} daddr {web} tcp dport 80 drop'"
    )
    assert not patient.published(version)
    (found,) = patient.doctor(*asked)["findings"]
    patient.run(found)
    assert patient.published(version)
    assert patient.doctor(*asked)["wrong"] is False


def test_who_sends_what_nobody_named(patient: Patient) -> None:
    client = str(patient.address("outside"))
    patient.sh("ip route del 172.20.0.0/16 dev br-front")  # not by the route to it
    of = {"br-front": "--src 172.20.0.2", "host": f"--src {patient.address(HOST)}"}
    for interface, source in of.items():
        told = patient.doctor("--in", interface, "--dst", client, "--dport", "80")
        assert told["assumed"][1] == source
    patient.sh(f"ip route add default via {client}")
    told = patient.doctor("--in", "eth0", "--dst", str(patient.address(HOST)), "--proto", "icmp")
    assert told["assumed"] == ["--src 9.9.9.9"]


def test_for_people(patient: Patient, capsys: pytest.CaptureFixture[str]) -> None:
    patient.sh("iptables-legacy -P FORWARD DROP")
    target = patient.place.target
    where = ["--netns", patient.place.lab.netns, "--state-dir", str(target.state_directory)]
    assert main(["doctor", *where, *flow(patient)]) == 2  # without FILE, as last applied
    lines = capsys.readouterr().out.splitlines()
    decider = "table filter of iptables-legacy, chain FORWARD: policy drop"
    assert f"  {'forward':<20} {'dropped':<11} {decider}" in lines
    assert lines[-1] == "1 thing wrong; 2 tables looked into"


STRANGE = """
table inet strange {
 set seen {
 type ipv4_addr
 flags dynamic,timeout
 timeout 1m
 }
 counter hits {
 }
 quota much {
 over 100000 mbytes
 }
 chain forward {
 type filter hook forward priority -5; policy accept;
 tcp flags syn tcp option maxseg size set rt mtu
 update @seen { ip saddr limit rate over 1000/second } drop
 quota name "much" drop
 counter name "hits"
 meta length 1-20 drop
 ct helper "ftp" accept
 meta cpu 77 drop
 numgen random mod 2 vmap { 0 : accept, 1 : continue }
 ip saddr . tcp dport vmap { 203.0.113.9 . 80 : drop }
 exthdr frag exists drop
 @th,16,16 0x1234 drop
 }
}
table bridge below {
 chain forward {
 type filter hook forward priority 0; policy accept;
 }
}
"""


def test_what_is_not_understood_is_named_and_no_more(patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{STRANGE}\nEND")
    patient.sh("iptables-nft -A FORWARD -m statistic --mode random --probability 0 -j DROP")
    assert patient.all_pass()
    told = patient.doctor()
    assert told["wrong"] is False
    kinds = {found["diagnosis"] for found in told["findings"]}
    assert kinds == {"not-understood", "unread"}
    odd = " ".join(found["where"] or "" for found in told["findings"])
    assert "statistic" in odd
    assert '{"' not in odd


WORDS = """
 iifname { "eth0", "eth1" } ip saddr != 10.0.0.0/8 tcp flags syn / fin,syn,rst,ack drop
 ip saddr . tcp dport @pairs drop
 ip daddr set ip daddr map { 10.0.0.1 : 10.0.0.3, 10.0.0.2 : 10.0.0.4 }
 meta mark & 0x000000ff == 0x00000017 ct mark != 0x00000001 drop
 tcp option maxseg size set rt mtu
 ip dscp set cs1
 ct count over 20 reject with tcp reset
 limit rate over 400/minute burst 7 packets drop
 fib saddr . iif oif 0 drop
 log prefix "gone # handle 7: " level warn flags all
 ct original ip daddr 10.0.0.9 ct direction reply drop
 meta hour "08:00"-"17:00" meta day "Monday" drop
 tcp dport vmap { 22 : drop, 80-90 : jump other, 443 : accept } comment "a { brace"
 dup to 10.0.0.7 device "lo"
"""


def test_rules_are_told_in_nft_s_own_words(patient: Patient) -> None:
    """Whatever they are: compared with what nft itself lists, statement for statement."""
    heads = "set pairs { type ipv4_addr . inet_service; }\nchain other {\n}"
    chain = f"chain odd {{\ntype filter hook forward priority 10;\n{WORDS}"
    patient.sh(f"nft -f - <<'END'\ntable ip odd {{\n{heads}\n{chain}\n}}\n}}\nEND")
    target = patient.place.target
    facts = gather(patient.place.host, target.netns, target.table)
    (table,) = [table for table in facts.tables if table.name == "odd"]
    told = [rule.text for rule in table.chains["odd"].rules]
    listed = patient.output("nft -s list chain ip odd odd").splitlines()
    assert told == [line.strip() for line in listed[3:-2]]
    assert len(told) == len(WORDS.strip().splitlines())


def test_not_permitted(patient: Patient) -> None:
    target = patient.place.target
    here = f"{sys.executable} -m nftbridge doctor {patient.file} --state-dir"
    state = f"{target.state_directory} --backend nftables"
    drop = "setpriv --bounding-set=-net_admin --inh-caps=-net_admin"
    inside = ["nsenter", f"--net=/run/netns/{patient.place.lab.netns}", "sh", "-c"]
    done = subprocess.run(
        [*inside, f"{drop} {here} {state}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done
    assert "not permitted" in done.stderr
    assert "Traceback" not in done.stderr
