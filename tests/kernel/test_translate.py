"""The user's iptables rules and their translation: the same rules, to nft and to real packets.

The lines are held against what iptables-translate makes of them, as nft lists both; and put into
one namespace in both languages, where each line must count the same packets.
"""

from __future__ import annotations

import json
import math
import random
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from nftbridge import config
from nftbridge.compat import read
from nftbridge.lab import Probe
from nftbridge.model import Family
from nftbridge.nft.syntax import Json
from nftbridge.translate.chains import Translated, TranslatedRule, translate
from tests.kernel.hosts import Site, batched, every_probe, site

pytestmark = pytest.mark.kernel

U = "DOCKER-USER"
PORTED = (
    "-p tcp -m tcp --dport 80",
    "-p tcp -m tcp ! --dport 80",
    "-p udp -m udp --dport 80:443",
    "-p tcp -m tcp --sport 1024:65535 --dport 0:1023",
    "-p tcp -m tcp --sport 80",
    "-p udp -m udp ! --sport 80",
    "-p sctp -m sctp --dport 80",
    "-p sctp -m sctp ! --sport 80:90 ! --dport 80:90",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
    "-p tcp -m tcp ! --tcp-flags SYN,ACK SYN,ACK",
    "-p tcp -m tcp --tcp-flags FIN,SYN,RST,PSH,ACK,URG FIN,ACK",
    "-p tcp -m tcp --tcp-flags RST RST",
    "-p tcp -m multiport --dports 22,80,443:444",
    "-p udp -m multiport ! --dports 80,443",
    "-p tcp -m multiport --sports 80,443",
    "-p tcp -m multiport --dports 80:90,85:443,443,80",
    "-p udplite -m multiport --dports 80",
    "-p dccp -m dccp --dport 80",
)
COUNTING = (
    "-m statistic --mode nth --every 3 --packet 0",
    "-m statistic --mode nth --every 7 --packet 6",
    "-m statistic --mode nth ! --every 5 --packet 2",
    "-m statistic --mode nth --every 1 --packet 0",
)
RANDOM = {
    "-m statistic --mode random --probability 0.25000000000": 0.25,
    "-m statistic --mode random ! --probability 0.10000000009": 0.9,
}
"""With the part of all packets that it is about."""

