"""A host with Docker's own rules, traffic that goes on while they are exchanged, and what may pass.

A `Site` has a real daemon with containers in four networks. `AIMS` are flows of UDP, each with
whether it may get through, sent both as new flows all the time and as one that lasts; `CALLS` is
what is established. All of it in both families.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from nftbridge import netns
from nftbridge.docker.api import ask
from nftbridge.docker.host import DaemonOptions, host_of
from nftbridge.lab import namespaces
from nftbridge.model import Family, Host
from tests.kernel import docker_nftables
from tests.kernel.docker_daemon import HOST, OUTSIDE, Daemon, daemon
from tests.kernel.storm import Count, Echo, Shot, Storm
from tests.kernel.storm import Traffic as Shots

DoneT = TypeVar("DoneT")

_LOOK = 24
"""Rounds of a storm in which every shot that passes has been fired again."""

WITH_IPV6 = {
    "20.10": ("--ipv6", "--fixed-cidr-v6=fd00:dead::/64", "--experimental", "--ip6tables"),
    "28.5": ("--ipv6", "--fixed-cidr-v6=fd00:dead::/64"),
}

BLOCKED = 8099
"""A published port that a rule of the user's in DOCKER-USER closes."""


class Aim(NamedTuple):
    """Flows of UDP from somebody to somebody's address."""

    source: str
    to: str
    port: int
    may: bool


AIMS = (
    Aim("outside", "host", 8082, may=True),
    Aim("web", "outside", 53, may=True),
    Aim("neighbour", "web", 82, may=True),
    Aim("outside", "web", 82, may=False),  # not published, addressed directly
    Aim("outside", "host", BLOCKED, may=False),
    Aim("outside", "db", 81, may=False),
    Aim("stranger", "web", 82, may=False),  # from another network
    Aim("stranger", "web", 81, may=False),  # though it is published
    Aim("db", "outside", 53, may=False),
    Aim("db", "web", 82, may=False),
    Aim("web", "db", 81, may=False),
)
EARS = {"web": (81, 82, 99), "db": (81,), "outside": (53,)}


class Call(NamedTuple):
    """Something established."""

    protocol: Literal["tcp", "udp"]
    source: str
    to: str
    port: int
    server: str
    listening: int


CALLS = (
    Call("tcp", "outside", "host", 8090, "web", 90),
    Call("udp", "outside", "host", 8091, "web", 91),
    Call("tcp", "web", "outside", 55, "outside", 55),
    Call("udp", "web", "outside", 54, "outside", 54),
    Call("tcp", "neighbour", "web", 92, "web", 92),
)

_PORTS = {
    "80/tcp": ["8080"],
    "81/udp": ["8082"],
    "90/tcp": ["8090"],
    "91/udp": ["8091"],
    "99/udp": [str(BLOCKED)],
}
RULE = f"-p udp -m conntrack --ctorigdstport {BLOCKED} --ctdir ORIGINAL -j DROP"
"""The user's."""

TABLES = "29's tables"
"""No daemon of that release, but one without a firewall and such tables of nftables."""

USERS_FAMILIES = {"20.10": (Family.IPV4,), "28.5": tuple(Family), TABLES: tuple[Family, ...]()}
"""The families in which that Docker has a DOCKER-USER."""


_SAVE = {Family.IPV4: "iptables-{}-save", Family.IPV6: "ip6tables-{}-save"}


def steady(saved: str) -> str:
    """Without dates and counters."""
    lines = (line for line in saved.splitlines() if not line.startswith("#"))
    return "\n".join(li.rpartition(" [")[0] if li.startswith(":") else li for li in lines)


KILLED = """
import os, signal, sys
from nftbridge import cli, engine
from nftbridge.migrate import configuration, kernel, record

left = int(sys.argv[1])

def before(owner, name):
    real = getattr(owner, name)
    def step(*arguments, **named):
        global left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return real(*arguments, **named)
    setattr(owner, name, step)

for owner, names in (
    (kernel.Rules, ("change", "commit", "delete_nft", "load_nft")),
    (record.Store, ("keep", "drop")),
    (engine.Engine, ("apply", "remove")),
    (configuration, ("_replace",)),
):
    for name in names:
        before(owner, name)
sys.exit(cli.main(sys.argv[2:]))
"""
"""The command that dies before one of its steps: all that it changes are steps."""


