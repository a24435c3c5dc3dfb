"""Docker 28.5.2's iptables commands for one network, step by step, as a second opinion.

Docker runs `-A` and `-I` in an order of its own, and what a chain holds in the end follows from
that. Here the same steps are taken for every combination of options that Docker's own tests know.
Nothing of nftbridge's rules is used: the two agree because both say what Docker does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from nftbridge.model import Family

BRIDGE = "br-dummy"
SUBNET = {Family.IPV4: "192.168.0.0/24", Family.IPV6: "fd49:efd7:54aa::/64"}
CONTAINER = {Family.IPV4: "192.168.0.2", Family.IPV6: "fd49:efd7:54aa::1"}
SNAT = {Family.IPV4: "192.168.123.0", Family.IPV6: "fd34:d0d4:672f::123"}

_LENGTH = {Family.IPV4: 32, Family.IPV6: 128}
_LOOPBACK = {Family.IPV4: "127.0.0.0/8", Family.IPV6: "::1/128"}
_LOCALHOST = {Family.IPV4: "127.0.0.1/32", Family.IPV6: "::1/128"}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}
_ESTABLISHED = "-m conntrack --ctstate RELATED,ESTABLISHED"
_PORT = "-p tcp -m tcp --dport"


@dataclass(frozen=True, slots=True)
class Options:
    """What the name of a golden state says; `masq` and the rest are not for internal networks."""

    hairpin: bool
    mirrored: bool = False
    network: bool = True
    internal: bool = False
    icc: bool = True
    masq: bool = True
    snat: bool = False
    mode: str = "nat"
    loopback: bool = False

    def __str__(self) -> str:
        said: dict[str, object] = {
            "hairpin": self.hairpin,
            "internal": self.internal,
            "icc": self.icc,
        }
        if not self.network:
            said = {"cleaned": "", "hairpin": self.hairpin}
        elif not self.internal:
            said |= {"masq": self.masq, "snat": self.snat, "gwm": self.mode}
            said |= {"bindlh": self.loopback}
        if self.mirrored:
            said["wsl2mirrored"] = True
        return ",".join(f"{k}={v}".lower().removesuffix("=") for k, v in said.items())


def combinations() -> Iterator[tuple[Options, Family]]:
    """Every combination, with the families for which Docker's tests have a state of it."""
    for options in _options():
        yield options, Family.IPV4
        if not options.mirrored:
            yield options, Family.IPV6


def _options() -> Iterator[Options]:
    both = (False, True)
    for hairpin, mirrored in product(both, both):
        yield Options(hairpin, mirrored, network=False)
        for icc in both:
            yield Options(hairpin, mirrored, internal=True, icc=icc)
        modes = ("nat", "nat-unprotected", "routed")
        for icc, masq, snat, mode, loopback in product(both, both, both, modes, both):
            yield Options(hairpin, mirrored, True, False, icc, masq, snat, mode, loopback)  # noqa: FBT003


@dataclass(slots=True)
class Chains:
    """(table, chain) -> its lines, filled by `-A` and `-I`."""

    lines: dict[tuple[str, str], list[str]] = field(
        default_factory=dict[tuple[str, str], list[str]]
    )

    def append(self, table: str, chain: str, line: str) -> None:
        """``-A``"""
        self.lines.setdefault((table, chain), []).append(line)

    def insert(self, table: str, chain: str, line: str) -> None:
        """``-I``"""
        self.lines.setdefault((table, chain), []).insert(0, line)


def states(options: Options, family: Family) -> dict[tuple[str, str], list[str]]:
    """The chains when Docker has started and, if there is one, made the network."""
    made = Chains()
    _start(made, options, family)
    if options.network and options.internal:
        _internal(made, options, family)
    elif options.network:
        _network(made, options, family)
        _endpoint(made, options, family)
        _port(made, options, family)
    return made.lines


def _start(made: Chains, options: Options, family: Family) -> None:
    local = "-m addrtype --dst-type LOCAL -j DOCKER"
    made.append("nat", "PREROUTING", local)
    but = "" if options.hairpin else f"! -d {_LOOPBACK[family]} "
    made.append("nat", "OUTPUT", but + local)
    made.insert("filter", "FORWARD", "-j DOCKER-FORWARD")
    for chain in ("DOCKER-CT", "DOCKER-ISOLATION-STAGE-1", "DOCKER-BRIDGE"):
        made.append("filter", "DOCKER-FORWARD", f"-j {chain}")
    if options.mirrored and not options.hairpin and family is Family.IPV4:
        made.insert("nat", "DOCKER", f"-d {_LOOPBACK[family]} -i loopback0 -j RETURN")


