"""Switches of the kernel by which traffic dies or leaks, and the commands that mend it."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from nftbridge.lab.topology import HOST
from nftbridge.model import Address
from tests.kernel.patient import INTERNAL, Patient, admitted

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize(
    ("version", "switch"),
    [
        (4, "net.ipv4.ip_forward"),
        (6, "net.ipv6.conf.all.forwarding"),
    ],
)
def test_forwarding_off(version: int, switch: str, patient: Patient) -> None:
    patient.sh(f"sysctl -qw {switch}=0")
    assert not patient.egress(version)
    patient.mend("forwarding-off")
    assert patient.all_pass()
    assert patient.is_well()


@pytest.mark.parametrize("interface", ["br-front", "eth0"])
@pytest.mark.parametrize("default_route", [True, False])
def test_forwarding_off_on_one_interface(
    interface: str, default_route: bool, patient: Patient
) -> None:
    if default_route:
        patient.sh(f"ip route add default via {patient.address('outside')}")
    patient.sh(f"sysctl -qw net.ipv4.conf.{interface}.forwarding=0")
    assert not patient.all_pass(4)
    patient.mend("interface-forwarding-off")
    assert patient.all_pass()
    assert patient.is_well()


def test_forwarding_off_on_an_interface_that_is_not_looked_into(patient: Patient) -> None:
    """The default route leads elsewhere: a remark, since nobody might be meant to come in there."""
    patient.sh("ip link add eth9 type veth peer name eth10 && ip link set eth9 up")
    patient.sh("ip address add 203.0.113.2/24 dev eth9 && ip route add default via 203.0.113.1")
    patient.sh("sysctl -qw net.ipv4.conf.eth0.forwarding=0")
    assert patient.published() is False
    found = patient.mend("forwarding-off-elsewhere")
    assert found["severity"] == "remark"
    assert patient.published()


def test_an_interface_s_own_switch_means_nothing_for_ipv6(patient: Patient) -> None:
    for interface in ("br-front", "eth0"):
        patient.sh(f"sysctl -qw net.ipv6.conf.{interface}.forwarding=0")
    assert patient.all_pass(6)
    assert patient.doctor()["findings"] == []


def test_a_bridge_that_is_down(patient: Patient) -> None:
    patient.sh("ip link set dev br-front down")
    assert not patient.egress()
    patient.mend("bridge-down")
    assert patient.egress()


def test_reverse_path_filter(patient: Patient) -> None:
    """The client's answers leave by another interface than its requests come in by."""
    client = patient.address("outside")
    patient.sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
    patient.sh("ip link add eth9 type veth peer name eth10 && ip link set eth9 up")
    patient.sh(f"ip route add {client} dev eth9")
    patient.sh(f"ip route add table 7 {client} dev eth0 && ip rule add iif br-front table 7")
    to = ("--dst", str(patient.address(HOST)), "--proto", "tcp", "--dport", "8080")
    flow = ("--in", "eth0", "--src", str(client), *to)
    assert patient.published() is False
    found = patient.finding("reverse-path", *flow)
    patient.run(found)
    assert patient.published()
    assert patient.doctor(*flow)["wrong"] is False


SEPARATED = """
version = 1
[[network]]
name = "tenants"
bridge = "br-tenants"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
icc = false
[[network.container]]
name = "alice"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
[[network.container]]
name = "bob"
ipv4 = "172.20.0.3"
ipv6 = "fd00:20::3"
"""


def test_bridged_packets_that_netfilter_does_not_see(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(SEPARATED, tmp_path, capsys) as patient:
        for switch in ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables"):
            patient.sh(f"sysctl -qw net.bridge.{switch}=0")
        for version in (4, 6):
            assert patient.reaches("alice", patient.address("bob", version), 81)
        patient.mend_all("bridge-unfiltered")
        for version in (4, 6):
            assert not patient.reaches("alice", patient.address("bob", version), 81)
        assert patient.is_well()


def test_no_proxy_and_no_route_for_loopback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(INTERNAL, tmp_path, capsys) as patient:
        patient.sh("sysctl -qw net.ipv4.conf.br-front.route_localnet=0")
        loopback = ip_address("127.0.0.1")
        assert not patient.reaches(HOST, loopback, 8080)
        patient.mend("loopback-unroutable")
        assert patient.reaches(HOST, loopback, 8080)
        assert patient.is_well()


def test_a_second_uplink_with_a_strict_reverse_path(patient: Patient) -> None:
    """A remark: only if others than those a route leads to shall come in there."""
    patient.sh("ip link add eth9 type veth peer name eth10 && ip link set eth9 up")
    patient.sh("ip address add 203.0.113.2/24 dev eth9 && ip route add default via 203.0.113.1")
    client = patient.address("outside")
    patient.sh("ip route del $(ip route show dev eth0 | head -1) dev eth0")
    patient.sh(f"ip route add {_other(client)} dev eth0")
    patient.sh(f"ip route add table 7 {client} dev eth0 && ip rule add iif br-front table 7")
    patient.sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
    assert patient.published() is False
    found = patient.mend("reverse-path-strict")
    assert found["severity"] == "remark"
    assert patient.published()


def _other(client: Address) -> Address:
    """A neighbour of the client's, to whom a route by that interface leads instead."""
    return client + 1
