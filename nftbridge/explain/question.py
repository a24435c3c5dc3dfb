"""The question: one packet as the command line describes it, read and checked as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from nftbridge.errors import InputError, Problem
from nftbridge.model import Address, Family, interface_name_problem
from nftbridge.model.checks import quoted
from nftbridge.notation import read_address, read_ports

_THE_HOST = frozenset({"", "lo", "host"})
_PORTED = frozenset({"tcp", "udp", "sctp"})
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "ipv6-icmp"}
_ICMP_FAMILIES = {"icmp": tuple(Family), "icmpv6": (Family.IPV6,), "ipv6-icmp": (Family.IPV6,)}


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed, unread."""

    iif: str
    source: str
    destination: str
    protocol: str
    port: str | None = None
    oif: str | None = None
    host_addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """The first packet of a connection; of ICMP it is an echo request.

    `iif` "" means that the host itself sends it, `protocol` is nftables' word for it, `oif` the way
    out where the model knows no route ("" for not told), `host_addresses` all addresses of the
    host, if there are any.
    """

    iif: str
    source: Address
    destination: Address
    protocol: str
    port: int = 0
    oif: str = ""
    host_addresses: frozenset[Address] = frozenset()

    @property
    def family(self) -> Family:
        """The family of both addresses."""
        return Family.of(self.destination)

    @property
    def ported(self) -> bool:
        """Whether its protocol has ports."""
        return self.protocol in _PORTED


def read(typed: Typed) -> Question:
    """The question that was typed; raises `InputError` with everything that is wrong with it."""
    problems: list[Problem] = []
    source = _address("--src", typed.source, problems)
    destination = _address("--dst", typed.destination, problems)
    if destination is not None and destination.is_link_local:
        hint = "give the address of a container, of the host, or one outside"
        problems.append(Problem("--dst", f"{destination} is never routed", hint))
    own = [_address("--host-address", text, problems) for text in typed.host_addresses]
    problems += _interface_problems(typed)
    port = _port(typed, problems)
    problems += _protocol_problems(typed)
    if source is not None and destination is not None:
        problems += _family_problems(typed, source, destination)
        if not problems:
            family = Family.of(destination)
            return Question(
                iif="" if typed.iif in _THE_HOST else typed.iif,
                source=source,
                destination=destination,
                protocol=typed.protocol.lower() if port else _ICMP[family],
                port=port,
                oif=typed.oif or "",
                host_addresses=frozenset(address for address in own if address is not None),
            )
    raise InputError(tuple(problems))


def _address(option: str, text: str, problems: list[Problem]) -> Address | None:
    address = read_address(text, partial(_report, problems, option))
    if address is not None and (address.is_multicast or address.is_unspecified):
        problems.append(Problem(option, f"{address} is not followed", "give a unicast address"))
    return address


def _interface_problems(typed: Typed) -> Iterator[Problem]:
    named = {"--in": "" if typed.iif in _THE_HOST else typed.iif, "--out": typed.oif or ""}
    for option, name in named.items():
        problem = interface_name_problem(name) if name else None
        if problem:
            hint = "name a bridge, an uplink such as eth0, or for --in `host`"
            yield Problem(option, problem, hint)


def _protocol_problems(typed: Typed) -> Iterator[Problem]:
    protocol = typed.protocol.lower()
    if protocol in _PORTED:
        if typed.port is None:
            yield Problem("--dport", f"{protocol} needs a port", "add e.g. --dport 80")
    elif protocol not in _ICMP_FAMILIES:
        known = f"write {', '.join(sorted(_PORTED))} or icmp"
        yield Problem("--proto", f"{quoted(typed.protocol)} is not a protocol here", known)
    elif typed.port is not None:
        yield Problem("--dport", f"{protocol} has no ports", "leave --dport out")


def _port(typed: Typed, problems: list[Problem]) -> int:
    """The destination port; 0 if there is none, or none that can be read."""
    if typed.port is None:
        return 0
    ports = read_ports(typed.port, "port", partial(_report, problems, "--dport"))
    if ports is not None and len(ports) > 1:
        problems.append(Problem("--dport", "one packet has one port", f"write {ports[0]}"))
    return 0 if ports is None else ports[0]


def _family_problems(typed: Typed, source: Address, destination: Address) -> Iterator[Problem]:
    families: Iterable[Family] = {Family.of(source), Family.of(destination)}
    if len(set(families)) > 1:
        message = f"{source} and {destination} are of different families"
        yield Problem("--dst", message, "give two IPv4 or two IPv6 addresses")
    elif Family.of(source) not in _ICMP_FAMILIES.get(typed.protocol.lower(), tuple(Family)):
        yield Problem("--proto", f"{typed.protocol} goes with IPv6 addresses", "write icmp")


def _report(problems: list[Problem], option: str, message: str, hint: str) -> None:
    problems.append(Problem(option, message, hint))
