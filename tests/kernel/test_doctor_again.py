"""Our own rules are not there, or the boot baseline is: which apply mends it, of which file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from nftbridge.cli import main
from tests.kernel.patient import Patient

pytestmark = pytest.mark.kernel


def nftbridge(patient: Patient, *words: str) -> None:
    state = str(patient.place.target.state_directory)
    assert main([*words, "--netns", patient.place.lab.netns, "--state-dir", state]) == 0


def run(patient: Patient, found: dict[str, Any]) -> None:
    """Run what a finding says; nftbridge is not on the path of a checkout."""
    (command,) = found["commands"]
    assert command.startswith("nftbridge apply ")
    patient.sh(f"{sys.executable} -m {command}")


def test_rules_flushed_leak(patient: Patient) -> None:
    patient.sh("nft flush ruleset")
    assert patient.reaches("outside", patient.address("web"), 80)  # never published like this
    run(patient, patient.finding("rules-missing"))
    assert patient.all_pass()
    assert not patient.reaches("outside", patient.address("web"), 80)
    assert patient.is_well()


def test_the_file_that_was_applied_last_is_named(patient: Patient, tmp_path: Path) -> None:
    """Without a file on the command line; by its whole path, blanks and all."""
    file = tmp_path / "a host.toml"
    shutil.copy(patient.file, file)
    nftbridge(patient, "apply", str(file))
    patient.sh("nft flush ruleset")
    told = patient.doctor_of_last_apply()
    (found,) = [f for f in told["findings"] if f["diagnosis"] == "rules-missing"]
    assert f"'{file}'" in found["commands"][0]
    run(patient, found)
    assert patient.all_pass()
    assert patient.doctor_of_last_apply()["findings"] == []


@pytest.mark.parametrize("how", ["never said", "gone"])
def test_a_file_that_nobody_knows_is_not_made_up(
    how: str, patient: Patient, tmp_path: Path
) -> None:
    if how == "gone":
        file = tmp_path / "gone.toml"
        shutil.copy(patient.file, file)
        nftbridge(patient, "apply", str(file))
        file.unlink()
    patient.sh("nft flush ruleset")
    (found,) = patient.doctor_of_last_apply()["findings"]
    assert found["commands"] == []
    assert "the host file is not on record" in found["note"]


def test_the_path_follows_the_file(patient: Patient, tmp_path: Path) -> None:
    """Applied from elsewhere with the same content, it is another one; a rollback has none."""
    paths: list[str] = []
    for name in ("one.toml", "two.toml"):
        shutil.copy(patient.file, tmp_path / name)
        nftbridge(patient, "apply", str(tmp_path / name))
        paths.append(patient.place.engine.last_path())
    assert paths == [str(tmp_path / "one.toml"), str(tmp_path / "two.toml")]


@pytest.mark.parametrize("closed", ["all", "one"])
def test_the_boot_baseline(closed: str, patient: Patient) -> None:
    patient.sh("nft flush ruleset")
    bridges = ["br-front", "br-lab"] if closed == "all" else ["br-front"]
    words = [word for bridge in bridges for word in ("--bridge", bridge)]
    nftbridge(patient, "baseline", *words)
    assert patient.published() is False
    findings = patient.doctor()["findings"]
    kinds = [found["diagnosis"] for found in findings]
    assert kinds == (["baseline"] if closed == "all" else ["rules-missing", "baseline"])
    found = findings[-1]
    assert "front: published port 8080:80/tcp, IPv4" in found["traffic"]
    assert any("lab: " in kind for kind in found["traffic"]) or closed == "one"
    if closed == "one":
        assert findings[0]["traffic"] == ["lab"]
    run(patient, found)
    assert patient.all_pass()
    assert patient.is_well()


def test_the_baseline_loaded_over_the_rules(patient: Patient) -> None:
    """As nftables.service does that is reloaded without a flush."""
    line = (
        "nft 'add chain inet nftbridge baseline-FORWARD { type filter hook forward priority -10; }'"
    )
    patient.sh(f"{line}; nft 'add rule inet nftbridge baseline-FORWARD oifname br-front drop'")
    assert patient.published() is False
    (found,) = patient.doctor()["findings"]
    assert found["diagnosis"] == "baseline"
    run(patient, found)
    assert patient.all_pass()
    assert patient.is_well()
