"""What the kernel around our table has to do for some options, and whether it does it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.errors import Problem, UnavailableError
from nftbridge.model import Family, Host, IpForward
from nftbridge.model.parts import Protection

_BRIDGE_FILTERING = {
    Family.IPV4: Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    Family.IPV6: Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}
_FORWARDING_NAMES = {
    Family.IPV4: "net.ipv4.ip_forward",
    Family.IPV6: "net.ipv6.conf.all.forwarding",
}
_NAMED = 5  # networks that a message names
_RTF_DEFAULT, _RTF_ADDRCONF = 0x10000, 0x40000  # include/uapi/linux/ipv6_route.h


@dataclass(frozen=True, slots=True)
class Shortcoming:
    """Something that a host asks for and will not get, and the protection that it loses thereby."""

    problem: Problem
    protection: Protection | None = None

    def __str__(self) -> str:
        if self.protection is None:
            return str(self.problem)
        return f'{self.problem}, or accept_missing = ["{self.protection}"] in [host]'


def bridges_filtered(netns: str | None = None) -> frozenset[Family]:
    """The families whose packets within one bridge are shown to netfilter (module br_netfilter)."""
    with namespaces.inside(netns):
        return frozenset(f for f, switch in _BRIDGE_FILTERING.items() if _is_on(switch))


def missing_effects(host: Host, netns: str | None = None) -> Iterator[Shortcoming]:
    """What `host` asks for and this kernel will not do with the rules alone."""
    yield from _unseparated(host, netns)
    yield from _unroutable_loopback(host, netns)
    if host.ip_forward is IpForward.CHECK:
        yield from _not_forwarded(host, netns)


def check_forwarding(host: Host, netns: str | None = None) -> None:
    """Raise `UnavailableError` if forwarding shall be switched on and this process cannot."""
    if host.ip_forward is not IpForward.ENABLE:
        return
    with namespaces.inside(netns):
        for family in _unforwarded(host):
            if not os.access(namespaces.FORWARDING[family], os.W_OK):
                name = _FORWARDING_NAMES[family]
                hint = f'run as root, or set {name}=1 elsewhere and write ip_forward = "check"'
                raise UnavailableError(f"{name} cannot be written here", hint=hint)


def enable_forwarding(host: Host, netns: str | None = None) -> Iterator[Problem]:
    """Switch on the forwarding that `host` needs, if it asks for that; says what was done.

    To be called when the rules are in: not before may anything be forwarded. A host that takes its
    IPv6 default route from a router's advertisements would lose it; such interfaces are told to go
    on listening.
    """
    if host.ip_forward is not IpForward.ENABLE:
        return
    with namespaces.inside(netns):
        for family in _unforwarded(host):
            listening = listening_interfaces() if family is Family.IPV6 else ()
            for name in listening:
                _accept_ra(name).write_text("2")
            namespaces.FORWARDING[family].write_text("1")
            kept = f"; accept_ra=2 on {', '.join(listening)}" if listening else ""
            yield Problem(
                "host",
                f"{_FORWARDING_NAMES[family]}=1 was set{kept}: the host now routes between all its"
                " interfaces, and these rules guard the bridges of the host file only",
                "see `nftbridge doctor` for what else is in the way",
            )


def listening_interfaces() -> tuple[str, ...]:
    """Interfaces with a default route from advertisements that forwarding would end (accept_ra=1).

    In the current network namespace.
    """
    found: dict[str, None] = {}
    try:
        routes = Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()
    except OSError:
        return ()
    for route in routes:
        *_, flags, interface = route.split()
        wanted = _RTF_DEFAULT | _RTF_ADDRCONF
        if int(flags, 16) & wanted == wanted and _value(_accept_ra(interface)) == "1":
            found[interface] = None
    return tuple(found)


def _not_forwarded(host: Host, netns: str | None) -> Iterator[Shortcoming]:
    with namespaces.inside(netns):
        for family in _unforwarded(host):
            names = _some([network.name for network in host.forwarded(family)])
            first = ""
            if family is Family.IPV6:
                first = "".join(
                    f"sysctl -w net.ipv6.conf.{name.replace('.', '/')}.accept_ra=2 && "
                    for name in listening_interfaces()
                )
            problem = Problem(
                f"network {names}",
                f"the kernel forwards no {family.label}: containers reach nobody outside their"
                " bridge, and published ports do not answer",
                f'write ip_forward = "enable" in [host], or: {first}'
                f"sysctl -w {_FORWARDING_NAMES[family]}=1",
            )
            yield Shortcoming(problem)


def _some(names: list[str]) -> str:
    """All of a few names; the first of many, and how many are left."""
    left = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _unforwarded(host: Host) -> tuple[Family, ...]:
    """Families in which a network needs forwarding and the kernel does none."""
    return tuple(f for f in forwarded_families(host) if not namespaces.forwards(f))


def forwarded_families(host: Host) -> tuple[Family, ...]:
    """The families in which a network needs the kernel to forward."""
    return tuple(family for family in Family if host.forwarded(family))


def _accept_ra(interface: str) -> Path:
    return Path(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra")


def may_lack_effects(host: Host) -> bool:
    """Whether more than forwarding has to be looked at to know if `host` gets all it asks for."""
    return not host.userland_proxy or not all(network.icc for network in host.networks)


def _unseparated(host: Host, netns: str | None) -> Iterator[Shortcoming]:
    separated = [network for network in host.networks if not network.icc]
    if not separated:
        return
    filtered = bridges_filtered(netns)
    for family in host.families():
        names = ", ".join(n.name for n in separated if n.subnet(family))
        if names and family not in filtered:
            switch = _BRIDGE_FILTERING[family].name
            problem = Problem(
                f"network {names}",
                f"icc = false has no effect on {family.label}: netfilter sees no bridged packets",
                f"modprobe br_netfilter && sysctl -w net.bridge.{switch}=1",
            )
            yield Shortcoming(problem, Protection.ICC)


def _unroutable_loopback(host: Host, netns: str | None) -> Iterator[Shortcoming]:
    """Without a proxy the kernel has to route what comes from 127.0.0.1 to a bridge."""
    if host.userland_proxy or not host.ipv4:
        return
    with namespaces.inside(netns):
        for network in host.networks:
            switch = Path(f"/proc/sys/net/ipv4/conf/{network.bridge}/route_localnet")
            if network.subnet(Family.IPV4) and switch.exists() and not _is_on(switch):
                problem = Problem(
                    f"network {network.name}",
                    "the host cannot reach its published ports by 127.0.0.1: there is no proxy",
                    f"sysctl -w net.ipv4.conf.{network.bridge}.route_localnet=1",
                )
                yield Shortcoming(problem)


def _is_on(switch: Path) -> bool:
    return _value(switch) not in ("", "0")


def _value(switch: Path) -> str:
    """What a switch is set to; "" if this kernel has none of that name."""
    try:
        return switch.read_text().strip()
    except OSError:
        return ""
