"""Every planted fault is caught by the comparison; those that mean the same are listed as such.

A list of faults that nothing can catch would hide the day when one of them begins to matter, so the
list is checked as well: each entry names a fault that exists and that the corpus does not show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest

from nftbridge.model import Container, Family, Host, Network, Publication
from nftbridge.nft.lower import skeleton
from nftbridge.policy.rules import CHAINS
from tests.equivalence.compare import READINGS, Case, cases, first_difference
from tests.equivalence.equivalent import equivalents, unused
from tests.equivalence.iptables_mutants import line_mutants
from tests.equivalence.mark_mutants import ACCEPT, TRUST, mark_mutants
from tests.equivalence.meaning import DROPPED, Hook, Reading
from tests.equivalence.models import seeded
from tests.equivalence.mutants import Mutant, program_mutants
from tests.equivalence.nft_mutants import listing_mutants
from tests.equivalence.partition import Depth
from tests.equivalence.tree_mutants import tree_mutants

# Generated ones that between them show nearly everything, and one for what is rare: ports of single
# host addresses on a network that the proxy does not serve, and bridges whose names begin alike.
SEEDS = (0, 1, 3, 4, 6, 7, 8, 12, 20, 22, 25, 30)
DEPTH = Depth(bases=20, sample=300)
pytestmark = pytest.mark.slow

_RARE_ADDRESSES = (None, ip_address("198.51.100.2"), ip_address("2001:db8:100::2"))
_RARE_BRIDGES = ("0", "10", "11", "2")  # two begin alike: a tree has one branch for both
_EVERY = 50  # one packet would do if the fault did not depend on where it comes from


def _rare_network(number: int) -> Network:
    containers = tuple(
        Container(
            f"c{number}{last}",
            IPv4Address(f"172.20.{number}.{last}"),
            IPv6Address(f"fd00:20:0:{number}::{last}"),
            tuple(
                Publication(80 + index, 8000 + 100 * index + 10 * number + last, address)
                for index, address in enumerate(_RARE_ADDRESSES)
            ),
        )
        for last in (2, 3)
    )
    subnets = (ip_network(f"172.20.{number}.0/24"), ip_network(f"fd00:20:0:{number}::/64"))
    name, bridge = f"net{number}", f"br-{_RARE_BRIDGES[number]}"
    return Network(name, bridge, subnets, masquerade=bool(number), containers=containers)


def _without_marks(host: Host) -> Host:
    return replace(host, accept_mark=None, trust_mark=None)


HOSTS = [*(_without_marks(seeded(n)) for n in SEEDS), Host(tuple(map(_rare_network, range(4))))]
MARKED = [replace(host, accept_mark=ACCEPT, trust_mark=TRUST) for host in HOSTS]
MUTANTS = {
    mutant.name: mutant
    for mutant in (
        *program_mutants(),
        *listing_mutants(),
        *line_mutants(HOSTS),
        *tree_mutants(HOSTS),
        *mark_mutants(),
    )
}
EQUIVALENT = equivalents(MUTANTS)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One host in one family, with what each cell has to get."""

    host: Host
    family: Family
    wanted: dict[Hook, list[Case]]


@cache
def corpus(*, marks: bool) -> tuple[Exhibit, ...]:
    """Hosts that show every fault: made once, looked at by each test."""
    hosts = MARKED if marks else HOSTS
    return tuple(_exhibit(host, family) for host in hosts for family in host.families())


def _exhibit(host: Host, family: Family) -> Exhibit:
    wanted: dict[Hook, list[Case]] = {hook: [] for hook in Hook}
    for case in cases(host, family, DEPTH):
        wanted[case.hook].append(case)
    return Exhibit(host, family, wanted)


def caught(mutant: Mutant) -> str:
    """How the comparison finds the mutant out; empty if it does not."""
    for exhibit in corpus(marks=mutant.marks):
        try:
            reading = mutant.read(exhibit.host, exhibit.family)
        except ValueError as error:
            return f"refused: {error}"
        if reading is not None:
            wanted = (case for hook in mutant.hooks for case in exhibit.wanted[hook])
            said = first_difference(wanted, reading) or _overruled(mutant, reading, exhibit)
            if said:
                return said
    return ""


def _overruled(mutant: Mutant, reading: Reading, exhibit: Exhibit) -> str:
    """A user who drops everything in DOCKER-USER is obeyed before anything else is asked."""
    if Hook.FORWARD not in mutant.hooks:
        return ""
    reading.plant("DOCKER-USER", DROPPED)
    return first_difference(_all_dropped(exhibit.wanted[Hook.FORWARD][::_EVERY]), reading)


def _all_dropped(wanted: Iterable[Case]) -> list[Case]:
    return [Case(case.hook, case.packet, DROPPED) for case in wanted]


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in EQUIVALENT])
def test_is_caught(name: str) -> None:
    assert caught(MUTANTS[name])


@pytest.mark.parametrize("name", EQUIVALENT)
def test_means_the_same(name: str) -> None:
    assert not caught(MUTANTS[name]), f"not the same after all: {EQUIVALENT[name]}"


def test_each_gate_belongs_to_one_chain() -> None:
    gates = [gate for chain in CHAINS for gate in chain.gates()]
    assert len(gates) == len({gate.chain for gate in gates})
    assert not {gate.chain for gate in gates} & {chain.name for chain in CHAINS}


def test_a_chain_behind_a_gate_is_the_same_whichever_way_leads_there() -> None:
    seen = Counter((line.chain, line.comment, line.statements[0]) for line in skeleton().rules)
    assert not [where for where, number in seen.items() if number > 1]


def test_without_a_mutant_nothing_is_caught() -> None:
    for backend, read in READINGS.items():
        for marks in (False, True):
            assert not caught(Mutant(backend, tuple(Hook), read, marks))


def test_the_list_of_equivalents_is_about_mutants_that_exist() -> None:
    assert not unused(MUTANTS)
