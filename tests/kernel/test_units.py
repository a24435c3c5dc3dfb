"""The systemd units, by systemd's own judgement, and the service under what they allow."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nftbridge.cli import main
from nftbridge.docker.api import SOCKET
from nftbridge.errors import InputError
from nftbridge.watch.units import NAMES, made, made_for_docker, written
from tests.kernel.watching import watching
from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

_MOST_EXPOSED = 25  # tenths; 0 is nothing at all, 92 is a service without any restriction
_MOST_EXPOSED_WITH_DOCKER = 30
_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\(", re.MULTILINE)


@pytest.fixture(scope="module")
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze here")
    return found


def systemd(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


FILE_S = made("/etc/nftbridge")
DOCKER_S = {
    "usual": made_for_docker(None, SOCKET),
    "own": made_for_docker("/etc/nftbridge", "/run/other.sock"),
}
ALL = [pytest.param(units, id=name) for name, units in {"file": FILE_S, **DOCKER_S}.items()]


@pytest.mark.parametrize("units", ALL)
def test_systemd_understands_them(analyze: str, tmp_path: Path, units: dict[str, str]) -> None:
    for path in written(tmp_path, units):
        done = systemd(analyze, "verify", "--man=no", path)
        assert (done.returncode, [x for x in done.stderr.splitlines() if "nftbridge" in x]) == (
            0,
            [],
        )


def test_a_wrong_unit_would_be_seen(analyze: str, tmp_path: Path) -> None:
    path = Path(written(tmp_path, FILE_S)[1])
    path.write_text(path.read_text().replace("KillMode=mixed", "KilMode=mixed"))
    assert "KilMode" in systemd(analyze, "verify", "--man=no", str(path)).stderr


def test_they_expose_little(analyze: str, tmp_path: Path) -> None:
    rate = (analyze, "security", "--offline=true", f"--threshold={_MOST_EXPOSED}")
    for path in written(tmp_path, FILE_S):
        done = systemd(*rate, path)
        assert done.returncode == 0, done.stdout
        Path(path).write_text(Path(path).read_text().replace("NoNewPrivileges=yes", ""))
        open_ = Path(path).read_text().replace("CapabilityBoundingSet=CAP_NET_ADMIN", "")
        Path(path).write_text(open_)
        assert systemd(*rate, path).returncode != 0


def test_with_docker_they_expose_little_more(analyze: str, tmp_path: Path) -> None:
    rate = (analyze, "security", "--offline=true", f"--threshold={_MOST_EXPOSED_WITH_DOCKER}")
    (path,) = written(tmp_path, DOCKER_S["usual"])
    done = systemd(*rate, path)
    assert done.returncode == 0, done.stdout


def test_with_docker_there_is_one_unit_that_comes_before_it() -> None:
    (usual,), (own,) = (units.values() for units in DOCKER_S.values())
    lines = usual.splitlines()
    assert "Before=docker.service" in lines
    starts = [line for line in lines if line.startswith("ExecStart")]
    assert [start.partition("nftbridge ")[2] for start in starts] == [
        "baseline --bridge docker0 --bridge br-*",
        "watch --docker",
    ]
    assert "watch /etc/nftbridge --docker=/run/other.sock\n" in own
    assert "@" not in usual.partition("SystemCallFilter")[0]


@pytest.mark.parametrize(
    ("variable", "option"),
    [("", "--docker\n"), ("unix:///run/other.sock", "--docker=/run/other.sock\n")],
)
def test_the_engine_is_that_of_docker_s_own_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, option: str
) -> None:
    monkeypatch.setenv("DOCKER_HOST", variable)
    assert main(["units", "--docker"]) == 0
    assert f"watch {option}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--docker", "host.toml"), ("--docker", "tcp://x")])
def test_what_is_no_socket_is_refused(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["units", *words]) == 1
    assert "--docker" in capsys.readouterr().err


def test_paths_that_would_mean_something_else_are_refused() -> None:
    for path in ("/etc/my files", "/etc/%n", '/etc/"x"', "/etc/$x"):
        with pytest.raises(InputError, match="cannot stand in a unit"):
            made(path)


def test_every_unit_is_complete() -> None:
    units = made("/etc/nftbridge")
    assert tuple(units) == NAMES
    assert not any("@" in line.partition("SystemCallFilter")[0] for line in units.values())


def setting(name: str) -> list[str]:
    """What the service's unit sets, each line."""
    lines = made("/etc/nftbridge")["nftbridge-watch.service"].splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def test_the_service_needs_no_more_than_they_allow(tmp_path: Path) -> None:
    """With the capabilities of the unit alone; then its system calls are looked at."""
    (capabilities,) = setting("CapabilityBoundingSet")
    allowed = ",".join(f"+{c.removeprefix('CAP_').lower()}" for c in capabilities.split())
    restricted = ["setpriv", f"--bounding-set=-all,{allowed}", "--inh-caps=-all", "--no-new-privs"]
    tracer = shutil.which("strace")
    traced = [tracer, "-D", "-f", "-qq", "-o", str(tmp_path / "trace")] if tracer else []
    file = tmp_path / "host.toml"
    shutil.copy("rulesets/02-published-port/host.toml", file)
    with network_namespace() as name:
        inside = ["nsenter", f"--net=/run/netns/{name}"]
        program = made(str(file))["nftbridge-watch.service"].partition("ExecStart=")[2].split()[0]
        own = [program, "watch", str(file), "--json", "--state-dir", str(tmp_path / "state")]
        with watching([*traced, *inside, *restricted, *own]) as watch:
            subprocess.run([*inside, "nft", "flush", "ruleset"], check=True)
            watch.until("restored")
            file.write_text(file.read_text().replace("8080:80", "8081:80"))
            watch.until("applied", reason="file")
    if tracer is None:
        pytest.skip("there is no strace: its system calls were not looked at")
    forbidden = used(tmp_path / "trace", program) - permitted()
    assert not forbidden, forbidden


def used(trace: Path, program: str) -> set[str]:
    """The system calls from the service's own start on."""
    text = trace.read_text(errors="replace")
    found = set(_CALL.findall(text[text.index(f'execve("{program}"') :]))
    assert {"inotify_init1", "epoll_wait", "clone", "sendmsg"} <= found
    return found


def permitted() -> set[str]:
    """What the filters of the unit come to."""
    found: set[str] = set()
    for line in setting("SystemCallFilter"):
        names = {call for word in line.lstrip("~").split() for call in expanded(word)}
        found = found - names if line.startswith("~") else found | names
    return found


def expanded(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    listed = systemd("systemd-analyze", "syscall-filter", name).stdout.splitlines()[1:]
    words = [line.strip() for line in listed if line.strip() and not line.strip().startswith("#")]
    return {call for word in words for call in expanded(word)}
