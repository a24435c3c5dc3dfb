"""Going back through what was applied before, and the words for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nftbridge import config, session
from nftbridge.deployment import Deployment
from nftbridge.model import Publication
from nftbridge.model.changes import Publish
from nftbridge.nft.backend import NftablesBackend
from nftbridge.state import State
from tests.kernel.deployed import NEW, OLD, OTHER, Site, published_on

pytestmark = pytest.mark.kernel


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
    for _ in range(2):  # the second one prolongs the trial, which somebody has to confirm
        tried = here.run("apply", NEW, "--if-changed", "--confirm", "60")
        assert "confirm" in tried.stdout
    assert "confirm" in here.run("apply", NEW, "--if-changed").stdout
    here.run("confirm")
    assert here.run("apply", NEW, "--if-changed").stdout == ""
    here.nft("flush", "ruleset")
    ill = here.run("verify", "--quiet", status=2)
    assert len(ill.stdout.splitlines()) == 1
    assert "is not as last applied" in ill.stdout
