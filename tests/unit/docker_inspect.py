"""What Docker's inspect prints of small networks and containers, as tests want them."""

from __future__ import annotations

from typing import Any

from nftbridge.docker.containers import InspectedContainer, container_of
from nftbridge.docker.host import DaemonOptions, Import, Inspected, host_of
from nftbridge.docker.item import Item
from nftbridge.docker.networks import InspectedNetwork, network_of

KNOWN = DaemonOptions(userland_proxy=True, allow_direct_routing=False)
BRIDGE = "com.docker.network.bridge."


def network(name: str = "front", **keys: Any) -> dict[str, Any]:
    """An inspected bridge network; `keys` stand at the top, and replace what is there."""
    return {
        "Name": name,
        "Id": f"{name}-id-0123456789abcdef",
        "Driver": "bridge",
        "EnableIPv6": True,
        "IPAM": {"Config": [{"Subnet": "fd00:20::/64"}, {"Subnet": "172.20.0.0/16"}]},
        "Internal": False,
        "Containers": {},
        "Options": {},
    } | keys


def endpoint(network: str = "front", last: int = 2, **keys: Any) -> dict[str, Any]:
    """A container's end point in a network of both families."""
    return {
        "EndpointID": "e",
        "NetworkID": f"{network}-id-0123456789abcdef",
        "IPAddress": f"172.20.0.{last}",
        "GlobalIPv6Address": f"fd00:20::{last}",
        "Gateway": "172.20.0.1",
        "IPv6Gateway": "fd00:20::1",
    } | keys


def container(
    name: str = "web",
    ports: dict[str, Any] | None = None,
    networks: dict[str, Any] | None = None,
    **host: Any,
) -> dict[str, Any]:
    """An inspected running container; `host` are keys of HostConfig."""
    found = {"front": endpoint()} if networks is None else networks
    return {
        "Id": f"{name}-id",
        "Name": f"/{name}",
        "State": {"Running": True},
        "HostConfig": host,
        "NetworkSettings": {"Ports": ports or {}, "Networks": found},
    }


def bound(*texts: str) -> list[dict[str, str]]:
    """Bindings as Docker lists them, of ``address port``."""
    pairs = (text.split(" ") for text in texts)
    return [{"HostIp": address, "HostPort": port} for address, port in pairs]


def read_network(data: object) -> InspectedNetwork:
    return network_of(Item(data, "n.json"))


def read_container(data: object) -> InspectedContainer:
    return container_of(Item(data, "c.json"))


def imported(
    networks: list[dict[str, Any]],
    containers: list[dict[str, Any]],
    info: object = None,
    options: DaemonOptions = KNOWN,
) -> Import:
    inspected = Inspected(
        tuple(map(read_network, networks)),
        tuple(map(read_container, containers)),
        Item(info, "info"),
    )
    return host_of(inspected, options)
