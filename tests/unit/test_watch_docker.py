"""The service's side of an Engine that answers, is silent, says nonsense or goes away.

The real Engine is in tests/kernel; this one says what a test wants to hear.
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nftbridge.docker import names
from nftbridge.docker.host import joined
from nftbridge.docker.wire import Exchange
from nftbridge.errors import UnavailableError
from nftbridge.model import Host
from nftbridge.watch import docker
from nftbridge.watch.docker import Docker
from nftbridge.watch.lane import PACES, Gathering, Reason
from nftbridge.watch.log import Log
from tests.unit.docker_inspect import bound, container, endpoint, network

VERSION = {"Version": "28.5.2", "ApiVersion": "1.51", "MinAPIVersion": "1.24"}
FRONT = "front-id-0123456789abcdef"
_PATIENCE = 10.0


class Engine:
    """Answers GET by path; what it holds for events is sent, and more when a test says it."""

    def __init__(self, path: str) -> None:
        self.answers: dict[str, Any] = {
            "/version": VERSION,
            "/v1.51/info": {},
            "/v1.51/containers/json": [],
            "/v1.51/networks": [{"Id": FRONT}],
            f"/v1.51/networks/{FRONT}": network(),
        }
        self.asked: list[str] = []
        self.listeners: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(path)
        self._server.listen(100)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def runs(self, name: str, last: int = 2, **keys: Any) -> None:
        """A container is there; its start is not told."""
        ports = {"80/tcp": bound(f"0.0.0.0 {8000 + last}")}
        found = container(name, ports, {"front": endpoint(last=last)}) | keys
        self.answers[f"/v1.51/containers/{name}-id/json"] = found
        self.answers["/v1.51/containers/json"].append({"Id": f"{name}-id"})

    def tells(self, action: str, container: str) -> None:
        self.says({"Type": "container", "Action": action, "Actor": {"ID": f"{container}-id"}})

    def says(self, what: object) -> None:
        line = what if isinstance(what, bytes) else json.dumps(what).encode() + b"\n"
        self.listeners[-1].sendall(line)

    def hang_up(self) -> None:
        self.listeners[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()
        for client in self._clients:
            client.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self._clients.append(client)
            self.answer(client)

    def answer(self, client: socket.socket) -> None:
        what = client.recv(4096).decode().split()[1]
        self.asked.append(what)
        if "/events" in what:
            client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            self.listeners.append(client)
            return
        answer = self.answers.get(what)
        with client:
            if isinstance(answer, bytes):
                client.sendall(answer)
            elif answer is None:
                client.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n{}")
            else:
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(answer).encode())


@pytest.fixture
def path() -> Generator[str]:
    """A short one: that of a unix socket has 107 bytes at most."""
    with TemporaryDirectory() as folder:
        yield str(Path(folder, "docker.sock"))


@pytest.fixture
def engine(path: str) -> Generator[Engine]:
    found = Engine(path)
    yield found
    found.close()


class Watched:
    """`Docker` in a loop, and what it has said and logged."""

    def __init__(self, path: str) -> None:
        self.log = io.StringIO()
        self.docker = Docker(path, Log(self.log, as_json=True))
        self.gone = self.changed = self.absent = 0

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < end, self.log.getvalue()
            news = self.docker.progress()
            self.gone += news.gone
            self.changed += news.changed
            self.absent += news.away
            time.sleep(0.001)

    def settle(self, seconds: float) -> None:
        """Go on for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def ready(self) -> None:
        self.until(lambda: self.docker.ledger.complete)

    def away(self, times: int = 1) -> None:
        self.until(lambda: self.log.getvalue().count('"away"') == times)

    def names(self) -> list[str]:
        """The containers that are known."""
        host = joined(Host(), self.docker.ledger.inspected()).host
        return [c.name for n in host.networks for c in n.containers]


@pytest.fixture
def watched(path: str) -> Generator[Watched]:
    found = Watched(path)
    with found.docker:
        yield found


def test_it_listens_before_it_lists(engine: Engine, watched: Watched) -> None:
    engine.runs("web")
    watched.ready()
    assert watched.names() == ["web"]
    assert watched.changed == 1, "when all is known"
    kinds = [what.partition("?")[0] for what in engine.asked]
    assert kinds[:2] == ["/version", "/v1.51/events"]
    assert watched.docker.fresh() == {}, "it has no namespace of its own"


