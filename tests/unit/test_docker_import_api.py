"""Asking an Engine: what goes wrong between its socket and an answer, and saved answers.

The real Engine is in tests/kernel; this one answers what a test wants to hear.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.docker import api
from nftbridge.errors import InputError, UnavailableError
from tests.unit.docker_inspect import bound, container, network

CAPTURE = "tests/golden/captures/docker-28.5.2"
VERSION = {"Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24"}

Answers = dict[str, object]
Serve = Callable[[Answers], str]


class Refused(NamedTuple):
    """An error that the Engine answers with."""

    status: int
    message: str


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's table: data, bytes as they are, or a refusal."""

    protocol_version = "HTTP/1.1"
    answers: Answers

    def do_GET(self) -> None:
        answer = self.answers.get(self.path, Refused(404, "page not found"))
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        status = 200
        if isinstance(answer, Refused):
            status, body = answer.status, json.dumps({"message": answer.message}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the parent's name
        """Nothing is logged."""


@pytest.fixture
def place() -> Generator[Path]:
    """A short folder: the path of a unix socket has 107 bytes at most."""
    with TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def serve(place: Path) -> Generator[Serve]:
    """Starts an Engine that gives these answers; its socket."""
    servers: list[ThreadingUnixStreamServer] = []

    def start(answers: Answers) -> str:
        path = str(place / "docker.sock")
        server = ThreadingUnixStreamServer(path, type("Here", (Handler,), {"answers": answers}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return path

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answers(version: str = "1.51", changes: Answers | None = None) -> Answers:
    """An Engine with one network and one container in it."""
    net, web = network(), container(ports={"80/tcp": bound("0.0.0.0 8080", ":: 8080")})
    at = f"/v{version}"
    return {
        "/version": VERSION,
        f"{at}/info": {},
        f"{at}/containers/json": [{"Id": web["Id"]}],
        f"{at}/containers/{web['Id']}/json": web,
        f"{at}/networks": [{"Id": net["Id"]}],
        f"{at}/networks/{net['Id']}": net,
    } | (changes or {})


def refusal(path: str) -> UnavailableError:
    with pytest.raises(UnavailableError) as error:
        api.ask(path)
    return error.value


def test_all_there_is(serve: Serve) -> None:
    inspected, engine = api.ask(serve(answers()))
    assert engine == "Docker Engine 28.5.2, API 1.51"
    assert [network.name for network in inspected.networks] == ["front"]
    assert [container.name for container in inspected.containers] == ["web"]


@pytest.mark.parametrize(
    ("newest", "oldest", "taken"), [("1.41", "1.12", "1.41"), ("1.60", "1.44", "1.51")]
)
def test_the_newest_version_that_both_know(
    serve: Serve, newest: str, oldest: str, taken: str
) -> None:
    said = VERSION | {"ApiVersion": newest, "MinAPIVersion": oldest}
    inspected, _ = api.ask(serve(answers(taken, {"/version": said})))
    assert inspected.containers


@pytest.mark.parametrize(
    ("newest", "oldest", "hint"), [("1.40", "1.12", "20.10"), ("1.99", "1.60", "newer nftbridge")]
)
def test_versions_without_one_in_common(serve: Serve, newest: str, oldest: str, hint: str) -> None:
    said = VERSION | {"ApiVersion": newest, "MinAPIVersion": oldest}
    error = refusal(serve({"/version": said}))
    assert f"{oldest} to {newest}" in str(error)
    assert hint in error.hint


def test_what_is_gone_before_it_is_inspected_is_left_out(serve: Serve) -> None:
    told = answers()
    del told["/v1.51/containers/web-id/json"]
    assert api.ask(serve(told))[0].containers == ()


def test_an_error_of_the_daemon_is_told(serve: Serve) -> None:
    error = refusal(serve(answers(changes={"/v1.51/networks": Refused(500, "no such luck")})))
    assert "GET /v1.51/networks with status 500: no such luck" in str(error)


def test_an_answer_that_is_no_json(serve: Serve) -> None:
    assert "is not JSON: '<html>'" in str(refusal(serve({"/version": b"<html>"})))


def test_an_answer_that_is_not_dockers(serve: Serve) -> None:
    with pytest.raises(InputError) as error:
        api.ask(serve({"/version": []}))
    assert error.value.problems[0].where == "Docker's answer to GET /version"


def test_no_socket(place: Path) -> None:
    error = refusal(str(place / "docker.sock"))
    assert "no socket" in str(error)
    assert "--docker" in error.hint


def test_nobody_listens(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "docker.sock"))
        assert "nobody listens" in str(refusal(str(place / "docker.sock")))


def test_a_path_too_long_for_a_socket() -> None:
    assert "cannot be asked" in str(refusal("/" + 200 * "x"))


@pytest.mark.parametrize("said", [b"SSH-2.0-x\r\n", b""])
def test_somebody_else_listens(place: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "docker.sock"))
        sock.listen()

        def answer() -> None:
            with sock.accept()[0] as peer:
                peer.recv(1000)
                peer.send(said)

        thread = threading.Thread(target=answer)
        thread.start()
        error = refusal(str(place / "docker.sock"))
        thread.join()
    assert "--docker" in error.hint or "log of dockerd" in error.hint


def test_silence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_PATIENCE", 0.1)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "docker.sock"))
        sock.listen()
        assert "no answer" in str(refusal(str(place / "docker.sock")))


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_a_socket_for_others(place: Path, public_copy: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "docker.sock"))
        place.chmod(0o755)
        (place / "docker.sock").chmod(0o600)
        sock.listen()
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "nftbridge",
                "import",
                "docker",
                "--docker",
                sock.getsockname(),
            ],
            env={"PYTHONPATH": str(public_copy)},
            cwd="/",
            user=65534,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 5
    assert "group docker" in done.stderr