HARDWARE = "02:00:00:00:00:01"
SPLIT = (  # nft needs two rules for them
    "-p tcp -m multiport --ports 80,443",
    "-p sctp -m multiport --ports 80",
    "-m conntrack --ctstate NEW,DNAT",
    "-m conntrack ! --ctstate DNAT",
    "-m conntrack ! --ctstate NEW,DNAT,INVALID",
    "-m conntrack ! --ctstate NEW --ctdir REPLY",
    "-m conntrack ! --ctstate SNAT",
    "-p tcp -m conntrack --ctstate INVALID,NEW --ctorigdstport 8080",
)
BOTH_FAMILIES = (
    "",
    "-i eth0",
    "-i eth+ -o br-+",
    "! -i br-front",
    "! -o br-+",
    "-p tcp",
    "! -p tcp",
    "-p esp",
    "-p 99",
    *PORTED,
    "-p tcp -m multiport ! --ports 80,443",
    "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate RELATED,ESTABLISHED",
    "-m conntrack ! --ctstate NEW",
    "-m conntrack ! --ctstate NEW,INVALID",
    "-m conntrack --ctstate INVALID",
    "-m conntrack --ctstate UNTRACKED",
    "-m conntrack --ctstate DNAT",
    "-m conntrack --ctstate SNAT,DNAT",
    "-m state --state NEW,ESTABLISHED",
    "-m conntrack --ctproto 6",
    "-m conntrack ! --ctproto 17",
    "-m conntrack --ctdir ORIGINAL",
    "-m conntrack --ctdir REPLY",
    "-m conntrack --ctstate ESTABLISHED --ctdir REPLY",
    "-m conntrack --ctstatus ASSURED",
    "-m conntrack --ctstatus SEEN_REPLY,ASSURED",
    "-m conntrack ! --ctstatus ASSURED",
    "-m conntrack ! --ctstatus SEEN_REPLY,EXPECTED",
    "-p tcp -m conntrack --ctorigdstport 8080",
    "-p tcp -m conntrack ! --ctorigdstport 8080:8090",
    "-p tcp -m conntrack --ctorigsrcport 1024:65535 --ctreplsrcport 80",
    "-p udp -m conntrack --ctreplsrcport 80 --ctrepldstport 1:65535",
    "-m mark --mark 0x0",
    "-m mark ! --mark 0x0",
    "-m mark --mark 0x10/0xf0",
    "-m mark ! --mark 0x10/0xf0",
    "-m connmark --mark 0x0",
    "-m pkttype --pkt-type unicast",
    "-m pkttype ! --pkt-type broadcast",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype ! --src-type LOCAL",
    '-p tcp -m comment --comment "-j DROP, \\"quoted\\" \\\\ and it\\\'s long" -m tcp --dport 80',
    "-m length --length 0:59",
    "-m length ! --length 60:1500",
    "-m length --length 65535",
    f"-m mac --mac-source {HARDWARE}",
    f"-m mac ! --mac-source {HARDWARE}",
    *COUNTING,
    *RANDOM,
    "-m limit --limit 5/sec",
    "-m limit --limit 3/hour --limit-burst 7",
)
LINES: Mapping[Family, Sequence[str]] = {
    Family.IPV4: (
        *BOTH_FAMILIES,
        "-s 198.51.100.9/32",
        "! -s 198.51.100.0/24",
        "-d 172.16.0.0/12",
        "-s 172.20.0.0/16 ! -d 198.51.100.0/24",
        "-s 198.0.100.0/255.0.255.0",
        "-s 0.0.0.9/0.0.0.255",
        "-p icmp",
        "-p icmp -m icmp --icmp-type any",
        "-p icmp -m icmp --icmp-type 8",
        "-p icmp -m icmp ! --icmp-type 8",
        "-p icmp -m icmp --icmp-type 3/3",
        "-m iprange --src-range 198.51.100.5-198.51.100.20",
        "-m iprange ! --src-range 172.20.0.0-172.20.0.9 --dst-range 0.0.0.1-172.20.0.2",
        "-m conntrack --ctorigsrc 198.51.100.0/24",
        "-m conntrack ! --ctorigdst 198.51.100.1",
        "-m conntrack --ctreplsrc 172.20.0.2",
        "-m conntrack --ctrepldst 198.51.100.0/24 ! --ctreplsrc 172.21.0.4",
        "-m addrtype --src-type UNICAST,LOCAL",
        "-m length --length 84",
    ),
    Family.IPV6: (
        *BOTH_FAMILIES,
        "-s 2001:db8:100::/64",
        "! -d fd00:20::2/128",
        "-d fd00::2/ffff::ffff",
        "-p ipv6-icmp",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
        "-p ipv6-icmp -m icmp6 ! --icmpv6-type 129",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4",
        "-m iprange --dst-range fd00:20::1-fd00:20::5",
        "-m conntrack --ctorigdst fd00:20::2",
        "-m conntrack ! --ctreplsrc fd00::/16",
        "-m length --length 80",
    ),
}
NEGATED_CODE = {
    Family.IPV4: "-p icmp -m icmp ! --icmp-type 8/0",
    Family.IPV6: "-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4",
}
"""Iptables knows "not this type with this code", for which nft needs two rules."""

_TARGETS_OF_BOTH = (
    "-j ACCEPT",
    "-j DROP",
    "-j RETURN",
    "-j mine",
    "-g mine",
    "-j LOG",
    '-j LOG --log-prefix "a b: " --log-level 7',
    "-j LOG --log-tcp-sequence --log-uid",
    "-j MARK --set-xmark 0x1/0xffffffff",
    "-j MARK --set-xmark 0x0/0xfffffffb",
    "-j MARK --set-xmark 0x4/0x4",
    "-j MARK --set-xmark 0x4/0x0",
    "-p tcp -j REJECT --reject-with tcp-reset",
)
TARGETS: Mapping[Family, Sequence[str]] = {
    Family.IPV4: (
        *_TARGETS_OF_BOTH,
        "-j REJECT --reject-with icmp-net-unreachable",
        "-j REJECT --reject-with icmp-host-unreachable",
        "-j REJECT --reject-with icmp-proto-unreachable",
        "-j REJECT --reject-with icmp-port-unreachable",
        "-j REJECT --reject-with icmp-net-prohibited",
        "-j REJECT --reject-with icmp-host-prohibited",
        "-j REJECT --reject-with icmp-admin-prohibited",
    ),
    Family.IPV6: (
        *_TARGETS_OF_BOTH,
        "-j REJECT --reject-with icmp6-no-route",
        "-j REJECT --reject-with icmp6-adm-prohibited",
        "-j REJECT --reject-with icmp6-addr-unreachable",
        "-j REJECT --reject-with icmp6-port-unreachable",
        "-j REJECT --reject-with icmp6-policy-fail",
        "-j REJECT --reject-with icmp6-reject-route",
    ),
}

