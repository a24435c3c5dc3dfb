"""Where iptables goes on dropping in FORWARD: what a migration puts there follows every apply."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest

from nftbridge import config, defaults
from nftbridge.accepts import Places
from nftbridge.choice import Target
from nftbridge.cli import main
from nftbridge.compat import text
from nftbridge.compat.tables import Site
from nftbridge.compat.tools import Variant
from nftbridge.deployment import Deployment
from nftbridge.errors import KernelRefusedError
from nftbridge.lab import HOST, OUTSIDE, Laboratory, Probe
from nftbridge.model import Family
from nftbridge.netns import inside
from nftbridge.watch.units import made
from tests.kernel.deployed import wait_until
from tests.kernel.migrate_layouts import tell
from tests.kernel.migrate_site import steady
from tests.kernel.watching import command, watching
from tests.unit import docker_inspect as inspect

pytestmark = pytest.mark.kernel

BEFORE = """
version = 1
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
publish = ["8080:80"]
"""
AFTER = f"""{BEFORE}
[[network]]
name = "late"
bridge = "br-late"
subnets = ["172.21.0.0/16", "fd00:21::/64"]
[[network.container]]
name = "api"
ipv4 = "172.21.0.2"
ipv6 = "fd00:21::2"
publish = ["8081:81"]
"""
ONLY_IPV4 = inspect.network(
    EnableIPv6=False,
    IPAM={"Config": [{"Subnet": "172.20.0.0/16"}]},
    Options={f"{inspect.BRIDGE}name": "br-front"},
)
WEB = inspect.container(
    "web",
    {"80/tcp": inspect.bound("0.0.0.0 8080")},
    {"front": inspect.endpoint(GlobalIPv6Address="", IPv6Gateway="")},
)
FRONT = ["-A NFTBRIDGE -i br-front -j ACCEPT", "-A NFTBRIDGE -o br-front -j ACCEPT"]
LATE = ["-A NFTBRIDGE -i br-late -j ACCEPT", "-A NFTBRIDGE -o br-late -j ACCEPT"]


class Way(NamedTuple):
    """TCP from a node to a port of another one."""

    source: str
    to: str
    port: int
    families: tuple[Family, ...] = tuple(Family)


OLD = Way(OUTSIDE, HOST, 8080, (Family.IPV4,))
NEW = (Way(OUTSIDE, HOST, 8081), Way("api", OUTSIDE, 443))
FORBIDDEN = (Way(OUTSIDE, "api", 81), Way(OUTSIDE, "api", 82), Way("web", "api", 81, OLD.families))


class Place:
    """A laboratory with both networks, whose host has Docker's rules for the first one."""

    def __init__(self, lab: Laboratory, folder: Path, variant: str) -> None:
        self.lab = lab
        self.variant = variant
        self.file = folder / "host.toml"
        self.state = folder / "state"
        host = inspect.imported([ONLY_IPV4], [WEB]).host
        for family in Family:
            rules = text.script(host, family)
            self.sh(family, "-restore", given=rules.replace("*filter", "*filter\n:FORWARD DROP"))

    def sh(self, family: Family, *words: str, given: str = "") -> str:
        program = "iptables" if family is Family.IPV4 else "ip6tables"
        inside = ["nsenter", f"--net=/run/netns/{self.lab.netns}"]
        dash = words[0] if words[0] in ("-restore", "-save") else ""
        done = subprocess.run(
            [*inside, f"{program}-{self.variant}{dash}", *words[bool(dash) :]],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def chain(self, family: Family = Family.IPV4) -> list[str]:
        """The accepts."""
        return self.sh(family, "-S", "NFTBRIDGE").splitlines()[1:]

    def filter(self, family: Family) -> str:
        return steady(self.sh(family, "-save", "-t", "filter"))

    def migrate(self) -> None:
        folder = self.file.parent
        words = ("--from", str(folder), "--daemon-json", str(folder / "daemon.json"))
        assert self.run("migrate", "docker", "--apply", "--forward-policy", "keep", *words) == 0

    def apply(self, declared: str, *more: str, status: int = 0) -> None:
        self.file.write_text(declared)
        assert self.run("apply", str(self.file), *more) == status

    def run(self, *words: str) -> int:
        return main([*words, "--netns", self.lab.netns, "--state-dir", str(self.state)])

    def passed(self, *ways: Way) -> set[str]:
        """Those of them that are answered."""
        return {str(o.probe) for o in self.lab.probe_all(self._probes(*ways)) if o.reached}

    def all_of(self, *ways: Way) -> set[str]:
        """What `passed` says if all are."""
        return {str(probe) for probe in self._probes(*ways)}

    def _probes(self, *ways: Way) -> list[Probe]:
        return [
            Probe(way.source, self.lab.address(way.to, family), "tcp", way.port)
            for way in ways
            for family in way.families
        ]


@pytest.fixture(params=["legacy", "nft"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Place]:
    tell(tmp_path, [WEB], [ONLY_IPV4])
    file = tmp_path / "lab.toml"
    file.write_text(AFTER)
    with Laboratory(config.load(str(file)).host) as lab:
        found = Place(lab, tmp_path, request.param)
        found.migrate()
        yield found


def test_a_network_that_comes_later_works_and_what_it_forbids_stays_forbidden(place: Place) -> None:
    assert place.chain() == FRONT
    assert place.chain(Family.IPV6) == []
    assert place.passed(OLD, *NEW) == place.all_of(OLD)
    place.apply(AFTER)
    assert place.passed(OLD, *NEW) == place.all_of(OLD, *NEW)
    assert not place.passed(*FORBIDDEN)
    assert place.chain() == [*FRONT, *LATE]
    assert place.chain(Family.IPV6) == LATE
    place.apply(BEFORE)
    assert place.chain() == FRONT
    assert place.chain(Family.IPV6) == []


def test_plan_and_apply_say_it(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.file.write_text(AFTER)
    capsys.readouterr()
    assert place.run("plan", str(place.file)) == 2
    planned = capsys.readouterr().out
    line = f"  + iptables-{place.variant} IPv6: -A NFTBRIDGE -i br-late -j ACCEPT"
    assert line in planned.splitlines()
    place.apply(AFTER)
    assert line in capsys.readouterr().out.splitlines()
    place.apply(AFTER)
    assert "nothing to do" in capsys.readouterr().out
    assert place.run("plan", str(place.file), "--json") == 0
    assert '"iptables": []' in capsys.readouterr().out
    place.apply(BEFORE, "--json")
    line = line.strip().replace("+ ", "- ", 1)
    assert f'"{line}"' in capsys.readouterr().out


def test_what_others_flush_comes_back_with_the_next_apply(place: Place) -> None:
    place.apply(AFTER)
    for family in Family:
        place.sh(family, "-F", "FORWARD")
        place.sh(family, "-I", "NFTBRIDGE", "-j", "ACCEPT")  # nothing but ours is left there
    assert not place.passed(OLD, *NEW)
    assert place.run("plan", str(place.file)) == 2
    place.apply(AFTER)
    assert place.passed(OLD, *NEW) == place.all_of(OLD, *NEW)
    assert place.chain() == [*FRONT, *LATE]


def test_it_is_never_open_before_the_rules_are_in_or_after_they_are_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    real = Deployment.apply

    def watched(self: Deployment, *given: object) -> object:
        seen.append(place.chain())
        return real(self, *given)  # type: ignore[arg-type]

    def refused(*_: object) -> None:
        seen.append(place.chain())
        raise KernelRefusedError("no")

    monkeypatch.setattr(Deployment, "apply", watched)
    place.apply(AFTER)
    assert seen.pop() == FRONT
    monkeypatch.setattr(Deployment, "apply", refused)
    place.apply(BEFORE, status=3)
    assert seen.pop() == FRONT, "who leaves, leaves first"
    assert place.chain() == [*FRONT, *LATE], "and is back if the rules stay"
    monkeypatch.setattr(Deployment, "apply", watched)
    place.apply(BEFORE)
    assert seen.pop() == place.chain() == FRONT


def test_a_trial_that_is_undone(place: Place) -> None:
    place.apply(BEFORE)
    place.apply(AFTER, "--confirm", "1")
    assert place.chain() == [*FRONT, *LATE]
    wait_until(lambda: place.chain() == FRONT)
    place.apply(AFTER)
    assert place.run("rollback") == 0
    assert place.chain() == FRONT


def test_remove_closes_it_and_with_all_of_it_takes_it_out(place: Place) -> None:
    assert place.run("remove") == 0
    assert place.chain() == []
    assert not place.passed(OLD)
    place.apply(BEFORE)
    assert place.passed(OLD) == place.all_of(OLD)
    assert place.run("remove", "--all") == 0
    for family in Family:
        assert "NFTBRIDGE" not in place.filter(family)
    place.apply(BEFORE)
    assert "NFTBRIDGE" not in place.filter(Family.IPV4), "and it is not on record any more"


def test_where_iptables_cannot_be_asked_nothing_is_changed(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place.apply(AFTER)
    monkeypatch.setenv("PATH", "/nowhere")
    place.apply(BEFORE, status=5)
    assert "install iptables" in capsys.readouterr().err
    monkeypatch.undo()
    assert place.passed(OLD, *NEW) == place.all_of(OLD, *NEW)


def test_the_service_keeps_them_with_what_its_unit_allows(place: Place) -> None:
    place.file.write_text(BEFORE)
    (unit,) = re.findall(
        r"^CapabilityBoundingSet=(.*)$",
        made(str(place.file), legacy=place.variant == "legacy")["nftbridge-watch.service"],
        re.MULTILINE,
    )
    allowed = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in unit.split())
    few = ["setpriv", f"--bounding-set=-all,{allowed},+sys_admin", "--no-new-privs"]  # --netns
    with watching([*few, *command(place.file, place.lab.netns, place.state)]) as watch:
        place.file.write_text(AFTER)
        watch.wait_for(lambda: place.passed(OLD, *NEW) == place.all_of(OLD, *NEW))
        place.file.write_text(BEFORE)
        watch.wait_for(lambda: place.chain() == FRONT)
        assert watch.count("failed") == 0


def test_after_a_boot_they_are_put_in_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another firewall drops, it will drop again; nothing in /run tells of the migration."""
    run, lib = place.state.with_name("run"), place.state.with_name("lib")
    monkeypatch.setattr(defaults, "STATE_DIRECTORY", run)
    monkeypatch.setattr(defaults, "LASTING", lib)
    place.file.write_text(AFTER)
    with inside(place.lab.netns):
        places = Places.at(Target(state_directory=run))
        for family in Family:
            with places.held():
                places.add(Site(Variant(place.variant), family))
            place.sh(family, "-F", "FORWARD")
            place.sh(family, "-F", "NFTBRIDGE")
            place.sh(family, "-X", "NFTBRIDGE")
        shutil.rmtree(run)
        assert main(["apply", str(place.file)]) == 0
        assert place.passed(OLD, *NEW) == place.all_of(OLD, *NEW)
        assert main(["remove", "--all"]) == 0
        assert main(["apply", str(place.file)]) == 0
    assert "NFTBRIDGE" not in place.filter(Family.IPV4)
