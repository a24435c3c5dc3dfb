"""The iptables lines for one network are Docker 28.5.2's, line for line, and the kernel agrees."""

from __future__ import annotations

import os
import subprocess
from collections import Counter

import pytest

from nftbridge.compat import text
from nftbridge.model import Family
from tests.golden.docker import FOLDER, Golden, goldens, lines_by_chain
from tests.golden.docker_steps import combinations, states
from tests.kernel.docker_states import CAPTURE, captured

GOLDENS = goldens()
STATES = {(str(options), family): states(options, family) for options, family in combinations()}

pytestmark = pytest.mark.skipif(
    not GOLDENS, reason="Docker's golden states are not beside the checkout"
)

FORWARD = ("filter", "FORWARD")
USERS = "-j DOCKER-USER"


def ours(golden: Golden) -> dict[tuple[str, str], list[str]]:
    """Our lines without the jump to DOCKER-USER, which Docker's states leave out."""
    found = lines_by_chain(text.script(golden.host, golden.family))
    if USERS in found.get(FORWARD, []):
        found[FORWARD].remove(USERS)
    return found


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.path.stem)
def test_our_lines_are_dockers(golden: Golden) -> None:
    assert ours(golden) == lines_by_chain(golden.text())


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden.path.stem)
def test_the_steps_that_docker_takes_lead_there(golden: Golden) -> None:
    """Which makes them good for the states that are not here."""
    wanted = lines_by_chain(golden.text())
    assert STATES.get((golden.path.stem.split("__")[0], golden.family), {}) == wanted


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_the_kernel_lists_them_so(family: Family) -> None:
    """All states in one go: legacy iptables prints each as Docker's harness recorded it."""
    program = "iptables-legacy" if family is Family.IPV4 else "ip6tables-legacy"
    mine = [golden for golden in GOLDENS if golden.family is family]
    script = "".join(
        f"{program}-restore <<'END'\n{text.script(golden.host, family)}END\n"
        f"for t in raw filter nat; do {program}-save -t $t; done; echo '##'\n"
        for golden in mine
    )
    command = ["unshare", "--net", "sh", "-e"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listings = done.stdout.split("##\n")[:-1]
    for golden, listing in zip(mine, listings, strict=True):
        listed = lines_by_chain(listing)
        if USERS in listed.get(FORWARD, []):
            listed[FORWARD].remove(USERS)
        assert listed == lines_by_chain(golden.text()), golden.path.name


def test_half_of_the_states_are_here() -> None:
    assert len(GOLDENS) == len(list(FOLDER.iterdir()))
    assert len(GOLDENS) > 100


def test_a_lost_line_is_noticed() -> None:
    golden = next(g for g in GOLDENS if "gwm=nat," in g.path.name)
    found = ours(golden)
    found["raw", "PREROUTING"].pop()
    assert found != lines_by_chain(golden.text())


@pytest.mark.skipif(not CAPTURE.exists(), reason="the capture is not beside the checkout")
@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_a_real_host_has_the_same_lines_in_each_chain(family: Family) -> None:
    """Eight networks: their order may differ where it cannot matter."""
    state = captured()
    theirs = lines_by_chain(state.rules[family])
    mine = lines_by_chain(text.script(state.host, family))
    assert {c: Counter(lines) for c, lines in mine.items()} == {
        c: Counter(lines) for c, lines in theirs.items()
    }
