"""netavark, Podman's network program, as Podman calls it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.hosts import Hosting
from tests.bench.peers.box import Box, environment
from tests.bench.peers.documents import Attachment, Port, attachment, netavark, scattered
from tests.bench.running import timed

_PROGRAM = "/usr/lib/podman/netavark"


@dataclass(frozen=True, slots=True)
class Netavark:
    """netavark with its nftables driver, on the host `netns`, for the container `container`."""

    box: Box
    netns: str
    container: str
    name: str = "netavark"
    ranged: bool = False
    runs: int = 3

    def publish(self, hosting: Hosting) -> float:
        """``netavark setup``: bridge, veth, addresses and rules in one go."""
        return self._call("setup", attachment(0), self._ports(hosting))

    def recreate(self, hosting: Hosting) -> float:
        """``netavark teardown`` and ``setup``."""
        ports = self._ports(hosting)
        down = self._call("teardown", attachment(0), ports)
        return down + self._call("setup", attachment(0), ports)

    def withdraw(self, hosting: Hosting) -> None:
        """``netavark teardown``."""
        self._call("teardown", attachment(0), self._ports(hosting))

    def make_networks(self, count: int) -> float:
        """``netavark setup`` of a container on each: before the first there is no network."""
        return sum(self._call("setup", attachment(i), []) for i in range(1, count + 1))

    def remove_networks(self, count: int) -> None:
        """``netavark teardown`` of each."""
        for i in range(1, count + 1):
            self._call("teardown", attachment(i), [])

    def _ports(self, hosting: Hosting) -> list[Port]:
        ports = scattered(hosting)
        if self.ranged and ports:  # the same number of TCP ports, side by side
            return [Port(ports[0].host, ports[0].container, count=hosting.size.ports)]
        return ports

    def _call(self, verb: str, to: Attachment, ports: list[Port]) -> float:
        files = f"/peers/{self.name}"
        command = self.box.command(self.netns, _PROGRAM, "--config", files, verb, self.container)
        env = environment("nft", NETAVARK_FW="nftables")
        return timed(command, stdin=netavark(to, ports), env=env).seconds
