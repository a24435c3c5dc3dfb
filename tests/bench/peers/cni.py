"""CNI's reference plugins bridge and portmap, as a container runtime calls them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.hosts import Hosting
from tests.bench.peers.box import Box, environment
from tests.bench.peers.documents import attachment, cni_bridge, cni_portmap, scattered
from tests.bench.running import timed

_PLUGINS = "/usr/lib/cni"


@dataclass(frozen=True, slots=True)
class Cni:
    """The plugins with one `backend`, nftables or iptables, on the host `netns`."""

    box: Box
    netns: str
    container: str
    backend: str

    @property
    def runs(self) -> int:
        """With iptables a run takes half a minute."""
        return 3 if self.backend == "nftables" else 1

    @property
    def name(self) -> str:
        """In tables and plots."""
        return f"portmap-{self.backend}"

    def publish(self, hosting: Hosting) -> float:
        """portmap ADD; the container's network is there already."""
        return self._portmap("ADD", hosting)

    def recreate(self, hosting: Hosting) -> float:
        """portmap DEL and ADD."""
        return self._portmap("DEL", hosting) + self._portmap("ADD", hosting)

    def withdraw(self, hosting: Hosting) -> None:
        """portmap DEL."""
        self._portmap("DEL", hosting)

    def make_networks(self, count: int) -> float:
        """bridge ADD of a container on each: before the first there is no network."""
        return sum(self._bridge("ADD", i) for i in range(1, count + 1))

    def remove_networks(self, count: int) -> None:
        """By hand: the DEL of 1.9.1 fails, as it misunderstands the messages of iptables 1.8.13."""
        numbers = range(1, count + 1)
        _ip(self.container, [f"link delete {attachment(i).interface}" for i in numbers])
        _ip(self.netns, [f"link delete {attachment(i).bridge}" for i in numbers])
        if self.backend == "nftables":
            timed(["nsenter", f"--net={self.netns}", "nft", "flush", "ruleset"])
            return
        for verb in ("--flush", "--delete-chain"):
            timed(["nsenter", f"--net={self.netns}", "iptables-legacy", "--table=nat", verb])

    def _portmap(self, verb: str, hosting: Hosting) -> float:
        document = cni_portmap(attachment(0), scattered(hosting), self.backend, self.container)
        return self._call("portmap", verb, 0, document)

    def _bridge(self, verb: str, number: int) -> float:
        return self._call("bridge", verb, number, cni_bridge(attachment(number), self.backend))

    def _call(self, plugin: str, verb: str, number: int, document: str) -> float:
        env = environment(
            "legacy",
            CNI_COMMAND=verb,
            CNI_CONTAINERID=f"c{number}",
            CNI_NETNS=self.container,
            CNI_IFNAME=attachment(number).interface,
            CNI_PATH=_PLUGINS,
        )
        command = self.box.command(self.netns, f"{_PLUGINS}/{plugin}")
        return timed(command, stdin=document, env=env).seconds


def _ip(netns: str, lines: list[str]) -> None:
    timed(["ip", "-n", netns.rpartition("/")[2], "-batch", "-"], stdin="\n".join(lines) + "\n")
