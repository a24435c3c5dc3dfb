"""Flows that were there before an apply: which end with it, and which go on.

The clients keep their sockets, so that conntrack knows them: what they hear after the apply is what
the rules of now let through.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, netns, session
from nftbridge.choice import Target, choose
from nftbridge.conntrack import flows, kernel
from nftbridge.conntrack.revoked import Selection
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory
from nftbridge.model import Container, Family, Host, Network, Protocol, Publication
from nftbridge.model.changes import Detach, Publish, Withdraw
from nftbridge.plan import Plan
from nftbridge.report import ended
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

UDP = Publication(53, 5353, protocol=Protocol.UDP)
TCP = Publication(80, 8080)
SUBNETS = (IPv4Network("172.20.0.0/24"), IPv6Network("fd00:20::/64"))
BACKENDS = ("nftables", "iptables")
FAMILIES = pytest.mark.parametrize("family", Family)
WAIT = 0.4


def box(name: str, last: int, *publish: Publication) -> Container:
    ipv4, ipv6 = IPv4Address(f"172.20.0.{last}"), IPv6Address(f"fd00:20::{last}")
    return Container(name, ipv4, ipv6, publish)


def host(*containers: Container, **options: Any) -> Host:
    """A host with one network; `options` are the host's or the network's."""
    own = {key: options.pop(key) for key in ("cut_revoked",) if key in options}
    network = Network("front", "br-front", SUBNETS, containers=containers, **options)
    return Host((network,), **own)


def two(first: Sequence[Publication], second: Sequence[Publication] = (), **options: Any) -> Host:
    return host(box("one", 2, *first), box("two", 3, *second), **options)


@dataclass(frozen=True, slots=True)
class Site:
    lab: Laboratory
    target: Target
    backend: str
    sockets: ExitStack

    def apply(self, wanted: Host) -> Plan:
        return Engine(self.target, choose(self.backend, self.target).backend).apply(wanted)

    def flows(self, *words: str) -> str:
        """What conntrack knows, by its own file: nothing of ours reads that."""
        with netns.inside(self.lab.netns):
            lines = Path("/proc/thread-self/net/nf_conntrack").read_text().splitlines()
        return "\n".join(line for line in lines if all(word in line for word in words))


class Client:
    """A connected UDP socket of a node: the same source port for as long as it lives."""

    def __init__(self, site: Site, node: str, address: object, port: int) -> None:
        with netns.inside(site.lab.namespace(node)):
            kind = socket.AF_INET6 if ":" in str(address) else socket.AF_INET
            self.socket = socket.socket(kind, socket.SOCK_DGRAM)
        site.sockets.callback(self.socket.close)
        self.socket.settimeout(WAIT)
        self.socket.connect((str(address), port))

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    def ask(self) -> str:
        """The name of the node that answers; "" if nobody does."""
        try:
            self.socket.send(b"?")
            return str(json.loads(self.socket.recv(2048))["node"])
        except OSError:
            return ""


@contextmanager
def site(backend: str, state: Path) -> Generator[Site]:
    """The laboratory of two containers that answer on port 53, with nothing applied."""
    ports = {"one": (53, 80, 81), "two": (53, 80, 81), HOST: (22,)}
    with Laboratory(two([UDP, TCP]), ports=ports) as lab, ExitStack() as sockets:
        yield Site(lab, Target(netns=lab.netns, state_directory=state), backend, sockets)


@pytest.fixture(scope="module", params=BACKENDS)
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Site]:
    with site(request.param, tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def place(shared: Site) -> Site:
    """The laboratory without the flows of the test before."""
    with netns.inside(shared.lab.netns):
        module: Any = importlib.import_module("pyroute2.netlink.nfnetlink.nfctsocket")
        with module.NFCTSocket() as conntrack:
            conntrack.flush()
    return shared


def nothing(*_: object) -> kernel.Ended:
    return kernel.Ended()


def die(*_: object) -> kernel.Ended:
    raise SystemExit


@FAMILIES
def test_a_port_moves_to_another_container(place: Site, family: Family) -> None:
    """The same socket, before and after: answered by the one, then by the other."""
    place.apply(two([UDP]))
    client = Client(place, OUTSIDE, place.lab.address(HOST, family), 5353)
    assert client.ask() == "one"
    assert client.ask() == "one"
    done = place.apply(two([], [UDP]))
    assert done.ended >= 1
    assert not done.unended
    assert client.ask() == "two"
    assert client.ask() == "two"


@FAMILIES
def test_without_the_end_of_flows_it_would_go_on(
    place: Site, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above shows is not what the kernel does by itself."""
    place.apply(two([UDP]))
    client = Client(place, OUTSIDE, place.lab.address(HOST, family), 5353)
    assert client.ask() == "one"
    monkeypatch.setattr(kernel, "end", nothing)
    place.apply(two([], [UDP]))
    assert client.ask() == "one"


