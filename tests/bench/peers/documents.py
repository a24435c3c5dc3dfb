"""What netavark and the CNI plugins read on standard input. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network

from tests.bench.hosts import Hosting

CNI_VERSION = "1.0.0"


@dataclass(frozen=True, slots=True)
class Port:
    """One entry of a port mapping; `count` consecutive ports."""

    host: int
    container: int
    protocol: str = "tcp"
    count: int = 1


def scattered(hosting: Hosting) -> list[Port]:
    """The ports that a host file publishes."""
    return [Port(*published) for published in hosting.published]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One container on one network, by number: bridge, subnet and the container's interface."""

    number: int
    bridge: str
    subnet: IPv4Network

    @property
    def interface(self) -> str:
        """In the container."""
        return f"eth{self.number}"

    @property
    def address(self) -> str:
        """The container's."""
        return str(self.subnet[2])

    @property
    def gateway(self) -> str:
        """The bridge's address."""
        return str(self.subnet[1])


def attachment(number: int) -> Attachment:
    """The attachment to the network of that number."""
    return Attachment(number, f"br-{number}", IPv4Network(f"10.{number}.0.0/16"))


def netavark(to: Attachment, ports: list[Port]) -> str:
    """The document of ``netavark setup``, as Podman writes it."""
    network = f"net{to.number}"
    return json.dumps(
        {
            "container_id": f"{to.number:064x}",
            "container_name": f"c{to.number}",
            "networks": {network: {"interface_name": to.interface, "static_ips": [to.address]}},
            "network_info": {
                network: {
                    "name": network,
                    "id": f"{to.number:08x}" * 8,  # chains are named after its first 8 digits
                    "driver": "bridge",
                    "network_interface": to.bridge,
                    "subnets": [{"subnet": str(to.subnet), "gateway": to.gateway}],
                    "ipv6_enabled": False,
                    "internal": False,
                    "dns_enabled": False,
                    "ipam_options": {"driver": "host-local"},
                }
            },
            "port_mappings": [
                {
                    "container_ip": "",
                    "container_port": port.container,
                    "host_ip": "",
                    "host_port": port.host,
                    "protocol": port.protocol,
                    "range": port.count,
                }
                for port in ports
            ],
        }
    )


def cni_bridge(to: Attachment, backend: str) -> str:
    """The configuration of CNI's bridge plugin, with masquerading."""
    return json.dumps(
        {
            "cniVersion": CNI_VERSION,
            "name": f"net{to.number}",
            "type": "bridge",
            "bridge": to.bridge,
            "isGateway": True,
            "ipMasq": True,
            "ipMasqBackend": backend,
            "ipam": {
                "type": "static",
                "addresses": [
                    {"address": f"{to.address}/{to.subnet.prefixlen}", "gateway": to.gateway}
                ],
            },
        }
    )


def cni_portmap(to: Attachment, ports: list[Port], backend: str, netns: str) -> str:
    """The configuration of CNI's portmap plugin, with what the bridge plugin before it answered."""
    return json.dumps(
        {
            "cniVersion": CNI_VERSION,
            "name": f"net{to.number}",
            "type": "portmap",
            "backend": backend,
            "snat": True,
            "capabilities": {"portMappings": True},
            "runtimeConfig": {
                "portMappings": [
                    {
                        "hostPort": port.host,
                        "containerPort": port.container,
                        "protocol": port.protocol,
                    }
                    for port in ports
                ]
            },
            "prevResult": {
                "cniVersion": CNI_VERSION,
                "interfaces": [{"name": to.bridge}, {"name": to.interface, "sandbox": netns}],
                "ips": [
                    {
                        "interface": 1,
                        "address": f"{to.address}/{to.subnet.prefixlen}",
                        "gateway": to.gateway,
                    }
                ],
            },
        }
    )
