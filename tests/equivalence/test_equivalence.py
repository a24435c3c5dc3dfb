"""Both backends say what the program means: every cell of the partition, on generated hosts.

The evaluator is the meaning. Each backend's output, as it is sent and as the kernel lists it, is
read by a reading of its own, written from nft's and iptables' manuals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings

from nftbridge import config
from nftbridge.compat.tree import DOCKER
from nftbridge.model import Address, Family, Host
from nftbridge.nft.lower import rows_in_kernel
from nftbridge.policy.derive import derive
from nftbridge.policy.flat import flat_rows
from nftbridge.policy.program import Value
from tests.equivalence import kernel
from tests.equivalence.compare import FINEST, READINGS, Case, cases, first_difference
from tests.equivalence.meaning import Fate, Hook
from tests.equivalence.models import hosts, seeded
from tests.equivalence.partition import Depth, Partition
from tests.namespaces import network_namespace

UNHURRIED = settings(deadline=None, max_examples=40)
SHALLOW = Depth(bases=6, sample=150)
SCENARIOS = sorted(path.parent for path in Path("rulesets").glob("*/host.toml"))


@UNHURRIED
@given(hosts())
def test_what_is_sent_says_what_the_program_means(host: Host) -> None:
    for family in host.families():
        wanted = list(cases(host, family, SHALLOW))
        for name, reading in READINGS.items():
            difference = first_difference(wanted, reading(host, family))
            assert not difference, f"{name}: {difference}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_scenarios(scenario: Path) -> None:
    host = config.load(str(scenario / "host.toml")).host
    for family in host.families():
        wanted = list(cases(host, family, Depth()))
        for name, reading in READINGS.items():
            difference = first_difference(wanted, reading(host, family))
            assert not difference, f"{name}: {difference}"


@pytest.fixture(scope="module")
def namespace() -> Generator[str]:
    with network_namespace() as name:
        yield name


@pytest.mark.kernel
@settings(deadline=None, max_examples=25)
@given(hosts())
def test_what_the_kernel_lists_says_what_the_program_means(namespace: str, host: Host) -> None:
    for family in host.families():
        wanted = list(cases(host, family, SHALLOW))
        assert not first_difference(wanted, kernel.listed_nft(host, namespace))
        for layout in (DOCKER, FINEST):
            saved = kernel.saved_iptables(host, family, namespace, layout)
            assert not first_difference(wanted, saved)


def test_rows_that_nft_leaves_out_are_left_out_and_decide_nothing() -> None:
    """The comparisons above hold although some rows are missing: see that some really are."""
    left_out = Counter[str]()
    for seed in range(20):
        host = seeded(seed)
        full, kept = flat_rows(host), rows_in_kernel(host)
        for relation, rows in full.items():
            left_out[relation.name] += len(rows) - len(kept[relation])
    assert (+left_out).keys() == {"own_published", "own_published_anywhere"}


def test_the_models_make_every_hook_do_everything() -> None:
    """A comparison in which nothing is ever dropped would agree about anything."""
    found = Counter((c.hook, c.wanted.fate) for c in _seeded_cases(range(12)))
    may = {
        Hook.RAW: {Fate.UNDECIDED, Fate.ACCEPT, Fate.DROP},
        Hook.INBOUND: {Fate.UNDECIDED, Fate.DNAT},
        Hook.OUTPUT: {Fate.UNDECIDED, Fate.DNAT},
        Hook.FORWARD: {Fate.UNDECIDED, Fate.ACCEPT, Fate.DROP},
        Hook.POSTROUTING: {Fate.UNDECIDED, Fate.SNAT, Fate.MASQUERADE},
    }
    assert set(found) == {(hook, fate) for hook, fates in may.items() for fate in fates}


def test_the_models_hold_rows_of_every_relation() -> None:
    filled = {
        (relation.name, row.family)
        for seed in range(60)
        for relation, rows in derive(seeded(seed)).items()
        for row in rows
    }
    wanted = {(r.name, family) for r in derive(Host()) for family in r.families}
    assert filled == wanted


def test_the_partition_holds_every_constant_and_something_else() -> None:
    for seed in range(12):
        host = seeded(seed)
        facts = derive(host)
        for family in host.families():
            axes = Partition(host, family).axes(Hook.FORWARD)
            held = {value for values in axes.values() for value in values}
            constants = {
                v for rows in facts.values() for r in rows for v in r.key if r.family is family
            }
            assert not [c for c in constants if not _represented(c, held)]


def test_the_partition_is_the_same_every_time() -> None:
    host = seeded(3)
    assert _packets(host) == _packets(host)


def _packets(host: Host) -> list[Case]:
    return list(cases(host, Family.IPV4, SHALLOW))


def _represented(constant: Value, held: set[Value]) -> bool:
    if not isinstance(constant, IPv4Network | IPv6Network):
        return constant in held
    mine = [a for a in held if isinstance(a, Address) and a.version == constant.version]
    return {a in constant for a in mine} == {True, False}


def _seeded_cases(seeds: range) -> Iterator[Case]:
    for seed in seeds:
        host = seeded(seed)
        for family in host.families():
            yield from cases(host, family, SHALLOW)
