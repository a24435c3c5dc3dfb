"""What the kernel around our table has to do for some options, and whether it does it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
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


@dataclass(frozen=True, slots=True)
class Switch:
    """Forwarding that a host needs and the kernel does not do.

    `listening` are the interfaces that have to be told to go on listening to routers: a host that
    takes its IPv6 default route from advertisements would lose it. Apply switches nothing that is
    to be done `by_hand`.
    """

    family: Family
    listening: tuple[str, ...] = ()
    by_hand: bool = False

    def __str__(self) -> str:
        kept = f", accept_ra=2 on {', '.join(self.listening)}" if self.listening else ""
        return f"{_FORWARDING_NAMES[self.family]}=1{kept}"

    def turned_on(self) -> Problem:
        """What is to be said of it afterwards."""
        return Problem(
            "host",
            f"{self} was set: the host now routes between all its interfaces, and these rules guard"
            " the bridges of the host file only",
            "see `nftbridge doctor` for what else is in the way",
        )


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


def unforwarded(host: Host, netns: str | None = None) -> tuple[Switch, ...]:
    """The forwarding that a network of `host` needs and the kernel does not do."""
    by_hand = host.ip_forward is not IpForward.ENABLE
    with namespaces.inside(netns):
        return tuple(
            Switch(f, listening_interfaces() if f is Family.IPV6 else (), by_hand)
            for f in forwarded_families(host)
            if not namespaces.forwards(f)
        )


def to_switch_on(host: Host, netns: str | None = None) -> tuple[Switch, ...]:
    """That of it which `host` asks to be switched on."""
    return unforwarded(host, netns) if host.ip_forward is IpForward.ENABLE else ()


def check_forwarding(host: Host, netns: str | None = None) -> None:
    """Raise `UnavailableError` if forwarding shall be switched on and this process cannot."""
    with namespaces.inside(netns):
        for switch in to_switch_on(host):
            if not os.access(namespaces.FORWARDING[switch.family], os.W_OK):
                raise _not_writable(switch.family)


def turn(switches: Iterable[Switch], netns: str | None = None, *, on: bool) -> None:
    """Switch forwarding on, when the rules are in and not before, or off as it was.

    Raises `UnavailableError` if that is not possible.
    """
    with namespaces.inside(netns):
        for switch in switches:
            try:
                for name in switch.listening:
                    with suppress(FileNotFoundError):  # the interface is gone
                        _accept_ra(name).write_text("2" if on else "1")
                namespaces.FORWARDING[switch.family].write_text("1" if on else "0")
            except OSError as error:
                raise _not_writable(switch.family) from error


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
    for switch in unforwarded(host, netns):
        names = _some([network.name for network in host.forwarded(switch.family)])
        first = "".join(
            f"sysctl -w net.ipv6.conf.{name.replace('.', '/')}.accept_ra=2 && "
            for name in switch.listening
        )
        problem = Problem(
            f"network {names}",
            f"the kernel forwards no {switch.family.label}: containers reach nobody outside their"
            " bridge, and published ports do not answer",
            f'write ip_forward = "enable" in [host], or: {first}'
            f"sysctl -w {_FORWARDING_NAMES[switch.family]}=1",
        )
        yield Shortcoming(problem)


def _some(names: list[str]) -> str:
    """All of a few names; the first of many, and how many are left."""
    left = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _not_writable(family: Family) -> UnavailableError:
    name = _FORWARDING_NAMES[family]
    hint = f'run as root, or set {name}=1 elsewhere and write ip_forward = "check"'
    return UnavailableError(f"{name} cannot be written here", hint=hint)


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
