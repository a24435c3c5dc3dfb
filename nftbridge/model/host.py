"""The `Host`: all networks of one machine and the options that hold for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from nftbridge.errors import InputError, Problem
from nftbridge.model.checks import host_findings, option_findings
from nftbridge.model.parts import (
    DOCKERS_PRIORITIES,
    Family,
    GatewayMode,
    IpForward,
    Mark,
    Network,
    Priorities,
    Protection,
    counted,
)

LAYOUTS = ("docker-28",)


@dataclass(frozen=True, slots=True)
class Host:
    """A consistent host; building an inconsistent one raises `InputError` with every problem.

    `wsl2_mirrored` None means that the machine decides (host file: ``"auto"``); it has to be
    settled before rules are made of the host. `accept_missing` names protections without which the
    host may be applied where the kernel cannot do them. `cut_revoked` ends TCP connections,
    too, when what let them in is gone; flows of other protocols end anyway. Packets that the
    forward rules accept get `accept_mark`, and those that carry `trust_mark` when they come there
    are accepted.
    """

    networks: tuple[Network, ...] = ()
    ipv4: bool = True
    ipv6: bool = True
    userland_proxy: bool = True
    allow_direct_routing: bool = False
    wsl2_mirrored: bool | None = False
    layout: str = LAYOUTS[0]
    accept_missing: tuple[Protection, ...] = ()
    ip_forward: IpForward = IpForward.CHECK
    cut_revoked: bool = False
    accept_mark: Mark | None = None
    trust_mark: Mark | None = None
    priorities: Priorities = DOCKERS_PRIORITIES

    def __post_init__(self) -> None:
        findings = (
            *option_findings(self.accept_mark, self.trust_mark, self.priorities),
            *host_findings(self.networks),
        )
        if findings:
            raise InputError(tuple(Problem(f.where, f.message, f.hint) for f in findings))

    def families(self) -> tuple[Family, ...]:
        """The families that are switched on, IPv4 first."""
        wanted = ((Family.IPV4, self.ipv4), (Family.IPV6, self.ipv6))
        return tuple(family for family, enabled in wanted if enabled)

    def forwarded(self, family: Family) -> tuple[Network, ...]:
        """The networks whose packets of `family` the kernel has to forward."""
        return tuple(
            network
            for network in self.networks
            if family in self.families()
            and network.subnet(family) is not None
            and not network.internal
            and network.gateway_mode(family) is not GatewayMode.ISOLATED
        )

    def summary(self) -> str:
        """How large it is, in a line."""
        containers = [container for network in self.networks for container in network.containers]
        ports = sum(publication.count for c in containers for publication in c.publish)
        parts = ((len(self.networks), "network"), (len(containers), "container"))
        return ", ".join(counted(*part) for part in (*parts, (ports, "published port")))
