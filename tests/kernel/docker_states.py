"""What Docker 28.5.2 programmed, with the host that it was for, and probes under either's rules.

The states are data beside the checkout: the capture of a daemon, as its API and iptables-save told
it, and the golden states of Docker's own tests, one per combination of options.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any

from nftbridge.lab import HOST, Outcome, Probe, Reply
from nftbridge.model import (
    Address,
    Container,
    Family,
    GatewayMode,
    Host,
    Network,
    Protocol,
    Publication,
)
from tests.golden.docker import Golden, goldens
from tests.kernel.hosts import Site, batched, every_probe

CAPTURE = Path(__file__).parents[3] / "shared" / "captures" / "docker-28.5.2-proxy"
RESTORE = {Family.IPV4: "iptables-nft-restore", Family.IPV6: "ip6tables-nft-restore"}

_DRIVER = "com.docker.network.bridge."
_SNAT = "com.docker.network.host_ipv"
_MIRRORED = ",wsl2mirrored=true"

QUICK = 0.06
"""Seconds to wait where a difference is not believed before it was asked for again."""

_AT_A_TIME = 5000
"""More would overflow a raw socket's buffer, and look dropped."""


@dataclass(frozen=True, slots=True)
class State:
    """A host and what Docker programmed for it, as iptables-save prints it, per family."""

    name: str
    host: Host
    rules: Mapping[Family, str]

    def edited(self, family: Family, old: str, new: str) -> State:
        """The same with one passage of one family's text changed; it must be there just once."""
        text = self.rules[family]
        if text.count(old) != 1:
            raise ValueError(f"{text.count(old)} times in {self.name}, {family.label}: {old}")
        return replace(self, rules={**self.rules, family: text.replace(old, new)})


@dataclass(frozen=True, slots=True)
class Fate:
    """What a packet meets: the answer, whose it is, where it arrived and whom the answerer saw."""

    reply: Reply
    answered_by: str | None
    answered_port: int | None
    seen_source: Address | None

    @classmethod
    def of(cls, outcome: Outcome) -> Fate:
        answerer = outcome.answered_by, outcome.answered_port, outcome.seen_source
        return cls(outcome.reply, *answerer)

    def __str__(self) -> str:
        by = f" by {self.answered_by}:{self.answered_port}" if self.answered_by else ""
        seen = f", which saw {self.seen_source}" if self.seen_source else ""
        return f"{self.reply.value}{by}{seen}"


@dataclass(frozen=True, slots=True)
class Difference:
    """One probe's fate under Docker's rules and under ours."""

    docker: Fate
    ours: Fate

    def __str__(self) -> str:
        return f"Docker: {self.docker}; nftbridge: {self.ours}"


def everything(place: Site) -> Iterator[Probe]:
    """Every probe, and those of the host's uplink to the host's addresses on ``lo`` as well."""
    elsewhere = [interface.ip for interface in place.lab.topology.host.addresses]
    uplink = {place.lab.address(HOST, family) for family in Family}
    for probe in every_probe(place):
        yield probe
        if probe.destination in uplink:
            same = (a for a in elsewhere if a.version == probe.destination.version)
            yield from (replace(probe, destination=address) for address in same)


def differences(place: Site, state: State, probes: Sequence[Probe]) -> dict[Probe, Difference]:
    """The probes that fare differently, asked twice: once all quickly, then those with patience."""
    found = _compared(place, state, probes, QUICK)
    return _compared(place, state, list(found), None) if found else {}


def _compared(
    place: Site, state: State, probes: Sequence[Probe], timeout: float | None
) -> dict[Probe, Difference]:
    with docker(place, state.rules):
        theirs = fates(place, probes, timeout)
    with nftbridge(place, state.host):
        ours = fates(place, probes, timeout)
    return different(theirs, ours)


def different(theirs: Mapping[Probe, Fate], ours: Mapping[Probe, Fate]) -> dict[Probe, Difference]:
    """The probes of `theirs` whose fate is another one in `ours`."""
    pairs = ((probe, Difference(fate, ours[probe])) for probe, fate in theirs.items())
    return {probe: pair for probe, pair in pairs if pair.docker != pair.ours}


