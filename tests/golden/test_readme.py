"""What README shows is what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from nftbridge import config
from nftbridge.model import Host
from nftbridge.nft.lower import skeleton
from tests import readme

SOURCE = readme.README.read_text()


def test_the_generated_parts_are_what_the_code_makes() -> None:
    assert readme.generated(SOURCE) == SOURCE, "run ./run rulesets"


def test_an_old_part_is_noticed() -> None:
    old = SOURCE.replace("+ open_ports ", "+ other_ports")
    assert old != SOURCE
    assert readme.generated(old) == SOURCE


def test_the_commands_that_it_lists_are_those_that_there_are() -> None:
    from nftbridge.commands import MODULES

    listed = re.findall(r"^\| `nftbridge (\w+)", SOURCE, re.MULTILINE)
    assert listed == list(MODULES)


def test_the_schema_that_it_shows_is_accepted_and_holds_the_defaults(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    examples = re.findall(r"```toml\n(.*?)```", SOURCE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        file = tmp_path_factory.mktemp("readme") / "host.toml"
        file.write_text(example)
        loaded = config.load(str(file))
        assert not loaded.warnings


def test_the_host_options_that_it_calls_defaults_are() -> None:
    """Loading the example's [host] alone gives what an empty file gives."""
    example = re.findall(r"```toml\n(.*?)```", SOURCE, re.DOTALL)[1]
    options = tomllib.loads(example.split("[[")[0])
    assert set(options["host"]) >= {"ipv4", "ipv6", "userland_proxy", "layout"}
    assert config.host_from_data(options) == Host()


def test_the_rule_for_docker_user_is_accepted() -> None:
    (line,) = re.findall(r"^nft (add rule .*DOCKER-USER.*)$", SOURCE, re.MULTILINE)
    script = f"add table inet nftbridge; add chain inet nftbridge DOCKER-USER; {line}"
    done = subprocess.run(
        ["unshare", "--net", "nft", "-c", script], capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("nft -c talks to the kernel: needs root")
    assert done.returncode == 0, done.stderr


def test_the_number_of_rules_is_in_the_first_paragraphs() -> None:
    assert f"always the same <!-- begin rules -->{len(skeleton().rules)}<!-- end -->" in SOURCE


def test_it_can_be_run_as_a_module() -> None:
    command = [sys.executable, "-m", "tests.rulesets"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
