"""What mends a finding: the commands, ready to be run as root in the host's network namespace."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from nftbridge.doctor.case import Case
from nftbridge.doctor.docker import COMPARES_LITTLE
from nftbridge.doctor.finding import Evidence, Remedy
from nftbridge.doctor.opening import commands, is_asked_before_ours, opening, stands_before_ours
from nftbridge.doctor.ruleset import Maker
from nftbridge.model import Family


def nothing(_: Case, __: Evidence) -> Iterable[str]:
    """No command: nothing has to be mended, or not by one."""
    return ()


def run(*templates: str) -> Remedy:
    """Always the same commands; `{words}` are the evidence's."""

    def remedy(_: Case, evidence: Evidence) -> Iterator[str]:
        return (template.format_map(evidence.words) for template in templates)

    return remedy


def apply_again(case: Case, _: Evidence) -> Iterable[str]:
    """Apply the host file, if it is known which one that is."""
    return (case.facts.again,) if case.facts.again else ()


def filter_bridged(case: Case, evidence: Evidence) -> Iterator[str]:
    """Load br_netfilter where it is not there, and have it show packets to netfilter."""
    if case.facts.switch("bridge/bridge-nf-call-iptables") is None:
        yield "modprobe br_netfilter"
    yield f"sysctl -w {evidence.words['switch']}=1"


def forward(case: Case, evidence: Evidence) -> Iterator[str]:
    """Switch forwarding on; IPv6 hosts that live by advertisements go on listening to them."""
    if evidence.words["family"] == Family.IPV6.label:
        for name in case.facts.listening:
            yield f"sysctl -w net.ipv6.conf.{name.replace('.', '/')}.accept_ra=2"
    yield f"sysctl -w {evidence.words['switch']}=1"


def lift(_: Case, evidence: Evidence) -> Iterator[str]:
    """Take out the rule that decides, or have the policy accept."""
    place = evidence.place
    if place is None:
        return
    table, chain = place.table, place.chain.name
    if place.rule is None:
        if table.maker is Maker.NFT:
            yield f"nft 'chain {table.family} {table.name} {chain} {{ policy accept; }}'"
        else:
            yield shlex.join([table.program, "-w", "-t", table.name, "-P", chain, "ACCEPT"])
        return
    if table.maker is Maker.NFT:
        yield f"nft delete rule {table.family} {table.name} {chain} handle {place.rule.handle}"
        return
    rule = shlex.split(place.rule.text)
    if table.program in COMPARES_LITTLE:
        rule = [str(place.number)]
    yield shlex.join([table.program, "-w", "-t", table.name, "-D", chain, *rule])


def accept_before(case: Case, evidence: Evidence) -> Iterator[str]:
    """Let these packets pass right before the rule that stops them.

    Where that stands before our own lines, these are put first instead: an accept there would keep
    packets from them.
    """
    if evidence.place is not None:
        first = evidence.met[0]
        if stands_before_ours(first, case.shared):
            yield from apply_again(case, evidence)
            return
        found = dict.fromkeys(opening(met, case.bridges) for met in evidence.met)
        verdict = "return" if is_asked_before_ours(first, case.shared) else "accept"
        yield from commands(evidence.place, first.stage.hook, found, verdict)


def clean_docker(case: Case, _: Evidence) -> Iterator[str]:
    """Take out what Docker left."""
    return case.remains.removal()


def join_zone(case: Case, evidence: Evidence) -> Iterator[str]:
    """Docker's own arrangement: a zone for bridges and a policy that lets everybody forward to it.

    Permanent, since a reload puts the runtime configuration back to it.
    """
    name, change = "docker-forwarding", "firewall-cmd --permanent"
    zone, policy = f"{change} --zone=docker", f"{change} --policy={name}"
    yield f"{change} --get-zones | grep -qw docker || {change} --new-zone=docker"
    yield f"{zone} --set-target=ACCEPT"
    yield f"{change} --get-policies | grep -qw {name} || {change} --new-policy={name}"
    yield f"{policy} --set-target=ACCEPT"
    for option in ("ingress-zone=ANY", "egress-zone=docker"):
        yield f"{policy} --query-{option} || {policy} --add-{option}"
    concerned = {met.traffic.network for met in evidence.met}
    for network in case.host.networks:
        if network.name in concerned:
            yield f"{zone} --change-interface={network.bridge}"
    yield "firewall-cmd --reload"
