"""What is kept of former applies, and of one on trial: files, damaged ones, processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from nftbridge import config, history
from nftbridge.errors import InputError, UnavailableError
from nftbridge.model import Host
from nftbridge.past import Past
from nftbridge.trial import Process, Trial

SMALL = config.load("rulesets/02-published-port/host.toml").host
MANY = config.load("rulesets/17-many-networks/host.toml").host
ME = Process(*(Process.of(os.getpid()) or (0, 0)))


@pytest.fixture
def state(tmp_path: Path) -> Past:
    found = Past(tmp_path, "nftbridge", "net-1", "this boot")
    with found.locked():
        return found


def applied(state: Past, host: Host, *, step: bool = True) -> None:
    with state.locked():
        if step:
            state.step()
        state.announce(config.host_to_data(host), "nftables")
        state.settle()


def test_the_newest_ten_are_kept(tmp_path: Path) -> None:
    record, folder = tmp_path / "applied.json", tmp_path / "history"
    for number in range(25):
        temporary = tmp_path / "new"
        temporary.write_text(json.dumps({"removed": True, "number": number}))
        temporary.replace(record)
        history.keep(folder, record)
    numbers = [json.loads(one.path.read_text())["number"] for one in history.kept(folder)]
    assert numbers == list(range(24, 14, -1))


def test_keeping_is_a_link_and_where_there_are_none_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    record = tmp_path / "applied.json"
    record.write_text('{"removed": true}')
    history.preserve(record, tmp_path / "link")
    assert (tmp_path / "link").samefile(record)
    monkeypatch.setattr(os, "link", no_links)
    history.preserve(record, tmp_path / "copy")
    assert not (tmp_path / "copy").samefile(record)
    assert (tmp_path / "copy").read_text() == record.read_text()


@pytest.mark.parametrize(
    "content",
    ["", "{", "5", "[]", '{"host": 5}', '{"host": {"version": 1, "colour": 1}}', "[" * 100_000],
)
def test_damaged_records_cannot_be_read(content: str, tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(content)
    (tmp_path / "notes.txt").write_text("somebody's")
    assert [one.readable for one in history.kept(tmp_path)] == [False]


def test_the_way_back_is_what_is_not_as_it_is_now(state: Past) -> None:
    assert state.way_back() is None
    applied(state, SMALL)
    assert state.way_back() is None
    applied(state, MANY)
    applied(state, MANY)
    way_back = state.way_back()
    assert way_back is not None
    assert way_back.host == SMALL
    applied(state, SMALL, step=False)
    state.forget_from(way_back)
    assert state.kept() == []


def test_a_trial_keeps_what_was_before_its_first_apply(state: Past) -> None:
    applied(state, SMALL)
    for host in (MANY, Host()):
        with state.locked():
            state.try_for(60, ME)
            with state.aside():
                applied_aside(state, host)
    way_back = state.way_back()
    assert way_back is not None
    assert way_back.host == SMALL
    assert state.kept() == []
    with pytest.raises(InputError, match="not confirmed, and goes back at"):
        state.check_no_trial()
    state.keep_trial()
    state.check_no_trial()
    assert [one.host for one in state.kept()] == [SMALL]


def applied_aside(state: Past, host: Host) -> None:
    state.step()
    state.announce(config.host_to_data(host), "nftables")
    state.settle()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"deadline": "soon"}', '{"deadline": 1, "until": 2, "boot": null}']
)
def test_a_damaged_trial_is_none(content: str, state: Past, tmp_path: Path) -> None:
    (tmp_path / "net-1" / "nftbridge" / "trial.json").write_text(content)
    assert state.trial() is None


def test_a_trial_of_another_boot_is_over(state: Past, tmp_path: Path) -> None:
    with state.locked():
        state.try_for(60, ME)
    assert state.trial() is not None
    assert Past(tmp_path, "nftbridge", "net-1", "another boot").trial() is None


def test_a_process_is_not_taken_for_a_later_one_of_its_number() -> None:
    assert ME.is_alive()
    assert not ME._replace(start=ME.start - 1).is_alive()
    with subprocess.Popen(["sleep", "60"]) as child:
        found = Process.of(child.pid)
        assert found is not None
        assert found.is_alive()
        child.kill()
    assert not found.is_alive()
    assert Process.of(child.pid) is None


def test_what_was_written_is_read_back() -> None:
    trial = Trial.lasting(60, "this boot", ME)
    assert Trial.from_data(json.loads(json.dumps(trial.data()))) == trial
    assert 59 < trial.left() <= 60
    assert trial.condition() == f"not confirmed, and goes back at {trial.until}"
    gone = Trial(trial.deadline, trial.until, trial.boot, Process(ME.number, 0))
    assert "has been killed" in str(gone)


def test_a_full_disk_is_said(state: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    applied(state, SMALL)
    monkeypatch.setattr(os, "link", full)
    with pytest.raises(UnavailableError, match="No space left"):
        applied(state, MANY)
    assert state.applied() == SMALL
    assert not state.pending()


def test_a_step_that_is_not_taken_is_kept_once(state: Past) -> None:
    applied(state, SMALL)
    with state.locked():
        state.step()
        state.step()
    applied(state, MANY)
    assert [one.host for one in state.kept()] == [SMALL]
