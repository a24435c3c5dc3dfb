"""Marks and snippets with real packets: another firewall drops, and our lines in it mend that."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest

from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory, Probe
from nftbridge.model import (
    Container,
    Family,
    GatewayMode,
    Host,
    Mark,
    Network,
    Priorities,
    Publication,
)
from nftbridge.snippet import lines

pytestmark = pytest.mark.kernel

ACCEPT, TRUST = Mark(0x1000, 0x3000), Mark(0x4000, 0x4000)
FRONT = Network(
    "front",
    "br-front",
    (ip_network("172.20.0.0/24"), ip_network("fd00:20::/64")),
    containers=(
        Container(
            "web",
            IPv4Address("172.20.0.2"),
            IPv6Address("fd00:20::2"),
            (Publication(80, 8080),),
        ),
    ),
)
ROUTED = Network(
    "routed",
    "br-routed",
    (ip_network("172.21.0.0/24"), ip_network("fd00:21::/64")),
    gateway_mode_ipv4=GatewayMode.ROUTED,
    gateway_mode_ipv6=GatewayMode.ROUTED,
    containers=(
        Container("site", IPv4Address("172.21.0.2"), IPv6Address("fd00:21::2"), (Publication(80),)),
    ),
)
PLAIN = Host((FRONT, ROUTED))
MARKING = replace(PLAIN, accept_mark=ACCEPT)
TRUSTING = replace(PLAIN, accept_mark=ACCEPT, trust_mark=TRUST)
EARLY = Priorities(forward=-5)

# Somebody's bit beside ours, and one of our mask's that has to go: only 0x41000 may come out of it.
EXACTLY = """
table inet theirs {
    chain early {
        type filter hook prerouting priority -150; policy accept;
        meta mark set meta mark | 0x00042000
    }
    chain forward {
        type filter hook forward priority 10; policy drop;
        meta mark 0x00041000 accept
    }
}
"""
TRUSTED_PORT = """
table inet theirs {
    chain early {
        type filter hook prerouting priority -150; policy accept;
        tcp dport 81 meta mark set meta mark | 0x00004001
    }
}
"""
DROPPING = """
table inet filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """The laboratory and the engine of one backend in it."""

    lab: Laboratory
    engine: Engine

    def run(self, *command: str, script: str | None = None) -> None:
        """Run a program where the host is."""
        enter = ["nsenter", f"--net=/run/netns/{self.lab.netns}"]
        subprocess.run([*enter, *command], input=script, text=True, check=True, capture_output=True)

    def passing(self, *probes: tuple[str, str, int]) -> list[bool]:
        """Which of these are answered, in both families each: source, target, port."""
        asked = [
            Probe(source, self.lab.address(target, family), "tcp", port)
            for source, target, port in probes
            for family in Family
        ]
        return [outcome.reached for outcome in self.lab.probe_all(asked)]


@contextmanager
def place(tmp_path: Path, backend: str = "nftables") -> Generator[Place]:
    with Laboratory(PLAIN) as lab:
        target = Target(netns=lab.netns, state_directory=tmp_path)
        yield Place(lab, Engine(target, choose(backend, target).backend))


PUBLISHED, OPENED = (OUTSIDE, HOST, 8080), (OUTSIDE, "site", 80)
LEAVING, UNOPENED, ISOLATED = ("web", OUTSIDE, 443), (OUTSIDE, "site", 81), ("web", "site", 81)
ALLOWED = (PUBLISHED, OPENED, LEAVING)
YES, NO = [True, True], [False, False]


@pytest.mark.parametrize("backend", ["nftables", "iptables", "iptables-nft"])
def test_what_is_accepted_is_marked_and_other_bits_survive(backend: str, tmp_path: Path) -> None:
    with place(tmp_path, backend) as here:
        here.run("nft", "-f", "-", script=EXACTLY)
        here.engine.apply(PLAIN)
        assert here.passing(*ALLOWED) == NO * 3
        here.engine.apply(MARKING)
        assert here.passing(*ALLOWED) == YES * 3
        assert here.passing(UNOPENED, ISOLATED) == NO * 2


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_established_connections_are_marked_too(backend: str, tmp_path: Path) -> None:
    with place(tmp_path, backend) as here:
        here.engine.apply(MARKING)
        held = [
            here.lab.connect(source, here.lab.address(target, family), port)
            for source, target, port in ALLOWED
            for family in Family
        ]
        here.run("nft", "-f", "-", script=EXACTLY)
        assert all(connection.alive() for connection in held)
        here.engine.apply(PLAIN)
        assert not any(connection.alive() for connection in held)


@pytest.mark.parametrize("backend", ["nftables", "iptables", "iptables-nft"])
def test_a_trusted_mark_opens_a_door_but_not_against_the_administrator(
    backend: str, tmp_path: Path
) -> None:
    with place(tmp_path, backend) as here:
        here.run("nft", "-f", "-", script=TRUSTED_PORT)
        here.engine.apply(MARKING)
        assert here.passing(UNOPENED, ISOLATED) == NO * 2
        here.engine.apply(TRUSTING)
        assert here.passing(UNOPENED, ISOLATED, PUBLISHED) == YES * 3
        # past DNAT is dropped in raw, before anybody can have trusted it
        assert here.passing((OUTSIDE, "web", 81)) == NO
        _drop_in_docker_user(here, backend)
        assert here.passing(UNOPENED, ISOLATED) == NO * 2


