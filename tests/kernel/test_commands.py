"""The commands as a user runs them, each in a process of its own, on the real kernel."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

SMALL = "rulesets/02-published-port/host.toml"
MANY = "rulesets/17-many-networks/host.toml"


class Site:
    """A network namespace and a state directory, and nftbridge run on them."""

    def __init__(self, namespace: str, state: Path) -> None:
        self.namespace = namespace
        self.state = state

    def command(self, *arguments: str) -> list[str]:
        common = ("--netns", self.namespace, "--state-dir", str(self.state))
        return [sys.executable, "-m", "nftbridge", *arguments, *common]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def rendered(self, file: str, form: str) -> str:
        command = [sys.executable, "-m", "nftbridge", "render", file, "--format", form]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def nft(self, *words: str) -> str:
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", "nft", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def here(tmp_path: Path) -> Generator[Site]:
    with network_namespace(forwarding=True) as name:
        yield Site(name, tmp_path / "state")


def test_a_day_in_the_life(here: Site) -> None:
    assert "nothing is here, and no apply is on record" in here.run("status").stdout
    assert here.run("verify").returncode == 2
    planned = here.run("plan", SMALL)
    assert planned.returncode == 2
    assert "because the table is missing" in planned.stdout
    assert "  + open_ports               ipv4 br-front 172.20.0.2 tcp 80   (web, 8080:80/tcp)" in (
        planned.stdout.splitlines()
    )
    applied = here.run("apply", SMALL)
    assert applied.returncode == 0
    assert applied.stdout.startswith("applied to table inet nftbridge: chains and rules installed")
    again = here.run("apply", SMALL)
    assert (again.returncode, again.stdout) == (
        0,
        f"nothing to do: table inet nftbridge is as {SMALL} declares it\n",
    )
    assert here.run("plan", SMALL).returncode == 0
    assert here.run("verify").returncode == 0
    here.nft("flush", "ruleset")
    gone = here.run("verify")
    assert gone.returncode == 2
    assert "the table is missing" in gone.stdout
    assert "not as last applied" in here.run("status").stdout
    here.run("apply", SMALL)
    assert here.run("remove").stdout == "removed all that is ours from table inet nftbridge\n"
    assert (
        here.run("remove").stdout == "nothing to do: nothing of ours is in table inet nftbridge\n"
    )
    assert here.nft("list", "ruleset") == ""
    assert here.run("verify").returncode == 0
    assert "as the last remove left it" in here.run("status").stdout


def test_a_plan_reads_like_a_diff_grouped_by_network(here: Site, tmp_path: Path) -> None:
    here.run("apply", SMALL)
    changed = tmp_path / "host.toml"
    changed.write_text(Path(SMALL).read_text().replace("8080:80", "8081:80"))
    lines = here.run("plan", str(changed)).stdout.splitlines()
    assert lines == [
        "network frontend",
        "  - published_anywhere       ipv4 tcp 8080 -> 172.20.0.2 80   (web, 8080:80/tcp)",
        "  + published_anywhere       ipv4 tcp 8081 -> 172.20.0.2 80   (web, 8081:80/tcp)",
        "1 row added, 1 row removed",
    ]


def test_a_plan_is_coloured_on_a_terminal_only(here: Site) -> None:
    command = shlex.join(here.command("plan", SMALL))
    shown = subprocess.run(
        ["script", "--quiet", "--command", command, "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert "\033[32m  + bridges" in shown
    assert "\033[" not in here.run("plan", SMALL).stdout


def test_results_for_programs(here: Site) -> None:
    plan = json.loads(here.run("plan", SMALL, "--json").stdout)
    assert plan["changes"] is True
    row = {
        "relation": "published_anywhere",
        "family": "ipv4",
        "key": ["tcp", 8080],
        "value": ["172.20.0.2", 80],
        "network": "frontend",
        "container": "web",
        "publication": "8080:80/tcp",
    }
    assert row in plan["added"]
    assert json.loads(here.run("apply", SMALL, "--json").stdout)["changes"] is True
    assert json.loads(here.run("apply", SMALL, "--json").stdout)["changes"] is False
    assert json.loads(here.run("verify", "--json").stdout)["changes"] is False
    status: dict[str, Any] = json.loads(here.run("status", "--json").stdout)
    assert status["backend"] == "nftables"
    assert status["networks"][0]["containers"][0]["publish"] == ["8080:80/tcp"]
    assert {c["rule"] for c in status["counters"]} >= {"unpublished", "direct-access"}
    assert json.loads(here.run("remove", "--json").stdout) == {"present": True, "kept": []}


def test_rendered_files_are_what_apply_loads(here: Site, tmp_path: Path) -> None:
    for form, options in (("json", ("-j",)), ("nft", ())):
        file = tmp_path / form
        file.write_text(here.rendered(MANY, form))
        here.nft(*options, "-f", str(file))
        assert here.run("plan", MANY).returncode == 0


def test_two_applies_at_once_queue(here: Site) -> None:
    files = [SMALL, MANY] * 4
    running = [
        subprocess.Popen(
            here.command("apply", f), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for f in files
    ]
    for process in running:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert here.run("verify").returncode == 0


def test_the_second_waits_for_the_lock(here: Site) -> None:
    here.run("apply", SMALL)
    lock = next(here.state.rglob("lock"))
    holder = subprocess.Popen(["flock", str(lock), "sleep", "0.7"])
    time.sleep(0.1)
    start = time.monotonic()
    assert here.run("apply", MANY).returncode == 0
    assert time.monotonic() - start > 0.5
    holder.wait()


def test_a_killed_apply_leaves_the_old_or_the_new_ruleset(here: Site) -> None:
    """Killed at random moments: the kernel holds the one host or the other, never a mixture."""
    here.run("apply", SMALL)
    start = time.monotonic()
    here.run("apply", MANY)
    whole = time.monotonic() - start
    ends: set[str] = set()
    for step in range(14):
        file = SMALL if step % 2 == 0 else MANY
        process = subprocess.Popen(here.command("apply", file), stdout=subprocess.DEVNULL)
        time.sleep(whole * (0.2 + step * 0.09))
        process.send_signal(signal.SIGKILL)
        process.wait()
        (held,) = (f for f in (SMALL, MANY) if here.run("plan", f).returncode == 0)
        assert here.run("verify").returncode == 0
        ends.add("new" if held == file else "old")
        here.run("apply", file)
    assert ends == {"old", "new"}, "the moments were all too early or all too late"
    assert here.run("apply", MANY).returncode == 0
    assert here.run("verify").returncode == 0


def test_without_privilege_the_fix_is_named(here: Site, public_copy: Path) -> None:
    shutil.copy(SMALL, public_copy / "host.toml")
    """As nobody, and as root without capabilities."""
    for prefix in (
        ["setpriv", "--reuid=65534", "--clear-groups"],
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all"],
    ):
        for command in (["apply", "host.toml"], ["plan", "host.toml"], ["verify"], ["remove"]):
            argv = [*prefix, *here.command(*command)]
            done = subprocess.run(
                argv, cwd=public_copy, capture_output=True, text=True, check=False
            )
            assert done.returncode == 5, done.stderr
            assert "hint: run as root" in done.stderr
            assert "Traceback" not in done.stderr


def test_icc_without_bridge_filtering_is_refused_unless_accepted(
    here: Site, tmp_path: Path
) -> None:
    off = "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables"
    subprocess.run(["nsenter", f"--net=/run/netns/{here.namespace}", "sh", "-c", off], check=True)
    separated = Path("rulesets/05-icc-off/host.toml")
    for command in ("plan", "apply"):
        refused = here.run(command, str(separated))
        assert refused.returncode == 5
        assert "icc = false has no effect on IPv4" in refused.stderr
        assert "br_netfilter" in refused.stderr
        assert 'accept_missing = ["icc"] in [host]' in refused.stderr
    assert not here.nft("list", "tables")
    accepting = tmp_path / "host.toml"
    host = '[host]\naccept_missing = ["icc"]'
    accepting.write_text(separated.read_text().replace("version = 1", f"version = 1\n{host}"))
    warned = here.run("apply", str(accepting))
    assert warned.returncode == 0
    assert "warning: network" in warned.stderr
    assert "icc = false has no effect on IPv4" in warned.stderr
