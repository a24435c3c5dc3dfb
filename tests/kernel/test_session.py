"""Sessions on the real kernel: many changes, each at its own cost, whatever others do."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from nftbridge import config, session
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError
from nftbridge.model import Container, Host, Publication
from nftbridge.model.changes import (
    Attach,
    Change,
    Create,
    Delete,
    Detach,
    Publish,
    Withdraw,
    changed,
)
from nftbridge.nft.backend import NftablesBackend
from nftbridge.nft.kernel import Kernel
from nftbridge.session import Session
from nftbridge.state import State
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

MANY = config.load("rulesets/17-many-networks/host.toml").host
SMALL = config.load("rulesets/02-published-port/host.toml").host
TABLE = ("inet", "nftbridge")
BOX = Container("box", IPv4Address("172.30.0.9"), IPv6Address("fd00:30::9"), (Publication(1, 2),))
SEVERAL: list[Change] = [
    Publish("nat", "nat-2", Publication(81, 8888)),
    Publish("nat", "nat-3", Publication(80, 8889, IPv4Address("127.0.0.1"))),
    Attach("nat", BOX),
    Withdraw("nat", "nat-2", Publication(81, 8888)),
    Create(SMALL.networks[0]),
    Publish("frontend", "worker", Publication(5, 8890, count=3)),
    Detach("nat", "box"),
    Delete("quiet"),
]


@pytest.fixture
def bridge(target: Target) -> Generator[Session]:
    with session.open(target) as opened:
        opened.apply(MANY)
        yield opened


@pytest.fixture
def unlooked(bridge: Session, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A session that may not list the table."""

    def refused(_: Kernel) -> None:
        raise AssertionError("the table was listed")

    monkeypatch.setattr(Kernel, "objects", refused)
    return bridge


def engine(target: Target) -> Engine:
    return Engine(target, choose("nftables", target).backend)


def test_changes_one_by_one(
    bridge: Session, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = MANY
    for change in SEVERAL:
        with monkeypatch.context() as patch:
            patch.setattr(Kernel, "objects", None)  # not called
            assert bridge.change(change)
        host = changed(host, [change])
        assert bridge.host() == host
        assert not engine(target).verify()
        assert not engine(target).plan(host)


def test_changes_in_one_transaction(unlooked: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    done = unlooked.change(*SEVERAL[:7])
    assert done.added
    assert not done.install
    assert unlooked.host() == changed(MANY, SEVERAL[:7])
    monkeypatch.undo()


def test_what_is_closed_is_one_file(target: Target, tmp_path: Path) -> None:
    with session.open(target) as bridge:
        bridge.apply(MANY)
        bridge.change(*SEVERAL[:3])
        bridge.change(SEVERAL[3])
        assert list(tmp_path.rglob("changes-*"))
    assert not list(tmp_path.rglob("changes-*"))
    assert state_of(target).applied() == changed(MANY, SEVERAL[:4])
    assert not engine(target).apply(changed(MANY, SEVERAL[:4]))
    with session.open(target) as bridge:
        bridge.change(*SEVERAL[4:])
    assert not engine(target).plan(changed(MANY, SEVERAL))


@pytest.mark.parametrize(
    "change",
    [
        Publish("nat", "nat-3", Publication(80, 8030)),  # taken by nat-2
        Publish("nat", "nat-3", Publication(80, 70000)),
        Publish("nat", "nobody", Publication(80, 8031)),
        Withdraw("nat", "nat-2", Publication(80, 8031)),
        Attach("nat", replace(BOX, ipv4=IPv4Address("172.30.0.2"))),
        Attach("nowhere", BOX),
        Create(replace(SMALL.networks[0], bridge="br-nat")),
        Detach("nat", "nobody"),
        Delete("nowhere"),
    ],
)
def test_a_wrong_change_is_refused_in_the_words_of_a_whole_host(
    bridge: Session, target: Target, change: Change
) -> None:
    with pytest.raises(InputError) as whole:
        changed(MANY, [change])
    for several in ([change], [SEVERAL[0], change]):
        with pytest.raises(InputError) as refusal:
            bridge.change(*several)
        assert str(refusal.value) == str(whole.value)
        assert bridge.host() == MANY
        assert not engine(target).verify()
    assert bridge.change(SEVERAL[0]).count_added == 4


def test_somebody_else_applies_in_between(bridge: Session, target: Target) -> None:
    bridge.change(SEVERAL[0])
    engine(target).apply(SMALL)
    bridge.change(Publish("frontend", "worker", Publication(5, 8890)))
    with session.open(target) as other:
        other.change(Publish("frontend", "worker", Publication(5, 8891)))
    bridge.change(Publish("frontend", "worker", Publication(5, 8892)))
    ports = [p.host_port for p in bridge.host().networks[0].containers[1].publish]
    assert ports == [8890, 8891, 8892]
    assert not engine(target).verify()


def test_somebody_tampers_in_between(bridge: Session, target: Target, namespace: str) -> None:
    nft(namespace, "delete", "element", *TABLE, "bridges", "{ ipv4 . br-nat }")
    done = bridge.change(SEVERAL[0])
    assert {relation.name for relation in done.added} >= {"bridges", "open_ports"}
    assert not engine(target).verify()


def test_a_refused_change_of_rows_is_followed_by_a_look(
    bridge: Session, target: Target, namespace: str, tmp_path: Path
) -> None:
    """The record is made to vouch for a kernel in which a row is missing."""
    element = "{ br-nat . 172.30.0.2 . tcp . 80 }"
    bridge.change(SEVERAL[0])
    nft(namespace, "delete", "element", *TABLE, "open_ports4", element)
    mark = next(tmp_path.rglob("mark.json"))
    body = json.loads(mark.read_text())
    mark.write_text(json.dumps(body | {"generation": body["generation"] + 1}))
    done = bridge.change(Detach("nat", "nat-2"))
    assert "refused to change rows alone" in done.retried
    assert not engine(target).verify()
    assert bridge.change(Attach("nat", BOX))
    assert not engine(target).verify()


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["exchange", "end"])
def test_killed_in_the_middle(target: Target, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the kernel was asked, and before its answer was recorded."""
    place = NftablesBackend if moment == "exchange" else State
    backend = choose("nftables", target).backend
    bridge = Session(target, backend)
    bridge.apply(MANY)
    with monkeypatch.context() as patch:
        patch.setattr(place, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            bridge.change(SEVERAL[0])
    assert not engine(target).verify()
    assert state_of(target).applied() == MANY
    with session.open(target) as other:
        other.change(SEVERAL[1])
        assert other.host() == changed(MANY, [SEVERAL[1]])
    assert not engine(target).verify()


def test_nothing_was_applied_yet(target: Target) -> None:
    with session.open(target) as bridge:
        assert bridge.host() == Host()
        assert bridge.change(Create(SMALL.networks[0])).install
        assert not engine(target).verify()


def test_iptables_has_no_short_way(target: Target) -> None:
    with session.open(target, "iptables") as bridge:
        bridge.apply(SMALL)
        bridge.change(Publish("frontend", "worker", Publication(5, 8890)))
        assert not Engine(target, choose("iptables", target).backend).verify()
