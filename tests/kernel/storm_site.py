"""A host that changes in a storm: what it may declare, what is sent, and what each change let by.

`DECLARATIONS` are whole hosts on the same bridges, `AIMS` and `CALLS` who sends what to whom, a row
for both families. What an aim may do is written beside it, and is seen on the kernel with every
declaration at rest before anything changes. A change may let by what passes at one of its two ends;
what passes at neither and gets through all the same is a leak.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

from nftbridge import config, netns
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory
from nftbridge.model import Address, Family, Host
from tests.kernel.storm import Count, Echo, Shot, Storm, Traffic, Visit

DoneT = TypeVar("DoneT")

_LOOK = 0.2
"""Seconds after which a visitor that was given up on before has come again."""

NEIGHBOUR = "outside-loopback0"
"""A machine on the host's link that routes 127.0.0.0/8 to it."""


def _network(name: str, number: int, containers: Mapping[str, list[str]], **options: object) -> Any:
    """A network of both families, its containers (name: publications) numbered from 10."""
    return {
        "name": name,
        "bridge": f"br-{name}",
        "subnets": [f"172.20.{number}.0/24", f"fd00:20:{number}::/64"],
        "container": [
            {
                "name": container,
                "ipv4": f"172.20.{number}.{place}",
                "ipv6": f"fd00:20:{number}::{place}",
                "publish": publish,
            }
            for place, (container, publish) in enumerate(containers.items(), 10)
        ],
        **options,
    }


_WEB = ["8080:80", "8080:80/udp", "8091:91/udp", "127.0.0.1:9090:96/udp"]
_FRONT = _network("front", 1, {"web": _WEB, "worker": []})
_API = ["90", "90/udp", "92/udp"]
_ROUTED: Any = {"gateway_mode_ipv4": "routed", "gateway_mode_ipv6": "routed"}
_OPEN = _network("open", 2, {"api": _API}, **_ROUTED)
_OPENER = _network("open", 2, {"api": [*_API, "94/udp"]}, **_ROUTED)
_DATA = _network("data", 3, {"db": []}, internal=True)
_UNPROTECTED: Any = {"gateway_mode_ipv4": "nat-unprotected", "gateway_mode_ipv6": "nat-unprotected"}
_CACHE = ["8084:84/udp", "8086:86"]
_SIDE = {"cache": _CACHE, "queue": list[str]()}


def _side(containers: Mapping[str, list[str]] = _SIDE, **options: object) -> Any:
    return _network("side", 4, containers, **options)


def _host(*others: object, front: object = _FRONT, routed: object = _OPEN) -> Host:
    networks = [front, routed, _DATA, *others]
    data = {"version": 1, "host": {"cut_revoked": True}, "network": networks}
    return config.host_from_data(data)


DECLARATIONS: Mapping[str, Host] = {
    "plain": _host(_side()),
    "more ports": _host(
        _side({"cache": [*_CACHE, "8085:85/udp"], "queue": []}),
        front=_network("front", 1, {"web": [*_WEB, "8081:81/udp"], "worker": []}),
        routed=_OPENER,
    ),
    "port moved": _host(_side({"cache": [], "queue": ["8084:84/udp"]})),
    "side internal": _host(_side({"cache": [], "queue": []}, internal=True)),
    "side separated": _host(_side(icc=False)),
    "side routed": _host(_side(**_ROUTED)),
    "side unprotected": _host(_side(**_UNPROTECTED)),
    "side undeclared": _host(),
    "worker gone": _host(_side(), front=_network("front", 1, {"web": _WEB})),
}


BETWEEN_HOOKS = ("side routed", "more ports")
"""A change in which raw begins to drop what filter begins to let through."""


def walk(rng: Random, number: int) -> Iterator[tuple[str, str]]:
    """So many changes, from where `look_around` ends to others at random."""
    here = list(DECLARATIONS)[-1]
    for _ in range(number):
        others = [name for name in DECLARATIONS if name != here]
        there = rng.choice(others)
        yield here, there
        here = there


def host_files(folder: Path) -> dict[str, Path]:
    """A host file for each declaration."""
    files: dict[str, Path] = {}
    for name, host in DECLARATIONS.items():
        files[name] = folder / f"{name}.json"
        files[name].write_text(json.dumps(config.host_to_data(host)))
    return files


