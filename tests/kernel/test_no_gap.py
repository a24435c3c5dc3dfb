"""Through all changes of the rules no forbidden packet passes and nothing established breaks.

A storm of packets blows at full speed (`tests.kernel.storm`) while declarations are applied one
over the other, mended after others have edited the table, and cut short by SIGKILL at random
points. For each change it is counted what passes from before it to after it: nothing may that
passes at neither of its ends, and after it nothing that does not pass at its end, be it of a flow
that was established before. What is established for good answers every message, and TCP repeats no
segment; what may pass under every declaration is never lost. Both backends are held to the same.

The edits mended here take permissions away, or break the skeleton, so that everything is put in
anew; none of them opens anything. Who flushes the ruleset opens the host himself in that moment,
which no program can mend before it has happened. Shown is that the next apply ends it, and that
connections without translation outlive it: translated ones the host itself answers meanwhile.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeAlias

import pytest

from nftbridge.backend import KnownHosts, Observation
from nftbridge.compat import restore
from nftbridge.conntrack import kernel as conntrack
from nftbridge.engine import Engine
from nftbridge.lab import OUTSIDE
from nftbridge.model import Host
from nftbridge.nft import order
from nftbridge.nft.backend import NftablesBackend
from tests.kernel.storm_site import (
    ALL,
    BETWEEN_HOOKS,
    CALLS,
    DECLARATIONS,
    Aim,
    Ends,
    Ledger,
    May,
    Place,
    Wishes,
    host_files,
    storm_site,
    walk,
)
from tests.kernel.ungated import without_gates

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.long]

Record: TypeAlias = Callable[[str, object], None]

BACKENDS = ("nftables", None), ("iptables", "docker"), ("iptables", "tree")
APPLIES = {"nftables": 500, "iptables": 20}
KILLS = {"nftables": 16, "iptables": 8}
FLUSHES = 20

TABLE = "inet nftbridge"
EDITS = (
    f"add rule {TABLE} DOCKER-FORWARD counter",
    f"insert rule {TABLE} raw-PREROUTING counter",
    f"flush set {TABLE} open_ports4; flush set {TABLE} open_ports6",
    f"flush map {TABLE} published_anywhere_address4; flush map {TABLE} published_anywhere_port4",
    f"flush set {TABLE} masqueraded_subnets4",
    without_gates(),
)
EDITINGS = 30


class Cut(NamedTuple):
    """What became of an apply that was to be killed, and how many seconds a whole one took.

    `done` is one that was killed when the kernel was as declared.
    """

    killed: bool
    done: bool
    seconds: float


@pytest.mark.parametrize(("backend", "layout"), BACKENDS)
def test_apply_after_apply(
    backend: str, layout: str | None, tmp_path: Path, record_property: Record
) -> None:
    number = APPLIES[backend]
    with storm_site(tmp_path, backend, layout) as place:
        place.look_around()
        for here, there in walk(Random(1), number):
            place.change(here, there, partial(place.apply, there))
    record_property("storm", f"{place.name}, {number} applies: {place.account()}")
    _check(place)


@pytest.mark.parametrize(("backend", "layout"), BACKENDS)
def test_apply_killed_and_run_again(
    backend: str, layout: str | None, tmp_path: Path, record_property: Record
) -> None:
    rng, cuts, longest = Random(2), list[Cut](), 0.0
    files = host_files(tmp_path)
    with storm_site(tmp_path, backend, layout) as place:
        place.look_around()
        for here, there in walk(rng, KILLS[backend]):
            delay = rng.uniform(longest / 3, longest)  # before that only Python starts
            cut = partial(_cut_and_run_again, place, files[there], there, delay)
            cuts.append(place.change(here, there, cut))
            longest = cuts[-1].seconds
    killed, done = sum(cut.killed for cut in cuts), sum(cut.done for cut in cuts)
    told = f"{place.name}, {killed} applies killed, {done} of them when all was done"
    record_property("storm", f"{told}: {place.account()}")
    assert killed
    _check(place)


def test_repair_after_edits(tmp_path: Path, record_property: Record) -> None:
    with storm_site(tmp_path) as place:
        place.look_around()
        for (here, there), edit in zip(walk(Random(3), EDITINGS), cycle(EDITS), strict=False):
            place.change(here, there, partial(_edit_and_mend, place, edit, there))
    record_property("storm", f"{place.name}, {EDITINGS} edits mended: {place.account()}")
    assert not place.ledger.leaks, "\n".join(place.ledger.leaks[:20])
    assert not place.lost(shots=False)
    assert not place.storm.repeated


def test_a_flushed_ruleset_is_closed_again_by_the_next_apply(
    tmp_path: Path, record_property: Record
) -> None:
    wishes = ALL._replace(calls=tuple(call for call in CALLS if not call.translated))
    with storm_site(tmp_path, wishes=wishes) as place:
        place.look_around()
        here, meanwhile, afterwards = list(DECLARATIONS)[-1], Ledger(), Ledger()
        for _ in range(FLUSHES):
            place.ledger = meanwhile
            place.change(here, here, partial(_edit_and_mend, place, "flush ruleset", here))
            place.ledger = afterwards
            place.change(here, here, partial(place.storm.settle, rounds=10))
    told = f"{place.name}, {FLUSHES} flushes: until the apply {meanwhile.account()}"
    record_property("storm", f"{told}; after it {place.account()}")
    assert meanwhile.leaks  # the storm sees an opening where there is one
    assert not afterwards.leaks, "\n".join(afterwards.leaks[:20])
    assert not place.lost(shots=False)
    assert not place.storm.repeated


BETWEEN = Wishes((Aim(OUTSIDE, "cache", 85, May.SOMETIMES),), (), ())


def test_a_packet_between_two_hooks(tmp_path: Path) -> None:
    """A packet that raw let by under the old rules does not meet filter's new ones.

    A network that was routed gets NAT and a published port: direct access to that port, which
    filter dropped, is for raw to drop now.
    """
    with storm_site(tmp_path, wishes=BETWEEN) as place:
        place.look_around()
        for _ in range(300):
            place.apply(BETWEEN_HOOKS[0])
            place.change(*BETWEEN_HOOKS, partial(place.apply, BETWEEN_HOOKS[1]))
    assert not place.ledger.leaks, "\n".join(place.ledger.leaks[:20])


def test_all_hooks_at_once_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a single transaction about one change in fifteen lets one packet by."""
    monkeypatch.setattr(order, "_closes_what_opens", _never)
    with storm_site(tmp_path, wishes=BETWEEN) as place:
        place.look_around()
        for _ in range(300):
            place.apply(BETWEEN_HOOKS[0])
            place.change(*BETWEEN_HOOKS, partial(place.apply, BETWEEN_HOOKS[1]))
            if place.ledger.leaks:
                return
    pytest.fail("300 changes, and no packet has passed")


