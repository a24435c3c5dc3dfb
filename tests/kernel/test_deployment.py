"""Trials, with real processes on the real kernel, and terminals that die."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge import config, session
from nftbridge.choice import choose
from nftbridge.compat.backend import IptablesBackend
from nftbridge.deployment import Deployment
from nftbridge.errors import InputError, KernelRefusedError, PartlyAppliedError
from nftbridge.lab import OUTSIDE, Laboratory, Probe
from nftbridge.model import Publication
from nftbridge.model.changes import Publish
from nftbridge.nft.backend import NftablesBackend
from nftbridge.trial import Process
from tests.kernel.deployed import NEW, OLD, OTHER, Site, published_on, wait_until

pytestmark = pytest.mark.kernel


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


def test_a_trial_that_a_script_has_left_is_something_to_do(here: Site) -> None:
    """The steps of README's example for Ansible, after a play that ended before it confirmed."""
    here.run("apply", NEW, "--confirm", "60")
    assert "`nftbridge confirm` keeps it" in here.run("plan", NEW, status=2).stderr
    planned = json.loads(here.run("plan", NEW, "--json", status=2).stdout)
    assert (planned["changes"], planned["trial"]["guarded"]) == (False, True)
    assert json.loads(here.run("verify", "--json").stdout)["trial"]["guarded"]
    here.run("apply", "--confirm", "60", NEW)
    here.run("confirm")
    assert here.run("plan", NEW).stdout == "nothing to change\n"


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
        here.run("verify", status=2).stderr,
        here.run("plan", NEW, status=2).stderr,
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
