"""Docker's daemon.json put back: what others made of it stays, ours goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nftbridge.errors import UnavailableError
from nftbridge.migrate.configuration import Configuration

WRITTEN = '{\n    "iptables": false,\n    "ip6tables": false\n}\n'
DEBUG = '{\n    "debug": true\n}\n'


def debugging(text: str) -> str:
    return text.replace("{\n", '{\n    "debug": true,\n', 1)


def indented_otherwise(text: str) -> str:
    return text.replace("    ", "\t")


def emptied(_: str) -> str:
    return ""


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("", str, ""),
        ("", debugging, DEBUG),
        ("", indented_otherwise, ""),
        ("", emptied, ""),
        ("\n", indented_otherwise, "\n"),
        ("{ }\n", indented_otherwise, "{ }\n"),
        ("{ }\n", debugging, DEBUG),
        ('{"iptables": true}\n', indented_otherwise, '{"iptables": true}\n'),
        ('{"iptables": true}\n', emptied, '{\n    "iptables": true\n}\n'),
        ('{"debug": true}', emptied, ""),
    ],
)
def test_what_is_left_of_it(
    tmp_path: Path, before: str, change: Callable[[str], str], after: str, *, existed: bool
) -> None:
    file = tmp_path / "daemon.json"
    if existed:
        file.write_text(before)
    configuration = Configuration(file)
    assert configuration.switch_off()
    file.write_text(change(file.read_text()))
    assert configuration.put_back(existed=existed)
    if existed:
        assert file.read_text() == after
    elif change is debugging:
        assert file.read_text() == DEBUG
    else:
        assert not file.exists()
    assert not configuration.kept.exists()


def test_a_file_that_was_not_there_says_the_options_alone(tmp_path: Path) -> None:
    Configuration(tmp_path / "daemon.json").switch_off()
    assert (tmp_path / "daemon.json").read_text() == WRITTEN


READ_ONLY = """
import sys
from pathlib import Path
from nftbridge.errors import UnavailableError
from nftbridge.migrate.configuration import Configuration
try:
    Configuration(Path(sys.argv[1])).check_writable()
except UnavailableError as error:
    print(error)
"""


def test_the_hint_is_for_whoever_it_is(tmp_path: Path) -> None:
    """Root cannot write to a read-only file system, nor to one that has no folders to make."""
    mount = f'mount -t tmpfs -o ro none {tmp_path} && exec "$@"'
    command = [sys.executable, "-c", READ_ONLY, str(tmp_path / "daemon.json")]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(done.stderr)
    assert "daemon.json cannot be written: Read-only file system" in done.stdout
    assert "hint: it is mounted read-only" in done.stdout
    with pytest.raises(UnavailableError, match=r"cannot be written") as refused:
        Configuration(Path("/proc/nftbridge/daemon.json")).check_writable()
    assert "run as root" not in str(refused.value)
