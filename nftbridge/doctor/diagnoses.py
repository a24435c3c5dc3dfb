"""The table of everything that can be wrong around our own table."""

from __future__ import annotations

from nftbridge.doctor import encounters, remedies, routes, switches
from nftbridge.doctor.case import Case
from nftbridge.doctor.finding import Diagnosis, Finding, Severity

_LASTS = "lasts until that firewall is loaded anew: change its files, too"

DIAGNOSES: tuple[Diagnosis, ...] = (
    Diagnosis(
        "rules-missing",
        Severity.LEAKS,
        switches.rules_missing,
        "the kernel does not hold the rules of the host file ({drift}): what it forbids may pass,"
        " and what it publishes may not be reached",
        remedies.apply_again,
        "{unknown}",
    ),
    Diagnosis(
        "accepted-before",
        Severity.LEAKS,
        encounters.accepted_before,
        "a line before ours accepts what the host file forbids",
        remedies.lift,
        _LASTS,
    ),
    Diagnosis(
        "bridge-unfiltered",
        Severity.LEAKS,
        switches.bridge_unfiltered,
        "icc = false has no effect on {family}: containers of one network reach each other, since"
        " netfilter sees no bridged packets",
        remedies.filter_bridged,
    ),
    Diagnosis(
        "baseline",
        Severity.KILLS,
        switches.baseline,
        "the boot baseline is in force: until the first apply, nothing is forwarded by the bridges"
        " that it closes",
        remedies.apply_again,
        "{unknown}",
    ),
    Diagnosis(
        "forwarding-off",
        Severity.KILLS,
        switches.forwarding_off,
        "the kernel forwards no {family}: containers reach nobody outside their bridge, and"
        " published ports do not answer",
        remedies.forward,
        'or once for all: ip_forward = "enable" in [host]; accept_ra=2, where it stands, keeps the'
        " IPv6 default route that a forwarding host would lose",
    ),
    Diagnosis(
        "docker-left-over",
        Severity.KILLS,
        encounters.docker_left_over,
        "Docker does not run, and rules that it left ({layout}) decide over what is ours now",
        remedies.clean_docker,
        "DOCKER-USER stays, with the jump to it: its rules are yours",
    ),
    Diagnosis(
        "firewalld",
        Severity.KILLS,
        encounters.firewalld_drop,
        "firewalld rejects what the host file lets pass: the bridges are in no zone that lets it"
        " through",
        remedies.join_zone,
        "zone docker and policy docker-forwarding are what Docker itself makes",
    ),
    Diagnosis(
        "foreign-drop",
        Severity.KILLS,
        encounters.foreign_drop,
        "{table} drops what the host file lets pass; an accept elsewhere does not outweigh that",
        remedies.accept_before,
        "{only}{behind}" + _LASTS,
    ),
    Diagnosis(
        "early-drop",
        Severity.KILLS,
        encounters.early_drop,
        "{table} drops what the host file lets pass, where connection tracking cannot tell answers",
        remedies.lift,
        f"put what it is good for into the forward hook; {_LASTS}",
    ),
    Diagnosis(
        "untracked",
        Severity.KILLS,
        encounters.untracked,
        "{table} keeps packets from connection tracking: they are not translated, and their"
        " answers are not known",
        remedies.lift,
        _LASTS,
    ),
    Diagnosis(
        "port-taken",
        Severity.KILLS,
        encounters.port_taken,
        "{table} translates it to {target} instead",
        remedies.lift,
        "or choose another port in the host file, if that one is in use",
    ),
    Diagnosis(
        "rewritten",
        Severity.KILLS,
        encounters.rewritten,
        "{table} gives packets the {field} {value}, and they arrive there or nowhere",
        remedies.lift,
        _LASTS,
    ),
    Diagnosis(
        "interface-forwarding-off",
        Severity.KILLS,
        switches.interface_forwarding_off,
        "the kernel forwards no IPv4 that comes in by {interface}",
        remedies.run("sysctl -w {switch}=1"),
    ),
    Diagnosis(
        "bridge-down",
        Severity.KILLS,
        switches.bridge_down,
        "the bridge {bridge} is down",
        remedies.run("ip link set dev {bridge} up"),
    ),
    Diagnosis(
        "misrouted",
        Severity.KILLS,
        routes.misrouted,
        "packets to {destination} do not arrive: {what}",
        remedies.run("{mend}"),
        "lasts until the routes are set anew: change whatever sets them, too",
    ),
    Diagnosis(
        "reverse-path",
        Severity.KILLS,
        switches.reverse_path,
        "packets from {source} that come in by {interface} are dropped before any rule: {way}",
        remedies.run("sysctl -w {switch}=2"),
        "2 asks only for some way back",
    ),
    Diagnosis(
        "loopback-unroutable",
        Severity.KILLS,
        switches.loopback_unroutable,
        "the host cannot reach published ports by 127.0.0.1: there is no proxy, and the kernel"
        " routes no loopback address to a bridge",
        remedies.run("sysctl -w {switch}=1"),
    ),
    Diagnosis(
        "forwarding-off-elsewhere",
        Severity.REMARK,
        switches.forwarding_off_elsewhere,
        "published ports do not answer on {interface}: the kernel forwards no IPv4 from there",
        remedies.run("sysctl -w {switch}=1"),
        "only if others shall come in there",
    ),
    Diagnosis(
        "reverse-path-strict",
        Severity.REMARK,
        switches.strict_elsewhere,
        "published ports answer on {interface} only to those to whom a route leads by {interface};"
        " the default route leads by {default}",
        remedies.run("sysctl -w {switch}=2"),
        "only if others shall come in there",
    ),
    Diagnosis(
        "docker-remains",
        Severity.REMARK,
        encounters.docker_remains,
        "Docker does not run, and has left rules behind ({layout})",
        remedies.clean_docker,
        "DOCKER-USER stays, with the jump to it: its rules are yours",
    ),
    Diagnosis(
        "docker-runs",
        Severity.REMARK,
        encounters.docker_runs,
        "Docker runs and looks after rules of its own ({layout})",
        remedies.nothing,
        '"iptables": false and "ip6tables": false in daemon.json leave all of it to us',
    ),
    Diagnosis(
        "neighbour",
        Severity.REMARK,
        encounters.neighbour,
        "{table} is {owner}'s; it was looked into like every other",
        remedies.nothing,
    ),
    Diagnosis(
        "bridge-missing",
        Severity.REMARK,
        switches.bridge_missing,
        "there is no bridge {bridge} yet",
        remedies.nothing,
        "whoever makes the network makes it",
    ),
    Diagnosis(
        "rewritten-somehow",
        Severity.REMARK,
        encounters.rewritten_somehow,
        "{table} rewrites the {field} of packets: what becomes of them is uncertain from there on",
        remedies.nothing,
    ),
    Diagnosis(
        "not-understood",
        Severity.REMARK,
        encounters.not_understood,
        "this rule is not understood, and may decide otherwise than is assumed here",
        remedies.nothing,
    ),
    Diagnosis("unread", Severity.REMARK, switches.unread, "{what}", remedies.nothing),
)
"""The most important first: what leaks, then what concerns most traffic.

The commands are run in this order, too: other people's rules are judged as they are without what
Docker left, if that does harm.
"""


def examine(case: Case) -> tuple[Finding, ...]:
    """All findings; leaks first, remarks last, those of one severity in the table's order."""
    found = [finding for diagnosis in DIAGNOSES for finding in diagnosis.findings(case)]
    return tuple(sorted(found, key=lambda finding: finding.severity))
