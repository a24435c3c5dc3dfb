"""Marks in the rules, in both notations, and lines for other firewalls; kernel tests load them."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.compat.syntax import parse
from nftbridge.compat.text import script
from nftbridge.explain.question import Typed, read
from nftbridge.explain.show import lines as explained
from nftbridge.explain.show import to_data
from nftbridge.explain.way import follow
from nftbridge.model import Family, Host, Mark, Priorities
from nftbridge.nft import lower, text
from nftbridge.policy.evaluate import Evaluator, Packet
from nftbridge.policy.program import Final, MarkedAccept
from nftbridge.policy.rules import CHAINS, FILTER_FORWARD, FORWARD, program
from nftbridge.snippet import FIREWALLS, lines
from nftbridge.style import Style

ACCEPT, TRUST = Mark(0x1000, 0x3000), Mark(0x4000, 0x4000)
PLAIN = config.load("rulesets/04-no-proxy/host.toml").host
MARKED = replace(PLAIN, accept_mark=ACCEPT, trust_mark=TRUST)


def test_without_marks_the_rules_are_the_very_same() -> None:
    assert program(None, None) is CHAINS
    assert lower.skeleton(lower.Setting.of(PLAIN)).rules == lower.skeleton().rules


def test_every_accept_of_the_forward_path_marks_and_no_other() -> None:
    with_marks = {c.name: list(c.rules()) for c in program(ACCEPT, None)}
    for chain in CHAINS:
        for rule, marked in zip(chain.rules(), with_marks[chain.name], strict=True):
            accepts = rule.verdict is Final.ACCEPT and chain.table == "filter"
            assert marked.verdict == (MarkedAccept(ACCEPT) if accepts else rule.verdict)


def test_trust_comes_first_in_our_part_of_forward() -> None:
    trusting = next(c for c in program(None, TRUST) if c.name == FORWARD.name)
    first, *others = trusting.rules()
    assert first.name == "trusted-mark"
    assert others == list(FORWARD.rules())


@pytest.mark.parametrize(
    ("before", "after"), [(0, 0x1000), (0x2000, 0x1000), (0xFFFFFFFF, 0xFFFFDFFF)]
)
def test_the_other_bits_of_the_mark_stay(before: int, after: int) -> None:
    bridge = PLAIN.networks[0].bridge
    addresses = ip_address("172.20.0.2"), ip_address("198.51.100.9")
    packet = Packet(*addresses, "tcp", 443, bridge, "eth0", mark=before)
    ended = Evaluator.of(replace(MARKED, trust_mark=None)).hook(FILTER_FORWARD, packet).packet
    assert ended is not None
    assert ended.mark == after


@pytest.mark.parametrize(
    ("mark", "put", "asked"),
    [
        (Mark(1, 1), "meta mark | 0x00000001", "meta mark & 0x00000001 == 0x00000001"),
        (
            ACCEPT,
            "meta mark & 0xffffdfff | 0x00001000",
            "meta mark & 0x00003000 == 0x00001000",
        ),
        (
            Mark(7, 0xFFFFFFFF),
            "meta mark & 0x00000007 | 0x00000007",
            "meta mark == 0x00000007",
        ),
    ],
)
def test_nft_text(mark: Mark, put: str, asked: str) -> None:
    said = text.script("t", {}, lower.Setting(accept_mark=mark, priorities=Priorities(forward=-5)))
    assert said.count(f" counter meta mark set {put} accept comment ") == 8
    assert said.count("type filter hook forward priority -5; policy accept;") == 2
    said = text.script("t", {}, lower.Setting(trust_mark=mark))
    assert f'{asked} counter accept comment "trusted-mark"' in said


def test_iptables_text() -> None:
    for family in Family:
        marked, plain = script(MARKED, family), script(PLAIN, family)
        unmarked = marked.replace("-j DOCKER-MARK-ACCEPT", "-j ACCEPT").splitlines()
        more = [line for line in unmarked if line not in plain.splitlines()]
        assert more == [
            ":DOCKER-MARK-ACCEPT - [0:0]",
            "-A DOCKER-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT",
            "-A DOCKER-MARK-ACCEPT -j MARK --set-xmark 0x1000/0x3000",
            "-A DOCKER-MARK-ACCEPT -j ACCEPT",
        ]
        filtering = marked[marked.index("*filter") : marked.index("*nat")]
        assert filtering.count("-j ACCEPT") == 1


@pytest.mark.parametrize("listed", ["-m mark --mark 0x1/0x3 -j ACCEPT", "-m mark --mark 0x1 -j X"])
def test_a_listed_mark_is_read_and_written_back(listed: str) -> None:
    assert str(parse(listed.split())) == listed


def test_explain_says_that_no_mark_is_assumed() -> None:
    asked = read(Typed("eth0", "198.51.100.9", "198.51.100.1", "tcp", "8080", None, ()))
    said = "\n".join(explained(follow(MARKED, asked), Style(coloured=False)))
    assert "assumed to carry no mark; with 0x4000/0x4000 it would be accepted" in said
    assert "no mark" not in "\n".join(explained(follow(PLAIN, asked), Style(coloured=False)))


@pytest.mark.parametrize(("host", "mark"), [(MARKED, "0x1000/0x3000"), (PLAIN, None)])
def test_explain_tells_programs_of_the_mark(host: Host, mark: str | None) -> None:
    asked = read(Typed("eth0", "198.51.100.9", "198.51.100.1", "tcp", "8080", None, ()))
    hooks: Any = to_data(follow(host, asked))["hooks"]
    (forward,) = (hook for hook in hooks if hook["hook"] == FILTER_FORWARD.name)
    assert (forward["verdict"], forward.get("mark")) == ("accept", mark)


@pytest.mark.parametrize("firewall", FIREWALLS)
def test_lines_say_which_way_they_go(firewall: str) -> None:
    by_mark, by_interface = ("\n".join(lines(h, firewall)) for h in (MARKED, PLAIN))
    assert "rules are missing" in by_interface
    assert all(network.bridge in by_interface for network in PLAIN.networks)
    marked = firewall != "firewalld"
    assert ("0x1000" in by_mark or "0x00001000" in by_mark) is marked
    assert any(n.bridge in by_mark for n in MARKED.networks) is not marked


@pytest.mark.parametrize(
    ("firewall", "last", "first"),
    [("nft", 0, -5), ("ufw", 0, -5), ("iptables", 0, -5), ("firewalld", 10, 5)],
)
def test_who_comes_later_is_warned(firewall: str, last: int, first: int) -> None:
    late, early = (
        "\n".join(lines(replace(MARKED, priorities=Priorities(forward=p)), firewall))
        for p in (last, first)
    )
    assert f"write priorities = {{ forward = {first} }} in [host]" in late
    assert "write priorities" not in early


def test_firewalld_has_a_command_a_line() -> None:
    commands = [line for line in lines(PLAIN, "firewalld") if not line.startswith("#")]
    assert all(re.fullmatch(r"firewall-cmd (--[a-z]+[a-zA-Z0-9=. -]*)+", c) for c in commands)
    assert commands[-1] == "firewall-cmd --reload"
    for network in PLAIN.networks:
        wanted = f"firewall-cmd --permanent --zone=docker --add-interface={network.bridge}"
        assert wanted in commands


def test_a_bridge_with_a_name_that_a_shell_would_read_is_quoted() -> None:
    odd = replace(PLAIN, networks=(replace(PLAIN.networks[0], bridge="br$(id)"),))
    for firewall, wanted in (
        ("iptables", "-i 'br$(id)' -j"),
        ("firewalld", "'--add-interface=br$"),
    ):
        assert wanted in "\n".join(lines(odd, firewall))
    assert "-i br$(id) -j" in "\n".join(lines(odd, "ufw"))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = "rulesets/04-no-proxy/host.toml"
    assert main(["snippet", file, "--for", "ufw"]) == 0
    assert capsys.readouterr().out.splitlines() == list(lines(PLAIN, "ufw"))
    assert main(["snippet", "--for", "ufw", "--state-dir", str(tmp_path)]) == 1
    assert "no apply is on record\n    hint: give the host file" in capsys.readouterr().err
    assert main(["snippet", "rulesets/01-new-host/host.toml", "--for", "nft"]) == 1
    assert "there is no bridge that the lines could name" in capsys.readouterr().err


def test_the_command_line_knows_every_firewall(capsys: pytest.CaptureFixture[str]) -> None:
    for firewall in FIREWALLS:
        assert main(["snippet", "rulesets/04-no-proxy/host.toml", "--for", firewall]) == 0
    assert main(["snippet", "--for", "other"]) == 1
    assert "(choose from 'nft', 'ufw', 'firewalld', 'iptables')" in capsys.readouterr().err
