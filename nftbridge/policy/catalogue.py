"""The relations: every kind of fact about a host that a rule may ask for.

Names are what `nftbridge plan` prints and what the sets in the kernel are called (with 4 or 6
behind them where a column holds addresses).
"""

from __future__ import annotations

from nftbridge.model import Family
from nftbridge.policy.program import Kind, Relation

_I, _A, _N, _P, _D = Kind.INTERFACE, Kind.ADDRESS, Kind.PREFIX, Kind.PROTOCOL, Kind.PORT
_ONLY_IPV4 = (Family.IPV4,)
_ONLY_IPV6 = (Family.IPV6,)

# Direct access to container addresses, and to ports published on loopback

TRUSTED_ACCESS = Relation(
    "trusted_access", (_A, _I), meaning="this host interface may reach that container directly"
)
GUARDED = Relation(
    "guarded", (_A,), meaning="container address that only its own bridge may carry packets to"
)
GUARDED_INTERFACES = Relation(
    "guarded_interfaces", (_A, _I), meaning="the bridge of a guarded address"
)
MIRRORED_PUBLISHED = Relation(
    "mirrored_published",
    (_A, _P, _D, _I),
    families=_ONLY_IPV4,
    meaning="loopback publication that Windows may reach through WSL2's mirrored interface",
)
LOOPBACK_PUBLISHED = Relation(
    "loopback_published",
    (_A, _P, _D),
    families=_ONLY_IPV4,
    meaning="publication on 127.0.0.0/8, for the host itself only",
)

# Publishing

PROXIED_LOOPBACK = Relation(
    "proxied_loopback", (_N,), meaning="local destinations that the userland proxy serves, not DNAT"
)
PROXIED_BRIDGES = Relation(
    "proxied_bridges", (_I,), meaning="bridge whose containers use the userland proxy, not DNAT"
)
MIRRORED_INTERFACES = Relation(
    "mirrored_interfaces",
    (_I,),
    families=_ONLY_IPV4,
    meaning="WSL2's mirrored loopback, served by the userland proxy",
)
OWN_PUBLISHED = Relation(
    "own_published", (_I, _A, _P, _D), meaning="published port, seen from the network behind it"
)
PUBLISHED = Relation(
    "published",
    (_A, _P, _D),
    (_A, _D),
    meaning="host address and port -> container address and port",
)
OWN_PUBLISHED_ANYWHERE = Relation(
    "own_published_anywhere",
    (_I, _P, _D),
    meaning="port published on every host address, seen from the network behind it",
)
PUBLISHED_ANYWHERE = Relation(
    "published_anywhere",
    (_P, _D),
    (_A, _D),
    meaning="port of every host address -> container address and port",
)

# Forwarding

ALL_BRIDGES = Relation("all_bridges", (_I,), meaning="bridge of a network of whatever kind")
BRIDGES = Relation("bridges", (_I,), meaning="bridge of a network that is not internal")
SAME_BRIDGE = Relation("same_bridge", (_I, _I), meaning="in and out by one and the same bridge")
INTERNAL_BRIDGES = Relation("internal_bridges", (_I,), meaning="bridge of an internal network")
INTERNAL_SUBNETS = Relation(
    "internal_subnets", (_I, _N), meaning="what an internal bridge may talk to: its own subnet"
)
INTERNAL_PAIRS = Relation(
    "internal_pairs",
    (_I, _I),
    families=_ONLY_IPV6,
    meaning="within an internal bridge IPv6 is free: neighbour discovery is link-local",
)
ROUTED_BRIDGES = Relation("routed_bridges", (_I,), meaning="bridge that is routed to, without NAT")
ROUTED_ICMP = Relation(
    "routed_icmp", (_I, _P), meaning="the ICMP that may enter a routed bridge from anywhere"
)
OPEN_PORTS = Relation(
    "open_ports", (_I, _A, _P, _D), meaning="container port that other interfaces may reach"
)
PROTECTED_BRIDGES = Relation(
    "protected_bridges", (_I,), meaning="bridge that only open ports can be reached on"
)
UNPROTECTED_BRIDGES = Relation(
    "unprotected_bridges", (_I,), meaning="bridge with every port open (nat-unprotected)"
)
ICC_DENIED = Relation(
    "icc_denied", (_I, _I), meaning="bridge whose containers must not talk to each other"
)
ICC_INTERNAL = Relation(
    "icc_internal", (_I, _I), meaning="internal bridge whose containers may talk to each other"
)

# Source translation

HAIRPINS = Relation(
    "hairpins", (), meaning="there is no proxy: traffic of the host and of a container to itself"
)
HAIRPIN_MASQUERADE = Relation(
    "hairpin_masquerade", (_I,), meaning="bridge whose host traffic is masqueraded (no proxy)"
)
HAIRPIN_SNAT = Relation(
    "hairpin_snat",
    (_I,),
    (_A,),
    meaning="bridge -> fixed source address of host traffic (no proxy)",
)
TRANSLATED_SUBNETS = Relation(
    "translated_subnets", (_N,), meaning="subnet that gets another source address outside"
)
MASQUERADED_SUBNETS = Relation(
    "masqueraded_subnets", (_N,), meaning="subnet that is masqueraded when it leaves its bridge"
)
SUBNET_BRIDGES = Relation(
    "subnet_bridges", (_N, _I), meaning="the bridge of a translated subnet, where it needs no NAT"
)
SNAT_SUBNETS = Relation(
    "snat_subnets", (_N,), (_A,), meaning="subnet -> fixed source address when it leaves its bridge"
)
SELF_PUBLISHED = Relation(
    "self_published",
    (_A, _A, _P, _D),
    meaning="container that reaches its own published port through the host (no proxy)",
)

RELATIONS: tuple[Relation, ...] = (
    TRUSTED_ACCESS,
    GUARDED,
    GUARDED_INTERFACES,
    MIRRORED_PUBLISHED,
    LOOPBACK_PUBLISHED,
    PROXIED_LOOPBACK,
    PROXIED_BRIDGES,
    MIRRORED_INTERFACES,
    OWN_PUBLISHED,
    PUBLISHED,
    OWN_PUBLISHED_ANYWHERE,
    PUBLISHED_ANYWHERE,
    ALL_BRIDGES,
    BRIDGES,
    SAME_BRIDGE,
    INTERNAL_BRIDGES,
    INTERNAL_SUBNETS,
    INTERNAL_PAIRS,
    ROUTED_BRIDGES,
    ROUTED_ICMP,
    OPEN_PORTS,
    PROTECTED_BRIDGES,
    UNPROTECTED_BRIDGES,
    ICC_DENIED,
    ICC_INTERNAL,
    HAIRPINS,
    HAIRPIN_MASQUERADE,
    HAIRPIN_SNAT,
    TRANSLATED_SUBNETS,
    MASQUERADED_SUBNETS,
    SUBNET_BRIDGES,
    SNAT_SUBNETS,
    SELF_PUBLISHED,
)
"""All of them, in the order in which a packet meets them."""
