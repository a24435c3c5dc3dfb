"""nftbridge, by its command: a host file is written, and applied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Size
from tests.bench.hosts import Hosting
from tests.bench.layouts import Layout
from tests.bench.peers.documents import attachment
from tests.bench.running import NFTBRIDGE, timed

_EMPTY = Hosting(Size(1, 0))


@dataclass(frozen=True, slots=True)
class Ours:
    """``nftbridge apply`` with one layout, on the host `netns`; its files lie in `folder`."""

    layout: Layout
    netns: str
    folder: Path
    runs: int = 3

    @property
    def name(self) -> str:
        """In tables and plots."""
        return self.layout.name

    def prepare(self) -> None:
        """The rules and an empty network in place, as on a host that has been running for long."""
        self._apply(_EMPTY)

    def publish(self, hosting: Hosting) -> float:
        """``apply`` of the file with the ports."""
        return self._apply(hosting)

    def recreate(self, hosting: Hosting) -> float:
        """``apply`` of the file without the ports, then of the file with them."""
        return self._apply(_EMPTY) + self._apply(hosting)

    def withdraw(self, hosting: Hosting) -> None:  # noqa: ARG002  a Driver's method
        """``apply`` of the file without the ports."""
        self._apply(_EMPTY)

    def make_networks(self, count: int) -> float:
        """The bridges by one ``ip -batch``, since the others make them too, and one ``apply``."""
        lines: list[str] = []
        for network in (attachment(i) for i in range(1, count + 1)):
            lines += [
                f"link add {network.bridge} type bridge",
                f"address add {network.gateway}/{network.subnet.prefixlen} dev {network.bridge}",
                f"link set {network.bridge} up",
            ]
        return self._ip(lines) + self._apply(Hosting(Size(1 + count, 0)))

    def remove_networks(self, count: int) -> None:
        """All of that undone."""
        self._ip([f"link delete {attachment(i).bridge}" for i in range(1, count + 1)])
        self._apply(_EMPTY)

    def _ip(self, lines: list[str]) -> float:
        name = self.netns.rpartition("/")[2]
        return timed(["ip", "-n", name, "-batch", "-"], stdin="\n".join(lines) + "\n").seconds

    def _apply(self, hosting: Hosting) -> float:
        file = self.folder / f"{self.name}.json"
        file.write_text(hosting.document())
        target = ("--netns", self.netns, "--state-dir", str(self.folder / self.name))
        return timed([*NFTBRIDGE, "apply", str(file), *self.layout.options, *target]).seconds
