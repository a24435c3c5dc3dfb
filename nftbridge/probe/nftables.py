"""What the nftables backend needs.

The documents are tried on an empty kernel, each in a table of its own, so that none hides another's
fault. What goes into them is spelled by the backend's own syntax: a probe that says it otherwise
than the backend does would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.model import Family
from nftbridge.nft import syntax
from nftbridge.nft.syntax import Concatenation, Lookup, MapLookup, Match, Meta, Payload
from nftbridge.probe.feature import BindingTrial, Element, Feature, Group, NftObject, NftTrial

_BACKEND = "the iptables backend"
_PREROUTING = syntax.ChainDeclaration("early", syntax.BaseHook("filter", "prerouting", -300))
_DESTINATION = syntax.ChainDeclaration("destination", syntax.BaseHook("nat", "prerouting", -100))
_SOURCE = syntax.ChainDeclaration("source", syntax.BaseHook("nat", "postrouting", 100))
_NAT_CHAINS = (_DESTINATION, _SOURCE)
_ACCEPT = syntax.Verdict("accept")
_TRANSPORTS = Match(Meta("l4proto"), ("tcp", "udp", "sctp"))
_PUBLICATION = Concatenation((Meta("l4proto"), Payload("th", "dport")))
_INTERFACES = Concatenation((Meta("iifname"), Meta("oifname")))
_INTERFACE_AND_PREFIX = Concatenation((Meta("oifname"), Payload("ip", "daddr")))
_OUTGOING = Concatenation((Meta("oifname"),))


def _rule(chain: syntax.ChainDeclaration, *statements: syntax.Statement) -> syntax.RuleLine:
    return syntax.RuleLine(chain.name, statements, "probe")


def _translations() -> Iterator[NftObject]:
    """Destinations from two maps over one key, and sources from one map, in both families."""
    for family, protocol in ((Family.IPV4, "ip"), (Family.IPV6, "ip6")):
        address = f"{family.value}_addr"
        published, port, leaving = (f"{name}{family.version}" for name in ("to", "port", "from"))
        yield syntax.SetDeclaration(published, ("inet_proto", "inet_service"), address)
        yield syntax.SetDeclaration(port, ("inet_proto", "inet_service"), "inet_service")
        yield syntax.SetDeclaration(leaving, ("ifname",), address)
        same_family = Match(Meta("nfproto"), (family.value,))
        to = MapLookup(_PUBLICATION, published), MapLookup(_PUBLICATION, port)
        dnat = syntax.Translate("dnat", protocol, *to)
        yield _rule(_DESTINATION, same_family, _TRANSPORTS, dnat)
        snat = syntax.Translate("snat", protocol, MapLookup(_OUTGOING, leaving))
        yield _rule(_SOURCE, same_family, snat)


NFTABLES: tuple[Feature, ...] = (
    Feature(
        "nft-binding",
        Group.NFTABLES,
        BindingTrial(),
        (),
        "loading and reading nftables",
        _BACKEND,
        remark="package python3-nftables, with JSON",
    ),
    Feature(
        "nft-tables",
        Group.NFTABLES,
        NftTrial(family="ip"),
        ("CONFIG_NF_TABLES",),
        "nftables altogether",
        _BACKEND,
        needs=("nft-binding",),
    ),
    Feature(
        "nft-inet",
        Group.NFTABLES,
        NftTrial(),
        ("CONFIG_NF_TABLES_INET",),
        "one table for both families",
        _BACKEND,
        needs=("nft-tables",),
    ),
    Feature(
        "nft-inet-nat",
        Group.NFTABLES,
        NftTrial(_NAT_CHAINS),
        ("CONFIG_NFT_NAT",),
        "translation in that table",
        _BACKEND,
        needs=("nft-inet",),
        remark="Linux 5.2",
    ),
    Feature(
        "nft-fib",
        Group.NFTABLES,
        NftTrial((_PREROUTING, _rule(_PREROUTING, Match(syntax.AddressType("daddr"), ("local",))))),
        ("CONFIG_NFT_FIB_INET",),
        "telling the host's own addresses",
        _BACKEND,
        needs=("nft-inet",),
    ),
    Feature(
        "nft-ct",
        Group.NFTABLES,
        NftTrial(
            (
                _PREROUTING,
                _rule(
                    _PREROUTING,
                    Match(syntax.Conntrack("state"), ("established", "related")),
                    _ACCEPT,
                ),
            )
        ),
        ("CONFIG_NFT_CT",),
        "letting answers pass",
        _BACKEND,
        needs=("nft-inet",),
    ),
    Feature(
        "nft-nat",
        Group.NFTABLES,
        NftTrial((*_NAT_CHAINS, *_translations())),
        ("CONFIG_NFT_NAT",),
        "published ports, fixed source addresses",
        _BACKEND,
        needs=("nft-inet-nat",),
    ),
    Feature(
        "nft-masquerade",
        Group.NFTABLES,
        NftTrial((_SOURCE, _rule(_SOURCE, syntax.Verdict("masquerade")))),
        ("CONFIG_NFT_MASQ",),
        "masquerading",
        _BACKEND,
        needs=("nft-inet-nat",),
        remark="Linux 5.2",
    ),
    Feature(
        "nft-counter",
        Group.NFTABLES,
        NftTrial((_PREROUTING, _rule(_PREROUTING, syntax.Counter(), _ACCEPT))),
        ("CONFIG_NF_TABLES",),
        "counters, which are in the rules",
        _BACKEND,
        needs=("nft-inet",),
        remark="CONFIG_NFT_COUNTER where it exists",
    ),
    Feature(
        "nft-interval",
        Group.NFTABLES,
        NftTrial(
            (
                syntax.SetDeclaration("subnets", ("ipv4_addr",), interval=True),
                Element("subnets", ("192.0.2.0/24",)),
            )
        ),
        ("CONFIG_NF_TABLES",),
        "sets of subnets",
        _BACKEND,
        needs=("nft-inet",),
        remark="CONFIG_NF_TABLES_SET where it exists",
    ),
    Feature(
        "nft-concat",
        Group.NFTABLES,
        NftTrial(
            (
                _PREROUTING,
                syntax.SetDeclaration("pairs", ("ifname", "ifname")),
                Element("pairs", ("br-a", "br-a")),
                _rule(_PREROUTING, Lookup(_INTERFACES, "pairs"), _ACCEPT),
            )
        ),
        ("CONFIG_NF_TABLES",),
        "keys of several columns, in all rules",
        _BACKEND,
        needs=("nft-inet",),
        remark="Linux 4.1",
    ),
    Feature(
        "nft-concat-interval",
        Group.NFTABLES,
        NftTrial(
            (
                _PREROUTING,
                syntax.SetDeclaration("subnets", ("ifname", "ipv4_addr"), interval=True),
                Element("subnets", ("br-a", "192.0.2.0/24")),
                _rule(_PREROUTING, Lookup(_INTERFACE_AND_PREFIX, "subnets"), _ACCEPT),
            )
        ),
        ("CONFIG_NF_TABLES",),
        "subnets of internal networks",
        _BACKEND,
        needs=("nft-inet",),
        remark="Linux 5.6, nft 0.9.4",
    ),
)
"""All of it: its rules are constant, so that it needs what no network on a host may use."""
