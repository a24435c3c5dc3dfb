"""What the tree layout must not do with lines, in small chains that show it. Pure."""

from __future__ import annotations

import pytest

from nftbridge.compat.syntax import ChainText
from nftbridge.compat.tree import PREFIX, arrange, flatten, subchain

PORTS = tuple(f"-d 10.0.0.{n}/32 -p tcp -m tcp --dport {80 + n} -j ACCEPT" for n in range(16))
X, Y = (PREFIX + letter * 16 for letter in "XY")


def arranged(*chains: ChainText) -> dict[str, list[str]]:
    """Chain -> its lines, everything split that can be; a name that comes twice is an error."""
    made = arrange(chains, leaf=1)
    found = {chain.name: list(chain.lines) for chain in made}
    assert len(found) == len(made), "two chains have one name"
    return found


def test_equal_lines_in_two_chains_have_sub_chains_of_their_own() -> None:
    found = arranged(ChainText("DOCKER", PORTS), ChainText("DOCKER-CT", PORTS))
    assert flatten(found) == {"DOCKER": [*PORTS], "DOCKER-CT": [*PORTS]}
    reached = [subchain(line) for name in ("DOCKER", "DOCKER-CT") for line in found[name]]
    assert len(set(reached)) == len(reached) > 2


def test_equal_runs_of_one_chain_have_sub_chains_of_their_own() -> None:
    lines = (*PORTS, "-i br0 -j RETURN", *PORTS)
    assert flatten(arranged(ChainText("DOCKER", lines))) == {"DOCKER": [*lines]}


def test_a_change_of_one_line_leaves_the_names_of_the_others() -> None:
    before = arranged(ChainText("DOCKER", PORTS))
    after = arranged(
        ChainText("DOCKER", (*PORTS[:-1], PORTS[-1].replace("--dport 95", "--dport 96")))
    )
    assert before.keys() == after.keys()


@pytest.mark.parametrize(
    ("listing", "flat"),
    [
        ({"A": [f"-j {X}"], X: [f"-j {X}"]}, [f"-j {X}"]),
        ({"A": [f"-j {X}"], X: ["-j DROP", f"-j {Y}"], Y: [f"-j {X}"]}, ["-j DROP", f"-j {X}"]),
        ({"A": [f"-j {X}"]}, [f"-j {X}"]),
    ],
    ids=["into itself", "into the one above", "into nothing"],
)
def test_a_jump_that_leads_nowhere_ends_the_reading(
    listing: dict[str, list[str]], flat: list[str]
) -> None:
    """Nobody can load a loop, but a listing may be anything."""
    assert flatten(listing) == {"A": flat}


def test_a_pattern_of_interfaces_keeps_its_place() -> None:
    """It is many interfaces, so it matches what other lines of the run match."""
    lines = ("-i br1 -j ACCEPT", "-i br+ -j DROP", "-i br2 -j ACCEPT")
    found = arranged(ChainText("DOCKER-FORWARD", lines))
    assert flatten(found) == {"DOCKER-FORWARD": [*lines]}


@pytest.mark.parametrize(
    ("line", "negated"),
    [
        ("! -i {0} -j DROP", "-i"),
        ("! -o {0} -j DROP", "-o"),
        ("! -i {0} -o {0} -j DROP", "-i"),
        ("-i {0} ! -o {0} -j ACCEPT", "-o"),
    ],
)
def test_a_negated_interface_splits_nothing(line: str, negated: str) -> None:
    """A jump for the very packets that the lines are not about would lose the lines."""
    lines = [line.format(f"br{n}") for n in (10, 11, 20, 21)]
    found = arranged(ChainText("DOCKER", tuple(lines)))
    assert flatten(found) == {"DOCKER": lines}
    jumps = [text for made in found.values() for text in made if subchain(text)]
    assert not [jump for jump in jumps if f"{negated} " in jump]