def _internal(made: Chains, options: Options, family: Family) -> None:
    subnet, stage = SUBNET[family], "DOCKER-ISOLATION-STAGE-1"
    of_six = family is Family.IPV6
    out, in_ = (f" ! -o {BRIDGE}", f"! -i {BRIDGE} ") if of_six else ("", "")
    made.insert("filter", stage, f"! -d {subnet} -i {BRIDGE}{out} -j DROP")
    made.insert("filter", stage, f"! -s {subnet} {in_}-o {BRIDGE} -j DROP")
    verdict = "ACCEPT" if options.icc else "DROP"
    made.append("filter", "DOCKER-FORWARD", f"-i {BRIDGE} -o {BRIDGE} -j {verdict}")


def _network(made: Chains, options: Options, family: Family) -> None:
    routed = options.mode == "routed"
    source = f"SNAT --to-source {SNAT[family]}" if options.snat else "MASQUERADE"
    if options.masq and not routed:
        made.insert("nat", "POSTROUTING", f"-s {SUBNET[family]} ! -o {BRIDGE} -j {source}")
    if options.masq and not options.hairpin:
        made.insert("nat", "DOCKER", f"-i {BRIDGE} -j RETURN")
    if options.hairpin:
        local = f"-o {BRIDGE} -m addrtype --src-type LOCAL -j {source}"
        made.insert("nat", "POSTROUTING", local)
    if not options.icc:
        made.append("filter", "DOCKER-FORWARD", f"-i {BRIDGE} -o {BRIDGE} -j DROP")
    if routed:
        made.append("filter", "DOCKER", f"-o {BRIDGE} -p {_ICMP[family]} -j ACCEPT")
    elsewhere = "" if options.icc else f" ! -o {BRIDGE}"
    made.append("filter", "DOCKER-FORWARD", f"-i {BRIDGE}{elsewhere} -j ACCEPT")
    verdict = "ACCEPT" if options.mode == "nat-unprotected" else "DROP"
    made.append("filter", "DOCKER", f"! -i {BRIDGE} -o {BRIDGE} -j {verdict}")
    made.append("filter", "DOCKER-CT", f"-o {BRIDGE} {_ESTABLISHED} -j ACCEPT")
    made.append("filter", "DOCKER-BRIDGE", f"-o {BRIDGE} -j DOCKER")
    first, second = (f"DOCKER-ISOLATION-STAGE-{n}" for n in (1, 2))
    if routed:
        made.insert("filter", first, f"-o {BRIDGE} -j RETURN")
        made.insert("filter", first, f"-i {BRIDGE} {_ESTABLISHED} -j ACCEPT")
    made.append("filter", first, f"-i {BRIDGE} ! -o {BRIDGE} -j {second}")
    made.insert("filter", second, f"-o {BRIDGE} -j DROP")


def _endpoint(made: Chains, options: Options, family: Family) -> None:
    if options.mode == "nat":
        to = f"-d {CONTAINER[family]}/{_LENGTH[family]}"
        made.append("raw", "PREROUTING", f"{to} ! -i {BRIDGE} -j DROP")


def _port(made: Chains, options: Options, family: Family) -> None:
    """TCP 8080 to port 80, at every address or at loopback; in routed mode there is no 8080."""
    address = CONTAINER[family]
    itself = f"{address}/{_LENGTH[family]}"
    at = f"-d {_LOCALHOST[family]} " if options.loopback else ""
    if options.mode != "routed":
        if options.loopback and family is Family.IPV4:
            if options.mirrored:
                made.append("raw", "PREROUTING", f"{at}-i loopback0 {_PORT} 8080 -j ACCEPT")
            made.append("raw", "PREROUTING", f"{at}! -i lo {_PORT} 8080 -j DROP")
        peers = "! -s fe80::/10 " if family is Family.IPV6 else ""
        elsewhere = "" if options.hairpin else f"! -i {BRIDGE} "
        to = f"[{address}]:80" if family is Family.IPV6 else f"{address}:80"
        line = f"{peers}{at}{elsewhere}{_PORT} 8080 -j DNAT --to-destination {to}"
        made.append("nat", "DOCKER", line)
        if options.hairpin:
            line = f"-s {itself} -d {itself} {_PORT} 80 -j MASQUERADE"
            made.append("nat", "POSTROUTING", line)
    if options.mode != "nat-unprotected":
        line = f"-d {itself} ! -i {BRIDGE} -o {BRIDGE} {_PORT} 80 -j ACCEPT"
        made.insert("filter", "DOCKER", line)
