"""``ip_forward`` in [host]: what apply says where the kernel does not forward, and what it does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.lab import Laboratory, Probe
from nftbridge.model import Family
from tests.kernel.deployed import wait_until

pytestmark = pytest.mark.kernel

NETWORKS = """
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
publish = ["8080:80"]
[[network]]
name = "data"
bridge = "br-data"
subnets = ["172.21.0.0/16"]
internal = true
"""
ENABLE = '[host]\nip_forward = "enable"\n'
SWITCHES = {Family.IPV4: "net.ipv4.ip_forward", Family.IPV6: "net.ipv6.conf.all.forwarding"}

# Sent by a router, it says: for 1800 seconds send to me what you have no route for (RFC 4861).
ADVERTISE = """
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0))
"""


class Place:
    """A laboratory whose host does not forward, and apply run on it."""

    def __init__(self, lab: Laboratory, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.lab = lab
        self._folder = folder
        self._capsys = capsys
        for switch in SWITCHES.values():
            self.sh(f"sysctl -qw {switch}=0")

    def sh(self, command: str, node: str = "host") -> str:
        namespace = self.lab.namespace(node)
        words = ["nsenter", f"--net=/run/netns/{namespace}", "sh", "-c", command]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    def apply(self, options: str = "") -> tuple[int, str]:
        """The exit status and what is said on standard error."""
        status, _, said = self.run("apply", self.declare(options))
        return status, said

    def declare(self, options: str) -> str:
        """A host file with these options."""
        file = self._folder / "host.toml"
        file.write_text(f"version = 1\n{options}{NETWORKS}")
        return str(file)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The exit status, and what is said on either output."""
        self._capsys.readouterr()
        where = ["--netns", self.lab.netns, "--state-dir", str(self._folder / "state")]
        status = main([*arguments, *where])
        said = self._capsys.readouterr()
        return status, said.out, said.err

    def forwards(self) -> dict[Family, bool]:
        return {family: self.value(switch) == "1" for family, switch in SWITCHES.items()}

    def value(self, switch: str) -> str:
        return self.sh(f"sysctl -n {switch}").strip()

    def egress(self, family: Family) -> bool:
        to = self.lab.address("outside", family)
        (outcome,) = self.lab.probe_all([Probe("web", to, "tcp", 80)])
        return outcome.reached


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Generator[Place]:
    file = tmp_path / "host.toml"
    file.write_text(f"version = 1\n{NETWORKS}")
    with Laboratory(config.load(str(file)).host) as lab:
        yield Place(lab, tmp_path, capsys)


def test_checked_it_is_said_and_left(place: Place) -> None:
    status, said = place.apply()
    assert status == 0
    for family, switch in SWITCHES.items():
        assert f"the kernel forwards no {family.label}" in said
        assert f"sysctl -w {switch}=1" in said
        assert place.value(switch) == "0"
        assert not place.egress(family)
    assert "network front:" in said  # the internal one needs none


def test_the_advice_helps(place: Place) -> None:
    _, said = place.apply()
    for line in said.splitlines():
        _, found, command = line.partition(", or: ")
        if found:
            place.sh(command)
    assert all(map(place.egress, Family))
    assert place.apply() == (0, "")


def test_enabled_it_forwards(place: Place) -> None:
    status, said = place.apply(ENABLE)
    assert status == 0
    assert all(map(place.egress, Family))
    assert said.count("was set") == 2
    assert "routes between all its interfaces" in said
    assert place.apply(ENABLE) == (0, "")
    legacy = place.sh("iptables-legacy-save; iptables-nft-save")
    assert "FORWARD DROP" not in legacy


def test_only_the_families_of_networks_that_need_it(place: Place) -> None:
    place.apply(ENABLE + "ipv6 = false\n")
    assert place.value(SWITCHES[Family.IPV4]) == "1"
    assert place.value(SWITCHES[Family.IPV6]) == "0"


def test_it_is_part_of_what_is_planned_applied_and_verified(place: Place) -> None:
    file = place.declare(ENABLE)
    place.apply(ENABLE)
    assert place.run("verify")[0] == 0
    for family, switch in SWITCHES.items():
        place.sh(f"sysctl -qw {switch}=0")
        for asked in (("plan", file), ("verify",)):
            status, said, _ = place.run(*asked)
            assert (status, f"  + {switch}=1" in said) == (2, True)
        assert f", {switch}=1 would mend it" in place.run("verify", "--quiet")[1]
        assert json.loads(place.run("plan", file, "--json")[1])["forwarding"] == [f"{switch}=1"]
        assert place.forwards()[family] is False
        _, said, _ = place.run("apply", "--if-changed", file)
        assert said.startswith("applied to")
        assert f", {switch}=1" in said
        assert place.run("apply", "--if-changed", file)[1] == ""
        assert place.run("verify")[0] == 0


def test_checked_it_is_missed_as_well(place: Place) -> None:
    place.apply()
    status, said, _ = place.run("verify")
    assert status == 2
    assert 'net.ipv4.ip_forward=1   (left to you by ip_forward = "check")' in said
    assert place.run("plan", place.declare(""))[0] == 0, "apply would do nothing about it"
    doctor = place.run("doctor", "--json")[1]
    assert ("forwarding-off" in doctor, "rules-missing" in doctor) == (True, False)
    for switch in SWITCHES.values():
        place.sh(f"sysctl -qw {switch}=1")
    assert place.run("verify")[0] == 0


