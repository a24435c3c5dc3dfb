"""Raw's rows in a transaction before the rest, in the real kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest

from nftbridge.choice import Target
from nftbridge.errors import KernelRefusedError
from nftbridge.model import Container, Host, Network, Publication
from nftbridge.nft.backend import NftablesBackend
from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel
from nftbridge.plan import Plan, compare

pytestmark = pytest.mark.kernel

BEFORE = Host((Network("front", "br-front", (ip_network("172.20.0.0/24"),)),))
WEB = Container("web", IPv4Address("172.20.0.2"), publish=(Publication(80, 8080),))
AFTER = replace(BEFORE, networks=(replace(BEFORE.networks[0], containers=(WEB,)),))


@pytest.fixture
def backend(target: Target) -> NftablesBackend:
    """With the network in the kernel."""
    found = NftablesBackend(target.table, target.netns)
    found.bring_to(BEFORE, found.observe(list), list)
    return found


@pytest.mark.parametrize("looking", [True, False])
def test_a_container_with_its_port_takes_two(backend: NftablesBackend, *, looking: bool) -> None:
    plan = the_way(backend)
    before = backend.generation()
    go(backend, plan, looking=looking)
    assert before is not None
    assert backend.generation() == before + 2 == before + backend.commits(plan.removed, plan.added)
    assert backend.observe(list).rows == backend.rows(AFTER)


@pytest.mark.parametrize("looking", [True, False])
def test_if_the_second_is_refused_the_first_is_taken_back(
    backend: NftablesBackend, monkeypatch: pytest.MonkeyPatch, *, looking: bool
) -> None:
    plan, before, commit = the_way(backend), backend.observe(list), Kernel.commit

    def refuse_ports(kernel: Kernel, commands: list[Command]) -> None:
        if any("open_ports4" in str(command) for command in commands):
            raise KernelRefusedError("no more of these")
        commit(kernel, commands)

    monkeypatch.setattr(Kernel, "commit", refuse_ports)
    with pytest.raises(KernelRefusedError):
        go(backend, plan, looking=looking)
    assert backend.observe(list).rows == before.rows


def the_way(backend: NftablesBackend) -> Plan:
    return compare(backend.rows(BEFORE), backend.rows(AFTER))


def go(backend: NftablesBackend, plan: Plan, *, looking: bool) -> None:
    if looking:
        backend.bring_to(AFTER, backend.observe(list), list)
    else:
        backend.exchange(plan.removed, plan.added)
