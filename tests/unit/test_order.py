"""When raw's rows come in a transaction of their own, and that both lead to the same rows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from nftbridge.model import Container, GatewayMode, Host, Network, Publication
from nftbridge.nft import order
from nftbridge.nft.lower import rows_in_kernel
from nftbridge.plan import compare
from nftbridge.policy import catalogue as known
from nftbridge.policy.flat import FlatRows

PORT = Publication(80, 8080)
LOCAL = Publication(80, 9090, ip_address("127.0.0.1"))
FRONT = Network("front", "br-front", (ip_network("172.20.0.0/24"),))


def host(*published: Publication, **options: object) -> Host:
    """A network with a container that publishes this."""
    web = Container("web", IPv4Address("172.20.0.2"), publish=published)
    network = replace(FRONT, containers=(web,))
    return Host((replace(network, **options),))  # type: ignore[arg-type]


ROUTED = {"gateway_mode_ipv4": GatewayMode.ROUTED}
WAYS: dict[str, tuple[Host, Host, int]] = {
    "nothing": (host(), host(), 0),
    "the first port of a container, which is guarded already": (host(), host(PORT), 1),
    "a container with its port": (Host((FRONT,)), host(PORT), 2),
    "one more": (host(PORT), host(PORT, Publication(81, 8081)), 1),
    "one less": (host(PORT), host(), 1),
    "from routed to translated": (host(**ROUTED), host(PORT), 2),
    "from translated to routed": (host(PORT), host(**ROUTED), 1),
    "a network that was internal": (host(internal=True), host(PORT), 2),
    "a network that was undeclared": (Host(), host(PORT), 1),
    "a network that goes": (host(PORT), Host(), 1),
    "on loopback": (host(PORT), host(PORT, LOCAL), 2),
}


@pytest.mark.parametrize("name", WAYS)
def test_how_many_transactions(name: str) -> None:
    before, after, number = WAYS[name]
    held, wanted = rows_in_kernel(before), rows_in_kernel(after)
    plan = compare(held, wanted)
    steps = order.steps(plan.removed, plan.added)
    assert len(steps) == number
    rows = held
    for removed, added in steps:
        rows = changed(rows, removed, added)
    assert filled(rows) == filled(wanted)
    stages = list(order.stages(held, wanted))
    assert filled(stages[-1]) == filled(wanted)
    assert len(stages) == max(1, number)


def test_the_first_only_drops() -> None:
    """Nothing goes in it, and nothing comes that nat or filter ask for."""
    before, after, _ = WAYS["from routed to translated"]
    plan = compare(rows_in_kernel(before), rows_in_kernel(after))
    (removed, added), _ = order.steps(plan.removed, plan.added)
    assert removed == {}
    assert added.keys() == {known.GUARDED, known.GUARDED_INTERFACES}


def changed(rows: FlatRows, removed: FlatRows, added: FlatRows) -> FlatRows:
    """The rows after a transaction."""
    kept = {r: {k: v for k, v in x.items() if k not in removed.get(r, {})} for r, x in rows.items()}
    return {r: kept.get(r, {}) | added.get(r, {}) for r in kept.keys() | added.keys()}


def filled(rows: FlatRows) -> FlatRows:
    """Without relations that have none."""
    return {relation: its for relation, its in rows.items() if its}