def _drop_in_docker_user(here: Place, backend: str) -> None:
    if backend == "nftables":
        here.run("nft", "add rule inet nftbridge DOCKER-USER tcp dport 81 drop")
        return
    variant = "nft" if backend == "iptables-nft" else "legacy"
    for program in ("iptables", "ip6tables"):
        rule = ["-A", "DOCKER-USER", "-p", "tcp", "--dport", "81", "-j", "DROP"]
        here.run(f"{program}-{variant}", *rule)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_a_change_of_marks_is_one_apply_and_verify_tells_them_apart(
    backend: str, tmp_path: Path
) -> None:
    with place(tmp_path, backend) as here:
        hosts = (PLAIN, MARKING, TRUSTING, replace(TRUSTING, accept_mark=None), PLAIN)
        for before, host in zip((None, *hosts), hosts, strict=False):
            assert here.engine.plan(host).install or before == host
            here.engine.apply(host)
            assert not here.engine.verify()
            assert not here.engine.plan(host)


MARKED, BARE = replace(MARKING, priorities=EARLY), replace(PLAIN, priorities=EARLY)


@pytest.fixture(params=(MARKED, BARE), ids=("mark", "interface"))
def host(request: pytest.FixtureRequest) -> Host:
    wanted = request.param
    assert isinstance(wanted, Host)
    return wanted


def printed(host: Host, firewall: str) -> str:
    return "\n".join(lines(host, firewall)) + "\n"


def test_the_lines_for_nft_mend_a_chain_that_drops(host: Host, tmp_path: Path) -> None:
    with place(tmp_path) as here:
        here.engine.apply(host)
        here.run("nft", "-f", "-", script=DROPPING)
        _mended(here, lambda: here.run("nft", "-f", "-", script=printed(host, "nft")))


def test_the_lines_for_ufw_mend_its_policy(host: Host, tmp_path: Path) -> None:
    with place(tmp_path) as here:
        here.engine.apply(host)
        _load_ufw(here, "after", "")
        four, _, six = printed(host, "ufw").partition("# at the end of /etc/ufw/after6.rules")
        _mended(here, lambda: _load_ufw(here, four, six))


_UFW = """*filter
:FORWARD DROP [0:0]
:{0}-after-forward - [0:0]
-A FORWARD -j {0}-after-forward
COMMIT
"""


def _load_ufw(here: Place, four: str, six: str) -> None:
    """As ufw does it: the whole of its file, what is there being kept."""
    for program, prefix, added in (("iptables", "ufw", four), ("ip6tables", "ufw6", six)):
        script = _UFW.format(prefix) if four == "after" else added
        here.run(f"{program}-legacy-restore", "-n", script=script)


@pytest.mark.parametrize("variant", ["legacy", "nft"])
def test_the_lines_for_iptables_mend_its_policy(host: Host, variant: str, tmp_path: Path) -> None:
    with place(tmp_path) as here:
        here.engine.apply(host)
        for program in ("iptables", "ip6tables"):
            here.run(f"{program}-{variant}", "-P", "FORWARD", "DROP")
        programs = tmp_path / "bin"
        programs.mkdir()
        for program in ("iptables", "ip6tables"):
            (programs / program).symlink_to(f"/usr/sbin/{program}-{variant}")
        script = f"set -e\nPATH={programs}:$PATH\n{printed(host, 'iptables')}"
        _mended(here, lambda: here.run("sh", script=script))


def _mended(here: Place, mend: object) -> None:
    """Another firewall drops everything; after `mend` what is allowed passes, and nothing else."""
    assert callable(mend)
    assert here.passing(*ALLOWED) == NO * 3
    mend()
    assert here.passing(*ALLOWED) == YES * 3
    assert here.passing(UNOPENED, ISOLATED) == NO * 2


def test_only_the_mark_keeps_closed_what_nobody_has_looked_at(host: Host, tmp_path: Path) -> None:
    """What the printed comment says of both ways, with our table gone."""
    with place(tmp_path) as here:
        here.engine.apply(host)
        here.run("nft", "-f", "-", script=DROPPING)
        here.run("nft", "-f", "-", script=printed(host, "nft"))
        here.engine.remove(everything=True)
        assert here.passing(UNOPENED) == (NO if host.accept_mark else YES)


def test_priorities_are_where_the_kernel_has_the_chains(tmp_path: Path) -> None:
    """At the ends of what is allowed every rule still does what it should."""
    ends = Priorities(raw=-399, dstnat=-199, forward=-(2**31) + 1, srcnat=2**31 - 1)
    latest = Priorities(raw=-101, dstnat=-100, forward=2**31 - 1, srcnat=-199)
    with place(tmp_path) as here:
        for priorities in (ends, latest, Priorities()):
            here.engine.apply(replace(PLAIN, priorities=priorities))
            assert not here.engine.verify()
            assert here.passing(*ALLOWED) == YES * 3
            assert here.passing(UNOPENED, ISOLATED, (OUTSIDE, "web", 80)) == NO * 3


def test_priorities_are_a_warning_on_iptables(tmp_path: Path) -> None:
    with place(tmp_path, "iptables") as here:
        (problem,) = here.engine.shortcomings(BARE)
        assert "priorities" in problem.where
        assert not here.engine.shortcomings(PLAIN)
