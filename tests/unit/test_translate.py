"""Lines of iptables-save, taken apart and translated, or refused with the words that are strange.

What the translations mean to packets is tested in tests/kernel/test_translate.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftbridge.explain.users import statement_text
from nftbridge.model import Family
from nftbridge.translate.chains import COMMENT_BYTES, Refused, Translated, translate
from nftbridge.translate.line import Option, Part, RefusedError, jump_of, parse

U = "DOCKER-USER"
IPV4, IPV6 = Family.IPV4, Family.IPV6


def translated(line: str, family: Family = IPV4, **chains: list[str]) -> Translated:
    return translate({U: [line], **chains}, family)


def texts(line: str, family: Family = IPV4) -> list[str]:
    """The rules that a line becomes, about as nft writes them, without their counters."""
    found = translated(line, family, mine=[])
    assert not found.refused, found.refused
    return [
        " ".join(statement_text(s.json) for s in rule.statements if "counter" not in s.json)
        for rule in found.rules[U]
    ]


V4, V6 = "meta nfproto ipv4", "meta nfproto ipv6"
TCP, TCP6 = f"{V4} meta l4proto tcp", f"{V6} meta l4proto tcp"


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("", [V4]),
        ("-j ACCEPT", [f"{V4} accept"]),
        ("-s 10.1.2.3/32 -j DROP", ["ip saddr 10.1.2.3 drop"]),
        ("! -s 10.0.0.0/8 -d 192.168.0.0/16", ["ip saddr != 10.0.0.0/8 ip daddr 192.168.0.0/16"]),
        ("-i eth0 ! -o br-+ -g mine", [f"{V4} iifname eth0 oifname != br-* goto mine"]),
        ("-p 47 -j RETURN", [f"{V4} meta l4proto 47 return"]),
        ("! -p icmp", [f"{V4} meta l4proto != icmp"]),
        ("-p tcp -m tcp ! --dport 80", [f"{TCP} tcp dport != 80"]),
        ("-p tcp -m tcp --sport 1:5 --dport 9:9", [f"{TCP} tcp sport 1-5 tcp dport 9"]),
        ("-p tcp -m multiport --dports 7:9,1,2:8", [f"{TCP} tcp dport 1-9"]),
        ("-p tcp -m multiport --dports 1,3:4,9", [f"{TCP} tcp dport {{ 1, 3-4, 9 }}"]),
        (
            "-p tcp -m multiport --ports 80 -j DROP",
            [f"{TCP} tcp sport 80 drop", f"{TCP} tcp sport != 80 tcp dport 80 drop"],
        ),
        (
            "-m conntrack --ctstate NEW,DNAT",
            [f"{V4} ct state new", f"{V4} ct state != new ct status dnat"],
        ),
        (
            "-m conntrack ! --ctstate NEW --ctdir REPLY",
            [f"{V4} ct state invalid,untracked", f"{V4} ct state != new ct direction reply"],
        ),
        ("-m conntrack ! --ctstate NEW,INVALID", [f"{V4} ct state != {{ new, invalid }}"]),
        ("-m state --state RELATED,ESTABLISHED", [f"{V4} ct state established,related"]),
        (
            "-p tcp -m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 443:444",
            [f"{TCP} ct original ip daddr 192.0.2.1 ct original proto-dst 443-444"],
        ),
        ("-m conntrack --ctproto 6", [f"{V4} ct protocol tcp"]),
        ("-m mark --mark 0x10", [f"{V4} meta mark 16"]),
        ("-m iprange ! --src-range 10.0.0.1-10.0.0.9", ["ip saddr != 10.0.0.1-10.0.0.9"]),
        ("-p icmp -m icmp --icmp-type 3/4", [f"{V4} meta l4proto icmp icmp type 3 icmp code 4"]),
        ("-p icmp -m icmp --icmp-type 8", [f"{V4} meta l4proto icmp icmp type echo-request"]),
        ("-p icmp -m icmp --icmp-type any", [f"{V4} meta l4proto icmp"]),
        ("-m limit --limit 5/min -j ACCEPT", [f"{V4} limit rate 5/minute accept"]),
        ('-m comment --comment "-j DROP"', [V4]),
        ("-m length --length 1400", [f"{V4} meta length 1400"]),
        ("-m length ! --length 40:65535 -j DROP", [f"{V4} meta length != 40-65535 drop"]),
        (
            "-s 10.0.0.1/32 -m mac ! --mac-source 02:00:00:00:0A:01",
            ["ip saddr 10.0.0.1 ether saddr != 02:00:00:00:0a:01"],
        ),
        (
            "-m mac --mac-source 02:00:00:00:00:01 -m iprange --src-range 10.0.0.1-10.0.0.9",
            ["ip saddr 10.0.0.1-10.0.0.9 ether saddr 02:00:00:00:00:01"],
        ),
        (
            "-m statistic --mode random --probability 0.25000000000",
            [f"{V4} meta random & 2147483647 < 536870912"],
        ),
        (
            "-m statistic --mode random ! --probability 0.10000000009 -j DROP",
            [f"{V4} meta random & 2147483647 >= 214748365 drop"],
        ),
        (
            "-m statistic --mode nth --every 3 --packet 2",
            [f"{V4} numgen inc mod 3 2"],
        ),
        (
            "-p tcp -m mac --mac-source 02:00:00:00:00:01 -m mark --mark 1 -m tcp --dport 80",
            [f"{TCP} meta mark 1 tcp dport 80 ether saddr 02:00:00:00:00:01"],
        ),
        (
            "-m statistic --mode nth ! --every 3 -m mark --mark 1",
            [f"{V4} numgen inc mod 3 != 0 meta mark 1"],
        ),
        (
            "-p tcp -m tcp --dport 22 -m limit --limit 5/min -m mark --mark 1",
            [f"{TCP} tcp dport 22 limit rate 5/minute meta mark 1"],
        ),
        (
            "-p tcp -m statistic --mode random --probability 0.50000000000 -m multiport --ports 80",
            [
                f"{TCP} meta random & 2147483647 < 1073741824 tcp sport 80",
                f"{TCP} meta random & 2147483647 < 1073741824 tcp sport != 80 tcp dport 80",
            ],
        ),
    ],
)
def test_a_line_in_nft(line: str, rules: list[str]) -> None:
    assert texts(line) == rules


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ("! -s fd00::/8 -j DROP", ["ip6 saddr != fd00::/8 drop"]),
        ("-m conntrack --ctorigdst fd00::1", [f"{V6} ct original ip6 daddr fd00::1"]),
        (
            "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
            [f"{V6} meta l4proto ipv6-icmp icmpv6 type echo-request"],
        ),
        ("-p tcp -j REJECT --reject-with tcp-reset", [f"{TCP6} reject"]),
    ],
)
def test_a_line_of_ipv6(line: str, rules: list[str]) -> None:
    assert texts(line, IPV6) == rules


@pytest.mark.parametrize(
    ("line", "statement"),
    [
        ("-j LOG", {"log": None}),
        (
            '-j LOG --log-prefix "a b: " --log-level 7 --log-uid',
            {"log": {"prefix": "a b: ", "level": "debug", "flags": ["skuid"]}},
        ),
        (
            "-j REJECT --reject-with icmp-proto-unreachable",
            {"reject": {"type": "icmp", "expr": "prot-unreachable"}},
        ),
        (
            "-j MARK --set-xmark 0x1/0xffffffff",
            {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}},
        ),
        (
            "-j MARK --set-xmark 0x1/0xff",
            {
                "mangle": {
                    "key": {"meta": {"key": "mark"}},
                    "value": {"^": [{"&": [{"meta": {"key": "mark"}}, 0xFFFFFF00]}, 1]},
                }
            },
        ),
    ],
)
def test_a_target_in_nft(line: str, statement: dict[str, Any]) -> None:
    (rule,) = translated(line).rules[U]
    assert rule.statements[-1].json == statement
    assert rule.statements[-1].words == line.replace('"', "")


def refused(line: str, family: Family = IPV4) -> Refused:
    found = translated(line, family, mine=[], DOCKER=[], LOG=[])
    assert found.rules[U] == ()
    (only,) = found.refused
    return only


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-m set --match-set bad src -j DROP", "-m set --match-set bad src"),
        ("-p tcp -m tcp --tcp-option 2 -j DROP", "--tcp-option 2"),
        ("-m physdev --physdev-in eth0", "-m physdev --physdev-in eth0"),
        ("-f -j DROP", "-f"),
        ("! -s 0.0.0.0/0 -j DROP", "! -s 0.0.0.0/0"),
        ("-s fd00::1/128", "-s fd00::1/128"),
        ("-i eth* -j DROP", "-i eth*"),
        ("! -i + -j DROP", "! -i +"),
        ("-p nothing", "-p nothing"),
        ("! -p tcp -m tcp --dport 80", "--dport 80"),
        ("-p tcp -m tcp --dport 90:80", "--dport 90:80"),
        ("-p tcp -m tcp --dport 65536", "--dport 65536"),
        ("-p tcp -m tcp --dport http", "--dport http"),
        ("-p tcp -m tcp --dport 1 2", "--dport 1 2"),
        ("-m conntrack --ctorigdstport 80", "--ctorigdstport 80"),
        ("-m conntrack --ctstate NEW,STRANGE", "--ctstate NEW,STRANGE"),
        ("-m conntrack --ctstatus NONE", "--ctstatus NONE"),
        ("-m conntrack --ctexpire 5", "--ctexpire 5"),
        ("-m addrtype --dst-type LOCAL --limit-iface-in", "--limit-iface-in"),
        ("-m mark --mark 0x5/0x0", "--mark 0x5/0x0"),
        ("-p icmp -m icmp ! --icmp-type any", "! --icmp-type any"),
        ("-p tcp -m multiport --ports 1 -m limit --limit 5/min", "-m limit --limit 5/min"),
        ("-p tcp -m limit --limit 5/min -m tcp --dport 22", "-m limit --limit 5/min"),
        ("-p tcp -m limit --limit 5/min -m tcp --tcp-flags SYN,ACK SYN", "-m limit --limit 5/min"),
        ("-m limit --limit 5/min -m mac --mac-source 02:00:00:00:00:01", "-m limit --limit 5/min"),
        ("-m limit ! --limit 5/min", "-m limit ! --limit 5/min"),
        (
            "-p tcp -m multiport --ports 1 -m statistic --mode nth --every 2 --packet 0",
            "-m statistic --mode nth --every 2 --packet 0",
        ),
        ("-m statistic --mode random", "-m statistic --mode random"),
        ("-m statistic --mode nth --probability 0.5", "-m statistic --mode nth --probability 0.5"),
        ("-m statistic --mode random --probability 0.5", "--probability 0.5"),
        (
            "-m statistic --mode random ! --probability 1.00000000000",
            "! --probability 1.00000000000",
        ),
        ("-m statistic --mode random --probability 0.00000000000", "--probability 0.00000000000"),
        ("-m statistic --mode nth --every 3 --packet 3", "--packet 3"),
        ("-m statistic --mode nth --every 2147483648 --packet 0", "--every 2147483648"),
        ("-m length --length 80:40", "--length 80:40"),
        ("-m mac --mac-source 02:00:00:00:00", "--mac-source 02:00:00:00:00"),
        ("-j NFQUEUE --queue-num 3", "-j NFQUEUE --queue-num 3"),
        ("-j DOCKER", "-j DOCKER"),
        ("-j DOCKER-T-ABCDEFGHIJKLMNOP", "-j DOCKER-T-ABCDEFGHIJKLMNOP"),
        ("-j LOG", "-j LOG"),  # there is a chain of that name
        ("-j gone", "-j gone"),
        ("-j mine --strange", "-j mine --strange"),
        ("-j ACCEPT --strange", "-j ACCEPT --strange"),
        ("-j REJECT --reject-with icmp6-no-route", "-j REJECT --reject-with icmp6-no-route"),
        ("-j REJECT --reject-with tcp-reset", "-j REJECT --reject-with tcp-reset"),
        ("-j MARK --set-mark 1", "-j MARK --set-mark 1"),
        ("-j ACCEPT -m mark --mark 1", "-j ACCEPT"),
        ("-m", "-m"),
        ("-s 10.0.0.1/32 !", "!"),
        ("strange -j DROP", "strange"),
        ('-m comment --comment "open -j DROP', '"open -j DROP'),
    ],
)
def test_what_is_not_understood_is_refused(line: str, words: str) -> None:
    found = refused(line)
    assert found.words == words
    assert str(found).startswith(f"rule 1 of {U} ({line}): {words}: ")


@pytest.mark.parametrize(
    ("line", "words", "reason"),
    [
        ("--timestart 08:00:00 --timestop 18:00:00", "-m time", "reads and lists it in local time"),
        ("--timestart 22:00:00 --timestop 06:00:00", "-m time", "reads and lists it in local time"),
        ("--datestart 2026-01-01T01:00:00", "-m time", "reads and lists it in local time"),
        ("--weekdays Mon,Tue", "--weekdays Mon,Tue", "the kernel's time zone, iptables from UTC"),
        ("--monthdays 1 --weekdays Mon", "--monthdays 1", "no word for days of the month"),
        ("--timestart 08:00:00 --kerneltz", "--kerneltz", "in the kernel's time zone"),
    ],
)
def test_times_are_refused_with_the_reason(line: str, words: str, reason: str) -> None:
    found = refused(f"-m time {line} --datestop 2038-01-19T03:14:07 -j DROP")
    assert found.words.startswith(words)
    assert reason in found.reason
    assert [s.words for s in found.understood] == [""]


def test_a_prefix_that_nft_would_list_but_not_read() -> None:
    (found,) = translated(r'-j LOG --log-prefix "a \"b\" "').refused
    assert found.words == '--log-prefix a "b" '
    assert found.reason == "nft could not read what it lists, with a quotation mark in the prefix"


def test_ipv6_asks_for_address_types_in_another_way() -> None:
    assert refused("-m addrtype --dst-type UNICAST", IPV6).reason == "nft asks differently in IPv6"


WORDS = """
! -s -d -i -o -p -m -j -g -f --sport --dport --tcp-flags --dports --sports --ports --ctstate --state
--ctorigdst --ctorigdstport --ctproto --ctdir --ctstatus --mark --comment --limit --limit-burst
--src-range --pkt-type --dst-type --icmp-type --reject-with --log-prefix --log-level --set-xmark
tcp udp sctp icmp icmp6 multiport conntrack state mark connmark comment limit iprange pkttype
addrtype length mac statistic time --length --mac-source --mode --probability --every --packet
random nth 0.50000000000 02:00:00:00:00:01 ACCEPT DROP RETURN LOG REJECT MARK mine DOCKER
10.0.0.1/32 0.0.0.0/0 fd00::1
10.0.0.1-10.0.0.9 80 80:90 90:80 1,2 SYN SYN,ACK NEW NEW,DNAT INVALID ORIGINAL 8 3/4 any 0x1/0xff
0x1 5/min LOCAL eth0 br+ + " "" "a b" "\" unicast tcp-reset
"""


@given(st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join) | st.text(max_size=20))
def test_no_text_is_left_out_silently(text: str) -> None:
    """Whatever is listed: it becomes a rule, or it is refused; and either can be shown."""
    found = translated(text, mine=[])
    assert bool(found.rules[U]) is not bool(found.refused)
    assert all(rule.text == text for rule in found.rules[U])
    assert all(text in str(one) for one in found.refused)


def test_quotation_and_negation() -> None:
    line = parse(r'! -s 10.0.0.1/32 -m comment --comment "it\'s \"-j\" \\" -j LOG --log-prefix -x')
    assert line.matches == (
        Part("", (Option("-s", ("10.0.0.1/32",), negated=True),)),
        Part("comment", (Option("--comment", ('it\'s "-j" \\',)),)),
    )
    assert line.target == Part("LOG", (Option("--log-prefix", ("-x",)),), "-j")


def test_a_line_that_cannot_be_taken_apart() -> None:
    with pytest.raises(RefusedError, match="quotation mark is left open"):
        parse('-m comment --comment "a')


@pytest.mark.parametrize("comment", ["short", 'with "marks"', "long " * 51, "ü" * 120])
def test_comments_fit_into_nft(comment: str) -> None:
    escaped = comment.replace("\\", "\\\\").replace('"', '\\"')
    (rule,) = translated(f'-m comment --comment "{escaped}" -j DROP').rules[U]
    assert len(rule.comment.encode()) <= COMMENT_BYTES
    assert rule.comment[:5] == comment[:5]
    assert '"' not in rule.comment
    assert rule.json("t", "c")["rule"]["comment"] == rule.comment


def test_chains_below() -> None:
    lines = {
        U: ["-i eth0 -j a", "-j DOCKER", "-m strange -j b"],
        "a": ["-j c", "-g b"],
        "b": ["-j RETURN", "-m strange"],
        "c": [],
        "other": ["-j DROP"],
        "DOCKER": ["-j DROP"],
    }
    found = translate(lines, IPV4)
    assert {name: [r.line for r in rules] for name, rules in found.rules.items()} == {
        U: [1],
        "a": [1, 2],
        "b": [1],
        "c": [],
    }
    assert [(r.chain, r.line) for r in found.refused] == [(U, 2), (U, 3), ("b", 2)]


def test_no_docker_user() -> None:
    assert translate({"FORWARD": []}, IPV4).rules == {}


def test_what_is_understood_of_a_refused_line() -> None:
    """explain asks it which packets the line cannot be about, and whether it could decide."""
    found = refused("-s 10.0.0.1/32 -p udp -m strange -m udp --dport 53 -j NFLOG")
    assert [s.words for s in found.understood] == [
        "-s 10.0.0.1/32",
        "-p udp",
        "-m udp --dport 53",
    ]
    assert not found.decides
    assert refused("-m strange -j mine").decides
    assert refused("-m strange -j NFQUEUE").decides
    assert refused("-m strange -j LOG").decides  # there is a chain of that name


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("", ""),
        ("-s 10.0.0.1/32", ""),
        ("-i eth0 -j mine", "mine"),
        ("-m set ! --match-set a src -g mine", "mine"),
        ('-m comment --comment "see -j other" -j mine', "mine"),
        ('-m comment --comment "see \\" -j other"', ""),
        ("-m comment --comment -j -j mine", "mine"),
        ("-j NFLOG --nflog-prefix -j", "NFLOG"),
        ("! nonsense -j mine", "mine"),
    ],
)
def test_where_a_line_leads(line: str, where: str) -> None:
    assert jump_of(line) == where
