"""What the kernel around our table has to do for some options, and whether it does it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.errors import Problem
from nftbridge.model import Family, Host
from nftbridge.model.parts import Protection

_BRIDGE_FILTERING = {
    Family.IPV4: Path("/proc/sys/net/bridge/bridge-nf-call-iptables"),
    Family.IPV6: Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
}


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


def may_lack_effects(host: Host) -> bool:
    """Whether it depends on the kernel around our table if `host` gets all that it asks for."""
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
    try:
        return switch.read_text().strip() != "0"
    except OSError:
        return False