@dataclass
class Site:
    """The daemon, where everybody is, and what the command is to be told."""

    engine: Daemon
    folder: Path
    release: str
    variant: str
    addresses: dict[tuple[str, Family], str] = field(default_factory=dict[tuple[str, Family], str])
    places: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"migration, Docker {self.release}, iptables-{self.variant}"

    @property
    def daemon_json(self) -> Path:
        """The daemon's configuration file, as far as the command is concerned."""
        return self.folder / "daemon.json"

    def words(self, *words: str) -> list[str]:
        """The command line of a migration, behind the program."""
        return [
            *("migrate", "docker", *words),
            *("--netns", self.engine.netns, "--state-dir", str(self.folder / "state")),
            *("--daemon-json", str(self.daemon_json), "--wait", "200"),
            *(() if "--undo" in words else ("--docker", str(self.engine.socket))),
        ]

    def migrate(self, *words: str, status: int = 0) -> str:
        """Run it; what it says on standard output."""
        command = [sys.executable, "-m", "nftbridge", *self.words(*words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status != 1 else done.stderr

    def killed(self, step: int, *words: str) -> bool:
        """Run it until it is killed before that step, from 0; False if it has fewer steps."""
        command = [sys.executable, "-c", KILLED, str(step), *self.words(*words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0

    def run(self, *command: str, given: str = "") -> str:
        """What a program says inside of the host."""
        place = f"--net={namespaces.DIRECTORY / self.engine.netns}"
        words = ["nsenter", place, *command]
        done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def saved(self) -> dict[str, str]:
        """All rules of iptables, of both kinds and families, without counters and dates."""
        programs = (f"{p}-{v}-save" for p in ("iptables", "ip6tables") for v in ("legacy", "nft"))
        return {program: steady(self.run(program)) for program in programs}

    def proxied(self, rules: Mapping[str, str]) -> set[str]:
        """The shots at published ports that Docker's rules, as `saved` has them, know nothing of.

        ip6tables-legacy 1.8.9 says of many rules that they are there already when Docker asks.
        """
        if self.release == TABLES:
            return set()
        return {
            _name(aim, family, lasting=lasting)
            for aim in AIMS
            for lasting in (False, True)
            for family, program in (_SAVE if aim.to == "host" else {}).items()
            if f"--dport {aim.port} -j DNAT" not in rules[program.format(self.variant)]
        }

    def iptables(self, family: Family, *words: str) -> str:
        """Run the iptables that Docker uses."""
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        return self.run(f"{program}-{self.variant}", *words)

    def storm(self) -> Storm:
        """The traffic; a context."""
        traffic = Shots(
            tuple(
                Shot(
                    _name(aim, family, lasting=lasting),
                    self.places[aim.source],
                    ip_address(self.addresses[aim.source, family]),
                    ip_address(self.addresses[aim.to, family]),
                    aim.port,
                    lasting,
                )
                for aim in AIMS
                for family in Family
                for lasting in (False, True)
            ),
            (),
            tuple(
                Echo(
                    f"{c.protocol} {c.source} -> {c.to} {c.port} {family.label}",
                    c.protocol,
                    self.places[c.source],
                    ip_address(self.addresses[c.to, family]),
                    c.port,
                    self.places[c.server],
                    c.listening,
                )
                for c in CALLS
                for family in Family
            ),
            tuple((self.places[node], port) for node, ports in EARS.items() for port in ports),
        )
        return Storm(traffic)


class Traffic:
    """A storm over changes of the rules: what passed during one though it passes at neither end."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self.leaks: list[str] = []
        self.forbidden = Count(0, 0)
        self.ends = [self._passing()]

    def change(self, do: Callable[[], DoneT]) -> DoneT:
        """Change something, and see what comes through meanwhile and afterwards."""
        before = self._storm.counts()
        done = do()
        self._storm.settle()
        after = self._storm.counts()
        self.ends.append(self._passing())
        for shot in SHOTS:
            if any(shot in end for end in self.ends[-2:]):
                continue
            count = after[shot].since(before[shot])
            sent, arrived = self.forbidden.sent + count.sent, self.forbidden.arrived + count.arrived
            self.forbidden = Count(sent, arrived)
            if count.arrived:
                self.leaks.append(f"{shot}: {count.arrived} of {count.sent}")
        return done

    def broken(self) -> list[str]:
        """When the storm is over: what is established and has lost messages."""
        return self._lost(echo.name for echo in self._storm.echoes)

    def lost(self, site: Site, rules: Mapping[str, str]) -> list[str]:
        """When the storm is over: new flows that did not arrive though they may at all times.

        What Docker's own `rules` do not translate, a proxy serves, which loses some.
        """
        always = set[str](self.ends[0]).intersection(*self.ends) - site.proxied(rules)
        return self._lost(sorted(always))

    def account(self) -> str:
        """All numbers, for people."""
        counts = self._storm.counts()
        echoes = [counts[echo.name] for echo in self._storm.echoes]
        sent, returned = sum(e.sent for e in echoes), sum(e.arrived for e in echoes)
        allowed = [counts[s] for s in set[str](self.ends[0]).intersection(*self.ends)]
        return (
            f"{len(self.ends) - 1} changes: forbidden {self.forbidden.arrived:,} of"
            f" {self.forbidden.sent:,} passed; allowed {sum(a.arrived for a in allowed):,} of"
            f" {sum(a.sent for a in allowed):,} passed; established {returned:,} of {sent:,}"
            f" messages came back, {self._storm.repeated} TCP segments sent again"
        )

    def _lost(self, names: Iterable[str]) -> list[str]:
        counts = self._storm.counts()
        return [f"{name}: {c.lost} of {c.sent}" for name in names if (c := counts[name]).lost]

    def _passing(self) -> frozenset[str]:
        """The shots that arrive while nothing changes."""
        self._storm.settle()
        before = self._storm.counts()
        self._storm.settle(rounds=_LOOK)
        after = self._storm.counts()
        return frozenset(n for n in SHOTS if after[n].arrived > before[n].arrived)


def expected(release: str) -> frozenset[str]:
    """The shots that may pass under our rules: as `AIMS` has it, less what the user closes."""
    closed = USERS_FAMILIES[release]
    return frozenset(
        _name(aim, family, lasting=lasting)
        for aim in AIMS
        for family in Family
        for lasting in (False, True)
        if aim.may or (aim.port == BLOCKED and family not in closed)
    )


def _name(aim: Aim, family: Family, *, lasting: bool) -> str:
    flows = "one flow" if lasting else "new flows"
    return f"{flows} {aim.source} -> {aim.to} {aim.port} {family.label}"


SHOTS = tuple(
    _name(aim, family, lasting=lasting)
    for aim in AIMS
    for family in Family
    for lasting in (False, True)
)
"""The names of all that is sent at the aims."""


@contextmanager
def site(folder: Path, release: str, variant: str, *options: str) -> Generator[Site]:
    """A daemon with containers, and rules of the user's. Raises `NotAvailable`."""
    real, off = (_NEWEST, _OFF) if release == TABLES else (release, ())
    with daemon(real, *WITH_IPV6[real], *off, *options, variant=variant) as engine:
        _furnish(engine)
        found = Site(engine, folder, release, variant)
        _locate(found)
        for place in found.places.values():
            _forget_soon(place)
        if release == TABLES:
            found.run("nft", "-f", "-", given=docker_nftables.tables(_host(engine)))
        for family in USERS_FAMILIES[release]:
            found.iptables(family, "-I", "DOCKER-USER", *RULE.split())
        yield found


_NEWEST = "28.5"
_OFF = ("--iptables=false", "--ip6tables=false")


def _furnish(engine: Daemon) -> None:
    engine.network("front", "172.20.0.0/16", "fd00:20::/64", options={"bridge.name": "br-front"})
    engine.network("other", "172.21.0.0/16", "fd00:21::/64")
    engine.network("inner", "172.23.0.0/16", "fd00:23::/64", internal=True)
    engine.run("web", "front", _PORTS)
    engine.run("neighbour", "front")
    engine.run("stranger", "other", {"80/tcp": ["8070"]})
    engine.run("db", "inner")


def _locate(found: Site) -> None:
    for network in _host(found.engine).networks:
        for container in network.containers:
            found.places[container.name] = found.engine.namespace(container.name)
            for family in Family:
                found.addresses[container.name, family] = str(container.address(family))
    found.places |= {"outside": found.engine.outside, "host": found.engine.netns}
    for family in Family:
        found.addresses["outside", family] = OUTSIDE[family]
        found.addresses["host", family] = HOST[family]


def _host(engine: Daemon) -> Host:
    inspected, _ = ask(str(engine.socket))
    return host_of(inspected, DaemonOptions()).host


def _forget_soon(namespace: str) -> None:
    """Let conntrack forget flows without an answer after a second: their ports come up again."""
    with netns.inside(namespace):
        Path("/proc/sys/net/netfilter/nf_conntrack_udp_timeout").write_text("1")
