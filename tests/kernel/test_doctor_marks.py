"""The accept mark: what asks for it passes, what does not is mended by it, and no other way."""

from __future__ import annotations

from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.snippet import lines
from tests.kernel.patient import HOST_FILE, admitted
from tests.kernel.test_doctor_firewalls import FIREWALLS

pytestmark = pytest.mark.kernel

LOW_AND_HIGH = ("0x1000/0x3000", "0x80000000/0xc0000000")
"""The higher one is listed as a prefix by older nft."""

MARKING = HOST_FILE.replace(
    "version = 1\n",
    """version = 1
[host]
accept_mark = "0x1000/0x3000"
priorities = { forward = -5 }
""",
)
DROPPING = """
table inet filter {
 chain forward {
 type filter hook forward priority filter; policy drop;
 }
}
"""
EARLY = DROPPING.replace("priority filter", "priority -10")
ASKING = DROPPING.replace("drop;", "drop; meta mark & 0x00003000 == 0x00001000 accept")
OTHERWISE = ASKING.replace("== 0x00001000", "== 0x00003000")
MARKS_OF_THEIRS = """
table inet theirs {
 chain early {
 type filter hook prerouting priority -150; policy accept;
 meta mark set meta mark | 0x00040000
 }
}
"""


@pytest.mark.parametrize("mark", LOW_AND_HIGH)
def test_who_asks_for_the_mark_is_not_in_the_way(
    mark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(MARKING.replace(LOW_AND_HIGH[0], mark), tmp_path, capsys) as patient:
        patient.sh(f"nft -f - <<'END'\n{DROPPING}\nEND")
        assert not patient.published()
        host = config.load(str(patient.file)).host
        text = "\n".join(lines(host, "nft"))
        patient.sh(f"nft -f - <<'END'\n{text}\nEND")
        assert patient.all_pass()
        assert patient.doctor()["findings"] == []


@pytest.mark.parametrize("name", ["a default-drop chain", "one that ends in a reject"])
def test_one_accept_of_the_mark_mends_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with admitted(MARKING, tmp_path, capsys) as patient:
        patient.sh(f"nft -f - <<'END'\n{FIREWALLS[name]}\nEND")
        assert not patient.all_pass(4)
        assert not patient.all_pass(6)
        (command,) = patient.mend("foreign-drop")["commands"]
        assert "meta mark & 0x00003000 == 0x00001000 accept" in command
        assert patient.all_pass()
        assert patient.is_well()
        patient.sh("nft delete table inet nftbridge")  # and then it is closed
        assert not patient.reaches("outside", patient.address("web"), 80)


@pytest.mark.parametrize("program", ["iptables-legacy", "iptables-nft"])
def test_iptables_too(program: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with admitted(MARKING, tmp_path, capsys) as patient:
        patient.sh(f"{program} -P FORWARD DROP; ip6{program[2:]} -P FORWARD DROP")
        assert not patient.published()
        for found in patient.doctor()["findings"]:
            assert found["diagnosis"] == "foreign-drop"
            (command,) = found["commands"]
            assert "-m mark --mark 0x1000/0x3000" in command
            patient.sh(command)
        assert patient.all_pass()
        assert patient.is_well()


def test_before_ours_nothing_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with admitted(MARKING, tmp_path, capsys) as patient:
        patient.sh(f"nft -f - <<'END'\n{EARLY}\nEND")
        assert not patient.published()
        for command in patient.mend("foreign-drop")["commands"]:
            assert "mark" not in command
        assert patient.all_pass()
        assert patient.is_well()


def test_another_mark_is_not_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with admitted(MARKING, tmp_path, capsys) as patient:
        patient.sh(f"nft -f - <<'END'\n{OTHERWISE}\nEND")
        assert not patient.published()
        patient.mend("foreign-drop")
        assert patient.all_pass()
        assert patient.is_well()


def test_marks_of_others_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with admitted(MARKING, tmp_path, capsys) as patient:
        patient.sh(f"nft -f - <<'END'\n{MARKS_OF_THEIRS}{ASKING}\nEND")
        assert patient.all_pass()
        assert patient.doctor()["findings"] == []