@FAMILIES
def test_who_dies_between_rules_and_flows_leaves_the_flows_to_the_next(
    place: Site, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.apply(two([UDP]))
    client = Client(place, OUTSIDE, place.lab.address(HOST, family), 5353)
    assert client.ask() == "one"
    with monkeypatch.context() as patch:
        patch.setattr(kernel, "end", die)
        with pytest.raises(SystemExit):
            place.apply(two([], [UDP]))
    assert client.ask() == "one"
    assert place.apply(two([], [UDP])).ended >= 1
    assert client.ask() == "two"


@FAMILIES
def test_what_came_in_while_others_had_taken_the_rules_out(place: Site, family: Family) -> None:
    wanted = two([UDP])
    place.apply(wanted)
    # where nobody asks for it, the kernel does not track connections
    tracking = (
        "table inet other { chain c { type filter hook forward priority 0; ct state new; }; }"
    )
    nft(place.lab.netns, "-f", "-", stdin=tracking)
    choose(place.backend, place.target).backend.remove(lambda: [wanted], everything=True)
    direct = Client(place, OUTSIDE, place.lab.address("one", family), 81)
    early = Client(place, OUTSIDE, place.lab.address(HOST, family), 5353)
    egress = Client(place, "one", place.lab.address(OUTSIDE, family), 443)
    assert (direct.ask(), direct.ask(), early.ask()) == ("one", "one", "")
    egress.ask()
    there = f"sport={egress.port} "
    assert place.flows(there)
    assert place.apply(wanted).ended >= 2
    assert (direct.ask(), early.ask()) == ("", "one")
    assert place.flows(there), "this one is allowed"
    nft(place.lab.netns, "delete table inet other")


@FAMILIES
def test_udp_that_came_before_the_port_was_published(place: Site, family: Family) -> None:
    place.apply(two([]))
    client = Client(place, OUTSIDE, place.lab.address(HOST, family), 5353)
    assert client.ask() == ""
    assert client.ask() == ""
    assert place.apply(two([UDP])).ended >= 1
    assert client.ask() == "one"


@FAMILIES
def test_what_is_still_allowed_goes_on(place: Site, family: Family) -> None:
    """Flows beside the one that ends, on the same port and of the same container."""
    other = Publication(53, 5354, protocol=Protocol.UDP)
    place.apply(two([UDP, other, TCP]))
    lab, outside = place.lab, place.lab.address(HOST, family)
    kept = Client(place, OUTSIDE, outside, 5354)
    leaving = Client(place, "two", lab.address(OUTSIDE, family), 53)
    lost = Client(place, OUTSIDE, outside, 5353)
    assert (kept.ask(), leaving.ask(), lost.ask()) == ("one", OUTSIDE, "one")
    connection = lab.connect(OUTSIDE, outside, 8080)
    ports = [f"sport={c.socket.getsockname()[1]} " for c in (kept, leaving)]
    assert place.apply(two([other, TCP])).ended == 1
    assert all(place.flows(port) for port in ports)
    assert (kept.ask(), leaving.ask(), lost.ask()) == ("one", OUTSIDE, "")
    assert connection.alive()
    connection.close()


@FAMILIES
def test_flows_to_the_same_port_elsewhere_go_on(place: Site, family: Family) -> None:
    """A name server on port 53 is published: the containers' own questions are none of its."""
    place.apply(two([]))
    leaving = Client(place, "two", place.lab.address(OUTSIDE, family), 53)
    assert leaving.ask() == OUTSIDE
    dns = Publication(53, 53, protocol=Protocol.UDP)
    assert place.apply(two([dns])).ended == 0
    assert leaving.ask() == OUTSIDE


@FAMILIES
@pytest.mark.parametrize("cut", [False, True])
def test_a_revoked_tcp_connection(place: Site, family: Family, cut: bool) -> None:
    place.apply(two([TCP], cut_revoked=cut))
    connection = place.lab.connect(OUTSIDE, place.lab.address(HOST, family), 8080)
    assert connection.answer.node == "one"
    done = place.apply(two([], cut_revoked=cut))
    assert done.ended == (1 if cut else 0)
    assert connection.alive() is not cut
    connection.close()


@FAMILIES
def test_a_container_that_leaves(place: Site, family: Family) -> None:
    """Its outgoing flows end as well: whoever gets the address is not to get the answers."""
    place.apply(two([]))
    leaving = Client(place, "two", place.lab.address(OUTSIDE, family), 53)
    assert leaving.ask() == OUTSIDE
    port = f"sport={leaving.socket.getsockname()[1]} "
    assert place.flows(port)
    assert place.apply(host(box("one", 2))).ended >= 1
    assert not place.flows(port)


@FAMILIES
def test_a_network_that_is_internal_now(place: Site, family: Family) -> None:
    place.apply(two([]))
    leaving = Client(place, "two", place.lab.address(OUTSIDE, family), 53)
    assert leaving.ask() == OUTSIDE
    port = f"sport={leaving.socket.getsockname()[1]} "
    assert place.apply(two([], internal=True)).ended >= 1
    assert not place.flows(port)
    assert leaving.ask() == ""


@FAMILIES
def test_masquerading_that_is_off_now(place: Site, family: Family) -> None:
    """The flow is known to conntrack by the host's address until it ends."""
    place.apply(two([]))
    leaving = Client(place, "two", place.lab.address(OUTSIDE, family), 53)
    assert leaving.ask() == OUTSIDE
    port = f"sport={leaving.socket.getsockname()[1]} "
    assert place.apply(two([], masquerade=False)).ended == 1
    assert not place.flows(port)


@FAMILIES
def test_an_icmp_flow_ends_as_well(place: Site, family: Family) -> None:
    place.apply(two([]))
    with netns.inside(place.lab.namespace("two")):
        number = 58 if family is Family.IPV6 else 1
        kind = socket.AF_INET6 if family is Family.IPV6 else socket.AF_INET
        echo = socket.socket(kind, socket.SOCK_DGRAM, number)
    echo.settimeout(WAIT)
    request = bytes([128 if family is Family.IPV6 else 8, 0, 0, 0, 0, 0, 0, 1])
    echo.sendto(request, (str(place.lab.address(OUTSIDE, family)), 0))
    echo.recv(100)
    address = place.flows("icmp")
    assert address
    assert place.apply(host(box("one", 2))).ended >= 1
    assert not place.flows("icmp", str(place.lab.address(OUTSIDE, family)))
    echo.close()


def test_a_session_ends_what_it_revokes(tmp_path: Path) -> None:
    with site("nftables", tmp_path) as place:
        place.apply(two([UDP, TCP]))
        client = Client(place, OUTSIDE, place.lab.address(HOST), 5353)
        assert client.ask() == "one"
        with session.open(place.target) as bridge:
            assert bridge.change(Withdraw("front", "one", TCP)).ended == 0
            assert bridge.change(Withdraw("front", "one", UDP)).ended == 1
            assert client.ask() == ""
            assert bridge.change(Publish("front", "two", UDP)).ended == 1
            assert client.ask() == "two"
            assert bridge.change(Detach("front", "two")).ended == 1
            assert client.ask() == ""


@FAMILIES
def test_the_kernel_leaves_out_what_is_not_looked_for(place: Site, family: Family) -> None:
    """As all filters of a dump that it knows, from Linux 5.8 on."""
    place.apply(two([UDP]))
    one, here = (place.lab.address(node, family) for node in ("one", HOST))
    assert Client(place, OUTSIDE, here, 5353).ask() == "one"
    assert Client(place, "two", one, 80).ask() == "one"
    size = len(one.packed)

    async def listed(selection: Selection) -> list[tuple[int, int]]:
        kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        async with flows.opened(kind) as conntrack:
            found = [entry.flow async for entry in flows.entries(conntrack, kind, selection)]
            return sorted((flow.port, flow.reply_port) for flow in found)

    def found(*traits: int) -> list[tuple[int, int]]:
        with netns.inside(place.lab.netns):
            return asyncio.run(listed(Selection(size, *traits)))

    translated, direct = (5353, 53), (80, 80)
    assert found() == [direct, translated]
    assert found(socket.IPPROTO_UDP) == [direct, translated]
    assert found(socket.IPPROTO_TCP) == []
    assert found(socket.IPPROTO_UDP, 5353) == [translated]
    assert found(socket.IPPROTO_UDP, 53) == []


@pytest.mark.parametrize(
    "changes",
    [(Publish("front", "one", TCP), Withdraw("front", "one", TCP)), (Detach("front", "two"),)],
)
def test_nobody_looks_unless_something_was_revoked(
    changes: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("nftables", tmp_path) as place:
        place.apply(two([]))
        looked: list[object] = []

        def look(*arguments: object) -> kernel.Ended:
            looked.append(arguments)
            return kernel.Ended()

        monkeypatch.setattr(kernel, "end", look)
        with session.open(place.target) as bridge:
            for change in changes:
                bridge.change(change)
        assert bool(looked) == isinstance(changes[0], Detach)


def test_the_rules_stay_in_where_conntrack_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("nftables", tmp_path) as place:
        place.apply(two([UDP]))
        client = Client(place, OUTSIDE, place.lab.address(HOST), 5353)
        assert client.ask() == "one"
        monkeypatch.setitem(sys.modules, "pyroute2", None)
        done = place.apply(two([]))
        assert done.unended == "pyroute2 is missing"
        assert not Engine(place.target, choose("nftables", place.target).backend).verify()


def test_the_command_says_how_many(tmp_path: Path) -> None:
    with site("nftables", tmp_path) as place:
        before, after = (tmp_path / f"{name}.json" for name in ("before", "after"))
        before.write_text(json.dumps(config.host_to_data(two([UDP]))))
        after.write_text(json.dumps(config.host_to_data(two([], [UDP]))))

        def run(*words: object) -> str:
            place_words = ("--netns", place.lab.netns, "--state-dir", tmp_path / "state")
            command = [sys.executable, "-m", "nftbridge", "apply", *words, *place_words]
            return subprocess.run(
                list(map(str, command)), check=True, capture_output=True, text=True
            ).stdout

        assert "ended" not in run(before)
        client = Client(place, OUTSIDE, place.lab.address(HOST), 5353)
        assert client.ask() == "one"
        line = "1 connection that is no longer allowed, or led elsewhere by now, was ended"
        assert line in run(after)
        assert ended(Plan(ended=2)).startswith("2 connections that are")
        assert client.ask() == "two"
        assert json.loads(run(before, "--json"))["connections_ended"] == 1