@pytest.mark.parametrize("ended_by", ["rollback", "time"])
def test_an_undone_trial_takes_back_what_it_has_switched_on(place: Place, ended_by: str) -> None:
    place.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.eth0.accept_ra=1")
    advertised(place)
    place.apply("[host]\nipv6 = false\n")
    seconds = "60" if ended_by == "rollback" else "2"
    assert place.run("apply", "--confirm", seconds, place.declare(ENABLE))[0] == 0
    assert place.forwards() == {Family.IPV4: True, Family.IPV6: True}
    assert place.value("net.ipv6.conf.eth0.accept_ra") == "2"
    if ended_by == "rollback":
        assert place.run("rollback")[0] == 0
    wait_until(lambda: "trial     " not in place.run("status")[1])
    assert place.forwards() == {Family.IPV4: True, Family.IPV6: False}
    assert place.value("net.ipv6.conf.eth0.accept_ra") == "1"
    assert "default via" in place.sh("ip -6 route show default")


def test_a_confirmed_trial_leaves_it_on(place: Place) -> None:
    place.apply()
    assert place.run("apply", "--confirm", "60", place.declare(ENABLE))[0] == 0
    assert place.run("apply", "--confirm", "60", place.declare(ENABLE))[0] == 0  # prolonged
    assert place.run("rollback")[0] == 0
    assert not any(place.forwards().values())
    assert place.run("apply", "--confirm", "60", place.declare(ENABLE))[0] == 0
    assert place.run("confirm")[0] == 0
    assert all(place.forwards().values())
    assert place.run("rollback")[0] == 0
    assert all(place.forwards().values()), "others may need it by now"


def test_what_was_to_be_on_before_stays_on(place: Place) -> None:
    place.apply(ENABLE)
    for switch in SWITCHES.values():
        place.sh(f"sysctl -qw {switch}=0")
    assert place.run("apply", "--confirm", "60", place.declare(ENABLE))[0] == 0
    assert "trial     " in place.run("status")[1], "it is a change, though of nothing else"
    assert place.run("rollback")[0] == 0
    assert all(place.forwards().values())


def test_the_default_route_of_an_advertisement_stays(place: Place) -> None:
    """A forwarding host stops listening to routers (accept_ra=1) and forgets their routes."""
    place.sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=1")
    advertised(place)
    _, said = place.apply()
    assert "sysctl -w net.ipv6.conf.eth0.accept_ra=2 && " in said
    _, said = place.apply(ENABLE)
    assert "accept_ra=2 on eth0" in said
    assert place.value("net.ipv6.conf.eth0.accept_ra") == "2"
    assert "default via" in place.sh("ip -6 route show default")
    place.sh("ip -6 route flush default")
    advertised(place)  # it still listens


def test_without_that_it_would_be_lost(place: Place) -> None:
    place.sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=1")
    advertised(place)
    place.sh("sysctl -qw net.ipv6.conf.all.forwarding=1")
    assert place.sh("ip -6 route show default") == ""


def test_what_cannot_be_written_is_said_before_anything_is_done(place: Place) -> None:
    file = place.sh("mktemp").strip()
    Path(file).write_text(f'version = 1\n[host]\nip_forward = "enable"\n{NETWORKS}')
    apply = f"{sys.executable} -m nftbridge apply x.toml --backend nftables --state-dir x.state"
    script = f"mount -o bind,ro /proc/sys /proc/sys && cd {file}.d && {apply}"
    try:
        place.sh(f"mkdir {file}.d && mv {file} {file}.d/x.toml")
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{place.lab.netns}", "unshare", "-m", "sh", "-c", script],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 5, done
        assert "net.ipv4.ip_forward cannot be written here" in done.stderr
        assert place.sh("nft list tables") == ""
    finally:
        place.sh(f"rm -rf {file}.d")


def advertised(place: Place) -> None:
    """Send an advertisement until the host has taken the route."""
    for _ in range(50):
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{place.lab.namespace('outside')}", sys.executable, "-"],
            input=ADVERTISE,
            text=True,
            check=True,
        )
        if "default via" in place.sh("ip -6 route show default"):
            return
        time.sleep(0.1)
    pytest.fail("the host takes no advertisement")


def test_of_many_networks_a_few_are_named(
    namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = "".join(
        f'[[network]]\nname = "net{n}"\nbridge = "br-{n}"\nsubnets = ["10.0.{n}.0/24"]\n'
        for n in range(8)
    )
    file = tmp_path / "host.toml"
    file.write_text(f"version = 1\n{many}")
    subprocess.run(
        ["nsenter", f"--net=/run/netns/{namespace}", "sysctl", "-qw", "net.ipv4.ip_forward=0"],
        check=True,
    )
    assert main(["apply", str(file), "--netns", namespace, "--state-dir", str(tmp_path)]) == 0
    assert "network net0, net1, net2, net3, net4 and 3 more: the kernel" in capsys.readouterr().err
