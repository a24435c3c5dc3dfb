"""The whole ruleset, chain by chain, in Docker 28.5.2's order; nothing else makes rules.

Two deviations from Docker are on purpose. Docker inserts some lines at the head of a chain when a
network is created, so that its verdicts depend on the order of creation; here they do not:

1. DOCKER-ISOLATION-STAGE-1: the drops of internal networks come before the accepts of routed
   ones, so an internal network never reaches a routed one, nor the reverse.
2. nat-POSTROUTING: traffic from the host's own addresses is looked at before the subnets.

The two marks of a host are not Docker's. They are constants of its rules, since nftables can look
up a mark in a set, but not under a mask that the set holds. Networks and ports change no rule.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from ipaddress import IPv4Network, IPv6Network

from nftbridge.model import Host, Mark
from nftbridge.policy import catalogue as known
from nftbridge.policy.program import (
    Chain,
    Dnat,
    Field,
    Final,
    Gate,
    Hook,
    In,
    Is,
    IsNot,
    Jump,
    Leave,
    MarkedAccept,
    NotIn,
    Rule,
    Snat,
    appended,
    chain,
    inserted,
)

IIF, OIF, SADDR, DADDR = Field.IIF, Field.OIF, Field.SADDR, Field.DADDR
PROTOCOL, DPORT = Field.PROTOCOL, Field.DPORT

DOCKER_USER = "DOCKER-USER"
DOCKER_FORWARD = "DOCKER-FORWARD"
DOCKER_CT = "DOCKER-CT"
ISOLATION_1 = "DOCKER-ISOLATION-STAGE-1"
ISOLATION_2 = "DOCKER-ISOLATION-STAGE-2"
DOCKER_BRIDGE = "DOCKER-BRIDGE"
DOCKER = "DOCKER"
DOCKER_NAT = "DOCKER-NAT"

_LOOPBACK_V4 = IPv4Network("127.0.0.0/8")
_LINK_LOCAL_V6 = IPv6Network("fe80::/10")
_ESTABLISHED = Is(Field.CT_STATE, ("established", "related"))
_TO_THE_HOST = Is(Field.DADDR_TYPE, ("local",))
_FROM_THE_HOST = Is(Field.SADDR_TYPE, ("local",))
_TO_ANOTHER_BRIDGE = NotIn(known.SAME_BRIDGE, (IIF, OIF))

_TO_GUARDED = Gate(
    "DOCKER-DIRECT",
    In(known.GUARDED, (DADDR,)),
    "every packet comes here, and few are for a container's own address",
)
_TO_LOOPBACK = Gate(
    "DOCKER-LOOPBACK",
    Is(DADDR, (_LOOPBACK_V4,)),
    "every packet comes here, and from outside hardly one is for 127.0.0.0/8",
)
_PUBLISHED_FROM_BRIDGE = Gate(
    "DOCKER-NAT-BRIDGE",
    In(known.BRIDGES, (IIF,)),
    "only containers have a network of their own, or a proxy between",
)
_INTO_INTERNAL = Gate(
    "DOCKER-ISOLATION-INTERNAL",
    In(known.INTERNAL_BRIDGES, (OIF,)),
    "few packets are for an internal network, and both families' rules ask that",
)
_FROM_BRIDGE = Gate(
    "DOCKER-ISOLATION-BRIDGE",
    In(known.ALL_BRIDGES, (IIF,)),
    "what comes from elsewhere has no bridge to leave",
)
_HAIRPINS = Gate(
    "DOCKER-HAIRPIN",
    In(known.HAIRPINS, ()),
    "with a userland proxy, none of these rules has rows",
)
_FROM_TRANSLATED = Gate(
    "DOCKER-SUBNETS",
    In(known.TRANSLATED_SUBNETS, (SADDR,)),
    "new connections from outside keep their source",
)

RAW_PREROUTING = chain(
    "raw-PREROUTING",
    "raw",
    appended(
        Rule(
            "trusted-direct",
            (In(known.TRUSTED_ACCESS, (DADDR, IIF)),),
            Final.ACCEPT,
            "a trusted host interface may address containers directly",
            _TO_GUARDED,
        ),
        Rule(
            "direct-access",
            (In(known.GUARDED, (DADDR,)), NotIn(known.GUARDED_INTERFACES, (DADDR, IIF))),
            Final.DROP,
            "nobody else addresses containers past DNAT by routing to them (moby#41872)",
            _TO_GUARDED,
        ),
        Rule(
            "mirrored-loopback",
            (In(known.MIRRORED_PUBLISHED, (DADDR, PROTOCOL, DPORT, IIF)),),
            Final.ACCEPT,
            "Windows reaches loopback publications through WSL2's mirrored interface",
            _TO_LOOPBACK,
        ),
        Rule(
            "remote-loopback",
            (In(known.LOOPBACK_PUBLISHED, (DADDR, PROTOCOL, DPORT)), IsNot(IIF, "lo")),
            Final.DROP,
            "a port published on 127.0.0.0/8 is for this host only (moby#45610)",
            _TO_LOOPBACK,
        ),
    ),
    hook=Hook("filter", "prerouting", "raw"),
)

NAT_PREROUTING = chain(
    "nat-PREROUTING",
    "nat",
    appended(
        Rule(
            "published-inbound",
            (_TO_THE_HOST,),
            Jump(DOCKER_NAT),
            "packets to one of the host's addresses may be for a published port",
        ),
    ),
    hook=Hook("nat", "prerouting", "dstnat"),
)

NAT_OUTPUT = chain(
    "nat-OUTPUT",
    "nat",
    appended(
        Rule(
            "published-local",
            (NotIn(known.PROXIED_LOOPBACK, (DADDR,)), _TO_THE_HOST),
            Jump(DOCKER_NAT),
            "the host uses published ports too; on loopback the proxy serves them, if any",
        ),
    ),
    hook=Hook("nat", "output", "dstnat"),
)

NAT_DOCKER = chain(
    DOCKER_NAT,
    "nat",
    inserted(
        Rule(
            "proxied-bridge",
            (In(known.PROXIED_BRIDGES, (IIF,)),),
            Final.RETURN,
            "with a userland proxy, containers reach published ports through it",
            _PUBLISHED_FROM_BRIDGE,
        ),
    ),
    appended(
        Rule(
            "proxied-mirrored",
            (In(known.MIRRORED_INTERFACES, (IIF,)), Is(DADDR, (_LOOPBACK_V4,))),
            Final.RETURN,
            "WSL2's mirrored loopback is served by the proxy, like loopback itself",
        ),
    ),
    appended(
        Rule(
            "publish",
            (
                Leave(
                    known.OWN_PUBLISHED,
                    (IIF, DADDR, PROTOCOL, DPORT),
                    known.PROXIED_BRIDGES,
                    _PUBLISHED_FROM_BRIDGE,
                ),
                IsNot(SADDR, _LINK_LOCAL_V6),
            ),
            Dnat(known.PUBLISHED, (DADDR, PROTOCOL, DPORT)),
            "a port of one host address; link-local peers cannot be routed back to",
        ),
        Rule(
            "publish-anywhere",
            (
                Leave(
                    known.OWN_PUBLISHED_ANYWHERE,
                    (IIF, PROTOCOL, DPORT),
                    known.PROXIED_BRIDGES,
                    _PUBLISHED_FROM_BRIDGE,
                ),
                IsNot(SADDR, _LINK_LOCAL_V6),
            ),
            Dnat(known.PUBLISHED_ANYWHERE, (PROTOCOL, DPORT)),
            "a port of every host address; link-local peers cannot be routed back to",
        ),
    ),
)

FILTER_FORWARD = chain(
    "filter-FORWARD",
    "filter",
    appended(
        Rule("user", (), Jump(DOCKER_USER), "the administrator's own rules come first"),
        Rule("forward", (), Jump(DOCKER_FORWARD), "then nftbridge's"),
    ),
    hook=Hook("filter", "forward", "forward"),
)

USER = chain(DOCKER_USER, "filter", users=True)

FORWARD = chain(
    DOCKER_FORWARD,
    "filter",
    appended(
        Rule("conntrack", (), Jump(DOCKER_CT), "most packets belong to known connections"),
        Rule("isolation", (), Jump(ISOLATION_1), "networks are kept apart before any accept"),
        Rule("to-bridge", (), Jump(DOCKER_BRIDGE), "what enters a bridge meets its ports"),
    ),
    appended(
        Rule(
            "icc-denied",
            (In(known.ICC_DENIED, (IIF, OIF)),),
            Final.DROP,
            "inter-container communication is off on this bridge",
        ),
        Rule(
            "egress",
            (In(known.BRIDGES, (IIF,)), NotIn(known.ICC_DENIED, (IIF, OIF))),
            Final.ACCEPT,
            "containers may start connections; isolation has had its say",
        ),
        Rule(
            "icc-internal",
            (In(known.ICC_INTERNAL, (IIF, OIF)),),
            Final.ACCEPT,
            "containers of an internal network may talk to each other",
        ),
    ),
)

CT = chain(
    DOCKER_CT,
    "filter",
    appended(
        Rule(
            "established",
            (In(known.BRIDGES, (OIF,)), _ESTABLISHED),
            Final.ACCEPT,
            "answers to what was let through",
        ),
    ),
)

STAGE_1 = chain(
    ISOLATION_1,
    "filter",
    inserted(
        Rule(
            "into-internal",
            (
                In(known.INTERNAL_BRIDGES, (OIF,)),
                NotIn(known.INTERNAL_SUBNETS, (OIF, SADDR)),
                NotIn(known.INTERNAL_PAIRS, (IIF, OIF)),
            ),
            Final.DROP,
            "nothing from elsewhere enters an internal network",
            _INTO_INTERNAL,
        ),
        Rule(
            "out-of-internal",
            (
                In(known.INTERNAL_BRIDGES, (IIF,)),
                NotIn(known.INTERNAL_SUBNETS, (IIF, DADDR)),
                NotIn(known.INTERNAL_PAIRS, (IIF, OIF)),
            ),
            Final.DROP,
            "nothing leaves an internal network",
            _FROM_BRIDGE,
        ),
    ),
    inserted(
        Rule(
            "routed-answers",
            (In(known.ROUTED_BRIDGES, (IIF,)), _ESTABLISHED),
            Final.ACCEPT,
            "a routed network answers whoever was let in",
            _FROM_BRIDGE,
        ),
        Rule(
            "into-routed",
            (In(known.ROUTED_BRIDGES, (OIF,)),),
            Final.RETURN,
            "routed networks may be reached from other networks, on their open ports",
            _FROM_BRIDGE,
        ),
    ),
    appended(
        Rule(
            "leaving-bridge",
            (In(known.BRIDGES, (IIF,)), _TO_ANOTHER_BRIDGE),
            Jump(ISOLATION_2),
            "what leaves one bridge must not enter another",
            _FROM_BRIDGE,
        ),
    ),
)

STAGE_2 = chain(
    ISOLATION_2,
    "filter",
    inserted(
        Rule(
            "into-other-bridge",
            (In(known.BRIDGES, (OIF,)),),
            Final.DROP,
            "networks are isolated from each other",
        ),
    ),
)

BRIDGE = chain(
    DOCKER_BRIDGE,
    "filter",
    appended(
        Rule(
            "into-bridge",
            (In(known.BRIDGES, (OIF,)),),
            Jump(DOCKER),
            "new connections into a bridge need an open port",
        ),
    ),
)

PORTS = chain(
    DOCKER,
    "filter",
    inserted(
        Rule(
            "open-port",
            (In(known.OPEN_PORTS, (OIF, DADDR, PROTOCOL, DPORT)), _TO_ANOTHER_BRIDGE),
            Final.ACCEPT,
            "published, or opened on a routed network",
        ),
    ),
    appended(
        Rule(
            "routed-icmp",
            (In(known.ROUTED_ICMP, (OIF, PROTOCOL)),),
            Final.ACCEPT,
            "routed networks need ICMP for path MTU discovery and ping",
        ),
        Rule(
            "unpublished",
            (In(known.PROTECTED_BRIDGES, (OIF,)), _TO_ANOTHER_BRIDGE),
            Final.DROP,
            "no other port of the network is open",
        ),
        Rule(
            "unprotected",
            (In(known.UNPROTECTED_BRIDGES, (OIF,)), _TO_ANOTHER_BRIDGE),
            Final.ACCEPT,
            "nat-unprotected: every port is open to whoever can route here",
        ),
    ),
)

POSTROUTING = chain(
    "nat-POSTROUTING",
    "nat",
    inserted(
        Rule(
            "hairpin-masquerade",
            (In(known.HAIRPIN_MASQUERADE, (OIF,)), _FROM_THE_HOST),
            Final.MASQUERADE,
            "without a proxy, 127.0.0.1 as a source would be lost in the container",
            _HAIRPINS,
        ),
        Rule(
            "hairpin-snat",
            (_FROM_THE_HOST,),
            Snat(known.HAIRPIN_SNAT, (OIF,)),
            "the same, with the network's fixed source address",
            _HAIRPINS,
        ),
    ),
    inserted(
        Rule(
            "masquerade",
            (
                In(known.MASQUERADED_SUBNETS, (SADDR,)),
                NotIn(known.SUBNET_BRIDGES, (SADDR, OIF)),
            ),
            Final.MASQUERADE,
            "containers leave with the host's address",
            _FROM_TRANSLATED,
        ),
        Rule(
            "snat",
            (NotIn(known.SUBNET_BRIDGES, (SADDR, OIF)),),
            Snat(known.SNAT_SUBNETS, (SADDR,)),
            "containers leave with the network's fixed source address",
            _FROM_TRANSLATED,
        ),
    ),
    appended(
        Rule(
            "hairpin-self",
            (In(known.SELF_PUBLISHED, (SADDR, DADDR, PROTOCOL, DPORT)),),
            Final.MASQUERADE,
            "a container that reaches itself through the host must see another source",
            _HAIRPINS,
        ),
    ),
    hook=Hook("nat", "postrouting", "srcnat"),
)

CHAINS: tuple[Chain, ...] = (
    RAW_PREROUTING,
    NAT_PREROUTING,
    NAT_OUTPUT,
    NAT_DOCKER,
    FILTER_FORWARD,
    USER,
    FORWARD,
    CT,
    STAGE_1,
    STAGE_2,
    BRIDGE,
    PORTS,
    POSTROUTING,
)
"""Every chain, in the order in which a packet meets them."""

NAMES = frozenset(
    name for chain in CHAINS for name in (chain.name, *(gate.chain for gate in chain.gates()))
)
"""The names of all chains, on nftables those behind gates as well."""


def program_of(host: Host) -> tuple[Chain, ...]:
    """The chains of `host`: `CHAINS`, with its marks where it has any."""
    return program(host.accept_mark, host.trust_mark)


@cache
def program(accept: Mark | None, trust: Mark | None) -> tuple[Chain, ...]:
    """`CHAINS` with these marks."""
    return with_marks(CHAINS, accept, trust)


def with_marks(
    chains: tuple[Chain, ...], accept: Mark | None, trust: Mark | None
) -> tuple[Chain, ...]:
    """The chains with two marks; base chains and the administrator's are what they were.

    What the forward rules accept gets `accept`. What carries `trust` when it has passed the
    administrator's own rules is accepted before any rule of ours drops it.
    """
    if trust is not None:
        chains = tuple(_trusting(c, trust) if c.name == DOCKER_FORWARD else c for c in chains)
    if accept is not None:
        chains = tuple(_accepting(c, accept) if _forwards(c) else c for c in chains)
    return chains


def _forwards(chain: Chain) -> bool:
    """Whether the chain is one of ours that packets pass on their way through the host."""
    return chain.table == "filter" and chain.hook is None and not chain.users


def _trusting(chain: Chain, mark: Mark) -> Chain:
    rule = Rule(
        "trusted-mark",
        (Is(Field.MARK, (mark,)),),
        Final.ACCEPT,
        "somebody on this host vouches for the packet by its mark",
    )
    return replace(chain, blocks=(appended(rule), *chain.blocks))


def _accepting(chain: Chain, mark: Mark) -> Chain:
    blocks = (
        replace(block, rules=tuple(_marking(rule, mark) for rule in block.rules))
        for block in chain.blocks
    )
    return replace(chain, blocks=tuple(blocks))


def _marking(rule: Rule, mark: Mark) -> Rule:
    return replace(rule, verdict=MarkedAccept(mark)) if rule.verdict is Final.ACCEPT else rule
