"""What was found on a host: plain data, from which all findings follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from nftbridge.doctor.routing import USUAL, Choice, Route, best
from nftbridge.doctor.ruleset import Table
from nftbridge.model import Address, Family


@dataclass(frozen=True, slots=True)
class Facts:
    """One host as it is now.

    `tables` are those of others, and in ours what is the user's; `baseline` is ours with nothing
    but the boot baseline, if that is there. `sysctls` are values below
    /proc/sys/net by path, as far as they exist. `backend` is ours, `drift` says how the kernel
    differs from the host file ("": not at all). `daemons` are programs that run in this network
    namespace. `unread` says what could not be looked at, `again` is the command that brings our
    rules in once more, "" if nobody knows from which file.
    """

    tables: tuple[Table, ...] = ()
    baseline: Table | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict[str, str])
    interfaces: Mapping[str, bool] = field(default_factory=dict[str, bool])
    """By name, whether they are up."""
    ports: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Of each bridge, the interfaces in it."""
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    choices: tuple[Choice, ...] = USUAL
    """Which table of routes is asked, by the rules of ip-rule(8)."""
    listening: tuple[str, ...] = ()
    """Interfaces whose IPv6 default route is a router's advertisement."""
    daemons: frozenset[str] = frozenset()
    backend: str = "nftables"
    drift: str = ""
    again: str = ""
    unread: tuple[str, ...] = ()

    def switch(self, path: str) -> int | None:
        """A numeric sysctl; None if this kernel has none of that name."""
        text = self.sysctls.get(path, "")
        return int(text) if text.lstrip("-").isdigit() else None

    @property
    def plain(self) -> tuple[Route, ...]:
        """The routes of table main that lead somewhere."""
        return tuple(r for r in self.routes if r.table == "main" and r.kind == "unicast")

    def route_to(self, address: Address) -> str:
        """The interface of the best route to `address` in table main; "" if there is none."""
        found = best(address, self.plain)
        return "" if found is None else found.interface

    def uplink(self, family: Family) -> str:
        """The interface of the default route; "" if there is none."""
        everything = ip_network("0.0.0.0/0" if family is Family.IPV4 else "::/0")
        found = (r for r in self.plain if r.prefix == everything)
        default = min(found, key=lambda r: r.metric, default=None)
        return "" if default is None else default.interface

    def bridged(self) -> frozenset[Family]:
        """The families whose packets within one bridge are shown to netfilter."""
        paths = {
            Family.IPV4: "bridge/bridge-nf-call-iptables",
            Family.IPV6: "bridge/bridge-nf-call-ip6tables",
        }
        return frozenset(family for family, path in paths.items() if self.switch(path))
