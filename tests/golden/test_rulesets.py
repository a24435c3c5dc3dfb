"""rulesets/ is what the code makes of it today, and the real nft accepts each file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nftbridge.nft.lower import skeleton
from tests import rulesets

SCENARIOS = rulesets.scenarios()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="nft -c talks to the kernel: needs root")


@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda path: path.name)
def test_the_files_are_what_the_code_makes(folder: Path) -> None:
    for name, content in rulesets.generated(folder).items():
        assert (folder / name).read_text() == content, "run ./run rulesets"


def test_the_index_is_what_the_code_makes() -> None:
    assert (rulesets.FOLDER / "README.md").read_text() == rulesets.index(), "run ./run rulesets"


@needs_root
@pytest.mark.kernel
@pytest.mark.parametrize("arguments", ["-c -j -f nftables.json", "-c -f nftables.nft"])
@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda path: path.name)
def test_the_real_nft_accepts_them(folder: Path, arguments: str) -> None:
    command = ["unshare", "--net", "nft", *arguments.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_root
@pytest.mark.kernel
@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
@pytest.mark.parametrize("folder", SCENARIOS, ids=lambda path: path.name)
def test_the_real_iptables_accepts_them(folder: Path, program: str) -> None:
    command = ["unshare", "--net", f"{program}-legacy-restore", "--noflush", f"{program}.rules"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_root
@pytest.mark.kernel
def test_the_check_is_not_blind(tmp_path: Path) -> None:
    whole = (SCENARIOS[0] / "nftables.nft").read_text()
    (tmp_path / "broken.nft").write_text(whole.replace("jump DOCKER-CT", "jump DOCKER-XY"))
    command = ["unshare", "--net", "nft", "-c", "-f", str(tmp_path / "broken.nft")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_every_host_has_the_same_rules() -> None:
    """A rule per port or per network would show up as another number of lines."""
    rules = {
        sum(1 for line in (folder / "nftables.json").read_text().splitlines() if '"rule"' in line)
        for folder in SCENARIOS
    }
    assert rules == {len(skeleton().rules)}