def fates(place: Site, probes: Sequence[Probe], timeout: float | None = None) -> dict[Probe, Fate]:
    """What becomes of each probe under the rules that are loaded."""
    outcomes = (
        outcome
        for some in batched(probes, _AT_A_TIME)
        for outcome in place.lab.probe_all(some, timeout=timeout)
    )
    return {outcome.probe: Fate.of(outcome) for outcome in outcomes}


@contextmanager
def docker(place: Site, rules: Mapping[Family, str]) -> Generator[None]:
    """Docker's rules in the laboratory's host, and nothing else."""
    with _alone(place):
        for family, text in rules.items():
            _run(place, RESTORE[family], given=text)
        yield


@contextmanager
def nftbridge(place: Site, host: Host) -> Generator[None]:
    """Our rules for `host` in the laboratory's host, and nothing else."""
    with _alone(place):
        place.engine.apply(host)
        try:
            yield
        finally:
            place.engine.remove(everything=True)


@contextmanager
def _alone(place: Site) -> Generator[None]:
    """Without flows that were translated by others' rules, and without rules afterwards."""
    _run(place, "conntrack", "--flush")
    try:
        yield
    finally:
        if left := _run(place, "nft", "flush ruleset; list ruleset"):
            raise RuntimeError(f"rules that cannot be removed:\n{left}")


def _run(place: Site, *command: str, given: str = "") -> str:
    words = ["nsenter", f"--net=/run/netns/{place.lab.netns}", *command]
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def golden_states() -> list[State]:
    """Every golden state once, with both families where a combination has both.

    WSL2 concerns IPv4 only and its files exist for that family only, so the IPv6 of a combination
    goes with either of its IPv4 states.
    """
    found: list[State] = []
    waiting = {_combination(g): g for g in goldens() if g.family is Family.IPV6}
    for golden in goldens():
        if golden.family is Family.IPV4:
            other = waiting.pop(_combination(golden), None)
            found.append(_state(golden, *([other] if other else [])))
    return found + [_state(golden) for golden in waiting.values()]


def _combination(golden: Golden) -> str:
    return golden.path.stem.split("__")[0].replace(_MIRRORED, "")


def _state(first: Golden, *more: Golden) -> State:
    """A state of one file, or of two that are for one host but for WSL2."""
    name = first.path.stem.split("__")[0]
    for golden in more:
        if golden.host != replace(first.host, wsl2_mirrored=False):
            raise ValueError(f"{name}: these are not the two families of one host")
    return State(name, first.host, {g.family: g.text() for g in (first, *more)})


def two_networks() -> State:
    """Two networks without a proxy, by the reference: what the order of creation decides.

    No capture shows it. The network created later leaves with an address of its own, and its lines
    in POSTROUTING stand above those of the earlier one.
    """
    early = Network(
        "early",
        "br-early",
        (IPv4Network("172.30.0.0/24"),),
        containers=(Container("e", IPv4Address("172.30.0.2"), None, (Publication(80, 8080),)),),
    )
    late = Network(
        "late",
        "br-late",
        (IPv4Network("172.31.0.0/24"),),
        host_ipv4=IPv4Address("10.99.0.2"),
        containers=(Container("l", IPv4Address("172.31.0.2"), None, (Publication(80, 8081),)),),
    )
    return State("two", Host((early, late), userland_proxy=False), {Family.IPV4: _TWO_NETWORKS})


