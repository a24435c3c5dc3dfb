"""What iptables' programs and x_tables bring, for both families."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nftbridge.compat.tools import Variant
from nftbridge.model import Family
from nftbridge.probe.feature import Feature, Group, ProgramsTrial, RestoreTrial

_NOTHING = "nothing"
_LEGACY = "CONFIG_NETFILTER_XTABLES_LEGACY where it exists"


@dataclass(frozen=True, slots=True)
class _Program:
    """iptables or ip6tables: the same features with another name, and some other options."""

    family: Family
    group: Group

    @property
    def name(self) -> str:
        return "iptables" if self.family is Family.IPV4 else "ip6tables"

    def option(self, name: str) -> str:
        return f"CONFIG_{'IP' if self.family is Family.IPV4 else 'IP6'}_NF_{name}"

    def address(self, port: int | None = None) -> str:
        if self.family is Family.IPV4:
            return "192.0.2.1" if port is None else f"192.0.2.1:{port}"
        return "2001:db8::1" if port is None else f"[2001:db8::1]:{port}"


_PROGRAMS = (_Program(Family.IPV4, Group.IPTABLES), _Program(Family.IPV6, Group.IP6TABLES))


def _legacy(program: _Program) -> Iterator[Feature]:
    programs = ProgramsTrial(program.family, Variant.LEGACY)
    yield Feature(
        f"{program.name}-legacy",
        program.group,
        programs,
        (),
        f"the iptables backend, {program.family.label}",
        "the nftables backend, or iptables-nft",
        remark="package iptables, or iptables-legacy",
    )
    yield from _tables(program)
    yield from _matches(program)
    yield from _targets(program)


def _tables(program: _Program) -> Iterator[Feature]:
    nat_instead = _NOTHING
    if program.family is Family.IPV6:
        nat_instead = "filtering alone; apply names the ports that are off"
    for table, lost, instead in (
        ("filter", "isolation, closed ports", _NOTHING),
        ("nat", "published ports, masquerading", nat_instead),
        ("raw", "the usual place of the direct-access drops", "mangle PREROUTING"),
        ("mangle", "the other place of the direct-access drops", "raw PREROUTING"),
    ):
        yield Feature(
            f"{program.name}-{table}",
            program.group,
            RestoreTrial(program.family, f"*{table}\nCOMMIT\n"),
            (program.option(table.upper()),),
            lost,
            instead,
            needs=(f"{program.name}-legacy",),
            remark=_LEGACY if table == "filter" else "",
        )


def _matches(program: _Program) -> Iterator[Feature]:
    for match, words, option, lost, instead in (
        ("addrtype", "-m addrtype --dst-type LOCAL", "XT_MATCH_ADDRTYPE",
         "telling the host's own addresses", _NOTHING),
        ("conntrack", "-m conntrack --ctstate RELATED,ESTABLISHED", "XT_MATCH_CONNTRACK",
         "letting answers pass", _NOTHING),
        ("tcp", "-p tcp -m tcp --dport 80", "XTABLES", "TCP ports", _NOTHING),
        ("udp", "-p udp -m udp --dport 53", "XTABLES", "UDP ports", _NOTHING),
        ("sctp", "-p sctp -m sctp --dport 80", "XT_MATCH_SCTP", "SCTP ports",
         "publications on TCP and UDP"),
    ):  # fmt: skip
        yield Feature(
            f"{program.name}-{match}",
            program.group,
            RestoreTrial(program.family, f"*filter\n-A FORWARD {words} -j ACCEPT\nCOMMIT\n"),
            (f"CONFIG_NETFILTER_{option}",),
            lost,
            instead,
            needs=(f"{program.name}-filter",),
        )


def _targets(program: _Program) -> Iterator[Feature]:
    to, source = program.address(80), program.address()
    wrapper = program.option("TARGET_MASQUERADE")
    for target, words, option, remark, lost, instead in (
        ("dnat", f"PREROUTING -p tcp -j DNAT --to-destination {to}", "XT_NAT", "",
         "published ports", "routed networks"),
        ("snat", f"POSTROUTING -j SNAT --to-source {source}", "XT_NAT", "",
         "fixed source addresses", "masquerading"),
        ("masquerade", "POSTROUTING -j MASQUERADE", "XT_TARGET_MASQUERADE",
         f"{wrapper} before Linux 5.2",
         "masquerading", f"fixed source addresses, host_{program.family.value}"),
    ):  # fmt: skip
        yield Feature(
            f"{program.name}-{target}",
            program.group,
            RestoreTrial(program.family, f"*nat\n-A {words}\nCOMMIT\n"),
            (f"CONFIG_NETFILTER_{option}",),
            lost,
            instead,
            needs=(f"{program.name}-nat",),
            remark=remark,
        )


def _alternative(program: _Program) -> Iterator[Feature]:
    """The same programs over nf_tables; a match of x_tables needs CONFIG_NFT_COMPAT."""
    name, lost = f"{program.name}-nft", f"iptables' words over nf_tables, {program.family.label}"
    programs = ProgramsTrial(program.family, Variant.NFT)
    instead = "the nftables backend, or iptables-legacy"
    remark = "package iptables, or iptables-nft"
    yield Feature(name, Group.ALTERNATIVE, programs, (), lost, instead, remark=remark)
    yield Feature(
        f"{name}-compat",
        Group.ALTERNATIVE,
        RestoreTrial(
            program.family,
            "*filter\n-A FORWARD -m addrtype --dst-type LOCAL -j ACCEPT\nCOMMIT\n",
            Variant.NFT,
        ),
        ("CONFIG_NF_TABLES", "CONFIG_NFT_COMPAT"),
        lost,
        instead,
        needs=(name,),
    )


IPTABLES: tuple[Feature, ...] = (
    *(feature for program in _PROGRAMS for feature in _legacy(program)),
    *(feature for program in _PROGRAMS for feature in _alternative(program)),
)
"""By family; iptables-nft, which backends run only when asked to, comes last."""
