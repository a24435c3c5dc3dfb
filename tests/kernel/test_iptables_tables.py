"""Tables and families of iptables that appear, that are left, and that nobody asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from nftbridge.choice import Target
from nftbridge.compat.restore import TableState, TableText, commits
from nftbridge.compat.tools import Tools, Variant
from nftbridge.compat.tree import DOCKER, Layout
from nftbridge.model import Family
from tests.equivalence.compare import FINEST
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
