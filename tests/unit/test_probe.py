"""The table of features, what is decided from findings, and how they are shown; no kernel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.compat.lower import chains
from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.model import Family
from nftbridge.nft.kernel import Kernel
from nftbridge.nft.lower import skeleton
from nftbridge.nft.syntax import is_list, is_object
from nftbridge.probe import run, show
from nftbridge.probe.catalogue import BY_NAME, FEATURES
from nftbridge.probe.feature import Feature, Group, NftObject, NftTrial, ProgramsTrial, RestoreTrial
from nftbridge.probe.found import (
    IPTABLES_NEEDS,
    NFTABLES_NEEDS,
    Decision,
    Finding,
    Found,
    Obstacle,
    Presence,
    decide,
)
from nftbridge.style import Style

ROOT = Path(__file__).parents[2]

NOBODY = Obstacle("the kernel cannot be tried without CAP_NET_ADMIN", "run as root")


def found(*missing: str, obstacle: Obstacle | None = None) -> Found:
    """Everything is there but `missing`, and what cannot be tried without those."""
    assert set(missing) <= BY_NAME.keys()
    presences: dict[str, Presence] = {}
    for feature in FEATURES:
        waits = any(presences[name] is not Presence.PRESENT for name in feature.needs)
        gone = Presence.MISSING if feature.name in missing else Presence.PRESENT
        blocked = obstacle is not None and isinstance(feature.trial, NftTrial | RestoreTrial)
        presences[feature.name] = Presence.UNKNOWN if waits or blocked else gone
    return Found(
        tuple(Finding(feature, presences[feature.name], "") for feature in FEATURES), obstacle
    )


# The table


def test_no_feature_stands_twice() -> None:
    assert len(BY_NAME) == len(FEATURES)
    assert len({(f.group, f.trial) for f in FEATURES}) == len(FEATURES)


def test_every_feature_says_everything() -> None:
    for feature in FEATURES:
        assert feature.source, feature.name
        assert feature.lost, feature.name
        assert feature.instead, feature.name
        assert all(re.fullmatch(r"CONFIG_[A-Z0-9_]+", option) for option in feature.options)
        in_kernel = isinstance(feature.trial, NftTrial | RestoreTrial)
        assert bool(feature.options) == in_kernel, feature.name


def test_what_a_feature_needs_stands_before_it() -> None:
    seen: set[str] = set()
    for feature in FEATURES:
        assert set(feature.needs) <= seen, feature.name
        seen.add(feature.name)


def test_what_a_backend_needs_contains_what_that_needs() -> None:
    """So that a decision always has a root cause to name."""
    for needed in (NFTABLES_NEEDS, IPTABLES_NEEDS):
        assert {need for name in needed for need in BY_NAME[name].needs} <= set(needed)


def test_both_families_have_the_same_features() -> None:
    of = {
        group: [f.name.split("-", 1)[1] for f in FEATURES if f.group is group]
        for group in (Group.IPTABLES, Group.IP6TABLES)
    }
    assert of[Group.IPTABLES] == of[Group.IP6TABLES]
    for feature in FEATURES:
        if isinstance(feature.trial, RestoreTrial):
            ipv6 = feature.name.startswith("ip6tables-")
            assert feature.trial.family is (Family.IPV6 if ipv6 else Family.IPV4)


def words(node: Any) -> Iterator[str]:
    """The keys of a document, with the values of those that say what kind of thing it is."""
    if is_object(node):
        for key, value in node.items():
            yield key
            if key in {"key", "type", "result", "hook"} and isinstance(value, str):
                yield f"{key} {value}"
            yield from words(value)
    elif is_list(node):
        for item in node:
            yield from words(item)


def tried_in_nft(features: tuple[Feature, ...]) -> set[str]:
    documents = (f.trial.commands("t") for f in features if isinstance(f.trial, NftTrial))
    return {word for document in documents for word in words(document)}


# What any nf_tables has, and what depends on the host alone.
PLAIN = {"drop", "return", "jump", "goto", "target", "comment", "hook forward", "hook output"}


def used_by_the_skeleton() -> set[str]:
    parts = skeleton()
    objects: tuple[NftObject, ...] = (
        *parts.chains,
        *(s.declaration for s in parts.sets),
        *parts.rules,
    )
    used = {word for item in objects for word in words(item.json("t"))}
    return {word for word in used if not re.match(r"type .*(addr|ifname|inet_|nf_proto)", word)}


def test_all_that_the_nftables_backend_uses_is_tried() -> None:
    assert used_by_the_skeleton() - PLAIN - tried_in_nft(FEATURES) == set()


@pytest.mark.parametrize(
    "name", ["nft-fib", "nft-ct", "nft-nat", "nft-masquerade", "nft-counter", "nft-interval"]
)
def test_a_feature_left_out_of_the_table_is_noticed(name: str) -> None:
    others = tuple(feature for feature in FEATURES if feature.name != name)
    if name == "nft-interval":  # its word is in nft-concat-interval too
        others = tuple(f for f in others if f.name != "nft-concat-interval")
    assert used_by_the_skeleton() - PLAIN - tried_in_nft(others)


def extensions(text: str) -> set[str]:
    return set(re.findall(r"-[mj] (?!ACCEPT|DROP|RETURN|DOCKER)\S+", text))


@pytest.mark.parametrize("family", Family)
def test_all_that_the_iptables_backend_uses_is_tried(family: Family) -> None:
    trials = [f.trial for f in FEATURES if isinstance(f.trial, RestoreTrial)]
    tried = {e for t in trials if t.family is family for e in extensions(t.script)}
    used: set[str] = set()
    for file in sorted((ROOT / "rulesets").glob("*/host.toml")):
        for chain in chains(config.load(str(file)).host, family):
            used |= {e for line in chain.lines for e in extensions(str(line))}
    assert used >= {"-m conntrack", "-m tcp", "-j DNAT", "-j MASQUERADE"}
    assert used <= tried


# What is decided


def test_nftables_is_taken_where_it_is_complete() -> None:
    assert decide(found()) == ("nftables", "the kernel has all that nftables needs")
    without_programs = found(
        *(f.name for f in FEATURES if isinstance(f.trial, ProgramsTrial)),
    )
    assert decide(without_programs).backend == "nftables"


@pytest.mark.parametrize("name", NFTABLES_NEEDS)
def test_iptables_is_taken_where_anything_of_nftables_is_missing(name: str) -> None:
    backend, reason = decide(found(name))
    assert backend == "iptables"
    assert reason == f"nftables lacks {name} ({BY_NAME[name].source})"


@pytest.mark.parametrize("name", [f.name for f in FEATURES if f.group is not Group.NFTABLES])
def test_iptables_is_taken_unless_it_could_protect_nothing(name: str) -> None:
    what = found("nft-fib", name)
    if name not in IPTABLES_NEEDS:
        assert decide(what).backend == "iptables"
        return
    with pytest.raises(UnavailableError) as caught:
        decide(what)
    for missing in ("nft-fib", name):
        assert f"{missing} ({BY_NAME[missing].source})" in str(caught.value)


def test_only_root_causes_are_named() -> None:
    with pytest.raises(UnavailableError) as caught:
        decide(found("nft-tables", "iptables-filter"))
    text = str(caught.value)
    assert "nftables lacks nft-tables (CONFIG_NF_TABLES)\n" in text
    assert "iptables lacks iptables-filter (CONFIG_IP_NF_FILTER" in text
    assert "nft-inet" not in text
    assert "addrtype" not in text


def test_without_privilege_that_is_what_is_said() -> None:
    with pytest.raises(UnavailableError, match="CAP_NET_ADMIN\n    hint: run as root"):
        decide(found(obstacle=NOBODY))


def test_asking_for_a_feature_that_there_is_not_is_a_mistake() -> None:
    assert found().has("nft-fib")
    assert not found("nft-inet").has("nft-fib")
    with pytest.raises(KeyError):
        found().has("nft-flib")


# `--backend auto`


@pytest.mark.parametrize("refusal", [KernelRefusedError("no"), UnavailableError("no")])
def test_auto_probes_only_if_the_ruleset_is_refused(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    asked: list[str] = []

    def probe() -> Found:
        asked.append("probe")
        return found("nft-ct")

    def accept(*_: object) -> None:
        asked.append("check")

    def refuse(*_: object) -> None:
        raise refusal

    monkeypatch.setattr(run, "probe", probe)
    monkeypatch.setattr(Kernel, "check", accept)
    assert run.auto() == Decision("nftables", "the kernel has all that nftables needs")
    assert asked == ["check"]
    monkeypatch.setattr(Kernel, "check", refuse)
    assert run.auto() == Decision("iptables", "nftables lacks nft-ct (CONFIG_NFT_CT)")
    assert asked == ["check", "probe"]


# How it is shown


def test_the_table_has_a_row_per_feature_and_the_decision() -> None:
    shown = list(show.lines(found(), Style()))
    assert [line.split()[0] for line in shown if "  present  " in line] == list(BY_NAME)
    assert shown[0].split("  ")[0] == "feature"
    assert "iptables-legacy, IPv6" in shown
    assert shown[-1] == ("--backend auto takes nftables: the kernel has all that nftables needs")


def test_a_row_says_option_loss_and_substitute_in_columns() -> None:
    head, *rows = show.lines(found(), Style())
    (row,) = (row for row in rows if row.startswith("iptables-raw "))
    for heading, cell in (
        ("here", "present"),
        ("comes with", "CONFIG_IP_NF_RAW"),
        ("lost without it", "the usual place of the direct-access drops"),
        ("used instead", "mangle PREROUTING"),
    ):
        assert row[head.index(heading) :].startswith(cell)


def test_what_is_missing_is_red_with_its_reason_below() -> None:
    what = Found(
        tuple(
            Finding(f.feature, Presence.MISSING, "Table does not exist")
            if f.feature.name == "ip6tables-nat"
            else f
            for f in found().findings
        )
    )
    shown = list(show.lines(what, Style(coloured=True)))
    (place,) = (i for i, line in enumerate(shown) if "ip6tables-nat" in line)
    assert shown[place].startswith("\033[31mip6tables-nat  ")
    assert "Table does not exist" in shown[place + 1]


def test_where_nothing_can_work_the_table_says_what_is_missing() -> None:
    *_, last = show.lines(found("nft-binding", "iptables-legacy"), Style())
    assert last.startswith("--backend auto takes nothing: no backend can work here")
    assert "package python3-nftables" in last


def test_the_findings_as_data() -> None:
    data = json.loads(json.dumps(show.to_data(found("nft-fib"))))
    assert [feature["feature"] for feature in data["features"]] == list(BY_NAME)
    assert data["auto"] == "iptables"
    assert data["auto_reason"].startswith("nftables lacks nft-fib")
    by_name = {feature["feature"]: feature for feature in data["features"]}
    assert by_name["nft-fib"]["presence"] == "missing"
    assert by_name["nft-fib"]["options"] == ["CONFIG_NFT_FIB_INET"]
    assert show.to_data(found(obstacle=NOBODY))["auto"] is None