_TWO_NETWORKS = """\
*raw
-A PREROUTING -d 172.30.0.2/32 ! -i br-early -j DROP
-A PREROUTING -d 172.31.0.2/32 ! -i br-late -j DROP
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
-A FORWARD -j DOCKER-FORWARD
-A DOCKER -d 172.31.0.2/32 ! -i br-late -o br-late -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 172.30.0.2/32 ! -i br-early -o br-early -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER ! -i br-early -o br-early -j DROP
-A DOCKER ! -i br-late -o br-late -j DROP
-A DOCKER-BRIDGE -o br-early -j DOCKER
-A DOCKER-BRIDGE -o br-late -j DOCKER
-A DOCKER-CT -o br-early -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-CT -o br-late -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i br-early -j ACCEPT
-A DOCKER-FORWARD -i br-late -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-early ! -o br-early -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -i br-late ! -o br-late -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o br-late -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o br-early -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -o br-late -m addrtype --src-type LOCAL -j SNAT --to-source 10.99.0.2
-A POSTROUTING -s 172.31.0.0/24 ! -o br-late -j SNAT --to-source 10.99.0.2
-A POSTROUTING -o br-early -m addrtype --src-type LOCAL -j MASQUERADE
-A POSTROUTING -s 172.30.0.0/24 ! -o br-early -j MASQUERADE
-A POSTROUTING -s 172.30.0.2/32 -d 172.30.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A POSTROUTING -s 172.31.0.2/32 -d 172.31.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.30.0.2:80
-A DOCKER -p tcp -m tcp --dport 8081 -j DNAT --to-destination 172.31.0.2:80
COMMIT
"""


def captured() -> State:
    """The daemon's host; every network and container as its API shows them."""
    containers = {item["Name"].removeprefix("/"): item for item in _listed("containers.json")}
    bridges = [item for item in _listed("networks.json") if item["Driver"] == "bridge"]
    networks = (_network(item, containers) for item in sorted(bridges, key=_created))
    rules = {
        Family.IPV4: (CAPTURE / "iptables-save").read_text(),
        Family.IPV6: (CAPTURE / "ip6tables-save").read_text(),
    }
    return State(CAPTURE.name, Host(tuple(networks)), rules)


def _listed(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((CAPTURE / name).read_text())
    return found


def _created(item: Mapping[str, Any]) -> str:
    return str(item["Created"])


def _network(item: Mapping[str, Any], containers: Mapping[str, Any]) -> Network:
    options: Mapping[str, str] = item["Options"]
    internal: bool = item["Internal"]
    names = sorted(end["Name"] for end in item["Containers"].values())
    members = {end["Name"]: end for end in item["Containers"].values()}
    host_ipv4, host_ipv6 = options.get(f"{_SNAT}4"), options.get(f"{_SNAT}6")
    return Network(
        item["Name"],
        options[f"{_DRIVER}name"],
        tuple(ip_network(config["Subnet"]) for config in item["IPAM"]["Config"]),
        internal=internal,
        icc=options.get(f"{_DRIVER}enable_icc") != "false",
        masquerade=options.get(f"{_DRIVER}enable_ip_masquerade") != "false",
        gateway_mode_ipv4=GatewayMode(options.get(f"{_DRIVER}gateway_mode_ipv4", "nat")),
        gateway_mode_ipv6=GatewayMode(options.get(f"{_DRIVER}gateway_mode_ipv6", "nat")),
        host_ipv4=IPv4Address(host_ipv4) if host_ipv4 else None,
        host_ipv6=IPv6Address(host_ipv6) if host_ipv6 else None,
        containers=tuple(
            _container(members[name], {} if internal else _bindings(containers[name]))
            for name in names
        ),
    )


def _bindings(item: Mapping[str, Any]) -> Mapping[str, Collection[Mapping[str, str]]]:
    bindings: Mapping[str, Collection[Mapping[str, str]]] = item["HostConfig"]["PortBindings"]
    return bindings


def _container(
    end: Mapping[str, str], bindings: Mapping[str, Collection[Mapping[str, str]]]
) -> Container:
    addresses = [ip_interface(end[key]).ip for key in ("IPv4Address", "IPv6Address") if end[key]]
    return Container(
        end["Name"],
        next((a for a in addresses if isinstance(a, IPv4Address)), None),
        next((a for a in addresses if isinstance(a, IPv6Address)), None),
        tuple(_publications(bindings)),
    )


def _publications(
    bindings: Mapping[str, Collection[Mapping[str, str]]],
) -> Iterator[Publication]:
    for inside, outsides in bindings.items():
        port, protocol = inside.split("/")
        for outside in outsides:
            yield Publication(
                int(port),
                int(outside["HostPort"]) if outside["HostPort"] else None,
                ip_address(outside["HostIp"]) if outside["HostIp"] else None,
                Protocol(protocol),
            )
