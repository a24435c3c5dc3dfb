"""What Docker left behind, of every layout it ever had, and the commands that clean it up."""

from __future__ import annotations

import pytest

from tests.kernel.patient import Patient

pytestmark = pytest.mark.kernel


def _rules(program: str, text: str) -> str:
    return "\n".join(f"{program} {line}" for line in text.strip().splitlines())


LEFT_OVERS: dict[str, tuple[str, str]] = {
    "Docker 17.12 to 27": (
        "published",
        """
-t nat -N DOCKER
-t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-t nat -A DOCKER ! -i br-front -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.20.0.9:80
-t nat -A POSTROUTING -s 172.20.0.0/16 ! -o br-front -j MASQUERADE
-N DOCKER
-N DOCKER-USER
-N DOCKER-ISOLATION-STAGE-1
-N DOCKER-ISOLATION-STAGE-2
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-front -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-front -j DOCKER
-A FORWARD -i br-front ! -o br-front -j ACCEPT
-A FORWARD -i br-front -o br-front -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-front ! -o br-front -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-front -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
""",
    ),
    "Docker 28.0.1 to 28.1": (
        "routed",
        """
-t raw -A PREROUTING -d 172.23.0.2 ! -i br-old -p tcp -m tcp --dport 80 -j DROP
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-CT
-N DOCKER-BRIDGE
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-BRIDGE -o br-old -j DOCKER
""",
    ),
    "Docker 28.2 to 28.5": (
        "published",
        """
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-CT
-N DOCKER-BRIDGE
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i br-front -j ACCEPT
-A DOCKER-CT -o br-front -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-BRIDGE -o br-front -j DOCKER
-A DOCKER ! -i br-front -o br-front -p tcp -d 172.20.0.9 --dport 80 -j ACCEPT
-A DOCKER ! -i br-front -o br-front -j DROP
""",
    ),
    "Docker 29": (
        "egress",
        """
-N DOCKER
-N DOCKER-FORWARD
-N DOCKER-INTERNAL
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-INTERNAL ! -s 172.20.0.0/16 -o br-front -j DROP
-A DOCKER-INTERNAL ! -d 172.20.0.0/16 -i br-front -j DROP
""",
    ),
    "Docker 1.10 to 17.11": (
        "routed",
        """
-N DOCKER
-N DOCKER-ISOLATION
-A FORWARD -j DOCKER-ISOLATION
-A FORWARD -o br-front -j DOCKER
-A FORWARD -i br-lab -o eth0 -j ACCEPT
-A DOCKER-ISOLATION -i eth0 -o br-lab -j DROP
-A DOCKER-ISOLATION -j RETURN
""",
    ),
}


@pytest.mark.parametrize("program", ["iptables-legacy", "iptables-nft"])
@pytest.mark.parametrize("layout", LEFT_OVERS)
def test_what_docker_left_behind(layout: str, program: str, patient: Patient) -> None:
    victim, text = LEFT_OVERS[layout]
    patient.sh(_rules(program, text))
    patient.sh(f"{program} -A FORWARD -i eth7 -j ACCEPT")
    assert getattr(patient, victim)() is False
    found = patient.mend("docker-left-over")
    assert f"({layout})" in found["sentence"]
    assert patient.all_pass()
    assert patient.is_well()
    rest = patient.output(f"{program}-save")
    chains = [line for line in rest.splitlines() if line.startswith(":DOCKER")]
    kept = [":DOCKER-USER - [0:0]"] if "DOCKER-USER" in text else []
    assert chains == kept
    assert "-A FORWARD -i eth7 -j ACCEPT" in rest
    assert " br-front " not in rest


def test_docker_29_s_nftables_left_behind(patient: Patient) -> None:
    patient.sh("""nft -f - <<'END'
table ip docker-bridges {
 map filter-forward-in-jumps {
 type ifname : verdict
 elements = { "br-front" : jump filter-forward-in__br-front }
 }
 chain filter-FORWARD {
 type filter hook forward priority filter; policy accept;
 oifname vmap @filter-forward-in-jumps
 }
 chain filter-forward-in__br-front {
 ct state established,related counter accept
 iifname "br-front" counter accept
 counter drop comment "UNPUBLISHED PORT DROP"
 }
}
END""")
    assert patient.published() is False
    found = patient.mend("docker-left-over")
    assert "nftables backend" in found["sentence"]
    assert patient.all_pass()
    assert patient.is_well()


def test_several_things_at_once_are_mended_in_the_order_in_which_they_are_told(
    patient: Patient,
) -> None:
    """A left-over with Docker's policy, an administrator's rules and a switch."""
    program = "iptables-legacy"
    patient.sh(_rules(program, LEFT_OVERS["Docker 28.2 to 28.5"][1]))
    patient.sh(f"{program} -P FORWARD DROP; sysctl -qw net.ipv4.ip_forward=0")
    patient.sh(f"{program} -I FORWARD -i br-lab -j DROP")
    patient.sh(
        f"{program} -t raw -A PREROUTING -i eth0 -p tcp -m comment --comment 'a \"b' -j DROP"
    )
    patient.sh(f"{program} -t raw -I PREROUTING -i eth7 -j ACCEPT")
    assert not any(way() for way in (patient.egress, patient.published, patient.routed))
    told = {found["diagnosis"] for found in patient.doctor()["findings"]}
    assert told == {"forwarding-off", "foreign-drop", "early-drop", "docker-left-over"}
    patient.mend_all(*told)
    assert patient.all_pass()
    assert patient.is_well()
    assert "-i eth7" in patient.output(f"{program}-save -t raw")


REMAINS = """
-N DOCKER
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
"""


def test_what_docker_left_and_does_no_harm(patient: Patient) -> None:
    patient.sh(_rules("iptables-legacy", REMAINS))
    assert patient.all_pass()
    assert patient.mend("docker-remains")["severity"] == "remark"
    assert patient.all_pass()
    assert patient.doctor()["findings"] == []
    assert ":DOCKER " not in patient.output("iptables-legacy-save")