PROGRAM = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
UNSEEN = {  # no probe is like that, or every one
    "",
    "-p 99",
    "-p esp",
    "-p dccp -m dccp --dport 80",
    "-p udplite -m multiport --dports 80",
    "-m connmark --mark 0x0",
    "-m pkttype --pkt-type unicast",
    "-m pkttype ! --pkt-type broadcast",
    "-m addrtype --dst-type LOCAL",
    "-m addrtype ! --src-type LOCAL",
    "-m addrtype --src-type UNICAST,LOCAL",
    "-m conntrack ! --ctstatus SEEN_REPLY,EXPECTED",
    "-m length --length 65535",
    "-m statistic --mode nth --every 1 --packet 0",
}


def translated(family: Family, lines: Sequence[str]) -> Translated:
    return translate({U: lines, "mine": ()}, family)


def run(script: str, netns: str) -> str:
    """Run a shell script in a network namespace, a new one if `netns` is ""."""
    enter = ["nsenter", f"--net=/run/netns/{netns}"] if netns else ["unshare", "--net"]
    done = subprocess.run(
        [*enter, "sh", "-e", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# What iptables-translate says ------------------------------------------------------------------

OTHERWISE = {  # what it says wrongly (1.8.9: DNAT among states), not at all, or in another way
    *SPLIT,
    *NEGATED_CODE.values(),
    "-p tcp -m multiport ! --ports 80,443",
    "-m conntrack ! --ctstate NEW,INVALID",
    "-m conntrack --ctstate SNAT,DNAT",
    "-p tcp -m multiport --dports 80:90,85:443,443,80",
    "-j REJECT --reject-with icmp-port-unreachable",  # `reject`, which is for both families here
    "-j REJECT --reject-with icmp6-port-unreachable",
}


@pytest.mark.parametrize("family", Family)
def test_like_iptables_translate(family: Family) -> None:
    program = f"{PROGRAM[family]}-translate"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing")
    lines = [line for line in (*LINES[family], *TARGETS[family]) if line not in OTHERWISE]
    lines = [line for line in lines if "--comment" not in line]  # it does not escape them
    asked = "\n".join(f"{program} -A {U} {line}" for line in lines)
    theirs = [shlex.split(said)[1] for said in run(asked, "").splitlines()]
    ours = translated(family, lines)
    document = [*table("ours"), *({"add": r.json("ours", U)} for r in ours.rules[U])]
    document += table("theirs")
    script = f"nft -j -f - <<'END'\n{json.dumps({'nftables': document})}\nEND\n"
    header = "ip6" if family is Family.IPV6 else "ip"
    for number, said in enumerate(theirs):
        rule = said.replace(f"{header} filter {U}", f"inet theirs {U}", 1)
        # some of them are for a newer nft than the one that is installed
        words = shlex.quote(f'{rule} comment "{number}"')
        script += f"nft {words} 2>&1 || true\n"
    listed = json.loads(run(f"{script}nft -j list ruleset", "").splitlines()[-1])["nftables"]
    rules = [item["rule"] for item in listed if "rule" in item]
    found = [normalised(rule) for rule in rules if rule["table"] == "ours"]
    expected = {int(r["comment"]): normalised(r) for r in rules if r["table"] == "theirs"}
    assert len(found) == len(lines)
    assert len(expected) > len(lines) * 0.9
    wrong = {lines[n]: (found[n], said) for n, said in expected.items() if found[n] != said}
    assert not wrong


def table(name: str) -> list[Json]:
    where = {"family": "inet", "table": name}
    chains = [{"add": {"chain": where | {"name": chain}}} for chain in (U, "mine")]
    return [{"add": {"table": {"family": "inet", "name": name}}}, *chains]


def normalised(rule: Json) -> list[Any]:
    """A listed rule in some order, without the family, and the protocol where a port implies it."""
    statements = (_plain(s) for s in rule["expr"] if "counter" not in s)
    said = sorted((s for s in statements if s is not None), key=str)
    ported = any(word in str(said) for word in ("sport", "dport", "flags"))
    return [s for s in said if not (ported and "l4proto" in str(s))]


def _plain(statement: Json) -> Any:
    test = statement.get("match")
    if test is None:
        return statement
    left, operator = test["left"], test["op"]
    if left == {"meta": {"key": "nfproto"}}:
        return None
    if left == {"payload": {"protocol": "ip", "field": "protocol"}}:
        left = {"meta": {"key": "l4proto"}}
    return [left, "!=" if operator == "!" else operator, test["right"]]


# Real packets ---------------------------------------------------------------------------------

BEFORE = """
nft add table inet before
nft 'add chain inet before c { type filter hook prerouting priority -310; }'
nft 'add rule inet before c tcp dport 443 meta mark set 0x15'
nft 'add rule inet before c udp dport 22 notrack'
nft 'add chain inet before gate { type filter hook forward priority -160; policy drop; }'
"""
"""Some packets get a mark, and some no connection; none is forwarded until the gate is open."""

GATE = "nft 'add chain inet before gate {{ policy {}; }}'"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Family, Counted]:
    """What each line has counted, in both languages, in hooks right behind one another."""
    host = config.load("rulesets/11-dual-stack/host.toml").host
    lines = {f: [*LINES[f], *SPLIT, NEGATED_CODE[f]] for f in Family}
    with site(host, tmp_path_factory.mktemp("state")) as place:
        run(BEFORE, place.lab.netns)
        name_hardware(place)
        lines = {f: count_with_iptables(place, f, lines[f]) for f in Family}
        rules = {f: translated(f, lines[f]).rules[U] for f in Family}
        count_with_nft(place, "right", rules)
        count_with_nft(place, "wrong", {f: map(turned_round, rules[f]) for f in Family})
        run(GATE.format("accept"), place.lab.netns)
        for some in batched(list(every_probe(place)), 5000):
            place.lab.probe_all(some)
        run(GATE.format("drop"), place.lab.netns)
        return {
            family: Counted(
                counts_of_iptables(place, family),
                counts_of_nft(place, "right", rules, family),
                counts_of_nft(place, "wrong", rules, family),
            )
            for family in Family
        }


def name_hardware(place: Site) -> None:
    """Give somebody outside that address."""
    node = place.lab.topology.nodes[0].name
    links = json.loads(run("ip -j link show type veth", place.lab.namespace(node)))
    (name,) = (link["ifname"] for link in links)
    run(f"ip link set {name} address {HARDWARE}", place.lab.namespace(node))
    run("ip neighbour flush all", place.lab.netns)


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets by line: as iptables counts, as nft counts our translation and a wrong one."""

    iptables: Mapping[str, int]
    nft: Mapping[str, int]
    wrong: Mapping[str, int]


def count_with_iptables(place: Site, family: Family, lines: Sequence[str]) -> list[str]:
    """Rules that only count, at priority mangle; returns them as iptables-save lists them."""
    script = "\n".join(("*mangle", *(f"-A FORWARD {line}" for line in lines), "COMMIT"))
    run(f"{PROGRAM[family]}-legacy-restore -n <<'END'\n{script}\nEND\n", place.lab.netns)
    found = list(counts_of_iptables(place, family))
    assert len(found) == len(lines)
    return found


def counts_of_iptables(place: Site, family: Family) -> dict[str, int]:
    saved = run(f"{PROGRAM[family]}-legacy-save -c -t mangle", place.lab.netns)
    return {rule.text: rule.packets for rule in read.listed(saved)["FORWARD"]}


def count_with_nft(
    place: Site, table: str, rules: Mapping[Family, Iterable[TranslatedRule]]
) -> None:
    """Rules that only count, at priority mangle + 1; those with a limit count too."""
    hook = {"type": "filter", "hook": "forward", "prio": -149}
    body = {"family": "inet", "table": table, "name": U} | hook
    document: list[Json] = [{"add": {"table": {"family": "inet", "name": table}}}]
    document.append({"add": {"chain": body}})
    document += [{"add": r.json(table, U)} for f in Family for r in rules[f]]
    load(place, document)


def load(place: Site, document: list[Json]) -> None:
    text = json.dumps({"nftables": document})
    run(f"nft -j -f - <<'END'\n{text}\nEND\n", place.lab.netns)


def counts_of_nft(
    place: Site, table: str, rules: Mapping[Family, Sequence[TranslatedRule]], family: Family
) -> dict[str, int]:
    """The packets of a line are those of all rules that it became."""
    objects = json.loads(run(f"nft -j list table inet {table}", place.lab.netns))["nftables"]
    found = [item["rule"] for item in objects if "rule" in item]
    made = [(f, rule) for f in Family for rule in rules[f]]
    counts: dict[str, int] = {}
    for (its, rule), kernels in zip(made, found, strict=True):
        if its is family:
            packets = next(s["counter"]["packets"] for s in kernels["expr"] if "counter" in s)
            counts[rule.text] = counts.get(rule.text, 0) + packets
    return counts


def turned_round(rule: TranslatedRule) -> TranslatedRule:
    """The rule with its last match negated."""
    statements = list(rule.statements)
    places = [i for i, s in enumerate(statements) if "match" in s.json and s.words]
    if not places:
        return rule
    body = statements[places[-1]].json["match"]
    operator = "==" if body["op"] == "!=" else "!="
    right = {"set": body["right"]} if isinstance(body["right"], list) else body["right"]
    node = {"match": body | {"op": operator, "right": right}}
    statements[places[-1]] = replace(statements[places[-1]], json=node)
    return replace(rule, statements=tuple(statements))


@pytest.mark.parametrize("family", Family)
def test_both_languages_count_the_same_packets(
    family: Family, counted: Mapping[Family, Counted]
) -> None:
    seen = counted[family]
    without_limits = [line for line in seen.iptables if "limit" not in line and line not in RANDOM]
    wrong = {
        line: (seen.iptables[line], seen.nft[line])
        for line in without_limits
        if seen.iptables[line] != seen.nft[line]
    }
    assert not wrong
    total = seen.iptables[""]
    blind = {line for line in without_limits if not 0 < seen.iptables[line] < total}
    assert blind <= UNSEEN
    assert total > 1000


@pytest.mark.parametrize("family", Family)
def test_both_languages_are_random_alike(family: Family, counted: Mapping[Family, Counted]) -> None:
    seen = counted[family]
    total = seen.iptables[""]
    for line, part in RANDOM.items():
        apart = 5 * math.sqrt(total * part * (1 - part))  # one in a million
        for found in (seen.iptables[line], seen.nft[line]):
            assert abs(found - total * part) < apart, line
        assert abs(seen.wrong[line] - total * part) > apart, line


@pytest.mark.parametrize("family", Family)
def test_a_wrong_translation_counts_others(
    family: Family, counted: Mapping[Family, Counted]
) -> None:
    seen = counted[family]
    missed = {
        line
        for line in seen.iptables
        if "limit" not in line and seen.iptables[line] == seen.wrong[line]
    }
    assert len(missed - UNSEEN) <= 2  # two counts can be the same by chance


def test_every_nth_packet_is_the_same_one(tmp_path: Path) -> None:
    """Packets of both families, one after the other; what stands behind the count sees those."""
    host = config.load("rulesets/11-dual-stack/host.toml").host
    lines = {
        family: (
            f"-m statistic --mode nth --every 3 --packet 1 -m conntrack --ctorigsrc {source}",
            "-m statistic --mode nth ! --every 2 --packet 0 -m mark --mark 0x0",
            f"-s {source} -m statistic --mode nth --every 2 --packet 1",
        )
        for family, source in ((Family.IPV4, "172.20.0.2"), (Family.IPV6, "fd00:20::2"))
    }
    with site(host, tmp_path) as place:
        run(BEFORE, place.lab.netns)
        found = {f: count_with_iptables(place, f, lines[f]) for f in Family}
        rules = {f: translated(f, found[f]).rules[U] for f in Family}
        count_with_nft(place, "right", rules)
        run(GATE.format("accept"), place.lab.netns)
        there = [place.lab.address(place.lab.topology.nodes[0].name, family) for family in Family]
        froms = ["web", "both"]
        choice = random.Random(1).choices
        for source, to in zip(choice(froms, k=80), choice(there, k=80), strict=True):
            place.lab.probe_all([Probe(source, to, "icmp")])
        for family in Family:
            counts = counts_of_iptables(place, family)
            assert counts == counts_of_nft(place, "right", rules, family)
            assert all(counts.values())


def test_hours_move_when_nft_has_listed_and_loaded_them() -> None:
    """Why -m time is refused: a table is put back from its listing, by then in another zone."""
    script = """
    nft add table inet t
    nft add chain inet t c
    TZ=UTC nft 'add rule inet t c meta hour "10:00"-"12:00" drop'
    TZ=EST5 nft -j list ruleset >{file}
    nft flush ruleset
    TZ=EST4 nft -j -f {file}
    TZ=UTC nft list ruleset
    """
    with NamedTemporaryFile() as file:
        assert 'meta hour "09:00"-"11:00"' in run(script.format(file=file.name), "")
