"""What a listing of iptables' tables is taken for, and the scripts that follow from it. Pure."""

from __future__ import annotations

from itertools import permutations

import pytest

from nftbridge import config
from nftbridge.compat import text
from nftbridge.compat.held import Held
from nftbridge.compat.read import listed, understand
from nftbridge.compat.restore import CHANGING, TableState, TableText, commits
from nftbridge.model import Family, Host
from nftbridge.policy.program import Chain
from nftbridge.policy.rules import CT, FORWARD, PORTS, STAGE_1
from tests.golden.docker import lines_by_chain

MANY = config.load("rulesets/17-many-networks/host.toml").host
_FORWARD_JUMPS = "-A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n"
_PROXY = "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n"
_NO_PROXY = "-A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\n"


def held(*hosts: Host, family: Family = Family.IPV4, **tables: str) -> Held:
    return Held(family, {name: listed(said) for name, said in tables.items()}, hosts)


@pytest.mark.parametrize(
    ("table", "said", "present"),
    [
        ("filter", ":FORWARD DROP [0:0]\n-A FORWARD -i wg0 -j ACCEPT\n", False),
        ("filter", ":DOCKER-USER - [0:0]\n-A DOCKER-USER -i wg0 -j DROP\n", False),
        ("filter", ":DOCKER-CT - [0:0]\n", True),
        ("nat", ":DOCKER - [0:0]\n", True),
        ("raw", ":DOCKER - [0:0]\n", False),
        ("filter", _FORWARD_JUMPS, True),
        ("raw", f":{CHANGING} - [0:0]\n", True),
        ("mangle", f":{CHANGING} - [0:0]\n", True),
    ],
    ids=[
        "other people's line",
        "the user's chain",
        "an empty chain",
        "an empty chain of nat",
        "a chain of that name in another table",
        "our jumps",
        "an apply cut off in raw",
        "an apply cut off in mangle",
    ],
)
def test_what_counts_as_something_of_ours(table: str, said: str, *, present: bool) -> None:
    assert Held(Family.IPV4, {table: listed(said)}, ()).present == present


@pytest.mark.parametrize("hosts", [(), (MANY,)], ids=["no record", "a record"])
@pytest.mark.parametrize("line", [_PROXY, _NO_PROXY], ids=["proxy", "no proxy"])
def test_the_lines_of_an_empty_host_are_ours_whatever_is_on_record(
    line: str, hosts: tuple[Host, ...]
) -> None:
    found = held(*hosts, nat=line, filter=_FORWARD_JUMPS)
    assert found.number == 3


def test_a_family_that_is_switched_off_may_have_nothing_of_ours() -> None:
    off = Host(ipv4=False)
    assert not [*held(off).differences(off)]
    (said,) = held(off, filter=_FORWARD_JUMPS).differences(off)
    assert said == "IPv4: chains are there, but the family is switched off"
    assert "switched off" not in str([*held(off, family=Family.IPV6).differences(off)])


@pytest.mark.parametrize(
    ("chain", "one", "other"),
    [
        (FORWARD, 0, -1),
        (STAGE_1, 0, -1),
        (PORTS, 0, -1),
        (PORTS, "-o br-routed -p icmp -j ACCEPT", "! -i br-routed -o br-routed -j DROP"),
    ],
    ids=["forward", "isolation", "ports", "one network's"],
)
def test_lines_in_another_order_are_told(chain: Chain, one: int | str, other: int | str) -> None:
    swapped = lines(MANY, chain)
    assert not disordered(swapped, chain)
    places = [swapped.index(x) if isinstance(x, str) else x for x in (one, other)]
    swapped[places[0]], swapped[places[1]] = swapped[places[1]], swapped[places[0]]
    assert disordered(swapped, chain)


def test_networks_in_another_order_are_none() -> None:
    """Their lines say nothing of the same packets."""
    assert not disordered(lines(MANY, CT)[::-1], CT)


def lines(host: Host, chain: Chain) -> list[str]:
    return lines_by_chain(text.script(host, Family.IPV4))[chain.table, chain.name]


def disordered(found: list[str], chain: Chain) -> list[str]:
    said = understand(Family.IPV4, {chain: found}).differences
    return [phrase for phrase in said if "in another order" in phrase]


@pytest.mark.parametrize("gone", [*permutations("ABC")], ids="".join)
def test_chains_are_all_emptied_before_one_is_deleted(gone: tuple[str, ...]) -> None:
    """One that a line still jumps to cannot be deleted."""
    chains = {"A": ("-j B",), "B": ("-j C",), "C": ()}
    state = {"raw": TableState({}, {}), "filter": TableState(chains, {})}
    wanted = [TableText("raw"), TableText("filter", (), gone)]
    (step,) = commits(Family.IPV4, state, wanted)
    verbs = [line.split()[0] for line in step.script.splitlines()[1:-1]]
    assert verbs == ["-F"] * 3 + ["-X"] * 3
