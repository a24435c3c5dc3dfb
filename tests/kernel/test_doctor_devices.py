"""Chains on devices (ingress, egress) and rules that rewrite packets, and what mends them."""

from __future__ import annotations

import pytest

from nftbridge.lab.topology import HOST
from tests.kernel.patient import Patient

pytestmark = pytest.mark.kernel

DROPPING: dict[str, tuple[str, str, str]] = {
    "inet, one port": (
        "table inet",
        "ingress device eth0 priority 0; tcp dport { 22, 8080 } drop",
        "foreign-drop",
    ),
    "netdev, one port": (
        "table netdev",
        "ingress device eth0 priority 0; tcp dport { 22, 8080 } counter drop",
        "foreign-drop",
    ),
    "several devices, of a bridge": (
        "table inet",
        "ingress devices = { eth0, br-front } priority 0; iifname br-front meta l4proto tcp drop",
        "early-drop",
    ),
    "a policy": (
        "table netdev",
        "ingress device eth0 priority 0; policy drop; tcp dport 22 accept",
        "early-drop",
    ),
    "answers": (
        "table netdev",
        "ingress device br-front priority 0; tcp sport 80 drop",
        "early-drop",
    ),
    "on the way out": (
        "table netdev",
        "egress device eth0 priority 0; tcp sport 8080 drop",
        "early-drop",
    ),
    "sent to another device": (
        "table netdev",
        "ingress device eth0 priority 0; tcp dport 8080 fwd to lo",
        "foreign-drop",
    ),
}


@pytest.mark.parametrize("name", DROPPING)
def test_a_chain_on_a_device_kills(name: str, patient: Patient) -> None:
    table, chain, diagnosis = DROPPING[name]
    patient.sh(f"nft '{table} edge {{ chain own {{ type filter hook {chain}; }}; }}'")
    assert patient.published() is False
    found = patient.mend(diagnosis)
    assert f"{table} edge, chain own: " in found["where"]
    patient.mend_all("foreign-drop", "early-drop")
    assert patient.all_pass()
    assert patient.is_well()


@pytest.mark.parametrize(
    "way", ["ip saddr HOST tcp sport 8080", "ip saddr HOST tcp dport { 80, 443 }"]
)
def test_a_chain_behind_the_translation_of_sources(way: str, patient: Patient) -> None:
    rule = way.replace("HOST", str(patient.address(HOST)))
    patient.sh(
        "nft 'add table ip late; add chain ip late out { type filter hook postrouting"
        f" priority 300; }}; add rule ip late out oifname eth0 {rule} drop'"
    )
    assert not patient.all_pass(4)
    found = patient.mend("foreign-drop")
    assert rule in found["where"]
    assert patient.all_pass(4)
    assert patient.is_well()


def test_a_chain_on_a_bridge_s_port(patient: Patient) -> None:
    first, *_ = patient.output("ip -o link show master br-front | cut -d' ' -f2").split()
    port = first.partition("@")[0]
    patient.sh(
        f"nft 'add table netdev edge; add chain netdev edge in {{ type filter hook ingress"
        f" device {port} priority 0; }}; add rule netdev edge in meta l4proto tcp drop'"
    )
    assert patient.published() is False
    patient.mend_all("early-drop")
    assert patient.all_pass()


def test_a_chain_on_another_device_is_in_nobody_s_way(patient: Patient) -> None:
    patient.sh(
        "ip link add eth9 type veth peer name eth10; nft 'add table netdev edge;"
        " add chain netdev edge in"
        " { type filter hook ingress device eth9 priority 0; policy drop; }'"
    )
    assert patient.all_pass()
    assert patient.doctor()["findings"] == []


REWRITING: dict[str, str] = {
    "destination": "iifname eth0 tcp dport 8080 ip daddr set 198.51.100.77",
    "of answers": 'iifname "br-front" ip daddr set 198.51.100.77',
    "port": "tcp dport 8080 tcp dport set 8081",
}


@pytest.mark.parametrize("name", REWRITING)
def test_a_rule_that_rewrites(name: str, patient: Patient) -> None:
    patient.sh(
        "nft 'add table inet own; add chain inet own early"
        " { type filter hook prerouting priority -300; };"
        f" add rule inet own early {REWRITING[name]}'"
    )
    assert patient.published() is False
    found = patient.mend("rewritten")
    assert REWRITING[name].split()[-1] in found["sentence"]
    assert patient.all_pass()
    assert patient.is_well()


def test_rules_behind_see_what_was_rewritten(patient: Patient) -> None:
    patient.sh(
        "nft 'add table inet own; add chain inet own early"
        " { type filter hook prerouting priority -300; };"
        " add rule inet own early tcp dport 8080 tcp dport set 8081;"
        " add rule inet own early tcp dport 8081 drop'"
    )
    assert patient.published() is False
    kinds = [found["diagnosis"] for found in patient.doctor()["findings"]]
    assert sorted(kinds) == ["foreign-drop", "rewritten"]
    patient.mend("rewritten")
    assert patient.published()
    assert patient.is_well()


def test_after_what_cannot_be_followed_it_is_uncertain(patient: Patient) -> None:
    patient.sh(
        "nft 'add table ip own; add chain ip own early"
        " { type filter hook prerouting priority -300; };"
        " add rule ip own early ip daddr set ip daddr map { 198.51.100.99 : 198.51.100.98 }'"
    )
    found = patient.doctor()
    assert found["wrong"] is False
    (remark,) = [f for f in found["findings"] if f["diagnosis"] == "rewritten-somehow"]
    assert "rewrites the daddr of packets" in remark["sentence"]
    assert "ip daddr set ip daddr map { 198.51.100.99 : 198.51.100.98 }" in remark["where"]


def test_a_translation_of_one_family_leaves_the_other_alone(patient: Patient) -> None:
    patient.sh(
        "nft 'add table inet own; add chain inet own pre"
        " { type nat hook prerouting priority -110; };"
        " add rule inet own pre tcp dport 8080 dnat ip to 10.88.0.5:80'"
    )
    assert patient.published(4) is False
    assert patient.published(6)
    found = patient.mend("port-taken")
    assert [kind.rsplit(", ")[-1] for kind in found["traffic"]] == ["IPv4"]
    assert patient.all_pass()
    assert patient.is_well()
