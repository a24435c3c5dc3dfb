"""Docker's own golden states as host models: what the options in a file's name mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from nftbridge.model import Container, Family, GatewayMode, Host, Network, Publication

FOLDER = Path(__file__).parents[3] / "shared" / "goldens" / "docker-28.5.2"

_SUBNETS = (IPv4Network("192.168.0.0/24"), IPv6Network("fd49:efd7:54aa::/64"))
_CONTAINER = (IPv4Address("192.168.0.2"), IPv6Address("fd49:efd7:54aa::1"))
_SNAT = (IPv4Address("192.168.123.0"), IPv6Address("fd34:d0d4:672f::123"))


@dataclass(frozen=True, slots=True)
class Golden:
    """One captured state: the file, its family, and the host that Docker had made it for."""

    path: Path
    family: Family
    host: Host

    def text(self) -> str:
        """The state as iptables-save printed it, without what only the test harness of Docker does.

        In routed mode the real daemon passes no host address and port to the rules. The harness
        does: its files hold a DNAT line, a hairpin MASQUERADE line and loopback lines.
        """
        lines = self.path.read_text().splitlines()
        if "gwm=routed" in self.path.name:
            unreal = ("-j DNAT", "--dport 8080", "--dport 80 -j MASQUERADE")
            lines = [line for line in lines if not any(part in line for part in unreal)]
        return "\n".join(lines) + "\n"


def goldens() -> list[Golden]:
    """Every captured state; empty where the data is not there."""
    return [_golden(path) for path in sorted(FOLDER.glob("*.golden"))]


def lines_by_chain(text: str) -> dict[tuple[str, str], list[str]]:
    """(table, chain) -> its lines in order; chains without lines are left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for table, line in _with_table(text):
        if line.startswith("-A "):
            _, chain, rest = line.split(" ", 2)
            found.setdefault((table, chain), []).append(rest)
    return found


def _with_table(text: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        yield table, line


def _golden(path: Path) -> Golden:
    name, program = path.stem.split("__")
    family = Family.IPV6 if program.startswith("ip6") else Family.IPV4
    return Golden(path, family, host_named(name))


def host_named(name: str) -> Host:
    """The host with the options that the name of a state says."""
    parts = (part.partition("=") for part in name.split(","))
    return _host({key: value or "true" for key, _, value in parts})


def _host(options: dict[str, str]) -> Host:
    if "no" in options:
        return Host(ipv4=False, ipv6=False)
    networks = () if "cleaned" in options else (_network(options),)
    return Host(
        networks,
        userland_proxy=options["hairpin"] == "false",
        wsl2_mirrored=options.get("wsl2mirrored") == "true",
    )


def _network(options: dict[str, str]) -> Network:
    internal = options["internal"] == "true"
    mode = GatewayMode(options.get("gwm", "nat"))
    snat = options.get("snat") == "true"
    return Network(
        "dummy",
        "br-dummy",
        _SUBNETS,
        internal=internal,
        icc=options["icc"] == "true",
        masquerade=options.get("masq") != "false",
        gateway_mode_ipv4=mode,
        gateway_mode_ipv6=mode,
        host_ipv4=_SNAT[0] if snat else None,
        host_ipv6=_SNAT[1] if snat else None,
        containers=(Container("c", *_CONTAINER, () if internal else _publish(options)),),
    )


def _publish(options: dict[str, str]) -> tuple[Publication, ...]:
    if options["bindlh"] == "false":
        return (Publication(80, 8080),)
    loopback = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
    return tuple(Publication(80, 8080, address) for address in loopback)
