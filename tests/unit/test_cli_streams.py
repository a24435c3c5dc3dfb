"""The command line where output or input is not what it should be: full, closed, gone, ASCII."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOST = "rulesets/02-published-port/host.toml"
COMMAND = [sys.executable, "-m", "nftbridge"]

# large and small outputs, of argparse and of ours, of success and of failure
WRITERS = [
    ("check", HOST),
    ("check", HOST, "--json"),
    ("check", "missing.toml", "--json"),
    ("render", HOST),
    ("render", "rulesets/17-many-networks/host.toml"),
    ("--help",),
    ("--version",),
]


def clean(errors: str) -> bool:
    """Whether nothing of the interpreter's own is in it."""
    return "Traceback" not in errors and "Exception ignored" not in errors


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
def test_a_full_disk_is_said(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [*COMMAND, *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 70
    assert "nftbridge: the result could not be written: No space left on device" in done.stderr
    assert clean(done.stderr)


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
def test_a_reader_that_went_away_is_status_141(arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, *arguments]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == "" or "missing.toml" in done.stderr
    assert clean(done.stderr)


def closed(redirections: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it with streams closed, as ``>&-`` does."""
    script = f'exec "$@" {redirections}'
    command = ["sh", "-c", script, "sh", *COMMAND, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", WRITERS, ids=" ".join)
@pytest.mark.parametrize("redirections", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_changes_no_exit_status(
    redirections: str, arguments: tuple[str, ...]
) -> None:
    usual, done = closed("", *arguments), closed(redirections, *arguments)
    assert done.returncode == usual.returncode
    assert done.stdout == ("" if ">&-" in redirections.split() else usual.stdout)
    assert done.stderr == ("" if "2>&-" in redirections else usual.stderr)


def test_what_is_opened_next_does_not_stand_in_for_a_closed_stream(tmp_path: Path) -> None:
    """A file that gets the number of a closed stream must not get its output."""
    file = tmp_path / "host.json"
    file.write_text('{"version": 1}')
    assert closed("<&- >&- 2>&-", "render", str(file)).returncode == 0
    assert file.read_text() == '{"version": 1}'


def test_closed_standard_input_is_an_empty_file() -> None:
    done = closed("<&-", "check", "-")
    assert done.returncode == 1
    assert done.stderr.startswith("nftbridge: standard input: is not JSON")
    assert clean(done.stderr)


@pytest.fixture
def german(tmp_path: Path) -> Path:
    file = tmp_path / "host.toml"
    text = Path(HOST).read_text().replace('"frontend"', '"schöne-brücke"').replace('"web"', '"wéb"')
    file.write_text(text, encoding="utf-8")
    return file


def ascii_only(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    command = [*COMMAND, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


def test_names_that_the_terminal_lacks_are_escaped(german: Path) -> None:
    packet = ("--in", "eth0", "--src", "203.0.113.9", "--dst", "198.51.100.1", "--proto", "tcp")
    done = ascii_only("explain", str(german), *packet, "--dport", "8080")
    assert done.returncode == 0, done.stderr
    assert b"w\\xe9b" in done.stdout
    assert done.stdout.isascii()
    assert b"Traceback" not in done.stderr


def test_names_in_complaints_are_escaped(german: Path) -> None:
    text = german.read_text(encoding="utf-8").replace('"172.20.0.2"', '"10.0.0.2"')
    german.write_text(text.replace('"worker"', '"wéb"'), encoding="utf-8")
    done = ascii_only("check", str(german))
    assert done.returncode == 1
    assert b"w\\xe9b" in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert b"internal error" not in done.stderr


@pytest.mark.parametrize("form", ["json", "nft", "restore", "restore6"])
def test_rendering_is_ascii_whatever_the_names(german: Path, form: str) -> None:
    """Nothing that is escaped would load."""
    plain = subprocess.run(
        [*COMMAND, "render", str(german), "--format", form], capture_output=True, check=True
    )
    done = ascii_only("render", str(german), "--format", form)
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert b"\\x" not in done.stdout


def test_json_of_names_is_read_back_as_they_were(german: Path) -> None:
    text = german.read_text(encoding="utf-8").replace('"worker"', '"wéb"')
    german.write_text(text, encoding="utf-8")
    answer = json.loads(ascii_only("check", str(german), "--json").stdout)
    assert any("wéb" in problem["message"] for problem in answer["problems"])