def test_removal_before_installation_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_to_it = NftablesBackend.bring_to

    def in_two_transactions(
        backend: NftablesBackend, host: Host, observed: Observation, known: KnownHosts
    ) -> str:
        del observed
        backend.remove(known, everything=True)
        return true_to_it(backend, host, backend.observe(known), known)

    monkeypatch.setattr(NftablesBackend, "bring_to", in_two_transactions)
    monkeypatch.setattr(Engine, "_exchangeable", _no_way)
    with storm_site(tmp_path) as place:
        place.look_around()
        for here, there in walk(Random(1), 20):
            place.change(here, there, partial(place.apply, there))
    assert any("outside -> db 81 IPv4" in leak for leak in place.ledger.leaks)
    assert any("cache -> web 81 IPv6" in leak for leak in place.ledger.leaks)
    lost = " ".join(place.lost())
    assert "outside -> host 8080 IPv4" in lost  # a shot
    assert "udp outside -> host 8091 IPv6" in lost  # an echo


def test_flows_that_go_on_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with storm_site(tmp_path) as place:
        place.look_around()
        monkeypatch.setattr(conntrack, "end", _nothing)
        for here, there in walk(Random(1), 20):
            place.change(here, there, partial(place.apply, there))
    leaking = {leak.partition(":")[0] for leak in place.ledger.leaks}
    assert leaking >= {
        "established outside -> host 8084 IPv4",
        "established outside -> api 94 IPv6",
        "tcp outside -> host 8086 IPv6",
    }


@pytest.mark.parametrize("layout", ["docker", "tree"])
def test_tables_committed_without_care_are_found_out(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_careful", _careless)
    with storm_site(tmp_path, "iptables", layout) as place:
        place.look_around()
        place.apply("more ports")
        for _ in range(5):
            place.change("more ports", "side routed", partial(place.apply, "side routed"))
            place.change("side routed", "more ports", partial(place.apply, "more ports"))
    assert {leak.partition(":")[0] for leak in place.ledger.leaks} == {
        "outside -> cache 85 IPv4",
        "outside -> cache 85 IPv6",
    }


def _check(place: Place) -> None:
    """Nothing leaked, broke or was lost; and it was a storm, not a breeze."""
    assert not place.ledger.leaks, "\n".join(place.ledger.leaks[:20])
    assert not place.lost()
    assert not place.storm.repeated
    assert place.mistaken() == {}
    assert place.ledger.sent[Ends.CLOSED] > 10_000
    assert place.ledger.passed[Ends.DIFFERENT] > 100
    assert place.ledger.passed[Ends.OPEN] > 1_000


def _cut_and_run_again(place: Place, file: Path, there: str, delay: float) -> Cut:
    """Run the command apply and kill it after so many seconds; then run it to its end."""
    command = place.command(file)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    killed = done = False
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        killed, done = True, not place.engine.plan(DECLARATIONS[there])
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Cut(killed, done, time.monotonic() - start)


def _edit_and_mend(place: Place, edit: str, there: str) -> None:
    """Let somebody change the rules, and after a while apply."""
    command = ["nsenter", f"--net=/run/netns/{place.lab.netns}", "nft", edit]
    subprocess.run(command, check=True)
    place.storm.settle()
    assert place.engine.apply(DECLARATIONS[there])


def _nothing(*_: object) -> conntrack.Ended:
    """Instead of ending flows."""
    return conntrack.Ended()


def _never(*_: object) -> bool:
    """Instead of having raw's rows come first."""
    return False


def _no_way(_engine: Engine, _held: Host, _wanted: Host) -> None:
    """Instead of the short way of apply: have all of it go the long one."""


def _careless(table: restore.TableText, _held: restore.TableState) -> restore.TableText:
    """The early table as it is wanted in the end."""
    return table
