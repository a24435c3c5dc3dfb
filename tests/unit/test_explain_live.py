"""Rows read back from a kernel become facts for the evaluator again."""

from __future__ import annotations

from ipaddress import ip_address

from nftbridge import config
from nftbridge.explain.live import facts_of
from nftbridge.policy.catalogue import ALL_BRIDGES, GUARDED, MASQUERADED_SUBNETS, PUBLISHED_ANYWHERE
from nftbridge.policy.derive import derive
from nftbridge.policy.evaluate import Evaluator, Packet
from nftbridge.policy.flat import FlatRows, flat_rows
from nftbridge.policy.rules import FILTER_FORWARD


def test_rows_become_facts_again() -> None:
    host = config.load("rulesets/17-many-networks/host.toml").host
    found, odd = facts_of(flat_rows(host))
    assert odd == ()
    for relation, rows in derive(host).items():
        assert {r[:3] for r in rows} == {r[:3] for r in found[relation]}


def test_a_row_that_cannot_be_is_said() -> None:
    rows: FlatRows = {
        GUARDED: {("ipv4", "{'range': []}"): (), ("ipv4", "10.0.0.1"): ()},
        MASQUERADED_SUBNETS: {("ipv4", "10.0.0.0/8"): ()},
        PUBLISHED_ANYWHERE: {("ipv4", "tcp", 80): ("10.0.0.1", 80)},
    }
    facts, odd = facts_of(rows)
    assert len(facts[GUARDED]) == 1
    assert odd == ("row ipv4 {'range': []} of guarded cannot be understood",)


def test_a_gate_without_its_row_lets_nobody_to_its_rules() -> None:
    host = config.load("rulesets/06-internal/host.toml").host
    network = next(network for network in host.networks if network.internal)
    facts = derive(host)
    inside, outside = ip_address("172.20.0.2"), ip_address("198.51.100.9")
    out = Packet(inside, outside, "tcp", 80, network.bridge, "eth0")
    torn = {**facts, ALL_BRIDGES: ()}
    assert Evaluator(facts, gated=True).hook(FILTER_FORWARD, out).packet is None
    assert Evaluator(torn).hook(FILTER_FORWARD, out).packet is None
    assert Evaluator(torn, gated=True).hook(FILTER_FORWARD, out).packet is not None
