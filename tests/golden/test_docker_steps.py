"""For one network our lines are those that Docker's own steps lead to, whatever the options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nftbridge.compat import text
from nftbridge.model import Family
from tests.golden.docker import host_named, lines_by_chain
from tests.golden.docker_steps import Options, combinations, states


def ours(options: Options, family: Family) -> dict[tuple[str, str], list[str]]:
    """Our lines but for the jump to DOCKER-USER, which is not among those steps."""
    found = lines_by_chain(text.script(host_named(str(options)), family))
    found["filter", "FORWARD"].remove("-j DOCKER-USER")
    return found


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_every_combination_of_options(family: Family) -> None:
    names = set[str]()
    for options, of in combinations():
        if of is family:
            names.add(str(options))
            assert ours(options, family) == states(options, family), options
    assert len(names) == {Family.IPV4: 204, Family.IPV6: 102}[family]


PLAIN = Options(hairpin=False)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, hairpin=True),
        replace(PLAIN, mirrored=True),
        replace(PLAIN, network=False),
        replace(PLAIN, internal=True),
        replace(PLAIN, icc=False),
        replace(PLAIN, masq=False),
        replace(PLAIN, snat=True),
        replace(PLAIN, mode="routed"),
        replace(PLAIN, mode="nat-unprotected"),
        replace(PLAIN, loopback=True),
    ],
    ids=str,
)
def test_every_option_makes_a_difference(other: Options) -> None:
    assert ours(PLAIN, Family.IPV4) != states(other, Family.IPV4)
