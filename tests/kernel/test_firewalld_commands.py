"""The commands beside a real firewalld: what they say, what they leave, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.firewalld import guard, presence
from nftbridge.firewalld.steps import Steps
from nftbridge.firewalld.watcher import Watcher
from nftbridge.lab import HOST, OUTSIDE
from tests.kernel.firewalld_site import BRIDGES, Site, site

pytestmark = [pytest.mark.kernel, pytest.mark.daemons]


def run(place: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    common = ("--netns", place.lab.netns, "--state-dir", str(place.state))
    command = [sys.executable, "-m", "nftbridge", *arguments, *common]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_day_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        file = str(place.file)
        assert "firewalld" not in run(place, "plan", file).stdout
        run(place, "apply", file)
        place.daemon.start()
        planned = run(place, "plan", file)
        assert planned.returncode == 2
        assert planned.stdout.splitlines() == [
            "nothing to change",
            "firewalld",
            "  + zone docker with target ACCEPT, permanently",
            "  + policy docker-forwarding, permanently",
            "    reloaded this once, so what was set at runtime only is lost",
            "  + br-data joins zone docker",
            "  + br-front joins zone docker",
            "  + br-open joins zone docker",
        ]
        assert "docker" not in place.daemon.cmd("--permanent", "--get-zones")
        applied = run(place, "apply", file)
        assert applied.stdout.splitlines()[1:] == planned.stdout.splitlines()[1:]
        assert run(place, "plan", file).returncode == 0
        place.daemon.reload()
        answer = json.loads(run(place, "apply", file, "--json").stdout)
        joined = [f"+ {bridge} joins zone docker" for bridge in sorted(BRIDGES)]
        assert (answer["changes"], answer["firewalld"]) == (True, joined)
        assert place.members() == BRIDGES
        removed = run(place, "remove").stdout.splitlines()
        assert removed[1:] == [
            "firewalld",
            *(f"  - {bridge} leaves zone docker" for bridge in sorted(BRIDGES)),
        ]
        assert place.members() == set()
        assert "docker" in place.daemon.cmd("--get-zones").split()


def test_a_bridge_of_somebody_else_stays_and_one_of_ours_leaves_with_its_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        run(place, "apply", str(place.file))
        place.daemon.cmd("--zone=docker", "--add-interface=docker0")
        text = place.file.read_text()
        place.file.write_text(text[: text.rindex("[[network]]")])
        assert "  - br-data leaves zone docker" in run(place, "apply", str(place.file)).stdout
        assert place.members() == {"docker0", "br-front", "br-open"}
        run(place, "remove")
        assert place.members() == {"docker0"}


def test_a_bridge_that_leaves_may_have_been_lost_in_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        run(place, "apply", str(place.file))
        place.daemon.cmd("--permanent", "--delete-policy=docker-forwarding")
        place.daemon.reload()
        place.daemon.cmd("--zone=docker", "--add-interface=br-data")
        text = place.file.read_text()
        place.file.write_text(text[: text.rindex("[[network]]")])
        done = run(place, "apply", str(place.file))
        assert done.returncode == 0, done.stderr
        assert "  + policy docker-forwarding, permanently" in done.stdout
        assert "  - br-data leaves zone docker" in done.stdout
        assert place.members() == {"br-front", "br-open"}


def test_no_bridge_is_let_in_while_its_rules_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        known, netns = place.engine.known, place.lab.netns
        with guard.around(netns, known, place.host):
            assert place.members() == set()
            place.engine.apply(place.host)
        assert place.members() == BRIDGES
        seen: list[set[str]] = []

        def refused() -> None:
            with guard.around(netns, known, None):
                seen.append(place.members())
                raise KernelRefusedError("no")

        with pytest.raises(KernelRefusedError):
            refused()
        assert seen == [set()]
        assert place.members() == BRIDGES


def test_a_bridge_that_the_administrator_bound_elsewhere_is_left_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        place.daemon.cmd("--permanent", "--zone=trusted", "--add-interface=br-front")
        place.daemon.reload()
        place.daemon.cmd("--zone=public", "--add-interface=br-open")  # as NetworkManager does
        done = run(place, "apply", str(place.file))
        assert done.returncode == 0
        assert (
            "bridge br-front: firewalld's configuration binds it to zone 'trusted'" in done.stderr
        )
        assert place.members() == {"br-open", "br-data"}
        assert run(place, "plan", str(place.file)).returncode == 0
        fix = "--permanent", "--zone=trusted", "--remove-interface=br-front"
        place.daemon.cmd(*fix)
        run(place, "apply", str(place.file))
        assert place.members() == BRIDGES


def test_targets_that_stop_packets_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        place.daemon.cmd("--permanent", "--new-zone=docker")
        place.daemon.reload()
        way = (("web", OUTSIDE, 443),)
        first = run(place, "apply", str(place.file))
        assert "firewalld's zone docker: its target is default" in first.stderr
        assert not place.passed(way)
        place.daemon.cmd("--permanent", "--zone=docker", "--set-target=ACCEPT")
        place.daemon.reload()
        assert run(place, "apply", str(place.file)).stderr == ""
        assert place.passed(way) == place.all_of(way)


def test_of_two_at_once_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        common = ("--netns", place.lab.netns, "--state-dir", str(place.state))
        command = [sys.executable, "-m", "nftbridge", "apply", str(place.file), *common]
        running = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for _ in range(4)
        ]
        for process in running:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        run(place, "apply", str(place.file))
        assert place.members() == BRIDGES


def test_one_in_another_namespace_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.start()
        assert guard.steps(place.lab.netns, list, place.host)
        for elsewhere in (None, _namespace_of(place, OUTSIDE)):
            assert not guard.steps(elsewhere, list, place.host)
        assert "docker" not in place.daemon.cmd("--get-zones")


def test_a_bus_without_firewalld_costs_no_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        code = (
            "import sys; from nftbridge.firewalld import guard\n"
            f"steps = guard.steps({place.lab.netns!r}, lambda: [], None)\n"
            "print(steps, 'jeepney' in sys.modules)"
        )
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said == f"{Steps()} False\n"
        assert not presence.is_running()
        place.daemon.start()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert said.endswith(" True\n")
        assert presence.is_running()


def test_a_watcher_says_when_the_bus_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place, Watcher() as watcher:
        assert watcher.events() == []
        place.daemon.stop_all()
        with pytest.raises(UnavailableError, match="system bus"):
            watcher.events()
        with pytest.raises(UnavailableError, match="is dbus running"):
            Watcher()
        assert not guard.steps(place.lab.netns, list, place.host)


def _namespace_of(place: Site, node: str) -> str:
    return next(n.namespace for n in place.lab.topology.all_nodes if n.name == node)


def test_a_plan_names_the_ports_that_become_forward_ports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("sid", tmp_path, monkeypatch, StrictForwardPorts="yes") as place:
        place.daemon.start()
        lines = run(place, "plan", str(place.file)).stdout.splitlines()
        said = "as a forward-port, because of StrictForwardPorts=yes"
        assert f"  + ipv4 tcp 7000-7004 {said}" in lines
        assert f"  + ipv6 udp 8080 {said}" in lines
        assert "  + policy nftbridge-in, permanently" in lines
        published = ((OUTSIDE, HOST, 8080),)
        run(place, "apply", str(place.file))
        assert place.passed(published) == place.all_of(published)
        assert run(place, "plan", str(place.file)).returncode == 0
