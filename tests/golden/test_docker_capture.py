"""`nftbridge import docker` makes of a captured daemon a host with that daemon's own rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.compat import text
from nftbridge.docker import show
from nftbridge.docker.files import from_folder
from nftbridge.docker.host import DaemonOptions, Import, host_of
from nftbridge.mirrored import settled
from nftbridge.model import Family, Host
from tests.golden.docker import lines_by_chain
from tests.kernel.docker_states import CAPTURE, captured

OURS = Path(__file__).parent / "captures" / "docker-28.5.2"
"""What the API of a daemon of `tests.kernel.docker_daemon` said, keys of no interest left out."""

SAVED = {Family.IPV4: "iptables-save", Family.IPV6: "ip6tables-save"}
DAEMON = DaemonOptions(userland_proxy=True, allow_direct_routing=False)

folders = pytest.mark.parametrize(
    "folder",
    [
        OURS,
        pytest.param(
            CAPTURE,
            marks=pytest.mark.skipif(
                not CAPTURE.exists(),
                reason="the capture of a Docker daemon is not beside the checkout",
            ),
        ),
    ],
    ids=("ours", "beside the checkout"),
)
families = pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)


def imported(folder: Path) -> Import:
    return host_of(from_folder(str(folder)), DAEMON)


def chains(script: str) -> dict[tuple[str, str], Counter[str]]:
    """(table, chain) -> its lines; their order may differ where it cannot matter."""
    return {chain: Counter(lines) for chain, lines in lines_by_chain(script).items()}


def saved(folder: Path, family: Family) -> dict[tuple[str, str], Counter[str]]:
    return chains((folder / SAVED[family]).read_text())


@folders
@families
def test_the_host_has_the_rules_that_docker_programmed(folder: Path, family: Family) -> None:
    host = settled(imported(folder).host)
    assert chains(text.script(host, family)) == saved(folder, family)


@folders
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_the_host_file_says_the_same(folder: Path, suffix: str, tmp_path: Path) -> None:
    found = imported(folder)
    written = show.as_toml(found, "a test") if suffix == "toml" else show.as_json(found)
    path = tmp_path / f"host.{suffix}"
    path.write_text(written)
    assert config.load(str(path)) == config.HostFile(found.host)


def test_what_has_no_place_is_named() -> None:
    remarks = imported(OURS).remarks
    assert [remark.where for remark in remarks] == [
        "Docker's own firewall",
        "network 'host'",
        "network 'vlan'",
        "container 'lodger'",
    ]


@pytest.mark.skipif(not CAPTURE.exists(), reason="the capture is not beside the checkout")
def test_another_reader_of_the_capture_agrees() -> None:
    """That one takes ports as they were asked for, and knows all that is in this capture."""
    found = imported(CAPTURE)
    assert found.remarks == ()
    mine = [replace(n, containers=(), subnets=()) for n in found.host.networks]
    other = sorted(captured().host.networks, key=lambda network: network.name)
    assert mine == [replace(network, containers=(), subnets=()) for network in other]
    assert found.host.summary() == captured().host.summary()


@families
def test_a_lost_network_is_noticed(family: Family) -> None:
    """The comparison is not blind."""
    networks = imported(OURS).host.networks
    for index in range(len(networks)):
        fewer = Host(networks[:index] + networks[index + 1 :])
        if networks[index].subnet(family):
            assert chains(text.script(fewer, family)) != saved(OURS, family)
