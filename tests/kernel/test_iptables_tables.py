"""Tables and families of iptables that appear, that are left, and that nobody asked for."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from nftbridge import netns as namespaces
from nftbridge.choice import Target
from nftbridge.compat.restore import TableState, TableText, commits
from nftbridge.compat.tools import Tools, Variant
from nftbridge.compat.tree import DOCKER, LAYOUTS, Layout
from nftbridge.errors import UnavailableError
from nftbridge.model import Family
from tests.equivalence.compare import FINEST
from tests.kernel.test_commands import Site
from tests.kernel.test_iptables import (
    MANY,
    SMALL,
    VARIANTS,
    Lacking,
    engine_with,
    run,
    saved,
)

pytestmark = pytest.mark.kernel

_NAMES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
_NO_RAW = tuple((family, "raw") for family in Family)
_DROP = "-A PREROUTING -d 172.20.0.2/32 ! -i br-front -j DROP"


def table(namespace: str, name: str) -> str:
    return run(namespace, "iptables-legacy-save", "-t", name)


@pytest.mark.parametrize("gone", [*permutations("ABC")], ids="".join)
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.value)
def test_chains_that_jump_to_each_other_go_in_any_order(
    gone: tuple[str, ...], variant: Variant, namespace: str
) -> None:
    tools = Tools(variant, namespace)
    tools.commit(Family.IPV4, "*filter\n:A -\n:B -\n:C -\n-A A -j B\n-A B -j C\nCOMMIT\n")
    chains = {"A": ("-j B",), "B": ("-j C",), "C": ()}
    state = {"raw": TableState({}, {}), "filter": TableState(chains, {})}
    for step in commits(Family.IPV4, state, [TableText("raw"), TableText("filter", (), gone)]):
        tools.commit(Family.IPV4, step.script)
    assert "-A " not in saved(namespace, variant)
    assert ":A " not in saved(namespace, variant)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.value)
@pytest.mark.parametrize("users", ["", "-A DOCKER-USER -i wg0 -j DROP"], ids=["nothing", "rules"])
def test_a_family_that_is_switched_off_leaves_with_all_but_the_users(
    users: str, variant: Variant, target: Target, namespace: str
) -> None:
    before = saved(namespace, variant)
    engine = engine_with(Tools(variant, namespace), target)
    engine.apply(replace(MANY, ipv4=False))
    alone = saved(namespace, variant)
    engine.apply(MANY)
    if users:
        run(namespace, f"iptables-{variant.value}", *users.split())
    assert engine.apply(replace(MANY, ipv4=False))
    assert not engine.verify()
    left = set(saved(namespace, variant).splitlines()) - set(alone.splitlines())
    assert left == ({users} if users else set())
    engine.remove(everything=True)
    assert saved(namespace, variant) == before


def test_drops_move_to_raw_when_the_rules_change_where_there_is_one_now(
    target: Target, namespace: str
) -> None:
    """Until then they do the same in mangle, and there is nothing to do."""
    with_raw = engine_with(Tools(netns=namespace), target)
    without = engine_with(Lacking(netns=namespace, without=_NO_RAW), target)
    without.apply(SMALL)
    assert _DROP in table(namespace, "mangle")
    assert not with_raw.apply(SMALL)
    assert with_raw.apply(replace(SMALL, userland_proxy=False))
    assert _DROP in table(namespace, "raw")
    assert "-A" not in table(namespace, "mangle")
    assert not with_raw.verify()
    with_raw.remove(everything=True)
    assert "-A" not in saved(namespace, Variant.LEGACY)


@pytest.mark.parametrize("layout", [DOCKER, FINEST], ids=lambda layout: layout.name)
def test_remove_takes_the_drops_out_of_mangle_too(
    target: Target, namespace: str, layout: Layout
) -> None:
    before = saved(namespace, Variant.LEGACY)
    engine_with(Lacking(netns=namespace, without=_NO_RAW), target, layout).apply(MANY)
    engine_with(Tools(netns=namespace), target, layout).remove(everything=True)
    assert saved(namespace, Variant.LEGACY) == before


def appeared(namespace: str) -> tuple[set[str], ...]:
    """The tables that are there, of each family."""
    texts = (run(namespace, "sh", "-c", f"test ! -e {names} || cat {names}") for names in _NAMES)
    return tuple(set(text.split()) for text in texts)


@pytest.mark.parametrize("used", ["", "iptables-legacy -t filter -S"], ids=["fresh", "filter used"])
def test_looking_makes_no_table_appear(used: str, namespace: str, tmp_path: Path) -> None:
    """A table is there from the first time that anybody lists it, though it is empty."""
    if used:
        run(namespace, *used.split())
    before = appeared(namespace)
    assert before == ({"filter"} if used else set(), set())
    here = Site(namespace, tmp_path)
    for words in (("plan", "rulesets/11-dual-stack/host.toml"), ("verify",), ("status",)):
        done = here.run(*words, "--backend", "iptables")
        assert done.returncode in (0, 2), done.stderr
        assert appeared(namespace) == before, words


def test_where_no_namespace_can_be_made_a_table_is_asked_for_in_place(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def refused() -> Generator[None]:
        raise UnavailableError("planted")
        yield

    tools = Tools(netns=namespace)
    assert tools.offers(Family.IPV4, "raw")
    assert appeared(namespace) == (set(), set())
    monkeypatch.setattr("nftbridge.netns.thrown_away", refused)
    assert Tools(netns=namespace).offers(Family.IPV4, "raw")
    assert not Tools(netns=namespace).offers(Family.IPV4, "none")
    assert appeared(namespace) == ({"raw"}, set())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_status_says_the_layout(layout: str, namespace: str, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        done = Site(namespace, tmp_path).run(*words, "--backend", "iptables")
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = tmp_path / "host.toml"
    file.write_text(
        'version = 1\n[[network]]\nname = "front"\nbridge = "br-front"\n'
        'subnets = ["172.20.0.0/16"]\n'
        '[[network.container]]\nname = "web"\nipv4 = "172.20.0.2"\n'
        f"publish = {[f'{8000 + n}:{80 + n}' for n in range(20)]}\n"
    )
    assert json.loads(said("status", "--json"))["iptables_layout"] is None
    assert "--iptables-layout" not in said("status")
    said("apply", str(file), "--iptables-layout", layout)
    assert json.loads(said("status", "--json"))["iptables_layout"] == layout
    assert f"{layout} (--iptables-layout)" in said("status")


def test_what_is_thrown_away_is_another_namespace() -> None:
    own = Path("/proc/thread-self/ns/net")
    before = own.readlink()
    with namespaces.thrown_away():
        assert own.readlink() != before
    assert own.readlink() == before
