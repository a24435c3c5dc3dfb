"""`nftbridge import docker` makes of a captured daemon a host with that daemon's own rules."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.compat import text
from nftbridge.docker import show
from nftbridge.docker.files import from_folder
from nftbridge.docker.host import DaemonOptions, Import, host_of
from nftbridge.engine import settled
from nftbridge.model import Family, Host
from tests.golden.docker import lines_by_chain
from tests.kernel.docker_states import CAPTURE, captured

SAVED = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}
DAEMON = DaemonOptions(userland_proxy=True, allow_direct_routing=False)

pytestmark = pytest.mark.skipif(
    not CAPTURE.exists(), reason="the capture of a Docker daemon is not beside the checkout"
)


def imported() -> Import:
    return host_of(from_folder(str(CAPTURE)), DAEMON)


def chains(script: str) -> dict[tuple[str, str], Counter[str]]:
    """(table, chain) -> its lines; their order may differ where it cannot matter."""
    return {chain: Counter(lines) for chain, lines in lines_by_chain(script).items()}


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_the_host_has_the_rules_that_docker_programmed(family: Family) -> None:
    theirs = chains((CAPTURE / SAVED[family]).read_text())
    assert chains(text.script(settled(imported().host), family)) == theirs


def test_nothing_is_left_out() -> None:
    assert imported().remarks == ()
    assert imported().host.summary() == captured().host.summary()


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_the_host_file_says_the_same(suffix: str, tmp_path: Path) -> None:
    found = imported()
    written = show.as_toml(found, "a test") if suffix == "toml" else show.as_json(found)
    path = tmp_path / f"host.{suffix}"
    path.write_text(written)
    assert config.load(str(path)) == config.HostFile(found.host)


def test_a_lost_port_is_noticed() -> None:
    """The comparison is not blind."""
    networks = imported().host.networks
    fewer = Host(networks[1:], wsl2_mirrored=False)
    theirs = chains((CAPTURE / SAVED[Family.IPV4]).read_text())
    assert chains(text.script(fewer, Family.IPV4)) != theirs
