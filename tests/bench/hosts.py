"""Host files of a given size, and the one published port that packets are sent to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

from tests.bench.figures import Size

_FIRST_HOST_PORT = 10000
_FIRST_CONTAINER_PORT = 30000
_STRIDE = 2
_LARGE = 200  # networks; up to that many fit into 10.0.0.0/8 as /16


@dataclass(frozen=True, slots=True)
class Hosting:
    """`size.ports` TCP ports over `containers`, spread evenly over `size.networks`.

    Every second port is published, because neighbours could be joined to a range. The port in the
    middle is published over UDP too: packets go to it. So a walk over all ports, networks or
    containers takes half its length, as it does on average.
    """

    size: Size
    containers: int = 1

    @property
    def published(self) -> list[tuple[int, int, str]]:
        """Host port, container port and protocol of everything published."""
        found: list[tuple[int, int, str]] = []
        for number in range(self.size.ports):
            found.append((*_ports(number), "tcp"))
            if number == self._measured:
                found.append((*_ports(number), "udp"))
        return found

    @property
    def port(self) -> int:
        """The host port that packets go to."""
        return _ports(self._measured)[0]

    @property
    def listen(self) -> int:
        """The container port that they arrive at."""
        return _ports(self._measured)[1]

    @property
    def bridge(self) -> str:
        """The bridge behind which that container is."""
        return f"br-{self._network_of(self._container_of(self._measured))}"

    @property
    def subnet(self) -> IPv4Network:
        """Its subnet; the first address is the bridge's."""
        return self._subnet(self._network_of(self._container_of(self._measured)))

    @property
    def address(self) -> str:
        """Its container's address."""
        return self._address(self._container_of(self._measured))

    def document(self) -> str:
        """The host file, as JSON."""
        networks: list[dict[str, Any]] = [
            {
                "name": f"net{i}",
                "bridge": f"br-{i}",
                "subnets": [str(self._subnet(i))],
                "container": [],
            }
            for i in range(self.size.networks)
        ]
        publish: list[list[str]] = [[] for _ in range(self.containers)]
        for host, container, protocol in self.published:
            owner = self._container_of((host - _FIRST_HOST_PORT) // _STRIDE)
            publish[owner].append(f"{host}:{container}/{protocol}")
        for c in range(self.containers):
            networks[self._network_of(c)]["container"].append(
                {"name": f"c{c}", "ipv4": self._address(c), "publish": publish[c]}
            )
        return json.dumps({"version": 1, "host": {"ipv6": False}, "network": networks})

    @property
    def _measured(self) -> int:
        return self.size.ports // 2

    def _container_of(self, port: int) -> int:
        return port * self.containers // max(self.size.ports, 1)

    def _network_of(self, container: int) -> int:
        return container * self.size.networks // self.containers

    def _subnet(self, network: int) -> IPv4Network:
        if self.size.networks <= _LARGE:
            return IPv4Network(f"10.{network}.0.0/16")
        return IPv4Network(f"10.{network >> 8}.{network & 255}.0/24")

    def _address(self, container: int) -> str:
        network = self._network_of(container)
        first = -(-network * self.containers // self.size.networks)  # rounded up
        return str(self._subnet(network)[2 + container - first])


def _ports(number: int) -> tuple[int, int]:
    """The host port and the container port of one publication."""
    return _FIRST_HOST_PORT + _STRIDE * number, _FIRST_CONTAINER_PORT + _STRIDE * number


def dual_stack(networks: int, ports: int) -> str:
    """A dual-stack host in TOML: `ports` publications, over two containers a network."""
    lines = ["version = 1"]
    each = ports // networks // 2
    for i in range(networks):
        lines += [
            "[[network]]",
            f'name = "net{i}"',
            f'bridge = "br-{i}"',
            f'subnets = ["10.{i >> 8}.{i & 255}.0/24", "fd00:{i:x}::/64"]',
        ]
        for j in range(2):
            first = _FIRST_HOST_PORT + (2 * i + j) * each
            publish = ", ".join(f'"{first + k}:{80 + k}"' for k in range(each))
            lines += [
                "[[network.container]]",
                f'name = "c{j}"',
                f'ipv4 = "10.{i >> 8}.{i & 255}.{j + 2}"',
                f'ipv6 = "fd00:{i:x}::{j + 2}"',
                f"publish = [{publish}]",
            ]
    return "\n".join(lines) + "\n"
