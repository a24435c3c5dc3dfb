"""The command `apply` on files of which most was applied before: what it need not read."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.errors import InputError
from nftbridge.nft.kernel import Kernel
from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

START = """version = 1
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
publish = ["8080:80"]

[[network]]
name = "back"
bridge = "br-back"
subnets = ["172.21.0.0/16"]
[[network.container]]
name = "db"
ipv4 = "172.21.0.2"
publish = ["127.0.0.1:5432:5432", "9000-9009:9000-9009/udp", { container_port = 7, host_port = 7 }]
"""
ONE_MORE = START.replace('"8080:80"', '"8080:80", "8081:81"')


@pytest.fixture
def namespace() -> Generator[str]:
    with network_namespace(forwarding=True) as name:
        yield name


class Command:
    """``nftbridge apply`` of one file, and what had to be done for it."""

    def __init__(self, namespace: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.file = folder / "host.toml"
        self.options = ["--netns", namespace, "--state-dir", str(folder / "state")]
        self._capsys = capsys
        self.said = ""

    def apply(self, text: str) -> int:
        self.file.write_text(text)
        return self._run("apply", str(self.file))

    def verified(self) -> bool:
        return self._run("verify") == 0

    def _run(self, *words: str) -> int:
        status = main([*words, *self.options])
        captured = self._capsys.readouterr()
        self.said = captured.out + captured.err
        return status


@pytest.fixture
def command(namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    made = Command(namespace, tmp_path, capsys)
    assert made.apply(START) == 0
    return made


def refused(*_: object) -> None:
    raise AssertionError("not in passing")


@pytest.fixture
def in_passing(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A command that may neither read all of the file nor list the table."""
    monkeypatch.setattr(config.Source, "load", refused)
    monkeypatch.setattr(Kernel, "objects", refused)
    return command


def test_the_same_file_is_not_read(in_passing: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.Source, "document", refused)
    assert in_passing.apply(START) == 0
    assert "nothing to do" in in_passing.said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ONE_MORE, "2 rows added, 0 rows removed"),
        (START.replace('"8080:80"', ""), "0 rows added, 2 rows removed"),
        (START.replace('"8080:80"', '"5433:80"'), "1 row added, 1 row removed"),
        (START + "# a comment", "nothing to do"),
        (START.replace('"web"', '"www"'), "nothing to do"),
        (START.replace("8080:80", "8080:80/udp"), "2 rows added, 2 rows removed"),
    ],
)
def test_a_change_is_read_alone(
    in_passing: Command, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_passing.apply(text) == 0
    assert said in in_passing.said
    monkeypatch.setattr(config.Source, "document", refused)
    assert in_passing.apply(text) == 0  # recorded as what was applied last
    assert "nothing to do" in in_passing.said
    monkeypatch.undo()
    assert in_passing.verified()
    assert in_passing.apply(START) == 0
    assert in_passing.verified()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (START.replace("8080:80", "5432:80"), "5432:80/tcp of container 'web' of network 'front'"),
        (START.replace("8080:80", "9009:80/udp"), "collides with"),
        (
            START.replace("8080:80", "7:80"),
            "7:7/tcp of container 'db' of network 'back' collides with 7:80/tcp",
        ),
        (START.replace("8080:80", "8080:80:80:80"), "has 4 parts"),
        (START.replace("br-front", "br-back"), "bridge 'br-back' is taken already"),
        (START.replace('name = "back"', 'name = "front"'), "name 'front' is taken already"),
        (START.replace("172.20.", "172.21."), "172.21.0.0/16 overlaps"),
        (START.replace("version = 1", "version = 2"), "reads version 1 only"),
        (START.replace('"web"', '"web"\nipv5 = ""'), "unknown key"),
        (START.replace('"back"', "5"), "must be a string"),
        (START + "[", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_as_ever(command: Command, text: str, said: str) -> None:
    assert command.apply(text) == 1
    assert said in command.said
    fresh = config.read(str(command.file))
    with pytest.raises(InputError) as whole:
        fresh.load()
    assert str(whole.value) in command.said.replace("nftbridge: ", "")
    assert command.apply(START) == 0
    assert "nothing to do" in command.said
    assert command.verified()


IDLE = START.replace('"8080:80"', '"8080:80", "[::1]:8081:81"')


def test_warnings_are_given_each_time(command: Command) -> None:
    for text in (IDLE, IDLE, IDLE.replace("8080", "8082"), IDLE):
        assert command.apply(text) == 0
        assert "publish[1]: [::1]:8081:81/tcp has no effect" in command.said


NO_PROXY = START.replace("version = 1", "version = 1\n[host]\nuserland_proxy = false")
AUTO = START.replace("version = 1", 'version = 1\n[host]\nwsl2_mirrored = "auto"')
NO_ICC = START.replace('bridge = "br-back"', 'bridge = "br-back"\nicc = false')


@pytest.mark.parametrize("text", [NO_PROXY, AUTO, NO_ICC])
def test_what_depends_on_more_than_the_file_is_looked_at(
    command: Command, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command.apply(text) == 0
    monkeypatch.setattr(config.Source, "load", refused)
    for changed in (text, text.replace("8080", "8081")):
        assert command.apply(changed) == 70  # it has tried to read all
    monkeypatch.undo()
    assert command.verified()


def test_a_network_that_goes_is_read_with_the_rest(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its flows are still allowed is up to the whole host; the table is not listed."""
    monkeypatch.setattr(Kernel, "objects", refused)
    assert command.apply(START[: START.index('[[network]]\nname = "back"')]) == 0
    assert "0 rows added" in command.said
