"""Real packets under the rules of every scenario: each fares as the evaluator says.

What must pass and what must not is written down by hand in test_modes; here everything is asked
that can be asked, so that nothing is let through that nobody thought of.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nftbridge import config
from tests.kernel.hosts import batched, every_probe, site

pytestmark = pytest.mark.kernel

SCENARIOS = sorted(path.parent for path in Path("rulesets").glob("*/host.toml"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.name)
def test_every_packet_fares_as_the_rules_say(scenario: Path, tmp_path: Path) -> None:
    host = config.load(str(scenario / "host.toml")).host
    with site(host, tmp_path, proxy_ports=(9090,)) as place:
        probes = list(every_probe(place))
        forecaster = place.forecaster
        # more at a time than a raw socket's buffer holds would be lost, and look dropped
        outcomes = [o for some in batched(probes, 5000) for o in place.lab.probe_all(some)]
        wrong = [
            f"{outcome.probe}: {outcome.reply.value}, not {expected.reached} ({expected.decided})"
            for outcome in outcomes
            if (expected := forecaster.expect(outcome.probe)).reached != outcome.reached
        ]
    assert not wrong, f"{len(wrong)} of {len(probes)}:\n" + "\n".join(wrong[:20])
    assert any(outcome.reached for outcome in outcomes)
    assert any(not outcome.reached for outcome in outcomes)
