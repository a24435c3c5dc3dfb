"""A laboratory host under nftbridge's rules, with a real firewalld beside them."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.firewalld import guard
from nftbridge.firewalld.steps import Steps
from nftbridge.firewalld.watcher import Event, Watcher
from nftbridge.lab import HOST, OUTSIDE, Laboratory, Probe
from nftbridge.model import Address, Family, Host
from tests.kernel.debian import NotAvailable
from tests.kernel.firewalld_daemon import Firewalld
from tests.kernel.firewalld_daemon import firewalld as daemons

# 443 is what the outside answers on too: what containers ask there must not come back to web.
HOST_FILE = """
version = 1

[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16", "fd00:20::/64"]

[[network.container]]
name = "web"
ipv4 = "172.20.0.10"
ipv6 = "fd00:20::10"
publish = ["8080:80", "8080:80/udp", "443:80", "7000-7004:7000-7004", "5060:5060/sctp"]

[[network]]
name = "open"
bridge = "br-open"
subnets = ["172.21.0.0/16", "fd00:21::/64"]
gateway_mode_ipv4 = "routed"
gateway_mode_ipv6 = "routed"

[[network.container]]
name = "api"
ipv4 = "172.21.0.10"
ipv6 = "fd00:21::10"
publish = ["90"]

[[network]]
name = "data"
bridge = "br-data"
subnets = ["172.22.0.0/16", "fd00:22::/64"]
internal = true

[[network.container]]
name = "db"
ipv4 = "172.22.0.10"
ipv6 = "fd00:22::10"
"""

Way: TypeAlias = tuple[str, str, int]
"""Source and destination, nodes of the laboratory, and a TCP port."""

BRIDGES = frozenset({"br-front", "br-open", "br-data"})

EGRESS = (("web", OUTSIDE, 443), ("api", OUTSIDE, 443))
ROUTED = ((OUTSIDE, "api", 90),)
PUBLISHED = ((OUTSIDE, HOST, 8080), (OUTSIDE, HOST, 443), (OUTSIDE, HOST, 7003))
OWN = ((HOST, HOST, 8080),)
ALLOWED = (*EGRESS, *ROUTED, *PUBLISHED, *OWN)
FORBIDDEN = (
    (OUTSIDE, "web", 80),  # published, but not to be addressed directly
    (OUTSIDE, "web", 81),
    (OUTSIDE, "api", 81),
    (OUTSIDE, "db", 81),
    ("db", OUTSIDE, 443),
    ("db", HOST, 8080),
    ("db", "web", 80),
    ("web", "db", 81),
    ("api", "web", 80),
)


@dataclass(frozen=True, slots=True)
class Site:
    """The laboratory, the rules in it, and the daemon beside them (not started yet)."""

    host: Host
    lab: Laboratory
    engine: Engine
    daemon: Firewalld
    file: Path
    state: Path

    def apply(self, host: Host | None = None) -> Steps:
        """What the command apply does; what was done in firewalld."""
        wanted = host or self.host
        with guard.around(self.lab.netns, self.engine.known, wanted) as steps:
            self.engine.apply(wanted)
        return steps

    def remove(self) -> Steps:
        """What the command remove does; what was done in firewalld."""
        with guard.around(self.lab.netns, self.engine.known, None) as steps:
            self.engine.remove(everything=False)
        return steps

    def passed(self, ways: Iterable[Way], timeout: float | None = None) -> set[str]:
        """Those of the ways (source, destination, port) that TCP gets through, in each family."""
        return {str(p) for p in self._passed(list(self.probes(ways)), timeout)}

    def all_of(self, ways: Iterable[Way]) -> set[str]:
        """What `passed` says if all do."""
        return {str(probe) for probe in self.probes(ways)}

    def probes(self, ways: Iterable[Way]) -> Iterator[Probe]:
        """The probes for these ways."""
        for source, destination, port in ways:
            for family in Family:
                yield Probe(source, self.address(destination, family), "tcp", port)

    def address(self, node: str, family: Family) -> Address:
        """The address of a node; the host's is that of its uplink."""
        nodes = {found.name: found for found in self.lab.topology.all_nodes}
        link = nodes[OUTSIDE].link
        assert link is not None
        found = link.addresses if node == HOST else nodes[node].addresses
        return next(a.ip for a in found if a.version == family.version)

    def members(self) -> set[str]:
        """The interfaces in zone docker, as an administrator sees them."""
        return set(self.daemon.cmd("--zone=docker", "--list-interfaces").split())

    def _passed(self, probes: list[Probe], timeout: float | None) -> Iterator[Probe]:
        for outcome in self.lab.probe_all(probes, timeout=timeout):
            expected = "web" if outcome.probe.destination in self._host_addresses() else None
            if outcome.reached and expected in (None, outcome.answered_by):
                yield outcome.probe

    def _host_addresses(self) -> list[Address]:
        return [self.address(HOST, family) for family in Family]


@contextmanager
def site(
    suite: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    backend: str = "nftables",
    **settings: str,
) -> Generator[Site]:
    """A site with the firewalld of a Debian release, `settings` in its firewalld.conf.

    `backend` is ours. Skips where that firewalld cannot be had.
    """
    file = folder / "host.toml"
    file.write_text(HOST_FILE)
    host = config.load(str(file)).host
    with Laboratory(host) as lab:
        target = Target(netns=lab.netns, state_directory=folder / "state")
        engine = Engine(target, choose(backend, target).backend)
        try:
            with daemons(suite, lab.netns) as daemon:
                daemon.configure(**settings)
                monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", daemon.address)
                yield Site(host, lab, engine, daemon, file, target.state_directory)
        except NotAvailable as reason:
            pytest.skip(f"firewalld of {suite}: {reason}")


class Service:
    """A loop as a service has it: waits for firewalld's events, and puts back after each.

    Ends with the context. `events` are those that came, `put_back` counts what was done.
    """

    def __init__(self, place: Site) -> None:
        self._place = place
        self._stop, self._stopped = os.pipe()
        self._changed = threading.Condition()
        self._watcher = Watcher()
        self._thread = threading.Thread(target=self._serve)
        self.events: list[Event] = []
        self.put_back: list[Steps] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopped)
        self._thread.join()
        self._watcher.close()
        os.close(self._stop)

    def wait_for(self, event: Event, count: int = 1) -> None:
        """Wait until so many of these events came and all was put back after them."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.events.count(event) >= count, timeout=60)
            assert done, (event, count, self.events)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._stop, self._watcher.fileno()], [], [])
            if self._stop in ready:
                return
            if events := self._watcher.events():
                steps = self._place.apply()
                with self._changed:
                    self.put_back.append(steps)
                    self.events += events
                    self._changed.notify_all()
