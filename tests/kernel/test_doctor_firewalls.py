"""Other people's rules that kill or leak traffic, and the doctor's commands that mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernel.patient import INTERNAL, Patient, admitted

pytestmark = pytest.mark.kernel


FIREWALLS: dict[str, str] = {
    "a default-drop chain": """
table inet filter {
 chain forward {
 type filter hook forward priority filter; policy drop;
 ct state vmap { invalid : drop, established : accept, related : accept }
 iifname "eth9" oifname "eth8" accept
 }
}
""",
    "one that knows no states": """
table inet filter {
 chain forward {
 type filter hook forward priority filter + 5; policy drop;
 ip saddr 203.0.113.0/24 drop
 }
}
""",
    "one that ends in a reject": """
table inet mine {
 chain forward {
 type filter hook forward priority 10; policy accept;
 jump checks
 }
 chain checks {
 ct state established,related accept
 tcp dport 22 accept
 reject with icmpx type admin-prohibited
 }
}
""",
    "one in mangle's place": """
table inet early {
 chain pre {
 type filter hook prerouting priority mangle; policy accept;
 iifname "eth0" meta l4proto tcp ct state new drop
 iifname { "br-front", "br-lab" } ct state new drop
 }
}
""",
    "one after everything": """
table inet late {
 chain post {
 type filter hook postrouting priority 300; policy accept;
 ct state new drop
 }
}
""",
}


@pytest.mark.parametrize("name", FIREWALLS)
def test_another_nftables_firewall_kills(name: str, patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{FIREWALLS[name]}\nEND")
    assert not patient.all_pass(4)
    assert not patient.all_pass(6)
    patient.mend_all("foreign-drop")
    assert patient.all_pass()
    assert patient.is_well()


IPTABLES: dict[str, str] = {
    "policy, legacy": "iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP",
    "policy, nft": "iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP",
    "a stateful firewall, legacy": """
for t in iptables-legacy ip6tables-legacy; do
  $t -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  $t -A FORWARD -i eth7 -j ACCEPT
  $t -A FORWARD -j REJECT
done""",
    "ufw's way, nft": """
for t in iptables-nft ip6tables-nft; do
  $t -N ufw-user-forward
  $t -A FORWARD -j ufw-user-forward
  $t -A ufw-user-forward -p tcp -m multiport --dports 22,8443 -j ACCEPT
  $t -P FORWARD DROP
done""",
    "in raw, legacy": """
iptables-legacy -t raw -A PREROUTING -i eth0 -p tcp -m tcp ! --dport 22 -j DROP
ip6tables-legacy -t raw -A PREROUTING -i eth0 -p tcp -m tcp ! --dport 22 -j DROP""",
}


@pytest.mark.parametrize("name", IPTABLES)
def test_another_iptables_firewall_kills(name: str, patient: Patient) -> None:
    patient.sh(IPTABLES[name])
    assert not patient.all_pass(4)
    assert not patient.all_pass(6)
    patient.mend_all("foreign-drop", "early-drop")
    assert patient.all_pass()
    assert patient.is_well()


def test_what_stands_before_stays_in_force(patient: Patient) -> None:
    blocked = patient.address("outside")
    patient.sh(f"iptables-legacy -A FORWARD -s {blocked} -j DROP")
    patient.sh("iptables-legacy -P FORWARD DROP")
    patient.mend("foreign-drop")
    assert patient.egress() is False  # its answers come from the blocked one
    assert patient.published() is False


def test_one_s_own_rule_in_docker_user(patient: Patient) -> None:
    patient.sh("nft add rule inet nftbridge DOCKER-USER iifname br-front counter drop")
    assert patient.egress() is False
    found = patient.mend("foreign-drop")
    assert 'chain DOCKER-USER: \'iifname "br-front" counter drop' in found["where"]
    assert patient.all_pass()
    assert patient.is_well()


def test_notrack_kills_translation(patient: Patient) -> None:
    patient.sh(
        "nft 'add table inet fast;"
        " add chain inet fast pre { type filter hook prerouting priority raw; };"
        " add rule inet fast pre tcp dport 8080 notrack'"
    )
    assert patient.published() is False
    patient.mend("untracked")
    assert patient.all_pass()
    assert patient.is_well()


TAKERS: dict[str, str] = {
    "CNI portmap": """
table inet cni_hostport {
 chain hostports {
 ip daddr 0.0.0.0/0 tcp dport 8080 dnat ip to 10.88.0.5:80 comment "abc"
 }
 chain prerouting {
 type nat hook prerouting priority dstnat; policy accept;
 fib daddr type local jump hostports
 }
}""",
    "Podman": """
table inet netavark {
 chain nv_1_dnat {
 tcp dport 8000-8100 dnat ip to 10.89.0.5:80
 }
 chain NETAVARK-HOSTPORT-DNAT {
 tcp dport 8000-8100 jump nv_1_dnat
 }
 chain PREROUTING {
 type nat hook prerouting priority dstnat; policy accept;
 fib daddr type local jump NETAVARK-HOSTPORT-DNAT
 }
}""",
    "": """
table ip mine {
 chain pre {
 type nat hook prerouting priority dstnat - 5; policy accept;
 iifname "eth0" tcp dport { 80, 8080 } redirect to :81
 }
}""",
}


@pytest.mark.parametrize("owner", TAKERS)
def test_a_published_port_is_taken(owner: str, patient: Patient) -> None:
    patient.sh(f"nft -f - <<'END'\n{TAKERS[owner]}\nEND")
    assert patient.published() is False
    found = patient.mend("port-taken")
    assert f"({owner})" in found["sentence"] or not owner
    assert any("published port 8080:80/tcp" in kind for kind in found["traffic"])
    assert patient.all_pass()
    assert patient.is_well()


@pytest.mark.parametrize("backend", ["iptables", "iptables-nft"])
def test_a_line_before_ours_leaks(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where tables are shared, an accept that stands first is the end of the chain."""
    program = "iptables-nft" if backend == "iptables-nft" else "iptables-legacy"
    with admitted(INTERNAL, tmp_path, capsys, backend) as patient:
        outside = patient.address("outside")
        assert not patient.reaches("db", outside, 80)
        assert patient.doctor()["findings"] == []
        patient.sh(f"{program} -I FORWARD -i br-data -j ACCEPT")
        patient.sh(f"{program} -I FORWARD -o br-data -j ACCEPT")
        assert patient.reaches("db", outside, 80)
        found = patient.mend("accepted-before")
        assert "data: connections of its containers to the outside, IPv4" in found["traffic"]
        assert not patient.reaches("db", outside, 80)
