"""Going back, with real processes on the real kernel: trials, terminals that die, history."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, session
from nftbridge.choice import Target, choose
from nftbridge.compat.backend import IptablesBackend
from nftbridge.deployment import Deployment
from nftbridge.errors import InputError, KernelRefusedError, PartlyAppliedError
from nftbridge.lab import OUTSIDE, Laboratory, Probe
from nftbridge.model import Host, Publication
from nftbridge.model.changes import Publish
from nftbridge.nft.backend import NftablesBackend
from nftbridge.state import State
from nftbridge.trial import Process
from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

OLD = "rulesets/02-published-port/host.toml"
NEW = "rulesets/17-many-networks/host.toml"
OTHER = "rulesets/01-new-host/host.toml"
PATIENCE = 20.0


class Site:
    """A network namespace and a state directory, and nftbridge run on them."""

    def __init__(self, namespace: str, state: Path) -> None:
        self.namespace = namespace
        self.state = state
        self.backend = "auto"

    @property
    def target(self) -> Target:
        return Target(netns=self.namespace, state_directory=self.state)

    def command(self, *arguments: str) -> list[str]:
        common = ("--netns", self.namespace, "--state-dir", str(self.state))
        return [sys.executable, "-m", "nftbridge", *arguments, *common, "--backend", self.backend]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def holds(self, file: str) -> bool:
        """Whether the kernel is exactly as `file` declares."""
        self.run("verify")
        return json.loads(self.run_any("plan", file, "--json"))["changes"] is False

    def run_any(self, *arguments: str) -> str:
        command = self.command(*arguments)
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout

    def trial(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = json.loads(self.run("status", "--json").stdout)["trial"]
        return found

    def watchdog(self) -> Process:
        (file,) = self.state.rglob("trial.json")
        return Process(*json.loads(file.read_text())["watchdog"])

    def wait_until_it_went_back(self) -> None:
        wait_until(lambda: not list(self.state.rglob("trial.json")))

    def nft(self, *words: str) -> str:
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", "nft", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


@pytest.fixture
def here(tmp_path: Path) -> Generator[Site]:
    with network_namespace(forwarding=True) as name:
        site = Site(name, tmp_path / "state")
        yield site
        with suppress(ValueError):  # no watchdog outlives its test
            found = site.watchdog()
            if found.is_alive() and found.number != os.getpid():
                os.kill(found.number, signal.SIGKILL)


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_packets_before_on_trial_and_after(backend: str, tmp_path: Path) -> None:
    """What passes only on trial passes no more when its time is up, and the other way round."""
    host = config.load(OLD).host
    files = {8080: tmp_path / "old.json", 8081: tmp_path / "new.json"}
    for port, file in files.items():
        file.write_text(json.dumps(config.host_to_data(published_on(host, port))))
    with Laboratory(host) as lab:
        here = Site(lab.netns, tmp_path / "state")
        here.backend = backend
        probes = [Probe(OUTSIDE, lab.address("host"), "tcp", port) for port in (8080, 8081, 8082)]

        def reached() -> list[int]:
            return [outcome.probe.port for outcome in lab.probe_all(probes) if outcome.reached]

        here.run("apply", str(files[8080]))
        assert reached() == [8080]
        here.run("apply", str(files[8081]), "--confirm", "6")
        assert reached() == [8081]
        here.wait_until_it_went_back()
        assert reached() == [8080]
        here.run("apply", str(files[8081]), "--confirm", "2")
        here.run("confirm")
        time.sleep(2.5)
        assert reached() == [8081]
        here.run("rollback")
        assert reached() == [8080]


def published_on(host: Host, port: int) -> Host:
    network = host.networks[0]
    web = replace(network.containers[0], publish=(Publication(80, port),))
    network = replace(network, containers=(web, *network.containers[1:]))
    return replace(host, networks=(network,))


def test_a_first_apply_on_trial_leaves_nothing(here: Site) -> None:
    shown = here.run("apply", OLD, "--confirm", "1").stdout
    assert "goes back at" in shown
    assert "`nftbridge confirm` keeps it" in shown
    here.wait_until_it_went_back()
    assert here.nft("list", "ruleset") == ""
    here.run("verify")


def test_rules_in_docker_user_outlive_a_trial(here: Site) -> None:
    here.run("apply", OLD, "--confirm", "30")
    here.nft("add", "rule", "inet", "nftbridge", "DOCKER-USER", "tcp", "dport", "7", "drop")
    os.kill(here.watchdog().number, signal.SIGTERM)
    here.wait_until_it_went_back()
    assert "tcp dport 7 drop" in here.nft("list", "ruleset")
    assert "DOCKER-FORWARD" not in here.nft("list", "ruleset")


def test_confirmed_in_time_it_stays(here: Site) -> None:
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "2")
    watchdog, trial = here.watchdog(), here.trial()
    assert trial is not None
    assert trial["guarded"]
    assert 0 < trial["seconds_left"] <= 2
    assert here.run("confirm").stdout.startswith("confirmed: 10 networks")
    wait_until(lambda: not watchdog.is_alive())
    time.sleep(2)
    assert here.holds(NEW)
    refused = here.run("confirm", status=1)
    assert refused.stderr.startswith("nftbridge: nothing waits to be confirmed\n    hint: ")
    here.run("rollback")
    assert here.holds(OLD)


def test_too_late_is_said(here: Site) -> None:
    here.run("apply", NEW, "--confirm", "0.5")
    here.wait_until_it_went_back()
    assert "nothing waits to be confirmed" in here.run("confirm", status=1).stderr


def test_a_terminal_that_dies_takes_nobody_along(here: Site) -> None:
    """apply runs in a shell on a pseudo-terminal; its other end is closed while it is on trial."""
    here.run("apply", OLD)
    command = shlex.join(here.command("apply", NEW, "--confirm", "4"))
    shell, terminal = pty.fork()
    if shell == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup's children are born without
        script = f"{command}; echo applied; sleep 600"
        os.execvp("sh", ["sh", "-c", script])  # noqa: S606 - the child has to become it
    shown = b""
    while b"applied\r\n" not in shown:
        shown += os.read(terminal, 4096)
    watchdog = here.watchdog()
    assert detached(watchdog.number, shell)
    os.close(terminal)
    _, status = os.waitpid(shell, 0)
    assert os.WTERMSIG(status) == signal.SIGHUP
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        os.kill(watchdog.number, number)
    assert here.holds(NEW)
    assert watchdog.is_alive()
    here.wait_until_it_went_back()
    assert here.holds(OLD)


def detached(number: int, shell: int) -> bool:
    """Whether a process has a session of its own, no terminal, and no file but /dev/null."""
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    group, own_session, terminal = map(int, fields[2:5])
    files = {os.readlink(entry) for entry in Path(f"/proc/{number}/fd").iterdir()}
    assert own_session not in (shell, os.getsid(0))
    assert group not in (os.getpgid(shell), os.getpgid(0))
    assert terminal == 0
    assert files == {"/dev/null"}
    return True


def test_whoever_reads_the_output_reads_to_its_end(here: Site) -> None:
    piped = f"{shlex.join(here.command('apply', OLD, '--confirm', '60'))} | cat"
    start = time.monotonic()
    done = subprocess.run(["sh", "-c", piped], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 30
    assert "applied to" in done.stdout
    here.run("rollback")
    assert here.nft("list", "ruleset") == ""


def test_a_killed_apply_is_undone_at_whatever_moment(here: Site) -> None:
    here.run("apply", OLD)
    start = time.monotonic()
    here.run("apply", NEW, "--confirm", "60")
    whole = time.monotonic() - start
    here.run("rollback")
    tried = 0
    for step in range(10):
        command = here.command("apply", NEW, "--confirm", "1")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(whole * (0.3 + step * 0.08))
        process.kill()
        process.wait()
        tried += bool(list(here.state.rglob("trial.json")))
        here.wait_until_it_went_back()
        assert here.holds(OLD)
    assert tried, "all were killed before there was a trial"


def test_a_killed_watchdog_is_missed(here: Site) -> None:
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "60")
    os.kill(here.watchdog().number, signal.SIGKILL)
    wait_until(lambda: not here.watchdog().is_alive())
    trial = here.trial()
    assert trial is not None
    assert not trial["guarded"]
    said = "the process that would undo it has been killed"
    for text in (
        here.run("status").stdout,
        here.run("verify").stderr,
        here.run("plan", NEW).stderr,
        here.run("apply", OTHER, status=1).stderr,
    ):
        assert said in text
        assert "`nftbridge rollback` goes back now" in text
    here.run("rollback")
    assert here.holds(OLD)
    assert here.trial() is None


def test_what_nobody_watches_can_be_confirmed(here: Site) -> None:
    here.run("apply", NEW, "--confirm", "60")
    os.kill(here.watchdog().number, signal.SIGKILL)
    here.run("confirm")
    assert here.holds(NEW)


def test_asked_to_end_it_goes_back_at_once(here: Site) -> None:
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "600")
    os.kill(here.watchdog().number, signal.SIGTERM)
    here.wait_until_it_went_back()
    assert here.holds(OLD)


def test_on_trial_others_are_refused_and_repairs_are_not(here: Site) -> None:
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "60")
    for command in (("apply", OTHER), ("remove",)):
        refused = here.run(*command, status=1)
        assert "the last apply is not confirmed, and goes back at" in refused.stderr
        assert "hint: `nftbridge confirm` keeps it, `nftbridge rollback`" in refused.stderr
    with session.open(here.target) as bridge, pytest.raises(InputError, match="not confirmed"):
        bridge.change(Publish("nat", "nat-2", Publication(81, 8888)))
    here.nft("flush", "ruleset")
    assert here.run("apply", NEW).stdout.splitlines()[1].startswith("not confirmed")
    assert here.holds(NEW)
    here.run("rollback")
    assert here.holds(OLD)


def test_another_trial_prolongs_and_goes_back_to_the_start(here: Site) -> None:
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "2")
    first = here.watchdog()
    here.run("apply", OTHER, "--confirm", "5")
    wait_until(lambda: not first.is_alive())
    time.sleep(2)
    assert here.holds(OTHER)
    here.wait_until_it_went_back()
    assert here.holds(OLD)
    assert "nothing that was applied before" in here.run("rollback", status=1).stderr


def test_two_trials_at_once(here: Site) -> None:
    here.run("apply", OLD)
    running = [
        subprocess.Popen(here.command("apply", file, "--confirm", "2"), stdout=subprocess.DEVNULL)
        for file in (NEW, OTHER, NEW)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    here.wait_until_it_went_back()
    assert here.holds(OLD)


def test_nothing_to_do_is_nothing_to_confirm(here: Site) -> None:
    here.run("apply", OLD)
    assert here.run("apply", OLD, "--confirm", "60").stdout.startswith("nothing to do")
    assert here.trial() is None
    here.run("confirm", status=1)


def test_a_refused_trial_is_none(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KernelRefusedError("not today")

    engine = Deployment(here.target, choose("nftables", here.target).backend)
    me = Process.of(os.getpid())
    assert me is not None
    with monkeypatch.context() as patch:
        patch.setattr(NftablesBackend, "bring_to", refuse)
        with pytest.raises(KernelRefusedError):
            engine.try_out(config.load(OLD).host, 60, me)
    assert engine.trial() is None
    here.run("apply", OLD)
    here.run("apply", NEW, "--confirm", "60")
    before = engine.trial()
    assert before is not None
    with monkeypatch.context() as patch:
        patch.setattr(NftablesBackend, "bring_to", refuse)
        patch.setattr(NftablesBackend, "exchange", refuse)
        with pytest.raises(KernelRefusedError):
            engine.try_out(config.load(OTHER).host, 600, me)
    assert engine.trial() == replace(before, watchdog=me)
    here.run("rollback")
    assert here.holds(OLD)


def test_what_is_partly_applied_is_undone_like_the_rest(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PartlyAppliedError("IPv4 filter is in, IPv4 nat was refused")

    me = Process.of(os.getpid())
    assert me is not None
    engine = Deployment(here.target, choose("iptables", here.target).backend)
    monkeypatch.setattr(IptablesBackend, "bring_to", fail)
    with pytest.raises(PartlyAppliedError):
        engine.try_out(config.load(OLD).host, 60, me)
    assert engine.trial() is not None


def test_without_another_process_nothing_is_changed(here: Site) -> None:
    """Where a limit of processes, say, leaves no room for the one that would undo it."""
    code = "import os, sys; os.fork = lambda: (_ for _ in ()).throw(BlockingIOError()); "
    code += "from nftbridge.cli import main; sys.exit(main(sys.argv[1:]))"
    _, _, _, *arguments = here.command("apply", OLD, "--confirm", "60")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "hint: free memory" in done.stderr
    assert here.nft("list", "ruleset") == ""


def test_rules_of_unknown_origin_cannot_be_gone_back_to(here: Site) -> None:
    here.run("apply", OLD)
    next(here.state.rglob("applied.json")).write_text("rubbish")
    refused = here.run("apply", NEW, "--confirm", "60", status=1)
    assert "no apply on record to go back to" in refused.stderr
    assert here.trial() is None


def test_ten_are_kept_and_gone_back_through(here: Site, tmp_path: Path) -> None:
    host, file = config.load(OLD).host, tmp_path / "host.json"
    for port in range(8000, 8012):
        file.write_text(json.dumps(config.host_to_data(published_on(host, port))))
        here.run("apply", str(file))
        here.run("apply", str(file))  # changes nothing, and is no step
    assert len(here.run("rollback", "--list").stdout.splitlines()) == 10
    assert len(json.loads(here.run("rollback", "--list", "--json").stdout)) == 10
    for port in range(8010, 8000, -1):
        here.run("rollback")
        file.write_text(json.dumps(config.host_to_data(published_on(host, port))))
        assert here.holds(str(file))
    refused = here.run("rollback", status=1)
    assert "nothing that was applied before is on record" in refused.stderr
    assert "nothing was applied before" in here.run("rollback", "--list").stdout


def test_damaged_records_are_passed_over_and_named(here: Site) -> None:
    for file in (OTHER, OLD, NEW, OLD):
        here.run("apply", file)
    newest = max(here.state.rglob("history/*.json"), key=lambda path: int(path.stem))
    for rubbish in (b"", b"[]", b'{"host": 5}', b"\xff", b'{"host": {"version": 99}}'):
        newest.unlink()  # the file may have other names
        newest.write_bytes(rubbish)
        assert "cannot be read" in here.run("rollback", "--list").stdout.splitlines()[0]
    gone = here.run("rollback")
    assert "warning: passed over" in gone.stderr
    assert str(newest) in gone.stderr
    assert here.holds(OTHER)  # OLD, which comes first, is what was there already


def test_a_removal_is_a_step(here: Site) -> None:
    here.run("apply", OLD)
    here.run("remove")
    here.run("remove")  # takes nothing out, and is no step
    assert len(here.run("rollback", "--list").stdout.splitlines()) == 1
    assert here.run("rollback").stdout.startswith("went back to ")
    assert here.holds(OLD)
    here.run("remove")
    here.run("apply", NEW)
    assert "nothing of ours" in here.run("rollback").stdout
    assert here.nft("list", "ruleset") == ""


def test_small_changes_are_gone_back_to_as_well(here: Site, tmp_path: Path) -> None:
    with session.open(here.target) as bridge:
        bridge.apply(config.load(NEW).host)
        bridge.change(Publish("nat", "nat-2", Publication(81, 8888)))
        changed = bridge.host()
        bridge.apply(config.load(OLD).host)
    here.run("rollback")
    file = tmp_path / "host.json"
    file.write_text(json.dumps(config.host_to_data(changed)))
    assert "8888:81/tcp" in here.run("status").stdout
    assert here.holds(str(file))


def test_going_back_changes_the_backend_back(here: Site) -> None:
    here.backend = "iptables"
    here.run("apply", OLD)
    here.backend = "auto"
    here.run("apply", NEW, "--backend", "nftables")
    here.run("rollback")
    assert "iptables" in here.run("status").stdout
    assert here.nft("list", "tables") == ""
    here.backend = "iptables"
    assert here.holds(OLD)


def test_killed_between_the_history_and_the_record(
    here: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept twice is gone back to once."""

    def killed(_: State) -> None:
        raise RuntimeError("killed")

    here.run("apply", OTHER)
    here.run("apply", OLD)
    engine = Deployment(here.target, NftablesBackend("nftbridge", here.namespace))
    with monkeypatch.context() as patch:
        patch.setattr(State, "settle", killed)
        with pytest.raises(RuntimeError, match="killed"):
            engine.apply(config.load(NEW).host)
    here.run("apply", OLD)
    here.run("rollback")
    assert here.holds(OTHER)


def test_quiet_for_scripts(here: Site) -> None:
    assert here.run("apply", OLD, "--if-changed").stdout.startswith("applied to")
    again = here.run("apply", OLD, "--if-changed")
    assert (again.stdout, again.stderr) == ("", "")
    assert here.run("apply", OLD, "--if-changed", "--json").stdout == ""
    well = here.run("verify", "--quiet")
    assert (well.stdout, well.stderr) == ("", "")
    here.nft("flush", "ruleset")
    ill = here.run("verify", "--quiet", status=2)
    assert len(ill.stdout.splitlines()) == 1
    assert "is not as last applied" in ill.stdout
