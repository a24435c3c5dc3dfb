"""What an iptables apply that failed, was killed or forgotten leaves, and that remove takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge.choice import Target, choose
from nftbridge.compat.tools import Tools, Variant
from nftbridge.compat.tree import DOCKER, Layout
from nftbridge.engine import Engine
from nftbridge.errors import InputError, PartlyAppliedError
from tests.equivalence.compare import FINEST
from tests.kernel.test_iptables import (
    MANY,
    SMALL,
    Watched,
    engine_with,
    run,
    saved,
)

pytestmark = pytest.mark.kernel


class Killed(BaseException):
    """What nothing in the program catches, like SIGKILL."""


def killed_after(number: int) -> Callable[[], None]:
    left = iter(range(number - 1))

    def after() -> None:
        if next(left, None) is None:
            raise Killed

    return after


@pytest.mark.parametrize("fail", range(1, 6))
def test_remove_takes_out_what_was_partly_applied(
    fail: int, target: Target, namespace: str
) -> None:
    nothing = saved(namespace, Variant.LEGACY)
    with pytest.raises(PartlyAppliedError):
        engine_with(Watched(netns=namespace, fail=fail), target).apply(MANY)
    found, _ = Engine.of_last_apply(target, "auto")
    assert found.remove(everything=True).present
    assert saved(namespace, Variant.LEGACY) == nothing


def test_two_applies_in_a_row_that_failed_are_both_taken_out(
    target: Target, namespace: str
) -> None:
    nothing = saved(namespace, Variant.LEGACY)
    for host in (MANY, SMALL):
        with pytest.raises(PartlyAppliedError):
            engine_with(Watched(netns=namespace, fail=2), target).apply(host)
    engine_with(Tools(netns=namespace), target).remove(everything=True)
    assert saved(namespace, Variant.LEGACY) == nothing


@pytest.mark.parametrize("number", range(1, 6))
def test_remove_finds_the_backend_of_a_killed_first_apply(
    number: int, target: Target, namespace: str
) -> None:
    nothing = saved(namespace, Variant.LEGACY)
    with pytest.raises(Killed):
        engine_with(Watched(netns=namespace, after=killed_after(number)), target).apply(MANY)
    found, choice = Engine.of_last_apply(target, "auto")
    assert choice.backend.name == "iptables"
    assert found.remove(everything=True).present
    assert saved(namespace, Variant.LEGACY) == nothing


@pytest.mark.parametrize("way", ["remove", "apply", "back"])
def test_a_killed_switch_of_backends_is_seen_and_can_be_ended_either_way(
    way: str, target: Target, namespace: str
) -> None:
    nothing = saved(namespace, Variant.LEGACY)
    nft = Engine(target, choose("nftables", target).backend)
    nft.apply(SMALL)
    with pytest.raises(Killed):
        engine_with(Watched(netns=namespace, after=killed_after(3)), target).apply(SMALL)
    found, _ = Engine.of_last_apply(target, "auto")
    assert "iptables holds rules as well" in found.verify().install
    assert found.status().drift
    if way == "remove":
        found.remove(everything=True)
    elif way == "back":
        nft.apply(SMALL)
        assert not nft.verify()
    else:
        engine = engine_with(Tools(netns=namespace), target)
        engine.apply(SMALL)
        assert not engine.verify()
    tables = run(namespace, "nft", "list", "tables")
    assert ("inet nftbridge" in tables) == (way == "back")
    assert (saved(namespace, Variant.LEGACY) == nothing) == (way != "apply")


def test_iptables_has_one_record_whatever_table_is_named(target: Target) -> None:
    """Two records would each know half of the lines that are ours in built-in chains."""
    with pytest.raises(InputError, match="leave --table out"):
        choose("iptables", replace(target, table="other"))


@pytest.mark.parametrize("layout", [DOCKER, FINEST], ids=lambda layout: layout.name)
def test_without_a_record_ours_are_known_by_what_our_chains_speak_of(
    layout: Layout, target: Target, namespace: str, tmp_path: Path
) -> None:
    theirs = "-t nat -A POSTROUTING -s 10.9.0.0/16 ! -o wg0 -j MASQUERADE"
    run(namespace, "iptables-legacy", *theirs.split())
    before = saved(namespace, Variant.LEGACY)
    engine_with(Tools(netns=namespace), target, layout).apply(MANY)
    lost = replace(target, state_directory=tmp_path / "new")
    engine_with(Tools(netns=namespace), lost, layout).remove(everything=True)
    assert saved(namespace, Variant.LEGACY) == before
