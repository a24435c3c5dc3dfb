"""The engine on the real kernel: what apply, verify and remove do, and what they leave alone."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, netns
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.model import Container, Host, Publication
from nftbridge.nft import document
from nftbridge.nft.backend import NftablesBackend
from nftbridge.nft.lower import skeleton
from nftbridge.plan import Plan
from nftbridge.state import State
from tests.kernel.ungated import gate_sets, without_gates
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

MANY = config.load("rulesets/17-many-networks/host.toml").host
SMALL = config.load("rulesets/02-published-port/host.toml").host


def table(namespace: str, name: str = "nftbridge") -> list[dict[str, Any]]:
    listing = json.loads(nft(namespace, "-j", "list", "table", "inet", name))
    return [item for item in listing["nftables"] if "metainfo" not in item]


@pytest.fixture
def engine(target: Target) -> Engine:
    return Engine(target, choose("auto", target).backend)


def with_port(host: Host, port: int) -> Host:
    network = host.networks[0]
    first, *others = network.containers
    first = replace(first, publish=(*first.publish, Publication(81, port)))
    return replace(
        host, networks=(replace(network, containers=(first, *others)), *host.networks[1:])
    )


def test_a_second_apply_changes_nothing(engine: Engine, namespace: str) -> None:
    assert engine.apply(MANY)
    before = nft(namespace, "-a", "list", "table", "inet", "nftbridge")
    assert not engine.apply(MANY)
    assert not engine.plan(MANY)
    assert not engine.verify()
    assert nft(namespace, "-a", "list", "table", "inet", "nftbridge") == before


def test_the_number_of_rules_is_the_same_for_every_host(engine: Engine, namespace: str) -> None:
    counts: set[tuple[int, int]] = set()
    for host in (Host(), SMALL, MANY):
        engine.apply(host)
        listed = table(namespace)
        rules = sum("rule" in item for item in listed)
        counts.add((rules, sum("set" in item or "map" in item for item in listed)))
    assert counts == {(len(skeleton().rules), len(skeleton().sets))}


def test_a_change_is_rows_only(engine: Engine, namespace: str) -> None:
    engine.apply(MANY)
    handles = nft(namespace, "-a", "list", "chain", "inet", "nftbridge", "DOCKER")
    done = engine.apply(with_port(MANY, 8888))
    assert not done.install
    assert done.count_removed == 0
    # both families: the opened port, the translated one, and nothing else
    assert sorted(relation.name for relation in done.added) == ["open_ports", "published_anywhere"]
    assert done.count_added == 4
    assert nft(namespace, "-a", "list", "chain", "inet", "nftbridge", "DOCKER") == handles
    assert engine.apply(MANY).count_removed == 4
    assert not engine.verify()


def test_every_scenario_follows_every_other(engine: Engine) -> None:
    """Changing subnets, modes and addresses under the same keys leaves exactly the new rows."""
    hosts = [config.load(str(p)).host for p in sorted(Path("rulesets").glob("*/host.toml"))]
    for host in (*hosts, *reversed(hosts)):
        engine.apply(host)
        assert not engine.verify()
        assert not engine.plan(host)


def test_a_container_that_moves_to_another_address(engine: Engine) -> None:
    engine.apply(SMALL)
    network = SMALL.networks[0]
    web = replace(network.containers[0], ipv4=IPv4Address("172.20.0.9"))
    moved = replace(SMALL, networks=(replace(network, containers=(web,)),))
    done = engine.apply(moved)
    assert not done.install
    assert not engine.verify()


def test_docker_user_is_kept_through_everything(engine: Engine, namespace: str) -> None:
    engine.apply(SMALL)
    chain = ("inet", "nftbridge", "DOCKER-USER")
    nft(namespace, "add", "rule", *chain, "ip", "saddr", "203.0.113.66", "counter", "drop")
    # a rule that refers to a set of ours must not stop us from filling the set anew
    nft(namespace, "add", "rule", *chain, "meta nfproto . oifname @bridges ct state invalid drop")
    mine = nft(namespace, "-a", "list", "chain", *chain)
    engine.apply(MANY)
    nft(namespace, "flush", "chain", "inet", "nftbridge", "DOCKER")  # has to be installed anew
    assert engine.apply(MANY).install
    engine.apply(SMALL)
    assert nft(namespace, "-a", "list", "chain", *chain) == mine
    assert not engine.verify()


def test_a_skeleton_of_another_shape_is_replaced(engine: Engine, namespace: str) -> None:
    """As after an update of nftbridge: other types, another hook, rules missing and too many."""
    shape = """
        table inet nftbridge {
            set guarded4 { type ifname; elements = { "eth9" } }
            map published_port4 { type ipv4_addr : inet_service; }
            chain DOCKER-USER { ip saddr 203.0.113.66 drop; }
            chain raw-PREROUTING {
                type filter hook prerouting priority -310; policy accept;
                iifname @guarded4 drop
            }
            chain DOCKER { ip saddr 192.0.2.1 accept; }
        }"""
    nft(namespace, shape)
    plan = engine.plan(MANY)
    assert "set guarded4 is declared otherwise" in plan.install
    assert "chain raw-PREROUTING is attached elsewhere" in plan.install
    engine.apply(MANY)
    assert not engine.verify()
    assert "203.0.113.66" in nft(namespace, "list", "chain", "inet", "nftbridge", "DOCKER-USER")


def test_a_table_without_gates_is_replaced_at_once(engine: Engine, namespace: str) -> None:
    """As after an update from a version that had none: one transaction, and nothing is left."""
    engine.apply(MANY)
    chain = ("inet", "nftbridge", "DOCKER-USER")
    nft(namespace, "add", "rule", *chain, "ip", "saddr", "203.0.113.66", "counter", "drop")
    nft(namespace, without_gates())
    assert "chain DOCKER-DIRECT is missing" in engine.verify().install
    generations = NftablesBackend("nftbridge", namespace)
    start = generations.generation()
    assert start is not None
    done = engine.apply(with_port(MANY, 8888))
    assert generations.generation() == start + 1
    assert done.install
    assert not done.removed
    assert not engine.verify()
    assert "203.0.113.66" in nft(namespace, "list", "chain", *chain)
    assert not engine.apply(with_port(MANY, 8888))


def test_no_gate_can_be_shut_unnoticed(engine: Engine, namespace: str) -> None:
    """A row of each gate is deleted behind our back: verify sees it, apply puts it back."""
    tried: set[str] = set()
    for path in sorted(Path("rulesets").glob("*/host.toml")):
        host = config.load(str(path)).host
        engine.apply(host)
        for name, row in first_rows(namespace).items():
            spot = {"family": "inet", "table": "nftbridge", "name": name, "elem": [row]}
            gone = {"nftables": [{"delete": {"element": spot}}]}
            nft(namespace, "-j", "-f", "-", stdin=json.dumps(gone))
            assert {r.name for r in engine.verify().added} == {name.rstrip("46")}
            engine.apply(host)
            assert not engine.verify()
            tried.add(name)
    assert tried == gate_sets()


def first_rows(namespace: str) -> dict[str, object]:
    """The first element of each set that a gate asks for, by its name."""
    sets = [item["set"] for item in table(namespace) if "set" in item]
    return {s["name"]: s["elem"][0] for s in sets if s["name"] in gate_sets() and "elem" in s}


def test_a_set_that_a_user_rule_needs_is_named_when_it_is_in_the_way(
    engine: Engine, namespace: str
) -> None:
    shape = """
        table inet nftbridge {
            set guarded4 { type ifname; }
            chain DOCKER-USER { iifname @guarded4 drop; }
        }"""
    nft(namespace, shape)
    before = nft(namespace, "-a", "list", "ruleset")
    with pytest.raises(KernelRefusedError, match=r"set guarded4.*\n.*DOCKER-USER"):
        engine.apply(MANY)
    assert nft(namespace, "-a", "list", "ruleset") == before


def test_nothing_outside_the_table_changes(engine: Engine, namespace: str) -> None:
    others = """
        table ip filter {
            chain FORWARD {
                type filter hook forward priority 0; policy drop;
            }
        }
        table inet nftbridge2 {
            chain DOCKER {
                counter
            }
        }
        table bridge nftbridge {
            chain DOCKER {
                counter
            }
        }"""
    nft(namespace, others)

    def foreign() -> list[str]:
        whole = json.loads(nft(namespace, "-j", "list", "ruleset"))["nftables"]
        ours = ("inet", "nftbridge")
        return [
            json.dumps(item)
            for item in whole
            for body in item.values()
            if (body.get("family"), body.get("table", body.get("name"))) != ours
        ]

    before = foreign()
    engine.apply(MANY)
    assert foreign() == before
    engine.remove(everything=True)
    assert foreign() == before
    assert "inet nftbridge\n" not in nft(namespace, "list", "tables")


def test_drift_is_found_and_mended(engine: Engine, namespace: str) -> None:
    engine.apply(MANY)
    element = ("inet", "nftbridge", "bridges", "{", "ipv4", ".", "br-nat", "}")
    nft(namespace, "delete", "element", *element)
    nft(namespace, "add", "element", "inet", "nftbridge", "guarded4", "{ 10.0.0.1 }")
    drift = engine.verify()
    assert {r.name for r in drift.added} == {"bridges"}
    assert {r.name for r in drift.removed} == {"guarded"}
    assert engine.apply(MANY)
    assert not engine.verify()


@pytest.mark.parametrize("position", range(len(skeleton().rules)))
def test_no_rule_can_go_missing_unnoticed(position: int, engine: Engine, namespace: str) -> None:
    """Each rule in turn is deleted behind our back: verify sees it, apply puts it back."""
    engine.apply(SMALL)
    rules = [item["rule"] for item in table(namespace) if "rule" in item]
    rules.sort(key=lambda rule: rule["handle"])
    rule = rules[position]
    where = ("inet", "nftbridge", rule["chain"], "handle", str(rule["handle"]))
    nft(namespace, "delete", "rule", *where)
    assert any(rule["chain"] in reason for reason in engine.verify().install)
    engine.apply(SMALL)
    assert not engine.verify()


def test_a_torn_map_is_mended(engine: Engine, namespace: str) -> None:
    engine.apply(SMALL)
    element = ("published_anywhere_port4", "{ tcp . 8080 }")
    nft(namespace, "delete", "element", "inet", "nftbridge", *element)
    assert engine.verify().install
    engine.apply(SMALL)
    assert not engine.verify()


def test_a_refused_transaction_changes_nothing(
    engine: Engine, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.apply(SMALL)
    before = nft(namespace, "-a", "list", "table", "inet", "nftbridge")
    broken = Container("broken", IPv4Address("172.20.0.77"))
    network = replace(SMALL.networks[0], containers=(*SMALL.networks[0].containers, broken))
    changed = replace(SMALL, networks=(network,))

    def planted(name: str) -> None:
        real = getattr(document, name)
        spot = {"family": "inet", "table": "nftbridge", "name": "guarded4"}
        gone: document.Command = {"delete": {"element": spot | {"elem": ["172.20.0.66"]}}}

        def with_fault(*arguments: object) -> list[document.Command]:
            return [*real(*arguments), gone]

        monkeypatch.setattr(document, name, with_fault)

    planted("exchange")
    planted("install")  # what is tried next
    with pytest.raises(KernelRefusedError, match=r"row 172\.20\.0\.66 of guarded") as refusal:
        engine.apply(changed)
    assert refusal.value.exit_status == 3
    assert nft(namespace, "-a", "list", "table", "inet", "nftbridge") == before
    assert not engine.verify()  # the record, too, is what it was


def test_remove_keeps_the_users_rules_and_only_these(engine: Engine, namespace: str) -> None:
    engine.apply(MANY)
    nft(namespace, "add", "rule", "inet", "nftbridge", "DOCKER-USER", "counter")
    nft(namespace, "add", "chain", "inet", "nftbridge", "mine")
    removal = engine.remove(everything=False)
    assert removal.kept == ("1 rule in DOCKER-USER", "'mine', which nftbridge did not make")
    kinds = [(kind, body.get("name")) for item in table(namespace) for kind, body in item.items()]
    left = [("chain", "DOCKER-USER"), ("chain", "mine"), ("rule", None), ("table", "nftbridge")]
    assert sorted(kinds, key=str) == left
    assert engine.apply(MANY)
    assert "counter" in nft(namespace, "list", "chain", "inet", "nftbridge", "DOCKER-USER")
    assert engine.remove(everything=True).kept == ()
    assert not engine.remove(everything=False).present


def test_tables_and_namespaces_keep_apart(engine: Engine, target: Target, tmp_path: Path) -> None:
    engine.apply(SMALL)
    other = replace(target, table="second")
    second = Engine(other, choose("auto", other).backend)
    assert second.verify().install == ("nothing is here, and no apply is on record",)
    second.apply(MANY)
    assert not engine.verify()
    assert not second.verify()
    records = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("applied.json"))
    assert [Path(record).parts[1] for record in records] == ["nftbridge", "second"]
    with netns.inside(target.netns):
        assert Path(records[0]).parts[0] == netns.cookie()
    assert Path(records[0]).parts[0] != netns.cookie()


def test_a_transaction_whose_end_nobody_recorded(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the kernel's yes and the record: both ends are recognised."""
    engine.apply(SMALL)

    def killed(_: State) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(State, "settle", killed)
        with pytest.raises(RuntimeError, match="killed"):
            engine.apply(MANY)
    assert not engine.verify()
    assert not engine.apply(MANY)
    assert not engine.verify()


