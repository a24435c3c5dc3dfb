"""Planted faults that change nothing, each with the reason; test_mutants holds them to it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

_DISJOINT = "no packet matches rows of both, so their order is nobody's business"
_SAME_END = "both rules end in the same verdict"
_HEADER = (
    "loading a header field of the other family ends the rule already; the kernel's own listing"
    " leaves this match out"
)
_KEY_HAS_FAMILY = "the look-up's key holds the family"
_NAT_HAS_FAMILY = (
    "a translation does nothing to the other family's packets (nft_nat_inet_eval), and the copy for"
    " that family comes next"
)
_DENIED_BEFORE = "icc-denied has dropped these packets one rule before"
_ANSWERED_BEFORE = (
    "DOCKER-CT accepts answers into bridges, egress those to elsewhere, and into internal networks"
    " they are dropped before; Docker writes the line, so it stays"
)
_PORTS_ONLY = "every rule of DOCKER asks for the bridge itself"

_GATE = "a gate only spares look-ups: the rules behind it match no packet that it keeps out"
_NO_BRIDGE = "the rule is in both halves of DOCKER-NAT, and no bridge is WSL2's loopback"

_REASONS: dict[str, str] = {
    # iptables sorts a block's lines by the age of their owner
    "iptables, order: *": "different owners' lines are about different bridges, addresses or ports",
    # rules of the program
    "*, swapped: raw-PREROUTING, direct-access | mirrored-loopback": (
        f"{_DISJOINT}: no container has a loopback address"
    ),
    "*, swapped blocks: DOCKER-NAT, proxied-bridge | proxied-mirrored": _SAME_END,
    "*, swapped: DOCKER-NAT, publish | publish-anywhere": (
        f"{_DISJOINT}: the model refuses a port of every address beside the same port of one"
    ),
    "*, swapped: DOCKER-FORWARD, icc-denied | egress": f"{_DISJOINT}: egress excludes icc_denied",
    "*, swapped: DOCKER-FORWARD, egress | icc-internal": _SAME_END,
    "*, swapped: DOCKER-ISOLATION-STAGE-1, into-internal | out-of-internal": _SAME_END,
    "*, swapped: DOCKER-ISOLATION-STAGE-1, routed-answers | into-routed": _ANSWERED_BEFORE,
    "*, swapped: DOCKER, unpublished | unprotected": (
        f"{_DISJOINT}: a bridge is protected or unprotected"
    ),
    "*, swapped: nat-POSTROUTING, hairpin-masquerade | hairpin-snat": (
        f"{_DISJOINT}: a network has a fixed source address or none"
    ),
    "*, swapped: nat-POSTROUTING, masquerade | snat": (
        f"{_DISJOINT}: a network has a fixed source address or none"
    ),
    "*, dropped: DOCKER-ISOLATION-STAGE-1, routed-answers": _ANSWERED_BEFORE,
    "*, verdict: DOCKER-ISOLATION-STAGE-1, routed-answers, return": _ANSWERED_BEFORE,
    "nftables, no rule: DOCKER-ISOLATION-BRIDGE, routed-answers": _ANSWERED_BEFORE,
    "iptables, * lost: *: DOCKER-ISOLATION-STAGE-1 -i ... -m conntrack *": _ANSWERED_BEFORE,
    "*, lost: DOCKER-FORWARD, egress, NotIn icc_denied": _DENIED_BEFORE,
    "nftables, no match: DOCKER-FORWARD, egress, != @icc_denied": _DENIED_BEFORE,
    "iptables, no -o: IPv? filter: DOCKER-FORWARD -i ... ! -o ... -j ACCEPT": _DENIED_BEFORE,
    "nftables, no match: DOCKER-BRIDGE, into-bridge, == @bridges": _PORTS_ONLY,
    "iptables, no -o: IPv? filter: DOCKER-BRIDGE -o ... -j DOCKER": _PORTS_ONLY,
    "nftables, no match: DOCKER, unprotected, == @unprotected_bridges": (
        "DOCKER is for bridges only, and of those the unpublished rule leaves the unprotected ones"
    ),
    # what only nft has
    "nftables, no match: raw-PREROUTING, to DOCKER-LOOPBACK, == prefix": _GATE,
    "nftables, no match: DOCKER-NAT, to DOCKER-NAT-BRIDGE, == @bridges": _GATE,
    "nftables, no match: DOCKER-ISOLATION-STAGE-1, to *, == @all_bridges": _GATE,
    "nftables, no match: nat-POSTROUTING, to DOCKER-HAIRPIN, == @hairpins": _GATE,
    "nftables, no match: *, to DOCKER-SUBNETS IPv?, == @translated*": _GATE,
    "nftables, jump: nat-POSTROUTING, to DOCKER-HAIRPIN": (
        "what comes back from there meets DOCKER-SUBNETS again, and is no other packet by then"
    ),
    "nftables, no rule: DOCKER-NAT-BRIDGE, proxied-mirrored": _NO_BRIDGE,
    "nftables, *: DOCKER-NAT-BRIDGE, proxied-mirrored, == ipv?": _NO_BRIDGE,
    "nftables, *: DOCKER-NAT-BRIDGE, proxied-mirrored, == prefix": _NO_BRIDGE,
    "nftables, no match: DOCKER-DIRECT, *, == ipv?": _HEADER,
    "nftables, no match: DOCKER-LOOPBACK, *, == ipv?": _HEADER,
    "nftables, no match: raw-PREROUTING, *, == ipv?": _HEADER,
    "nftables, no match: nat-OUTPUT, *, == ipv?": _HEADER,
    "nftables, no match: DOCKER-NAT, proxied-mirrored, == ipv4": _HEADER,
    "nftables, no match: DOCKER-NAT, publish IPv?, == ipv?": _HEADER,
    "nftables, no match: DOCKER-NAT-BRIDGE, publish IPv?, == ipv?": _HEADER,
    "nftables, no match: DOCKER-NAT-BRIDGE, publish, not to its own network IPv?, == ipv?": _HEADER,
    "nftables, no match: DOCKER-ISOLATION-INTERNAL, *, == ipv?": _HEADER,
    "nftables, no match: DOCKER-ISOLATION-BRIDGE, *, == ipv?": _HEADER,
    "nftables, no match: DOCKER, open-port IPv?, == ipv?": _HEADER,
    "nftables, no match: *, to DOCKER-SUBNETS IPv?, == ipv?": _HEADER,
    "nftables, no match: DOCKER-SUBNETS, *, == ipv?": _HEADER,
    "nftables, no match: DOCKER-HAIRPIN, hairpin-self IPv?, == ipv?": _HEADER,
    "nftables, no match: DOCKER-NAT-BRIDGE, publish-anywhere, not to its own*, == ipv?": (
        _KEY_HAS_FAMILY
    ),
    "nftables, no match: DOCKER-NAT*, publish-anywhere IPv?, == ipv?": _NAT_HAS_FAMILY,
    "nftables, no match: DOCKER-HAIRPIN, hairpin-snat IPv?, == ipv?": _NAT_HAS_FAMILY,
    "nftables, no match: DOCKER-NAT*, publish* IPv?, == set": (
        "the maps hold these three protocols only; the match is there for nft 0.9.8 to load it"
    ),
}


def equivalents(names: Iterable[str]) -> dict[str, str]:
    """The names among these whose fault changes nothing, with the reason."""
    return {
        name: reason
        for name in names
        for pattern, reason in _REASONS.items()
        if fnmatchcase(name, pattern)
    }


def unused(names: Iterable[str]) -> list[str]:
    """Patterns that are about no mutant."""
    known = list(names)
    return [p for p in _REASONS if not any(fnmatchcase(name, p) for name in known)]
