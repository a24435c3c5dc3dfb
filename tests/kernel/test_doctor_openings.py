"""What the advice opens: no block list but for who was asked about, and what it says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nftbridge.lab.topology import HOST
from tests.kernel.patient import HOST_FILE, Patient, admitted

pytestmark = pytest.mark.kernel

LISTS: dict[str, str] = {
    "a set": """nft -f - <<'END'
table inet own {
 set bad {
 type ipv4_addr
 flags interval
 elements = { 198.51.100.0/24 }
 }
 chain f {
 type filter hook forward priority 0; policy accept;
 ip saddr @bad drop
 ip daddr @bad drop
 }
}
END""",
    "a chain of its own": """nft -f - <<'END'
table inet own {
 chain blocked {
 counter drop
 }
 chain f {
 type filter hook forward priority 0; policy accept;
 ip saddr 198.51.100.0/24 jump blocked
 ip daddr 198.51.100.0/24 goto blocked
 }
}
END""",
    "iptables": (
        "iptables-legacy -N blocked; iptables-legacy -A blocked -j DROP;"
        " iptables-legacy -A FORWARD -s 198.51.100.0/24 -j blocked;"
        " iptables-legacy -A FORWARD -d 198.51.100.0/24 -j blocked"
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_block_list_is_opened_for_one_only(name: str, patient: Patient) -> None:
    patient.sh(LISTS[name])
    assert patient.published() is False
    other = str(patient.address("outside") + 9)
    for _ in range(2):  # the packet, then its answer
        for found in asked(patient, str(patient.address("outside")))["findings"]:
            patient.run(found)
    assert patient.published()
    assert asked(patient, other)["wrong"]
    rules = patient.output("nft list ruleset; iptables-legacy-save")
    assert all(str(patient.address("outside")) in line for line in accepts(rules))


def test_whom_else_a_list_keeps_out_is_told(patient: Patient) -> None:
    client = patient.address("outside")
    patient.sh(
        "nft 'add table inet own; add chain inet own f"
        " { type filter hook forward priority 0; };"
        f" add rule inet own f oifname br-front ip saddr != {client + 9} drop'"
    )
    (found,) = asked(patient, str(client))["findings"]
    assert found["note"].startswith(f"it is about {client} alone, and that rule goes on stopping")
    patient.run(found)
    assert patient.published()
    patient.sh("nft flush chain inet own f; nft add rule inet own f oifname br-front drop")
    (found,) = asked(patient, str(client))["findings"]
    assert "alone" not in found["note"]


USERS = {
    "nftables": (
        "nft add chain inet nftbridge theirs; nft add rule inet nftbridge theirs drop;"
        " nft add rule inet nftbridge DOCKER-USER iifname br-front jump theirs"
    ),
    "iptables": (
        "for it in iptables-legacy ip6tables-legacy; do $it -N theirs; $it -A theirs -j DROP;"
        " $it -A DOCKER-USER -i br-front -j theirs; done"
    ),
}


@pytest.mark.parametrize("backend", USERS)
def test_what_our_rules_close_stays_closed(
    backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(HOST_FILE, tmp_path, capsys, backend) as patient:
        closed = patient.address("routed"), patient.place.lab.topology.unpublished_port
        patient.sh(USERS[backend])
        assert not patient.published()
        patient.mend_all("foreign-drop")
        assert patient.all_pass()
        assert not patient.reaches("worker", *closed)
        assert patient.is_well()


def test_a_drop_before_our_lines_gets_no_accept_before_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(HOST_FILE, tmp_path, capsys, "iptables") as patient:
        patient.sh("iptables-legacy -I FORWARD -i br-front -j DROP")
        found = patient.doctor()["findings"]
        assert {name["diagnosis"] for name in found} == {"rules-missing", "foreign-drop"}
        (again,) = {command for name in found for command in name["commands"]}
        assert again.startswith("nftbridge apply ")


def asked(patient: Patient, source: str) -> dict[str, Any]:
    to = ("--dst", str(patient.address(HOST)), "--dport", "8080")
    return patient.doctor("--in", "eth0", "--src", source, *to)


def accepts(rules: str) -> list[str]:
    """Those in tables of others."""
    theirs = rules.partition("table inet own")[2] or rules.partition("*filter")[2]
    return [line for line in theirs.splitlines() if line.endswith((" accept", "-j ACCEPT"))]


def test_what_stands_behind_is_told(patient: Patient) -> None:
    client = patient.address("outside")
    patient.sh(
        "nft 'add table inet own; add chain inet own f"
        " { type filter hook forward priority 0; };"
        " add rule inet own f tcp dport 80 drop;"
        f" add rule inet own f ip saddr {client} drop; add rule inet own f counter'"
    )
    found = patient.mend("foreign-drop")
    assert f"dropped behind that rule by 'ip saddr {client} drop'; lasts until" in found["note"]
    assert patient.published()  # although the list is against it
