"""Apply without a look at the kernel: when it is allowed, what it does, and when it is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge import config, state
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.model import Host, Publication
from nftbridge.nft.backend import NftablesBackend
from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

SCENARIOS = [config.load(str(path)).host for path in sorted(Path("rulesets").glob("*/host.toml"))]
MANY = config.load("rulesets/17-many-networks/host.toml").host
SMALL = config.load("rulesets/02-published-port/host.toml").host
TABLE = ("inet", "nftbridge")


@pytest.fixture
def engine(target: Target) -> Engine:
    return Engine(target, choose("nftables", target).backend)


class Looks:
    """How often the table was listed, and what was sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.sent: list[list[Command]] = []
        listed, commit = Kernel.objects, Kernel.commit

        def counted(kernel: Kernel) -> object:
            self.number += 1
            return listed(kernel)

        def kept(kernel: Kernel, commands: list[Command]) -> None:
            self.sent.append(commands)
            commit(kernel, commands)

        monkeypatch.setattr(Kernel, "objects", counted)
        monkeypatch.setattr(Kernel, "commit", kept)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def with_port(host: Host, port: int) -> Host:
    network = host.networks[0]
    first, *others = network.containers
    first = replace(first, publish=(*first.publish, Publication(81, port)))
    changed = replace(network, containers=(first, *others))
    return replace(host, networks=(changed, *host.networks[1:]))


def test_what_nobody_touched_is_not_looked_at(engine: Engine, looks: Looks) -> None:
    engine.apply(MANY)
    looks.number = 0
    looks.sent.clear()
    assert not engine.apply(MANY)
    done = engine.apply(with_port(MANY, 8888))
    assert done.count_added == 4
    assert not done.install
    assert looks.number == 0
    (commands,) = looks.sent
    elements = [e for c in commands for e in c["add"]["element"]["elem"]]
    assert len(elements) == 6  # per family: the open port, and both maps
    assert not engine.verify()
    assert looks.number == 1


def test_every_scenario_follows_every_other(engine: Engine) -> None:
    for host in (*SCENARIOS, *reversed(SCENARIOS)):
        engine.apply(host)
        assert not engine.verify()


def test_networks_and_containers_come_and_go_unseen(engine: Engine, looks: Looks) -> None:
    engine.apply(MANY)
    network = MANY.networks[0]
    fewer = replace(MANY, networks=MANY.networks[1:])
    empty = replace(MANY, networks=(replace(network, containers=()), *MANY.networks[1:]))
    renamed = replace(MANY, networks=(replace(network, name="other"), *MANY.networks[1:]))
    looks.number = 0
    for host in (fewer, MANY, empty, MANY, renamed, MANY):
        engine.apply(host)
        assert looks.number == 0
        assert not engine.verify()
        looks.number = 0


def test_somebody_elses_transaction_makes_us_look(
    engine: Engine, namespace: str, looks: Looks
) -> None:
    engine.apply(MANY)
    looks.number = 0
    nft(namespace, "add", "table", "ip", "unrelated")
    assert not engine.apply(MANY)
    assert looks.number == 1
    assert not engine.apply(MANY)  # it was seen to be right, so the next one need not look
    assert looks.number == 1
    nft(namespace, "delete", "element", *TABLE, "bridges", "{ ipv4 . br-nat }")
    assert engine.apply(MANY)
    assert looks.number == 2
    assert not engine.verify()


def test_somebody_who_cuts_in_is_not_taken_for_us(
    engine: Engine, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after our commit, before its generation is read."""
    engine.apply(MANY)
    commit = Kernel.commit

    def followed(kernel: Kernel, commands: list[Command]) -> None:
        commit(kernel, commands)
        nft(namespace, "delete", "element", *TABLE, "bridges", "{ ipv4 . br-nat }")

    with monkeypatch.context() as patch:
        patch.setattr(Kernel, "commit", followed)
        engine.apply(with_port(MANY, 8888))
    assert engine.apply(with_port(MANY, 8888)).added
    assert not engine.verify()


@pytest.mark.parametrize("field", ["generation", "made_by"])
def test_a_mark_of_another_time_counts_for_nothing(
    engine: Engine, looks: Looks, tmp_path: Path, field: str
) -> None:
    engine.apply(MANY)
    mark = next(tmp_path.rglob("mark.json"))
    body = json.loads(mark.read_text())
    for rubbish in (None, ["x"], "x", True, 0):
        mark.write_text(json.dumps(body | {field: rubbish}))
        looks.number = 0
        engine.apply(MANY)
        assert looks.number == 1


@pytest.mark.parametrize("moment", ["another boot", "other code"])
def test_another_boot_or_other_code_looks(
    target: Target, looks: Looks, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Engine(target, choose("nftables", target).backend).apply(MANY)
    if moment == "another boot":
        monkeypatch.setattr("nftbridge.netns.boot", lambda: "another")
    else:
        monkeypatch.setattr(state, "code", lambda: "other")
    looks.number = 0
    Engine(target, choose("nftables", target).backend).apply(MANY)
    assert looks.number == 1


def plant_generation(tmp_path: Path, namespace: str) -> None:
    """Make the record vouch for the kernel as it is now."""
    backend = NftablesBackend("nftbridge", namespace)
    mark = next(tmp_path.rglob("mark.json"))
    body = json.loads(mark.read_text()) | {"generation": backend.generation()}
    mark.write_text(json.dumps(body))


@pytest.mark.parametrize(
    "sabotage",
    [
        ("delete", "element", *TABLE, "open_ports4", "{ br-front . 172.20.0.2 . tcp . 80 }"),
        ("flush", "map", *TABLE, "published_anywhere_address4"),
        ("delete", "table", *TABLE),
    ],
)
def test_a_refused_change_of_rows_is_followed_by_a_full_one(
    engine: Engine, namespace: str, tmp_path: Path, looks: Looks, sabotage: tuple[str, ...]
) -> None:
    """The check is defeated by a planted record, so that the kernel itself has to say no."""
    engine.apply(SMALL)
    nft(namespace, *sabotage)
    plant_generation(tmp_path, namespace)
    looks.sent.clear()
    done = engine.apply(Host())
    assert len(looks.sent) == 2
    assert "refused to change rows alone" in done.retried
    assert done.install == (done.retried,)
    assert not engine.verify()
    assert not engine.apply(Host())
