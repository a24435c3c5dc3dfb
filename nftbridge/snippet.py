"""Lines for other firewalls of the host, so that they let pass what nftbridge has accepted.

An accept ends one base chain only: what another one drops afterwards is lost. With an accept mark
the lines ask for that, and then they let nothing pass while nftbridge's rules are missing. Without
one they name the bridges.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator

from nftbridge.errors import InputError, Problem
from nftbridge.model import Family, Host
from nftbridge.nft.syntax import Match as NftMatch
from nftbridge.nft.syntax import MatchMark, Meta

_IPTABLES_PRIORITY = 0
_FIREWALLD_PRIORITY = 10  # NFT_HOOK_OFFSET of firewalld's core/nftables.py

_ZONE, _POLICY = "docker", "docker-forwarding"
"""What Docker calls them, so that there is one of each whoever comes first."""


def lines(host: Host, firewall: str) -> Iterator[str]:
    """The lines for one of `FIREWALLS`, with comments that say where to put them.

    Raises `InputError` if there is nothing that they could ask for.
    """
    by_interface = host.accept_mark is None or firewall == "firewalld"
    if by_interface and not host.networks:
        hint = 'declare a network; for others than firewalld, accept_mark = "0x1000/0x1000" will do'
        raise InputError((Problem("FILE", "there is no bridge that the lines could name", hint),))
    yield from FIREWALLS[firewall](host)


def _nft(host: Host) -> Iterator[str]:
    yield "# for a chain of yours at the forward hook that drops what it does not accept:"
    yield "# put it there before anything that drops; names as in Debian's /etc/nftables.conf"
    yield from _trust_in(host)
    yield f"# that chain has to come after nftbridge's at priority {host.priorities.forward}"
    yield from _too_late(host, _IPTABLES_PRIORITY, "'priority filter'")
    yield from ("table inet filter {", "\tchain forward {")
    if host.accept_mark is not None:
        asked = [MatchMark(host.accept_mark.value, host.accept_mark.mask).text()]
    else:
        bridges = _bridges(host)
        asked = [NftMatch(Meta(key), bridges).text() for key in ("iifname", "oifname")]
    yield from (f"\t\t{match} accept" for match in asked)
    yield from ("\t}", "}")


def _ufw(host: Host) -> Iterator[str]:
    yield "# for ufw, whose policy for routed packets is deny; `ufw reload` afterwards"
    yield from _beside_iptables(host)
    files = {Family.IPV4: ("after.rules", "ufw"), Family.IPV6: ("after6.rules", "ufw6")}
    for family in host.families():
        name, prefix = files[family]
        yield f"# at the end of /etc/ufw/{name}"
        yield "*filter"
        yield from (f"-A {prefix}-after-forward {m} -j ACCEPT" for m in _iptables_matches(host))
        yield "COMMIT"


def _iptables(host: Host) -> Iterator[str]:
    yield "# for a FORWARD chain of iptables with rules or a policy that drop"
    yield from _beside_iptables(host)
    programs = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
    for family in host.families():
        for match in _iptables_matches(host):
            yield f"{programs[family]} -I FORWARD {shlex.join(match.split())} -j ACCEPT"


def _beside_iptables(host: Host) -> Iterator[str]:
    yield "# not needed if nftbridge itself uses iptables: its ACCEPT ends FORWARD"
    yield from _trust_in(host)
    yield from _too_late(host, _IPTABLES_PRIORITY, "FORWARD")


def _firewalld(host: Host) -> Iterator[str]:
    yield "# for firewalld: the bridges in a zone of their own, as Docker does it; what is there"
    yield "# already is reported and does no harm. The zone lets containers reach the host, too."
    yield "# firewalld cannot ask for a mark: while nftbridge's rules are missing, it lets all pass"
    yield from _too_late(host, _FIREWALLD_PRIORITY, "firewalld")
    bridges = [f"--add-interface={bridge}" for bridge in _bridges(host)]
    for arguments in (
        [f"--new-zone={_ZONE}"],
        [f"--zone={_ZONE}", "--set-target=ACCEPT"],
        *([f"--zone={_ZONE}", bridge] for bridge in bridges),
        [f"--new-policy={_POLICY}"],
        [f"--policy={_POLICY}", "--add-ingress-zone=ANY"],
        [f"--policy={_POLICY}", f"--add-egress-zone={_ZONE}"],
        [f"--policy={_POLICY}", "--set-target=ACCEPT"],
    ):
        yield shlex.join(["firewall-cmd", "--permanent", *arguments])
    yield "firewall-cmd --reload"


def _trust_in(host: Host) -> Iterator[str]:
    """What the lines let pass, and what not."""
    if host.accept_mark is not None:
        yield f"# nftbridge puts mark {host.accept_mark} on what it accepts; nothing else passes"
        return
    yield "# by interface, since [host] has no accept_mark: what nftbridge has not dropped passes,"
    yield "# and everything while its rules are missing; a new network needs lines of its own"


def _too_late(host: Host, priority: int, what: str) -> Iterator[str]:
    """A warning if our chain need not be the first of the two."""
    ours = host.priorities.forward
    if ours < priority:
        return
    where = "which is loaded last comes first" if ours == priority else "nftbridge comes later"
    yield f"# {what} is at priority {priority}, nftbridge at {ours}: {where};"
    yield f"# write priorities = {{ forward = {priority - 5} }} in [host], and apply"


def _iptables_matches(host: Host) -> list[str]:
    if host.accept_mark is not None:
        return [f"-m mark --mark {host.accept_mark}"]
    return [f"{option} {bridge}" for bridge in _bridges(host) for option in ("-i", "-o")]


def _bridges(host: Host) -> tuple[str, ...]:
    return tuple(network.bridge for network in host.networks)


FIREWALLS: dict[str, Callable[[Host], Iterator[str]]] = {
    "nft": _nft,
    "ufw": _ufw,
    "firewalld": _firewalld,
    "iptables": _iptables,
}
"""By the name on the command line."""