def test_what_starts_and_ends(engine: Engine, watched: Watched) -> None:
    watched.ready()
    engine.runs("web", NetworkSettings=container()["NetworkSettings"] | {"SandboxKey": "/x"})
    engine.tells("start", "web")
    watched.until(lambda: watched.names() == ["web"])
    assert watched.docker.fresh() == {"web-id": "/x"}
    assert watched.docker.fresh() == {}
    asked = len(engine.asked)
    engine.tells("die", "web")
    watched.until(lambda: watched.names() == [])
    assert watched.gone == 1
    assert len(engine.asked) == asked, "nobody has to be asked for that"


def test_networks_are_listed_once_more_where_one_has_come_without_a_word(
    engine: Engine, watched: Watched
) -> None:
    watched.ready()
    for name in ("silent", "told"):
        engine.answers["/v1.51/networks"].append({"Id": f"{name}-id"})
        made = network(name, Id=f"{name}-id", IPAM={"Config": []})
        engine.answers[f"/v1.51/networks/{name}-id"] = made
    engine.says({"Type": "network", "Action": "create", "Actor": {"ID": "told-id"}})
    watched.until(lambda: len(watched.docker.ledger.inspected().networks) == 3)
    asked = [what.removeprefix("/v1.51") for what in engine.asked]
    assert (asked.count("/networks"), asked.count("/info")) == (2, 2)
    assert asked.count(f"/networks/{FRONT}") == 1, "it was known"


SWARM = {"Swarm": {"LocalNodeState": "active"}}
GATEWAY = "gateway-id"
BOX = {"ingress-sbox": {"Name": "gateway_ingress-sbox", "IPv4Address": "172.18.0.2/16"}}


def gateway(engine: Engine, members: object) -> None:
    """Swarm's bridge is there, with these end points."""
    subnet = {"Config": [{"Subnet": "172.18.0.0/16"}]}
    made = network("docker_gwbridge", Id=GATEWAY, IPAM=subnet, Containers=members)
    engine.answers[f"/v1.51/networks/{GATEWAY}"] = made
    engine.answers["/v1.51/networks"] = [{"Id": FRONT}, {"Id": GATEWAY}]