def test_an_unreadable_record_is_no_obstacle(engine: Engine, tmp_path: Path) -> None:
    engine.apply(SMALL)
    record = next(tmp_path.rglob("applied.json"))
    for rubbish in (b"", b"{", b"[]", b'{"host": 5}', b"\xff\xfe", b'{"host": {"version": 99}}'):
        record.write_bytes(rubbish)
        assert engine.verify().install == ("there are rules, but no apply is on record",)
        assert not engine.apply(SMALL)
        assert not engine.verify()


def test_a_state_directory_that_cannot_be(target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = replace(target, state_directory=tmp_path / "file")
    with pytest.raises(UnavailableError, match="--state-dir"):
        Engine(wrong, choose("auto", wrong).backend).apply(SMALL)


def test_no_nftables_python_binding(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nftables", None)
    with pytest.raises(UnavailableError, match="python3-nftables"):
        Engine(target, choose("auto", target).backend).plan(SMALL)


def test_restore_puts_back_what_is_on_record_and_nothing_else(
    engine: Engine, target: Target, namespace: str
) -> None:
    assert engine.restore() is None, "nothing is on record"
    assert nft(namespace, "list", "ruleset") == ""
    engine.apply(SMALL)
    assert engine.restore() == Plan()
    nft(namespace, "flush", "ruleset")
    assert engine.restore()
    assert not engine.verify()
    assert Engine(target, choose("iptables", target).backend).restore() is None
    engine.remove(everything=False)
    assert engine.restore() is None
    assert nft(namespace, "list", "ruleset") == ""
