"""What a running dockerd was started with, and which file it reads then."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import pytest

from nftbridge.docker import process
from nftbridge.docker.host import UNKNOWN, DaemonOptions
from nftbridge.docker.process import DAEMON_JSON, options_of, parsed, started
from nftbridge.errors import InputError
from nftbridge.migrate.configuration import Configuration

LISTEN = """
import socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def listener(folder: Path, *words: str, name: str = "dockerd") -> Generator[str]:
    """A process of that name that waits at a socket, and has these words on its command line."""
    path = str(folder / "docker.sock")
    command = [name, "-c", LISTEN, path, *words]
    with subprocess.Popen(
        command, executable=sys.executable, stdin=-1, stdout=-1, cwd=folder
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield path
        running.communicate()


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("", {}),
        ("-H fd:// --containerd=/run/containerd/containerd.sock", {}),
        ("--iptables=false --ip6tables=0", {"iptables": False, "ip6tables": False}),
        ("--iptables --ip6tables=T", {"iptables": True, "ip6tables": True}),
        ("--iptables=false --iptables", {"iptables": True}),
        ("--iptables false", {"iptables": True}),  # Go's flags take no value that stands apart
        ("--iptables=no", {}),
        ("--ip-forward=false --iptables-x=false", {}),
        ("-- --iptables=false", {}),
        (
            "--userland-proxy=false --allow-direct-routing",
            {"userland-proxy": False, "allow-direct-routing": True},
        ),
    ],
)
def test_flags_as_go_reads_them(words: str, flags: Mapping[str, bool]) -> None:
    assert parsed(["/usr/bin/dockerd", *words.split()]).flags == flags


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("--config-file /a/b.json --iptables=false", "/a/b.json"),
        ("--config-file=/a/b.json", "/a/b.json"),
        ("--config-file=/a/b.json --config-file /c.json", "/c.json"),
        ("--debug", None),
    ],
)
def test_the_file_that_it_names(words: str, file: str | None) -> None:
    found = parsed(["dockerd", *words.split()])
    assert (found.file and str(found.file)) == file


def test_whether_it_has_a_firewall() -> None:
    assert parsed(["dockerd", "--iptables=false", "--ip6tables=false"]).off
    assert not parsed(["dockerd", "--iptables=false"]).off
    assert parsed(["dockerd", "--iptables", "--ip6tables=false"]).insisting == ("iptables",)


def test_the_process_behind_the_socket(tmp_path: Path) -> None:
    with listener(tmp_path, "--iptables=false", "--config-file", "own.json") as path:
        found = started(path)
    assert found.flags == {"iptables": False}
    assert found.reads == tmp_path / "own.json"


def test_where_systemd_has_made_the_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it waits at it, and Docker's file says who Docker is, if it is true."""
    pidfile = tmp_path / "docker.pid"
    monkeypatch.setattr(process, "_PIDFILE", pidfile)
    (tmp_path / "other").mkdir()
    with listener(tmp_path, name="systemd") as path:
        with listener(tmp_path / "other", "--iptables=false") as theirs:
            docker, systemd = peer(theirs), peer(path)
            pidfile.write_text(f"{docker}\n")
            assert started(path).root is None
            monkeypatch.setattr(process, "_INIT", systemd)
            assert started(path).flags == {"iptables": False}
            pidfile.write_text(f"{systemd}\n")
            assert started(path).root is None
        pidfile.write_text(f"{docker}\n")
        assert started(path).root is None
        pidfile.unlink()
        assert started(path).root is None


def peer(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[:4], sys.byteorder)


@pytest.mark.parametrize(
    ("words", "said", "options"),
    [
        ((), None, (True, False, True)),
        ((), "", (True, False, True)),
        ((), '{"debug": true}', (True, False, True)),
        (("--userland-proxy=false", "--ip-masq=0"), "{}", (False, False, False)),
        ((), '{"userland-proxy": false, "allow-direct-routing": true}', (False, True, True)),
        (("--allow-direct-routing",), '{"ip-masq": false}', (True, True, False)),
        ((), "[]", (None, None, None)),
        ((), "{", (None, None, None)),
    ],
)
def test_what_the_api_does_not_tell(
    tmp_path: Path, words: tuple[str, ...], said: str | None, options: tuple[bool | None, ...]
) -> None:
    """Docker's own defaults where neither its words nor its file say anything."""
    file = tmp_path / "daemon.json"
    if said is not None:
        file.write_text(said)
    with listener(tmp_path, f"--config-file={file}", *words) as path:
        assert astuple(options_of(started(path))) == options


def test_what_is_said_first_counts() -> None:
    assert UNKNOWN.otherwise(DaemonOptions(ip_masq=False)) == DaemonOptions(ip_masq=False)
    some = DaemonOptions(userland_proxy=False, ip_masq=True)
    other = DaemonOptions(userland_proxy=True, allow_direct_routing=True)
    assert some.otherwise(other) == DaemonOptions(False, True, True)  # noqa: FBT003


def test_of_another_program_nothing_is_known(tmp_path: Path) -> None:
    with listener(tmp_path, "--iptables=false", name="podman") as path:
        found = started(path)
    assert (found.flags, found.file, found.root) == ({}, None, None)
    assert started(str(tmp_path / "nobody")) == found
    assert started(path) == found  # the socket is there, but nobody waits at it


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_name_it_is_the_file_that_docker_reads(tmp_path: Path, *, exists: bool) -> None:
    theirs, another = tmp_path / "their.json", tmp_path / "another.json"
    if exists:
        theirs.write_text("{}")
        another.write_text("{}")
    with listener(tmp_path, f"--config-file={theirs}") as path:
        found = started(path)
        assert Configuration.chosen(None, found).path == theirs
        assert not [*Configuration.chosen(None, found).elsewhere()]
        assert not [*Configuration.chosen(tmp_path / "." / theirs.name, found).elsewhere()]
        (said,) = Configuration.chosen(another, found).elsewhere()
        assert said.message == f"Docker reads {theirs}, not this file"
        Configuration.chosen(another, found).check_writable()  # the user may know better
    with listener(tmp_path / "..", "--debug") as path:
        found = started(path)
        assert Configuration.chosen(None, found).path == DAEMON_JSON
        (said,) = Configuration.chosen(another, found).elsewhere()
        assert said.message == f"Docker reads {DAEMON_JSON}, not this file"
    Path(path).unlink()


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("", '{\n    "iptables": false,\n    "ip6tables": false\n}\n'),
        ("--iptables=false", '{\n    "ip6tables": false\n}\n'),
        ("--ip6tables=false", '{\n    "iptables": false\n}\n'),
        ("--iptables=false --ip6tables=false", None),
    ],
)
def test_what_is_on_the_command_line_is_not_written(
    tmp_path: Path, words: str, written: str | None
) -> None:
    """dockerd does not start with an option in both places."""
    file = tmp_path / "daemon.json"
    configuration = Configuration(file, parsed(["dockerd", *words.split()]))
    configuration.check_writable()
    assert bool(configuration.difference()) is (written is not None)
    assert configuration.switch_off() is (written is not None)
    assert (file.read_text() if file.exists() else None) == written
    assert not configuration.difference()
    assert Configuration(file).put_back(existed=False)
    assert not file.exists()


def test_no_file_switches_off_what_the_command_line_switches_on(tmp_path: Path) -> None:
    configuration = Configuration(tmp_path / "daemon.json", parsed(["dockerd", "--iptables"]))
    with pytest.raises(InputError, match="--iptables: is on Docker's command line"):
        configuration.check_writable()
