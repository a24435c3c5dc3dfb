"""Real packets through both backends in turn, on one laboratory host."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TypeAlias

from nftbridge import config
from nftbridge.backend import Backend
from nftbridge.choice import Target, choose
from nftbridge.compat.backend import IptablesBackend
from nftbridge.compat.tools import Tools
from nftbridge.compat.tree import DOCKER
from nftbridge.engine import Engine
from nftbridge.lab import HOST, Laboratory, Outcome, Probe
from nftbridge.lab.forecast import Forecast
from nftbridge.model import Host
from tests.equivalence.compare import FINEST
from tests.equivalence.models import LOOPBACK_LINK, UPLINKS
from tests.kernel.hosts import Site, batched, containers, every_probe

BACKENDS = ("nftables", "iptables", "iptables tree")

_BATCH = 5000  # more at a time than a raw socket's buffer holds would be lost, and look dropped
_SECOND_TIME = 2.0  # seconds
_HOST_SERVICE = 22

Arrival: TypeAlias = tuple[bool, str | None, str, int | None]
"""Whether the probe was answered, by which node, which source that saw, and on which port."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one host's probes on both backends."""

    host: Host
    possible: int
    probes: int
    passed: int
    dropped: int
    disagreements: tuple[str, ...]

    def account(self) -> str:
        """The disagreements, with the host as a file that shows them."""
        file = json.dumps(config.host_to_data(self.host), indent=1)
        return "\n".join((*self.disagreements[:20], "on this host (a host file, JSON):", file))


def trial(host: Host, most: int, random: Random, backends: Sequence[str] = BACKENDS) -> Trial:
    """Build `host`, send at most `most` probes under each backend, compare with the forecast.

    The host's own services answer on every published port, as the userland proxy would.
    """
    services = {HOST: (_HOST_SERVICE, *_host_ports(host))}
    loopback = (LOOPBACK_LINK,)
    with (
        TemporaryDirectory() as state,
        Laboratory(host, uplinks=UPLINKS, loopback_links=loopback, ports=services) as lab,
    ):
        target = Target(netns=lab.netns, state_directory=Path(state))
        engines = {name: Engine(target, _backend(name, target)) for name in backends}
        place = Site(host, lab, target, next(iter(engines.values())))
        everything = list(every_probe(place))
        probes = chosen(host, everything, most, random)
        expected = [place.forecaster.expect(probe) for probe in probes]
        found = {name: _asked_under(e, place, probes, expected) for name, e in engines.items()}
    return _compared(host, len(everything), probes, expected, found)


def _asked_under(
    engine: Engine, place: Site, probes: Sequence[Probe], expected: Sequence[Forecast]
) -> list[Outcome]:
    """The outcomes with this backend in force, and nothing of the one before it.

    What another backend let through must not open the way: known connections are forgotten.
    """
    engine.apply(place.host)
    forget = ["ip", "netns", "exec", place.lab.netns, "conntrack", "-F"]
    subprocess.run(forget, check=True, capture_output=True)
    return _asked(place.lab, probes, expected)


def chosen(host: Host, probes: Sequence[Probe], most: int, random: Random) -> list[Probe]:
    """At most `most` of them: half for what is published and for ICMP, half for all the rest."""
    if len(probes) <= most:
        return list(probes)
    published = {
        (p.protocol.value, port)
        for container in containers(host)
        for p in container.publish
        for port in (p.container_port, p.host_port)
    }
    sharp = [p for p in probes if p.protocol == "icmp" or (p.protocol, p.port) in published]
    rest = [p for p in probes if not (p.protocol == "icmp" or (p.protocol, p.port) in published)]
    half = min(len(sharp), max(most // 2, most - len(rest)))
    return random.sample(sharp, half) + random.sample(rest, min(len(rest), most - half))


def _backend(name: str, target: Target) -> Backend:
    layouts = {"iptables": DOCKER, "iptables tree": FINEST}
    if name in layouts:
        return IptablesBackend(Tools(netns=target.netns), layouts[name])
    return choose(name, target).backend


def _host_ports(host: Host) -> list[int]:
    found: set[int] = set()
    for container in containers(host):
        for publication in container.publish:
            if publication.host_port is not None:
                first = publication.host_port
                found.update((first, first + publication.count - 1))
    return sorted(found)


def _asked(lab: Laboratory, probes: Sequence[Probe], expected: Sequence[Forecast]) -> list[Outcome]:
    """All outcomes. What should have been answered and was not is asked once more.

    A busy machine loses packets. The other way round there is no excuse.
    """
    outcomes = [o for some in batched(probes, _BATCH) for o in lab.probe_all(some)]
    lost = [i for i, o in enumerate(outcomes) if expected[i].reached and not o.reached]
    again = lab.probe_all([probes[i] for i in lost], timeout=_SECOND_TIME) if lost else []
    for i, outcome in zip(lost, again, strict=True):
        outcomes[i] = outcome
    return outcomes


def _compared(
    host: Host,
    possible: int,
    probes: Sequence[Probe],
    expected: Sequence[Forecast],
    found: dict[str, list[Outcome]],
) -> Trial:
    wrong: list[str] = []
    for i, (probe, forecast) in enumerate(zip(probes, expected, strict=True)):
        said = {name: outcomes[i] for name, outcomes in found.items()}
        wrong += (
            f"{name}, {probe}: {problem}"
            for name, o in said.items()
            if (problem := _problem(forecast, o))
        )
        arrivals = {name: _arrival(outcome) for name, outcome in said.items()}
        if len(set(arrivals.values())) > 1:
            wrong.append(f"{probe}: the backends differ: {arrivals}")
    outcomes = [outcome for each in found.values() for outcome in each]
    passed = sum(outcome.reached for outcome in outcomes)
    return Trial(host, possible, len(probes), passed, len(outcomes) - passed, tuple(wrong))


def _problem(forecast: Forecast, outcome: Outcome) -> str:
    """How the outcome is not what was forecast; empty if it is."""
    if outcome.reached != forecast.reached:
        wanted = "an answer" if forecast.reached else "none"
        return f"{outcome.reply.value}, expected {wanted} ({forecast.decided})"
    end = forecast.there and forecast.there.end
    if outcome.answered_port is not None and end and outcome.answered_port != end.dport:
        return f"arrived at port {outcome.answered_port}, expected {end.dport}"
    return ""


def _arrival(outcome: Outcome) -> Arrival:
    source = "" if outcome.seen_source is None else str(outcome.seen_source)
    return outcome.reached, outcome.answered_by, source, outcome.answered_port