class May(Enum):
    """Under which declarations an aim gets through."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    NEVER = "never"


class Aim(NamedTuple):
    """New flows of UDP from a node to a node's address, or to one written out.

    `sender` is the node whose address they carry, the source's own if None. What is `steady` is one
    flow, established whenever it gets through; none is through the network that is undeclared at
    times, since what a bridge let through before it was declared is nobody's business.
    """

    source: str
    to: str
    port: int
    may: May
    sender: str | None = None
    steady: bool = False


AIMS = (
    Aim(OUTSIDE, HOST, 8080, May.ALWAYS),  # published, to web
    Aim("web", OUTSIDE, 53, May.ALWAYS),
    Aim(OUTSIDE, "api", 90, May.ALWAYS),  # routed
    Aim("web", "worker", 81, May.ALWAYS),  # neighbours
    Aim(HOST, "web", 81, May.ALWAYS),
    Aim(OUTSIDE, "web", 80, May.NEVER),  # past the translation
    Aim(OUTSIDE, "web", 81, May.NEVER),  # and where filter has the port open now and then
    Aim(OUTSIDE, "worker", 81, May.NEVER),
    Aim(OUTSIDE, "api", 81, May.NEVER),
    Aim("api", "web", 80, May.NEVER),  # from another network
    Aim("cache", "web", 81, May.NEVER),
    Aim(OUTSIDE, "db", 81, May.NEVER),
    Aim("web", "db", 81, May.NEVER),
    Aim("db", OUTSIDE, 53, May.NEVER),
    Aim("db", "web", 80, May.NEVER),
    Aim(OUTSIDE, HOST, 9090, May.NEVER),  # published on loopback
    Aim(NEIGHBOUR, "127.0.0.1", 9090, May.NEVER),
    Aim(OUTSIDE, "web", 80, May.NEVER, sender="worker"),
    Aim(OUTSIDE, "db", 81, May.NEVER, sender="web"),
    Aim("db", OUTSIDE, 53, May.NEVER, sender="web"),
    Aim(OUTSIDE, HOST, 8084, May.SOMETIMES),
    Aim(OUTSIDE, HOST, 8081, May.SOMETIMES),
    Aim(OUTSIDE, "cache", 84, May.SOMETIMES),
    Aim(OUTSIDE, "cache", 85, May.SOMETIMES),
    Aim("web", "cache", 81, May.SOMETIMES),
    Aim("cache", "queue", 81, May.SOMETIMES),
    Aim("cache", OUTSIDE, 53, May.SOMETIMES),
    Aim(OUTSIDE, HOST, 8084, May.SOMETIMES, steady=True),
    Aim(OUTSIDE, HOST, 8081, May.SOMETIMES, steady=True),
    Aim(OUTSIDE, "api", 94, May.SOMETIMES, steady=True),
    Aim(OUTSIDE, "api", 81, May.NEVER, steady=True),
)

_EARS = {
    "web": (80, 81, 96),
    "worker": (81,),
    "api": (81, 90, 94),
    "db": (81,),
    "cache": (81, 84, 85),
    "queue": (81, 84),
    OUTSIDE: (53,),
}
"""Where an aim may arrive, by node."""


class Coming(NamedTuple):
    """TCP connections from a node to a node, and the node and port that answer."""

    source: str
    to: str
    port: int
    server: str
    listening: int
    may: May


COMINGS = (Coming(OUTSIDE, HOST, 8086, "cache", 86, May.SOMETIMES),)


class Call(NamedTuple):
    """What is established from a node to a node, and the node and port that answer."""

    protocol: Literal["tcp", "udp"]
    source: str
    to: str
    port: int
    server: str
    listening: int
    translated: bool


CALLS = (
    Call("tcp", OUTSIDE, HOST, 8080, "web", 80, translated=True),
    Call("udp", OUTSIDE, HOST, 8091, "web", 91, translated=True),
    Call("tcp", "web", OUTSIDE, 53, OUTSIDE, 53, translated=True),
    Call("udp", "web", OUTSIDE, 54, OUTSIDE, 54, translated=True),
    Call("tcp", OUTSIDE, "api", 90, "api", 90, translated=False),
    Call("udp", OUTSIDE, "api", 92, "api", 92, translated=False),
    Call("tcp", "web", "worker", 81, "worker", 81, translated=False),
    Call("udp", HOST, "web", 93, "web", 93, translated=False),
)


class Wishes(NamedTuple):
    """Who sends what."""

    aims: tuple[Aim, ...]
    comings: tuple[Coming, ...]
    calls: tuple[Call, ...]


ALL = Wishes(AIMS, COMINGS, CALLS)


class Ends(Enum):
    """Whether a shot passes at the ends of a change."""

    CLOSED = "closed at both ends"
    DIFFERENT = "open at one end"
    OPEN = "open at both ends"


@dataclass
class Ledger:
    """What was sent and what passed during all changes so far; a leak is a line for people.

    `revoked` counts flows that were established when a change took their permission away, and
    `afterwards` what they sent right after it.
    """

    sent: Counter[Ends] = field(default_factory=Counter[Ends])
    passed: Counter[Ends] = field(default_factory=Counter[Ends])
    leaks: list[str] = field(default_factory=list[str])
    revoked: Counter[str] = field(default_factory=Counter[str])
    afterwards: Count = field(default_factory=lambda: Count(0, 0))

    def enter(self, shot: str, count: Count, ends: Ends, change: str) -> None:
        """What came of one shot during one change."""
        self.sent[ends] += count.sent
        self.passed[ends] += count.arrived
        if ends is Ends.CLOSED and count.arrived:
            self.leaks.append(f"{shot}: {count.arrived} of {count.sent} during {change}")

    def revoke(self, shot: str, rest: Count) -> None:
        """A flow that was established has lost its permission; what came of it at rest."""
        self.revoked[shot] += 1
        self.afterwards = Count(
            self.afterwards.sent + rest.sent, self.afterwards.arrived + rest.arrived
        )

    def account(self) -> str:
        """The numbers, for people."""
        passed = [f"{e.value} {self.passed[e]:,} of {self.sent[e]:,} passed" for e in Ends]
        then = f"{self.afterwards.arrived:,} of {self.afterwards.sent:,} passed"
        return "; ".join([*passed, f"{self.revoked.total()} established were revoked, then {then}"])


class Place:
    """A laboratory in a storm, with an engine to change its rules."""

    def __init__(
        self,
        lab: Laboratory,
        target: Target,
        backend: str,
        wishes: Wishes,
    ) -> None:
        self.lab = lab
        self.state = target.state_directory
        self._target = target
        self._backend = backend
        self.engine = Engine(target, choose(backend, target).backend)
        both = [(aim, family) for aim in wishes.aims for family in _families(aim)]
        visits = {self._visit(c, family): c.may for c in wishes.comings for family in Family}
        self.may = {_name(aim, family): aim.may for aim, family in both}
        self.may |= {visit.name: may for visit, may in visits.items()}
        self.lasting = {_name(aim, family) for aim, family in both if aim.steady}
        self.lasting |= {visit.name for visit in visits}
        traffic = Traffic(
            tuple(self._shot(aim, family) for aim, family in both),
            tuple(visits),
            tuple(self._echo(call, family) for call in wishes.calls for family in Family),
            tuple((lab.namespace(node), port) for node, ports in _EARS.items() for port in ports),
        )
        self.storm = Storm(traffic)
        self.ledger = Ledger()
        self.passing: dict[str, frozenset[str]] = {}

    @property
    def name(self) -> str:
        """The backend, and its layout if it has a choice of them."""
        layout = self._target.layout
        return self._backend if layout is None else f"{self._backend} in {layout} layout"

    def apply(self, declaration: str) -> None:
        """What the command does, in this process."""
        self.engine.apply(DECLARATIONS[declaration])

    def command(self, file: Path) -> list[str]:
        """The command itself."""
        options = ["--netns", self.lab.netns, "--state-dir", str(self.state)]
        options += ["--backend", self._backend]
        if self._target.layout is not None:
            options += ["--iptables-layout", self._target.layout]
        return [sys.executable, "-m", "nftbridge", "apply", str(file), *options]

    def look_around(self) -> None:
        """Apply each declaration and see what passes while nothing changes."""
        for name in DECLARATIONS:
            self.apply(name)
            self.storm.settle()
            before = self.storm.counts()
            time.sleep(_LOOK)
            self.storm.settle(rounds=20)
            after = self.storm.counts()
            arrived = (n for n in self.may if after[n].arrived > before[n].arrived)
            self.passing[name] = frozenset(arrived)

    def mistaken(self) -> dict[str, May]:
        """The shots that were seen to pass at rest otherwise than it is written, and how."""
        seen = {shot: self._seen(shot) for shot in self.may}
        return {shot: may for shot, may in seen.items() if may is not self.may[shot]}

    def _seen(self, shot: str) -> May:
        number = sum(shot in passing for passing in self.passing.values())
        return May.ALWAYS if number == len(self.passing) else May.SOMETIMES if number else May.NEVER

    def change(self, here: str, there: str, do: Callable[[], DoneT]) -> DoneT:
        """Do something that leads from one declaration to another, and enter what passed.

        That is what passed meanwhile, and what was sent when it had been done.
        """
        before = self.storm.counts()
        done = do()
        self.storm.settle()
        after = self.storm.counts()
        self.storm.settle()
        at_rest = self.storm.counts()
        change = f"{here} -> {there}"
        for shot in self.may:
            count, rest = after[shot].since(before[shot]), at_rest[shot].since(after[shot])
            self.ledger.enter(shot, count, self._ends(shot, here, there), change)
            self.ledger.enter(shot, rest, self._ends(shot, there), f"the rest after {change}")
            gone = shot in self.passing[here] and shot not in self.passing[there]
            if gone and count.arrived and shot in self.lasting:
                self.ledger.revoke(shot, rest)
        return done

    def _ends(self, shot: str, *declarations: str) -> Ends:
        passes = [shot in self.passing[declaration] for declaration in declarations]
        return Ends.OPEN if all(passes) else Ends.DIFFERENT if any(passes) else Ends.CLOSED

    def lost(self, *, shots: bool = True) -> list[str]:
        """What did not arrive since the start: of echoes, and of `shots` that always may pass."""
        counts = self.storm.counts()
        always = [shot for shot, may in self.may.items() if shots and may is May.ALWAYS]
        names = [*always, *(echo.name for echo in self.storm.echoes)]
        return [f"{name}: {c.lost} of {c.sent}" for name in names if (c := counts[name]).lost]

    def account(self) -> str:
        """All numbers, for people."""
        counts = self.storm.counts()
        echoes = [counts[echo.name] for echo in self.storm.echoes]
        sent, returned = sum(e.sent for e in echoes), sum(e.arrived for e in echoes)
        return (
            f"new flows {self.ledger.account()}; established {returned:,} of {sent:,} messages"
            f" came back, {self.storm.repeated} TCP segments sent again"
        )

    def _shot(self, aim: Aim, family: Family) -> Shot:
        return Shot(
            _name(aim, family),
            self.lab.namespace(aim.source),
            self.lab.address(aim.sender or aim.source, family),
            self._address(aim.to, family),
            aim.port,
            aim.steady,
        )

    def _visit(self, coming: Coming, family: Family) -> Visit:
        return Visit(
            f"tcp {coming.source} -> {coming.to} {coming.port} {family.label}",
            self.lab.namespace(coming.source),
            self._address(coming.to, family),
            coming.port,
            self.lab.namespace(coming.server),
            coming.listening,
        )

    def _echo(self, call: Call, family: Family) -> Echo:
        return Echo(
            f"{call.protocol} {call.source} -> {call.to} {call.port} {family.label}",
            call.protocol,
            self.lab.namespace(call.source),
            self._address(call.to, family),
            call.port,
            self.lab.namespace(call.server),
            call.listening,
        )

    def _address(self, node: str, family: Family) -> Address:
        return self.lab.address(node, family) if node in self.lab.nodes else ip_address(node)


@contextmanager
def storm_site(
    folder: Path,
    backend: str = "nftables",
    layout: str | None = None,
    wishes: Wishes = ALL,
) -> Generator[Place]:
    """The laboratory, the first declaration applied, and the storm blowing."""
    plain = DECLARATIONS["plain"]
    nodes = (HOST, OUTSIDE, NEIGHBOUR, *(c.name for n in plain.networks for c in n.containers))
    silent = dict[str, tuple[int, ...]].fromkeys(nodes, ())  # it is the storm that answers
    with Laboratory(plain, loopback_links=("loopback0",), ports=silent) as lab:
        _forget_soon(lab.netns)
        target = Target(netns=lab.netns, state_directory=folder / "state", layout=layout)
        place = Place(lab, target, backend, wishes)
        place.apply("plain")
        with place.storm:
            yield place


def _families(aim: Aim) -> Iterable[Family]:
    """IPv4 alone for an address written out: no kernel forwards to ::1."""
    return (Family.IPV4,) if aim.to == "127.0.0.1" else Family


def _name(aim: Aim, family: Family) -> str:
    sender = f" as {aim.sender}" if aim.sender else ""
    kept = "established " if aim.steady else ""
    return f"{kept}{aim.source}{sender} -> {aim.to} {aim.port} {family.label}"


def _forget_soon(namespace: str) -> None:
    """Let conntrack forget flows without an answer after a second: their ports come up again."""
    with netns.inside(namespace):
        Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("1")
