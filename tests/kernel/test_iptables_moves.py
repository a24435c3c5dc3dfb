"""Published ports that move from one container to another, by iptables, with real packets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from nftbridge import config
from nftbridge.choice import Target
from nftbridge.compat.tools import Tools
from nftbridge.errors import PartlyAppliedError
from nftbridge.lab import HOST, Laboratory, Probe
from nftbridge.model import Host
from tests.kernel.test_iptables import LATE, SOON, Watched, engine_with, run

pytestmark = pytest.mark.kernel

PORT = 8080
UPLINK = "198.51.100.1"


class Answered(NamedTuple):
    """A probe, who answered it, and on which port."""

    probe: Probe
    node: str
    port: int


def publishing(*, userland_proxy: bool = True, **published: str) -> Host:
    """Containers a and b in one network, c in another; some publish a port, as Docker writes it."""
    places = {"near": {"a": "172.20.0.2", "b": "172.20.0.3"}, "far": {"c": "172.21.0.2"}}
    networks = [
        {
            "name": name,
            "bridge": f"br-{name}",
            "subnets": [f"{next(iter(held.values())).rsplit('.', 1)[0]}.0/24"],
            "container": [
                {"name": c, "ipv4": address, "publish": [published[c]] if c in published else []}
                for c, address in held.items()
            ],
        }
        for name, held in places.items()
    ]
    document = {"version": 1, "host": {"userland_proxy": userland_proxy}, "network": networks}
    return config.load_data(document).host


MOVES = {
    "to a neighbour": (publishing(a="8080:80"), publishing(b="8080:80")),
    "to another network": (publishing(a="8080:80"), publishing(c="8080:80")),
    "to another port": (publishing(a="8080:80"), publishing(a="8080:81")),
    "to one address": (publishing(a="8080:80"), publishing(b=f"{UPLINK}:8080:80")),
    "without proxy": (
        publishing(userland_proxy=False, a="8080:80"),
        publishing(userland_proxy=False, b="8080:80"),
    ),
}


@pytest.mark.parametrize("case", MOVES)
@pytest.mark.parametrize("excepted", [False, True])
def test_nobody_else_answers_while_a_port_moves(
    case: str, *, excepted: bool, tmp_path: Path
) -> None:
    """The host itself listens on the published port; `excepted` packets pass raw before ours."""
    ports = {HOST: (22, PORT), **dict.fromkeys("abc", (80, 81))}
    with Laboratory(MOVES[case][0], uplinks=("eth0", "eth1"), ports=ports) as lab:
        if excepted:
            run(
                lab.netns,
                *["iptables-legacy", "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-j", "ACCEPT"],
            )
        place = Target(netns=lab.netns, state_directory=tmp_path)
        probes = list(every_probe(lab))
        moments: list[set[Answered]] = []
        watched = Watched(netns=lab.netns, after=lambda: moments.append(answered(lab, probes)))
        plain = engine_with(Tools(netns=lab.netns), place)

        def ends(timeout: float) -> list[set[Answered]]:
            found: list[set[Answered]] = []
            for host in MOVES[case]:
                plain.apply(host)
                found.append(answered(lab, probes, timeout))
            return found

        one, other = ends(SOON)
        assert one != other
        allowed = one | other
        for host in MOVES[case]:
            engine_with(watched, place).apply(host)
            assert not plain.verify()
            assert "DOCKER-CHANGING" not in run(lab.netns, "iptables-legacy-save")
        if set[Answered]().union(*moments) - allowed:
            allowed = allowed.union(*ends(LATE))
    assert len(moments) > 6
    for script, moment in zip(watched.done, moments, strict=True):
        extra = sorted(f"{probe} by {node}:{port}" for probe, node, port in moment - allowed)
        assert not extra, f"open after\n{script}\n{extra[:10]}"


def test_what_was_cut_off_while_a_port_moved_is_seen_and_goes(tmp_path: Path) -> None:
    one, other = MOVES["to a neighbour"]
    with Laboratory(one) as lab:
        place = Target(netns=lab.netns, state_directory=tmp_path)
        plain = engine_with(Tools(netns=lab.netns), place)
        before = run(lab.netns, "iptables-legacy-save", "-t", "raw").splitlines()[2:-2]
        plain.apply(one)
        with pytest.raises(PartlyAppliedError):
            engine_with(Watched(netns=lab.netns, fail=2), place).apply(other)
        assert "DOCKER-CHANGING in raw drops what was changing" in str(plain.verify().install)
        assert plain.status().observation.present
        plain.apply(other)
        assert not plain.verify()
        with pytest.raises(PartlyAppliedError):
            engine_with(Watched(netns=lab.netns, fail=2), place).apply(one)
        plain.remove(everything=True)
        assert run(lab.netns, "iptables-legacy-save", "-t", "raw").splitlines()[2:-2] == before


def every_probe(lab: Laboratory) -> list[Probe]:
    """From every node to the port on each of the host's addresses, and past it to containers."""
    own = [a.ip for node in lab.topology.nodes if node.link for a in node.link.addresses]
    bridges = [a.ip for bridge in lab.topology.bridges for a in bridge.addresses]
    inside = [a.ip for node in lab.topology.nodes for a in node.addresses]
    nodes = [node.name for node in lab.topology.all_nodes]
    return [
        *(Probe(node, to, "tcp", PORT) for node in nodes for to in (*own, *bridges)),
        *(Probe(node, to, "tcp", port) for node in nodes for to in inside for port in (80, 81)),
    ]


def answered(lab: Laboratory, probes: list[Probe], timeout: float = SOON) -> set[Answered]:
    """Who answers in time; connection tracking starts anew."""
    run(lab.netns, "sh", "-c", "conntrack -F 2>/dev/null || true")
    return {
        Answered(outcome.probe, outcome.answer.node, outcome.answer.port)
        for outcome in lab.probe_all(probes, timeout=timeout)
        if outcome.answer is not None
    }
