"""Rules of the user's as nft lists them: what they do to a packet, and what is not understood.

`RULES` is written in nft's own language and listed by the nft of every Debian release.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from nftbridge.explain.matching import Seen
from nftbridge.explain.users import UserRules, rule_text
from nftbridge.model import Address
from nftbridge.nft import read
from nftbridge.policy.evaluate import Packet, Step
from nftbridge.policy.program import Final
from tests.kernel.debian import NotAvailable
from tests.kernel.nft_versions import SUITES, nft_command

pytestmark = pytest.mark.kernel

YES, NO, PERHAPS = "yes", "no", "perhaps"


def _address(text: str) -> Address:
    return ip_address(text)


ASKED = Packet(_address("198.51.100.9"), _address("192.0.2.1"), "tcp", 8080, iif="eth0")
TRANSLATED = replace(ASKED, daddr=_address("172.20.0.2"), dport=80, oif="br-front")
FIRST = Seen(TRANSLATED, ASKED, TRANSLATED)
ANSWER = Seen(
    Packet(_address("172.20.0.2"), ASKED.saddr, "tcp", 0, "br-front", "eth0", "established"),
    ASKED,
    TRANSLATED,
)
SIX = Packet(_address("2001:db8::9"), _address("fd00:20::2"), "udp", 53, "eth0", "br-front")
OTHER_FAMILY = Seen(SIX, SIX, SIX)

SETS = """\
set blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/25, 10.0.0.5-10.0.0.9 }; }
set empty { type ipv4_addr; }
set pairs { type ipv4_addr . inet_service; elements = { 198.51.100.9 . 80 }; }
set timed { type ipv4_addr; flags timeout; elements = { 198.51.100.9 timeout 1h }; }
"""

# the match -> whether it holds for the first packet, its answer, and one of IPv6 and UDP
MATCHES: dict[str, tuple[str, str, str]] = {
    "ip saddr 198.51.100.9": (YES, NO, NO),
    "ip saddr != 198.51.100.9": (NO, YES, NO),
    "ip daddr 198.51.100.0/24": (NO, YES, NO),
    "ip saddr { 10.0.0.0/8, 198.51.100.1-198.51.100.20 }": (YES, NO, NO),
    "ip saddr 198.51.100.10-198.51.100.20": (NO, NO, NO),
    "ip saddr @blocked": (YES, NO, NO),
    "ip saddr @empty": (NO, NO, NO),
    "ip saddr != @empty": (YES, YES, NO),
    "ip saddr @timed": (YES, NO, NO),
    "ip saddr . tcp dport @pairs": (YES, NO, NO),
    "ip saddr . tcp dport { 198.51.100.9 . 81 }": (NO, NO, NO),
    "ip6 saddr 2001:db8::/32": (NO, NO, YES),
    "ip6 daddr != fd00:20::2": (NO, NO, NO),
    'iifname "eth0"': (YES, NO, YES),
    'iifname "eth*"': (YES, NO, YES),
    'oifname { "br-front", "br-data" }': (YES, NO, YES),
    'oifname != "br-front"': (NO, YES, NO),
    "meta l4proto tcp": (YES, YES, NO),
    "meta l4proto { udp, sctp }": (NO, NO, YES),
    "meta nfproto ipv6": (NO, NO, YES),
    "ip protocol tcp": (YES, YES, NO),
    "tcp dport 80": (YES, NO, NO),
    "tcp dport 8080": (NO, NO, NO),
    "tcp dport 1-1024": (YES, NO, NO),
    "tcp dport > 1024": (NO, YES, NO),
    "udp dport { 53, 5353 }": (NO, NO, YES),
    "meta l4proto { tcp, udp } th dport != 53": (YES, YES, NO),
    "tcp sport 1024-65535": (YES, NO, NO),
    "tcp sport 80": (NO, YES, NO),
    "tcp sport > 40000": (PERHAPS, NO, NO),
    "ct state established,related": (NO, YES, NO),
    "ct state new": (YES, NO, YES),
    "ct state { new, untracked }": (YES, NO, YES),
    "ct state != established": (YES, NO, YES),
    "meta l4proto tcp ct original proto-dst 8080": (YES, YES, NO),
    "ct original ip daddr 192.0.2.1": (YES, YES, NO),
    "ct original ip saddr != 198.51.100.0/24": (NO, NO, NO),
    "ct original ip6 daddr fd00:20::2": (NO, NO, YES),
    "ct direction reply": (NO, YES, NO),
    "ct status dnat": (YES, YES, NO),
    "meta mark 1": (PERHAPS, PERHAPS, PERHAPS),
    "limit rate 5/second": (PERHAPS, PERHAPS, PERHAPS),
    "ip saddr 10.0.0.1 limit rate 5/second": (NO, NO, NO),
    "fib daddr type local": (PERHAPS, PERHAPS, PERHAPS),
    "tcp flags syn": (PERHAPS, PERHAPS, PERHAPS),
    "icmp type echo-request": (PERHAPS, PERHAPS, PERHAPS),
    'counter log prefix "x" ip saddr 198.51.100.9': (YES, NO, NO),
}


def listed(*chains: str, nft: Sequence[str] = ("nft",)) -> read.Listing:
    """What that nft lists of a table with these chains, in a namespace of its own."""
    source = f"table inet t {{\n{SETS}{''.join(chains)}}}\n"
    with NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(source)
        file.flush()
        name = shlex.join(nft)
        command = f"{name} -f {file.name} && {name} -j -a list table inet t"
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", command], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return read.parse(json.loads(done.stdout)["nftables"])


@pytest.fixture(scope="module", params=["here", *SUITES])
def every_match(request: pytest.FixtureRequest) -> read.Listing:
    rules = "".join(f"{match} drop;\n" for match in MATCHES)
    try:
        nft = ["nft"] if request.param == "here" else nft_command(request.param)
    except NotAvailable as reason:
        pytest.skip(str(reason))
    return listed(f"chain every {{\n{rules}}}\n", nft=nft)


def judged(rule: Any, listing: read.Listing, seen: Seen) -> str:
    users = UserRules({"c": [rule]}, listing.sets)
    verdict = users.run("c", seen, [])
    assert verdict in (Final.DROP, Final.RETURN)
    return PERHAPS if users.doubts else YES if verdict is Final.DROP else NO


def test_matches(every_match: read.Listing) -> None:
    found = {
        match: tuple(judged(rule, every_match, seen) for seen in (FIRST, ANSWER, OTHER_FAMILY))
        for match, rule in zip(MATCHES, every_match.rules["every"], strict=True)
    }
    assert found == MATCHES


@pytest.mark.parametrize(
    ("rules", "verdict", "steps"),
    [
        ("ip saddr 198.51.100.9 accept; drop", Final.ACCEPT, 1),
        ("ip saddr 198.51.100.9 counter; reject", Final.DROP, 1),
        ("return; drop", Final.RETURN, 1),
        ("jump mine; drop", Final.DROP, 3),
        ("goto mine; drop", Final.RETURN, 2),
        ("jump deep; accept", Final.DROP, 3),
        ("meta mark set 1 accept", Final.ACCEPT, 1),
        ("", Final.RETURN, 0),
    ],
)
def test_verdicts_and_jumps(rules: str, verdict: Final, steps: int) -> None:
    listing = listed(
        "chain mine { tcp dport 80 return; drop; }\n",
        "chain deep { jump final; }\nchain final { ip saddr @blocked drop; }\n",
        f"chain c {{ {rules}; }}\n" if rules else "chain c { }\n",
    )
    walked: list[Step] = []
    users = UserRules(listing.rules, listing.sets)
    assert users.run("c", FIRST, walked) is verdict
    assert (len(walked), users.doubts) == (steps, [])


def test_a_doubt_names_the_rule_and_what_is_strange_in_it() -> None:
    vmap = "tcp dport vmap { 80 : drop }"
    listing = listed(f"chain c {{ meta mark 1; {vmap}; tcp dport 80 meta mark 7 drop; }}\n")
    users = UserRules(listing.rules, listing.sets)
    assert users.run("c", FIRST, []) is Final.RETURN
    first, second = users.doubts
    assert first.startswith("rule 2 of c (")
    assert "vmap" in first
    assert second.startswith("rule 3 of c (tcp dport 80 meta mark 7 drop # handle ")
    assert second.endswith("cannot be understood: meta mark 7")


def test_rules_read_as_they_were_written(every_match: read.Listing) -> None:
    texts = [rule_text(rule).partition(" drop #")[0] for rule in every_match.rules["every"]]
    assert "ip saddr { 10.0.0.0/8, 198.51.100.1-198.51.100.20 }" in texts
    assert "ct original ip saddr != 198.51.100.0/24" in texts
    assert any(text.endswith(" @pairs") for text in texts)  # 0.9.8 asks for the family first
    assert "iifname eth0" in texts
    assert "ct state established,related" in texts
