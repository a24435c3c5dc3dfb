"""Real packets under both backends: the same on each, and as the evaluator says.

A few of the generated hosts that ``./run prove`` tries by the hundred, and every scenario on
iptables; test_traffic has them on nftables.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from nftbridge import config
from nftbridge.compat.backend import IptablesBackend
from nftbridge.model import Host
from nftbridge.nft.backend import NftablesBackend
from tests.equivalence.models import seeded
from tests.equivalence.traffic import Trial, trial

pytestmark = pytest.mark.kernel

SCENARIOS = sorted(path.parent for path in Path("rulesets").glob("*/host.toml"))
SEEDS = (0, 3, 4, 6, 8, 10)
PROBES = 1000
FAULTY = {"nftables": NftablesBackend, "iptables": IptablesBackend}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_generated_host(seed: int) -> None:
    _check(trial(seeded(seed), PROBES, Random(seed)))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_a_scenario_on_iptables(scenario: Path) -> None:
    host = config.load(str(scenario / "host.toml")).host
    _check(trial(host, PROBES, Random(scenario.name), ("iptables", "iptables tree")))


@pytest.mark.parametrize("name", FAULTY)
def test_a_backend_that_does_something_else_is_found_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = FAULTY[name]
    true_to_it = kind.bring_to

    def bring_to(backend: object, host: Host, observed: object, known: object) -> str:
        found: str = true_to_it(backend, replace(host, allow_direct_routing=True), observed, known)
        return found

    monkeypatch.setattr(kind, "bring_to", bring_to)
    host = config.load("rulesets/02-published-port/host.toml").host
    said = trial(host, PROBES, Random(0)).disagreements
    assert any(line.startswith(f"{name}, outside -> ") for line in said)
    assert any("the backends differ" in line for line in said)


def _check(done: Trial) -> None:
    assert not done.disagreements, done.account()
    assert done.passed
    assert done.dropped
