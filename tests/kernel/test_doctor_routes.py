"""Routes and rules of ip-rule(8) by which traffic dies, and the commands that mend it."""

from __future__ import annotations

import pytest

from tests.kernel.patient import Patient

pytestmark = pytest.mark.kernel

ELSEWHERE = "ip link add eth9 type veth peer name eth10; ip link set eth9 up; "
TO_CONTAINERS: dict[str, tuple[str, str]] = {
    "blackhole": ("ip route add blackhole 172.20.0.0/24", "discards them"),
    "unreachable": ("ip route add unreachable 172.20.0.0/24 metric 7", "refuses them"),
    "prohibit": ("ip route add prohibit 172.20.0.2/31", "refuses them"),
    "other device": (ELSEWHERE + "ip route add 172.20.0.0/17 dev eth9", "leads by eth9"),
    "no route": ("ip route del 172.20.0.0/16 dev br-front", "no route leads there"),
    "an address of the host": ("ip address add 172.20.0.2/32 dev lo", "keeps them on the host"),
    "an address of the host with its subnet": (
        f"{ELSEWHERE}ip address add 172.20.0.2/17 dev eth9",
        "route '172.20.0.0/17 dev eth9' leads by eth9",
    ),
    "a rule that ends them": ("ip rule add to 172.20.0.0/16 blackhole", "discards them"),
    "another table": (
        ELSEWHERE + "ip route add default dev eth9 table 7; ip rule add to 172.16.0.0/12 table 7",
        "route '0.0.0.0/0 dev eth9 table 7'",
    ),
    "another table that refuses": (
        "ip route add prohibit 172.16.0.0/12 table 7; ip rule add iif eth0 table 7",
        "route 'prohibit 172.16.0.0/12 table 7'",
    ),
    "a route behind a rule that skips": (
        "ip rule add goto 99 pref 5; ip rule add blackhole pref 9; ip rule add unreachable pref 99",
        "rule 99 of `ip rule` refuses them",
    ),
}


@pytest.mark.parametrize("name", TO_CONTAINERS)
def test_routes_to_containers(name: str, patient: Patient) -> None:
    command, what = TO_CONTAINERS[name]
    patient.sh(command)
    assert patient.published() is False
    found = patient.mend("misrouted")
    assert what in found["sentence"]
    assert all(kind.startswith(("front: ", "lab: ")) for kind in found["traffic"])
    if name == "no route":
        assert found["commands"] == ["ip -4 route add 172.20.0.0/16 dev br-front"]
    patient.mend_all("misrouted")
    assert patient.published()
    assert patient.is_well()


@pytest.mark.parametrize(
    "command",
    ["ip -6 route add blackhole fd00:20::/120", "ip -6 rule add to fd00:20::/64 prohibit"],
)
def test_the_same_for_ipv6(command: str, patient: Patient) -> None:
    patient.sh(command)
    assert patient.all_pass(4)
    assert not patient.published(6)
    patient.mend_all("misrouted")
    assert patient.all_pass()
    assert patient.is_well()


@pytest.mark.parametrize(
    "command",
    [
        "ip route add blackhole {}/32",
        "ip route add unreachable default table 9; ip rule add from 172.16.0.0/12 table 9 pref 90",
        "ip rule add iif br-front prohibit",
    ],
)
def test_the_way_out_is_refused(command: str, patient: Patient) -> None:
    patient.sh(command.format(patient.address("outside")))
    packet = ("--in", "br-front", "--src", str(patient.address("worker")))
    asked = (*packet, "--dst", str(patient.address("outside")), "--proto", "tcp", "--dport", "80")
    assert not patient.egress()
    found = patient.finding("misrouted", *asked)
    patient.run(found)
    assert patient.egress()
    assert patient.doctor(*asked)["wrong"] is False


ELSEWHERE_FIRST = (
    "ip route del 172.20.0.0/16 dev br-front; ip rule add table 11 pref 50;"
    " ip route add 172.20.0.0/16 dev br-front table 11; ip route add default dev eth0"
)
IN_NOBODYS_WAY: dict[str, str] = {
    "a mark": "ip rule add fwmark 1 blackhole",
    "all but": "ip rule add not ipproto tcp blackhole",
    "ports": "ip rule add ipproto tcp dport 1-79 blackhole",
    "another source": "ip rule add from 10.0.0.0/8 blackhole",
    "another destination": "ip route add blackhole 172.20.0.64/26",
    "the host itself": "ip rule add iif lo blackhole",
    "a throw": "ip rule add table 8 pref 9; ip route add throw 172.20.0.0/16 table 8",
    "a table that nobody asks": "ip route add blackhole 172.20.0.0/16 table 9",
    "suppressed": f"{ELSEWHERE_FIRST}; ip rule add table main suppress_prefixlength 0 pref 40;"
    " ip rule add not fwmark 0x51 table 12 pref 60; ip route add default dev eth0 table 12",
    "a worse metric": "ip route add blackhole 172.20.0.0/16 metric 9",
}


@pytest.mark.parametrize("name", IN_NOBODYS_WAY)
def test_what_is_in_nobody_s_way(name: str, patient: Patient) -> None:
    patient.sh(IN_NOBODYS_WAY[name])
    assert patient.all_pass(4)
    assert patient.doctor()["findings"] == []