# --- which socket --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "variable", "path"),
    [
        (None, None, "/var/run/docker.sock"),
        (None, "unix:///run/user/1000/docker.sock", "/run/user/1000/docker.sock"),
        ("/here.sock", "unix:///there.sock", "/here.sock"),
        ("unix:///here.sock", "tcp://elsewhere:2375", "/here.sock"),
    ],
)
def test_which_socket(option: str | None, variable: str | None, path: str) -> None:
    assert api.socket_path(option, {"DOCKER_HOST": variable} if variable else {}) == path


@pytest.mark.parametrize(("option", "where"), [("tcp://x", "--docker"), (None, "DOCKER_HOST")])
def test_other_sockets_are_refused(option: str | None, where: str) -> None:
    with pytest.raises(InputError) as error:
        api.socket_path(option, {"DOCKER_HOST": "ssh://x"})
    assert error.value.problems[0].where == where


@pytest.mark.parametrize(("option", "where"), [("unix://", "--docker"), (None, "DOCKER_HOST")])
def test_a_socket_without_a_path(option: str | None, where: str) -> None:
    with pytest.raises(InputError, match="'unix://' names no socket") as error:
        api.socket_path(option, {"DOCKER_HOST": "unix://"})
    assert error.value.problems[0].where == where


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_a_host_file(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = serve(answers())
    for suffix in ("toml", "json"):
        arguments = ["--docker", path, "--userland-proxy", "--no-allow-direct-routing"]
        assert main(["import", "docker", *arguments, "--format", suffix]) == 0
        said = capsys.readouterr()
        (tmp_path / f"host.{suffix}").write_text(said.out)
        assert said.err == ""
    toml, json_ = (config.load(str(tmp_path / f"host.{s}")) for s in ("toml", "json"))
    assert toml == json_
    assert toml.host.summary() == "1 network, 1 container, 1 published port"
    assert (
        "# Made by `nftbridge import docker` from Docker Engine 28.5.2"
        in (tmp_path / "host.toml").read_text()
    )


def test_remarks_are_warnings_and_comments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "docker", "--from", CAPTURE]) == 0
    said = capsys.readouterr()
    for remark in ("network 'vlan': is left out", "host.userland_proxy: true is assumed"):
        assert f"# {remark}" in said.out
        assert f"warning: {remark}" in said.err


def test_two_files_are_as_good_as_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--networks", f"{CAPTURE}/networks.json", "--containers", f"{CAPTURE}/containers.json"]
    assert main(["import", "docker", "--json", *files]) == 0
    of_files = capsys.readouterr().out
    assert main(["import", "docker", "--json", "--from", CAPTURE]) == 0
    assert capsys.readouterr().out == of_files


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--networks", "x"], "--containers: is missing"),
        (["--containers", "x"], "--networks: is missing"),
        (["--from", "x", "--docker", "y"], "exclude one another"),
        (["--from", "x", "--networks", "y"], "exclude one another"),
        (["--from", "nowhere"], "nowhere/networks.json: there is no such file"),
        (["--docker", "tcp://x"], "is not a unix socket"),
    ],
)
def test_mistakes_in_the_arguments(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "docker", *arguments]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"Name": ', "networks.json: is not JSON: Expecting value (at line 1, column 11)"),
        ('{"Name": "x"}', "networks.json: must be a list, not a table"),
        (
            '[{"Name": "x", "Driver": 1}]',
            "networks.json: [0].Driver: must be a string, not the number 1",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_place(
    content: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "networks.json").write_text(content)
    (tmp_path / "containers.json").write_text("[]")
    assert main(["import", "docker", "--from", str(tmp_path)]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "\n"])
@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("networks.json", "hint: the command that was to fill it has failed"),
        ("containers.json", "hint: if no container is running, write [] into it; else"),
        ("info.json", "hint: the command that was to fill it has failed"),
    ],
)
def test_an_empty_file_is_what_a_failed_command_leaves(
    name: str, hint: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for other in ("networks.json", "containers.json", "info.json"):
        (tmp_path / other).write_text("{}" if other == "info.json" else "[]")
    (tmp_path / name).write_text(content)
    assert main(["import", "docker", "--from", str(tmp_path)]) == 1
    assert f"{name}: is empty\n    {hint}" in capsys.readouterr().err


def test_a_name_cannot_leave_its_comment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x\nversion = 2"
    folder.mkdir()
    evil = network("y\nversion = 3", Driver="overlay")
    (folder / "networks.json").write_text(json.dumps([evil]))
    (folder / "containers.json").write_text("[]")
    assert main(["import", "docker", "--from", str(folder)]) == 0
    (tmp_path / "host.toml").write_text(capsys.readouterr().out)
    assert config.load(str(tmp_path / "host.toml")).host.networks == ()


def test_without_its_library_there_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tomli_w", None)
    assert main(["import", "docker", "--from", CAPTURE]) == 5
    assert "--format json" in capsys.readouterr().err
    assert main(["import", "docker", "--from", CAPTURE, "--format", "json"]) == 0


def test_only_the_import_pays_for_writing_toml() -> None:
    code = (
        "import sys; from nftbridge import cli; from nftbridge.commands import files; "
        "print('tomli_w' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
