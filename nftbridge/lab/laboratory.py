"""`Laboratory`, the context manager: the namespaces of a host, and probes sent through them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from nftbridge.errors import UnavailableError
from nftbridge.lab import namespaces
from nftbridge.lab.crew import Crew
from nftbridge.lab.messages import (
    CheckConnection,
    CloseConnection,
    OpenConnection,
    Prepare,
    RunProbes,
)
from nftbridge.lab.probe import Answer, Outcome, Probe
from nftbridge.lab.topology import HOST, Node, Topology, Wishes, plan_topology
from nftbridge.model import Address, Family, Host

DEFAULT_TIMEOUT = 0.7
"""Seconds that a probe waits; less than the one second after which TCP repeats its first packet."""

_MARGIN = 30.0


class Laboratory:
    """A host of `host`'s networks and containers in namespaces of its own, while the context lasts.

    Per uplink an outside client is joined by a veth whose host end has the uplink's name. The links
    of `loopback_links` are like uplinks, but their outside nodes also send 127.0.0.0/8 to the host,
    which takes it: WSL2's ``loopback0``, or an attacker. `ports` replaces what single nodes answer
    on. With `internal_routes` False containers of internal networks have no default route, as in
    Docker; by default they have one, so that rules have to stop them. `timeout` is in seconds.

    Nodes are called ``host``, ``outside``, ``outside-UPLINK`` and by their container's name, or
    ``NETWORK/CONTAINER`` where that is ambiguous. No packet filter is loaded.
    """

    def __init__(  # noqa: PLR0913  all but the first are options with a default
        self,
        host: Host,
        *,
        uplinks: Sequence[str] = ("eth0",),
        loopback_links: Sequence[str] = (),
        ports: Mapping[str, Collection[int]] | None = None,
        internal_routes: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        wishes = Wishes(tuple(uplinks), tuple(loopback_links), internal_routes, ports)
        self._prefix = namespaces.unique_prefix()
        self.topology: Topology = plan_topology(host, self._prefix, wishes)
        self._nodes: dict[str, Node] = {node.name: node for node in self.topology.all_nodes}
        for name in ports or ():
            self._node(name)
        self._timeout = timeout
        self._owner = os.getpid()
        self._crew: Crew | None = None
        self._keys = count()

    def __enter__(self) -> Self:
        """Build everything. Raises `UnavailableError` where that is not possible."""
        _check_requirements()
        self._crew = Crew(self.topology)
        try:
            self._crew.start()
            self._crew.ask(HOST, Prepare())
            self._crew.ask_all({node.name: Prepare() for node in self.topology.nodes})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove everything, also after errors."""
        self.close()

    def close(self) -> None:
        """End the workers and remove the namespaces. A fork of the owner must not, and does not."""
        if self._crew is None or os.getpid() != self._owner:
            return
        try:
            self._crew.dismiss()
        finally:
            # The keeper has done it, unless somebody killed it.
            namespaces.remove_all(self._prefix)
            self._crew = None

    @property
    def netns(self) -> str:
        """The name of the host's network namespace."""
        return self.topology.host.namespace

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all nodes: the host, the outside clients, the containers."""
        return tuple(self._nodes)

    def namespace(self, node: str) -> str:
        """The name of a node's network namespace."""
        return self._node(node).namespace

    def address(self, node: str, family: Family = Family.IPV4) -> Address:
        """A node's own address; for the host, that of its first uplink."""
        link = self.topology.nodes[0].link if node == HOST and self.topology.nodes else None
        found = link.addresses if link else self._node(node).addresses
        try:
            return next(a.ip for a in found if a.version == family.version)
        except StopIteration:
            raise LookupError(f"node '{node}' has no {family.label} address") from None

    def probe_all(self, probes: Iterable[Probe], *, timeout: float | None = None) -> list[Outcome]:
        """Send all of `probes` at the same time; the outcomes come in the order of the probes."""
        wanted = list(probes)
        wait = self._timeout if timeout is None else timeout
        by_source: dict[str, list[int]] = {}
        for index, probe in enumerate(wanted):
            by_source.setdefault(self._node(probe.source).name, []).append(index)
        requests = {
            source: RunProbes(tuple(wanted[index] for index in indices), wait)
            for source, indices in by_source.items()
        }
        replies = self._running.ask_all(requests, patience=wait + _MARGIN)
        outcomes: dict[int, Outcome] = {}
        for source, indices in by_source.items():
            found = cast("list[Outcome]", replies[source])
            outcomes.update(zip(indices, found, strict=True))
        return [outcomes[index] for index in range(len(wanted))]

    def connect(
        self, source: str, destination: Address, port: int, *, timeout: float | None = None
    ) -> Connection:
        """Open a TCP connection and keep it; raises `ConnectionError` if nobody answers in time."""
        wait = self._timeout if timeout is None else timeout
        key = next(self._keys)
        request = OpenConnection(key, destination, port, wait)
        reply = self._running.ask(self._node(source).name, request)
        if not isinstance(reply, Answer):
            raise ConnectionError(f"{source} -> {destination} port {port}: {reply}")
        return Connection(self._running, source, key, reply)

    @property
    def _running(self) -> Crew:
        if self._crew is None:
            raise RuntimeError("the laboratory is not running: use it in a with statement")
        return self._crew

    def _node(self, name: str) -> Node:
        if name not in self._nodes:
            raise LookupError(f"no node '{name}' in the laboratory, only {', '.join(self._nodes)}")
        return self._nodes[name]


class Connection:
    """An open TCP connection, held by its source node; `answer` is what the far end said first."""

    def __init__(self, crew: Crew, source: str, key: int, answer: Answer) -> None:
        self._crew = crew
        self._source = source
        self._key = key
        self.answer = answer

    def alive(self, timeout: float = DEFAULT_TIMEOUT) -> bool:
        """Whether a line sent now comes back within `timeout` seconds.

        After a failure TCP repeats the lost line ever more rarely: later success may take long.
        """
        return bool(self._crew.ask(self._source, CheckConnection(self._key, timeout)))

    def close(self) -> None:
        """Close it; leaving the laboratory does as well."""
        self._crew.ask(self._source, CloseConnection(self._key))


def _check_requirements() -> None:
    if os.geteuid() != 0:
        hint = "run it as root, e.g. with sudo; nothing outside the new namespaces is changed"
        raise UnavailableError("network namespaces can be made by root only", hint=hint)
    if not Path("/proc/sys/net/ipv6").exists():
        hint = "boot without ipv6.disable=1"
        raise UnavailableError("the laboratory needs a kernel with IPv6", hint=hint)