def test_a_swarm_that_begins_and_ends(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the beginning a node's event tells, of the rest nothing."""
    monkeypatch.setattr(docker, "_LOOK_AGAIN", 0.05)
    watched.ready()
    gateway(engine, {})
    engine.answers["/v1.51/info"] = SWARM
    engine.says({"Type": "node", "Action": "update", "Actor": {"ID": "node-id"}})
    watched.until(watched.docker.ledger.untold)
    watched.ready()
    gateway(engine, BOX)
    watched.until(lambda: watched.names() == ["gateway_ingress-sbox"])
    changed, asked = watched.changed, len(engine.asked)
    watched.until(lambda: len(engine.asked) > asked + 9)
    assert watched.changed == changed, "the same again is no news"
    gateway(engine, {})
    engine.answers["/v1.51/info"] = {}
    watched.until(lambda: watched.names() == [] and not watched.docker.ledger.untold())
    watched.until(lambda: watched.docker.due() is None)
    assert watched.changed > changed
    engine.says({"Type": "image"})
    asked = len(engine.asked)
    watched.settle(0.2)
    assert len(engine.asked) == asked, "nothing is polled any more"


def test_without_a_swarm_nothing_is_polled(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_LOOK_AGAIN", 0.05)
    engine.runs("web")
    member = {"web-id": {"Name": "web", "IPv4Address": "172.20.0.2/16"}}
    engine.answers[f"/v1.51/networks/{FRONT}"] = network(Containers=member)
    watched.ready()
    for _ in range(2):
        asked = len(engine.asked)
        watched.settle(0.2)
        assert watched.docker.due() is None
        assert len(engine.asked) == asked
        changed = watched.changed
        engine.tells("start", "web")
        watched.until(lambda: len(engine.asked) > asked)  # noqa: B023 - called here
        watched.until(lambda: watched.docker.ledger.complete)
        assert watched.changed == changed, "it is as it was"


def test_an_engine_that_is_in_a_swarm_already_and_comes_back(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_LOOK_AGAIN", 0.05)
    engine.answers["/v1.51/info"] = SWARM
    gateway(engine, BOX)
    watched.ready()
    engine.hang_up()
    watched.away()
    watched.ready()
    gateway(engine, {})
    engine.answers["/v1.51/info"] = {}
    watched.until(lambda: watched.names() == [] and watched.docker.due() is None)


@pytest.mark.parametrize(
    "rest", [b'{"Type": "container", "Act', b""], ids=["in a line", "after one"]
)
def test_a_stream_that_is_cut(engine: Engine, watched: Watched, rest: bytes) -> None:
    for name, last in (("stays", 2), ("ends", 3)):
        engine.runs(name, last)
    watched.ready()
    engine.answers["/v1.51/containers/json"].pop()
    engine.runs("new", 4)
    engine.says(rest)
    engine.hang_up()
    watched.away()
    assert watched.names() == ["ends", "stays"], "as it was known last"
    watched.ready()
    assert watched.names() == ["new", "stays"]
    assert watched.gone == 1


def test_an_engine_that_ends_is_listened_to_until_it_hangs_up(
    path: str, engine: Engine, watched: Watched
) -> None:
    """Its socket is gone by then, so that there is nobody to ask."""
    for name, last in (("first", 2), ("second", 3), ("third", 4)):
        engine.runs(name, last)
    watched.ready()
    Path(path).unlink()
    engine.tells("rename", "first")
    watched.away()
    assert watched.names() == ["first", "second", "third"]
    engine.tells("die", "first")
    engine.tells("die", "second")
    watched.until(lambda: watched.names() == ["third"])
    engine.hang_up()
    late = Engine(path)
    late.runs("next", 5)
    watched.ready()
    assert watched.names() == ["next"]
    assert watched.log.getvalue().count('"away"') == 1
    late.tells("die", "next")
    watched.until(lambda: watched.names() == [])
    late.close()


@pytest.mark.parametrize("line", [b"nonsense\n", b"\xff\xfe\n", b'{"Type": 7}\n', b"[]\n"])
def test_nonsense_among_the_events(engine: Engine, watched: Watched, line: bytes) -> None:
    watched.ready()
    engine.says(line)
    watched.away()
    engine.runs("web")
    watched.ready()
    assert watched.names() == ["web"]
    engine.tells("die", "web")
    watched.until(lambda: watched.names() == [])


def test_too_many_events_at_once_may_not_be_all(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_TOO_MANY", 3)
    watched.ready()
    engine.runs("web")
    engine.says(b'{"Type": "image"}\n' * 4)
    watched.away()
    watched.ready()
    assert watched.names() == ["web"]


BAD_ANSWERS = {
    "no JSON": b"HTTP/1.0 200 OK\r\n\r\n[{",
    "no HTTP": b"220 smtp ready\r\n\r\n",
    "nothing": b"",
    "refused": b'HTTP/1.0 500 Oops\r\n\r\n{"message": "no"}',
    "not a list": b'HTTP/1.0 200 OK\r\n\r\n{"Id": 1}',
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
@pytest.mark.parametrize("what", ["/version", "/v1.51/containers/json"])
def test_answers_that_are_of_no_use(
    engine: Engine, watched: Watched, what: str, answer: bytes
) -> None:
    """Asked again, ever more rarely, and said once."""
    good, engine.answers[what] = engine.answers[what], answer
    watched.until(lambda: engine.asked.count("/version") > 1)
    watched.until(lambda: watched.docker.due() is not None)
    engine.answers[what] = good
    watched.ready()
    assert watched.log.getvalue().count("listening") >= 1


def test_one_container_that_docker_refuses_to_tell_of(
    engine: Engine, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "_RETRY_ONE", 0.05)
    engine.runs("web")
    engine.runs("odd", 3)
    key = "/v1.51/containers/odd-id/json"
    good, engine.answers[key] = engine.answers[key], BAD_ANSWERS["refused"]
    watched.ready()
    assert watched.names() == ["web"]
    (problem,) = watched.docker.ledger.unread()
    assert "status 500" in problem.message
    engine.answers[key] = good
    watched.until(lambda: watched.names() == ["odd", "web"])
    assert watched.docker.ledger.unread() == ()


def test_one_container_that_gives_no_answer(
    path: str, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker lets a question about a container wait while it starts that."""
    monkeypatch.setattr(docker, "_PATIENCE_WITH_ONE", 0.1)

    class Slow(Engine):
        def answer(self, client: socket.socket) -> None:
            if b"slow-id" in client.recv(4096, socket.MSG_PEEK):
                return  # and nothing is said
            super().answer(client)

    slow = Slow(path)
    slow.runs("web")
    slow.runs("slow", 3)
    watched.ready()
    assert watched.names() == ["web"]
    assert "no answer" in watched.docker.ledger.unread()[0].message
    slow.tells("die", "slow")
    watched.until(lambda: not watched.docker.ledger.unread())
    slow.close()


def test_an_engine_that_comes_later(path: str, watched: Watched) -> None:
    watched.away()
    time.sleep(0.1)
    late = Engine(path)
    watched.ready()
    assert watched.log.getvalue().count('"away"') == 1
    late.close()


def test_a_socket_that_nobody_serves_yet(path: str, watched: Watched) -> None:
    """systemd's: Docker may be started only when we no longer make others wait."""
    held: list[socket.socket] = []

    class Early(Engine):
        def answer(self, client: socket.socket) -> None:
            if watched.absent:
                super().answer(client)
            else:
                held.append(client)

    early = Early(path)
    watched.until(lambda: watched.absent == 1)
    for client in held:
        Engine.answer(early, client)
    watched.ready()
    assert "away" not in watched.log.getvalue()
    early.close()


def test_nobody_to_ask(path: str) -> None:
    with pytest.raises(UnavailableError, match="no socket"):
        Exchange(path, "/version")


# --- when to act ---------------------------------------------------------------------------------


def test_containers_that_start_are_gathered_the_longer_the_more_there_are() -> None:
    gathering, now, waits = Gathering(), 100.0, list[float]()
    for _ in range(8):
        gathering.add(Reason.DOCKER, now)
        gathering.add(Reason.DOCKER, now + 0.001)
        due = gathering.due()
        assert due is not None
        waits.append(round(due - now, 3))
        gathering.take()
        gathering.rest(due, due)
        now = due + 0.01
    assert waits[0] == PACES[0]
    assert waits == sorted(waits)
    assert waits[-1] == PACES[1]
    gathering.add(Reason.DOCKER, now + 10)
    gathering.take()
    gathering.rest(now + 10, now + 10)
    gathering.add(Reason.DOCKER, now + 20)
    assert gathering.due() == now + 20 + PACES[0], "a pause ends the burst"


def test_what_is_gone_waits_for_nothing() -> None:
    gathering = Gathering()
    gathering.rest(0.5, 0.5)
    gathering.rest(1.0, 5.0)  # a burst
    gathering.add(Reason.DOCKER, 5.1)
    assert gathering.due() == 9.0, "it was at work for four seconds"
    gathering.add(Reason.GONE, 5.1 + PACES[0] / 2)
    assert gathering.due() == 5.1 + PACES[0] / 2


# --- names in containers -------------------------------------------------------------------------

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00007F:AE13 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 16588976
   1: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 16588977
"""
UDP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref
 8217: 0B00007F:A0A8 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 165 2
"""


@pytest.mark.skipif("sys.byteorder != 'little'")
def test_where_the_name_server_listens() -> None:
    found = names.listening(names.parse(TCP), names.parse(UDP))
    assert found == names.Ports(tcp=0xAE13, udp=0xA0A8)
    assert names.listening(names.parse(TCP), names.parse("")) is None


def test_a_namespace_where_docker_lives_elsewhere(tmp_path: Path) -> None:
    assert names.place(str(tmp_path), 0) == str(tmp_path)
    assert names.place("/var/run/docker/netns/none", 1) == "/var/run/docker/netns/none"
    assert names.serve("/var/run/docker/netns/none") is names.Found.WELL, "it has ended"
