"""`nftbridge migrate docker` under real daemons' rules, with traffic through it all the time."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kernel.debian import NotAvailable
from tests.kernel.migrate_site import RULE, Site, Traffic, expected, site

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]

KINDS = [("28.5", "legacy"), ("28.5", "nft"), ("20.10", "legacy"), ("20.10", "nft")]


def started(stack: ExitStack, folder: Path, release: str, variant: str) -> Site:
    """A site that ends with `stack`, or the test is skipped."""
    try:
        return stack.enter_context(site(folder, release, variant))
    except NotAvailable as reason:
        pytest.skip(f"Docker {release}: {reason}")


@pytest.fixture(params=KINDS, ids=" ".join)
def docker(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Site]:
    """Each release under each kind of iptables."""
    with ExitStack() as stack:
        yield started(stack, tmp_path, *request.param)


@pytest.fixture
def newest(tmp_path: Path) -> Generator[Site]:
    """Docker 28.5 on iptables-legacy."""
    with ExitStack() as stack:
        yield started(stack, tmp_path, "28.5", "legacy")


def test_there_and_back_in_a_storm(docker: Site) -> None:
    before = docker.saved()
    shown = docker.migrate(status=2)
    assert docker.saved() == before, "a plan changes nothing"
    assert f"{RULE}\n    -> meta nfproto ipv4" in shown
    with docker.storm() as storm:
        traffic = Traffic(storm)
        traffic.change(lambda: docker.migrate("--apply"))
        assert traffic.ends[-1] == expected(docker.release)
        assert not any("DOCKER" in text for text in docker.saved().values())
        traffic.change(lambda: docker.migrate("--undo"))
    assert traffic.leaks == []
    assert traffic.lost(docker, before) == []
    assert traffic.ends[0] == traffic.ends[-1]
    assert docker.saved() == before
    assert "nftbridge" not in docker.run("nft", "list", "tables")
