"""Links, addresses, routes and sysctls of the namespace that the calling process is in.

The only module that imports pyroute2, and only keepers import it: 0.1 s that nobody else pays.
"""

from __future__ import annotations

import importlib
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, cast

from nftbridge.lab.topology import (
    NODE_INTERFACE,
    Bridge,
    InterfaceAddress,
    Link,
    Node,
    Topology,
)

_LOOPBACK = 1
_IFA_F_NODAD = 0x02
_FOREVER = 0xFFFFFFFF

# Addresses work at once, without duplicate address detection and without routers around.
_QUIET_IPV6 = ("disable_ipv6", "accept_dad", "dad_transmits", "accept_ra", "router_solicitations")
_EVERYWHERE = (
    *((f"ipv6/conf/{which}/{key}", "0") for which in ("all", "default") for key in _QUIET_IPV6),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    # Every refusal is told, also the five-hundredth within a second.
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv4/icmp_msgs_per_sec", "100000"),
    ("ipv4/icmp_msgs_burst", "100000"),
    ("ipv4/ping_group_range", "0 2147483647"),
)
_ROUTER = (
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
)


class _Netlink(Protocol):
    """The little of pyroute2's IPRoute that is used here; the library itself has no types."""

    def link(self, command: str, **fields: object) -> object: ...
    def addr(self, command: str, **fields: object) -> object: ...
    def route(self, command: str, **fields: object) -> object: ...
    def brport(self, command: str, **fields: object) -> object: ...


def build_host(topology: Topology) -> None:
    """Make bridges, uplinks and container links; the nodes' namespaces exist by now."""
    _set_sysctls((*_ROUTER, *_EVERYWHERE))
    netlink = _open()
    netlink.link("set", index=_LOOPBACK, state="up")
    _add_addresses(netlink, _LOOPBACK, topology.host.addresses)
    for bridge in topology.bridges:
        _add_bridge(netlink, bridge, route_localnet=topology.hairpin)
    for node in topology.nodes:
        if node.link is not None:
            _add_link(netlink, node.link, node.namespace, hairpin=topology.hairpin)


def configure_node(node: Node) -> None:
    """Give the node's end of its link addresses and routes; the host has made the link by now."""
    netlink = _open()
    netlink.link("set", index=_LOOPBACK, state="up")
    index = socket.if_nametoindex(NODE_INTERFACE)
    netlink.link("set", index=index, state="up")
    _add_addresses(netlink, index, node.addresses)
    for gateway in node.gateways:
        default = "0.0.0.0/0" if gateway.version == 4 else "::/0"
        netlink.route("add", dst=default, gateway=str(gateway), oif=index)
    if node.sends_loopback:
        _send_loopback(netlink, node, index)


def prepare_node() -> None:
    """The sysctls that an interface copies when it appears, so before the host makes the link."""
    _set_sysctls(_EVERYWHERE)


def load() -> None:
    """Import pyroute2 now; ImportError if it is missing."""
    importlib.import_module("pyroute2")


def _open() -> _Netlink:
    # Imported by name: the library has no types, and strict type checkers would stumble over it.
    return cast("_Netlink", importlib.import_module("pyroute2").IPRoute())


def _add_bridge(netlink: _Netlink, bridge: Bridge, *, route_localnet: bool) -> None:
    netlink.link("add", ifname=bridge.name, kind="bridge", state="up")
    index = socket.if_nametoindex(bridge.name)
    _add_addresses(netlink, index, bridge.addresses)
    if not bridge.ipv6:
        _set_sysctls(((f"ipv6/conf/{bridge.name}/disable_ipv6", "1"),))
    if route_localnet:
        _set_sysctls(((f"ipv4/conf/{bridge.name}/route_localnet", "1"),))


def _add_link(netlink: _Netlink, link: Link, namespace: str, *, hairpin: bool) -> None:
    peer = {"ifname": NODE_INTERFACE, "net_ns_fd": namespace}
    master = {} if link.bridge is None else {"master": socket.if_nametoindex(link.bridge)}
    netlink.link("add", ifname=link.name, kind="veth", peer=peer, state="up", **master)
    index = socket.if_nametoindex(link.name)
    _add_addresses(netlink, index, link.addresses)
    if hairpin and link.bridge is not None:
        netlink.brport("set", index=index, mode=1)
    if link.route_localnet:
        _set_sysctls(((f"ipv4/conf/{link.name}/route_localnet", "1"),))


def _add_addresses(netlink: _Netlink, index: int, addresses: Iterable[InterfaceAddress]) -> None:
    """The first address of a family is the one to send from.

    IPv4 sees to it by itself; in IPv6 the newest would win, so the others are born deprecated.
    """
    seen: set[int] = set()
    for address in addresses:
        fields: dict[str, object] = {"address": str(address.ip), "index": index}
        if address.version == 6:
            fields["flags"] = _IFA_F_NODAD
            if 6 in seen:
                fields |= {"preferred_lft": 0, "valid_lft": _FOREVER}
        netlink.addr("add", prefixlen=address.network.prefixlen, **fields)
        seen.add(address.version)


def _send_loopback(netlink: _Netlink, node: Node, index: int) -> None:
    """Route 127.0.0.0/8 to the host; the node's own loopback addresses would be in the way."""
    netlink.addr("delete", index=_LOOPBACK, address="127.0.0.1", prefixlen=8)
    _set_sysctls(((f"ipv4/conf/{NODE_INTERFACE}/route_localnet", "1"),))
    gateway = next(g for g in node.gateways if g.version == 4)
    netlink.route("add", dst="127.0.0.0/8", gateway=str(gateway), oif=index)


def _set_sysctls(settings: Iterable[tuple[str, str]]) -> None:
    for key, value in settings:
        # Some are younger than others, and none of the missing ones changes where packets go.
        with suppress(FileNotFoundError):
            Path("/proc/sys/net", key).write_text(value, encoding="ascii")
