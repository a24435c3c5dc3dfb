"""From boot to the first apply nothing is forwarded by the bridges; then the rules decide."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory, Probe
from nftbridge.nft import baseline
from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

FILE = "rulesets/02-published-port/host.toml"
TABLE = "nftbridge"


def run(namespace: str, state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ("--netns", namespace, "--state-dir", str(state))
    command = [sys.executable, "-m", "nftbridge", *arguments, *where]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("closed", [[FILE], ["--bridge", "br-*"], ["--bridge", "br-front"]])
def test_packets_before_between_and_after(closed: list[str], tmp_path: Path) -> None:
    with Laboratory(config.load(FILE).host) as lab:
        probes = {
            "egress": Probe("worker", lab.address(OUTSIDE), "tcp", 443),
            "past the ports": Probe(OUTSIDE, lab.address("worker"), "tcp", 81),
            "published": Probe(OUTSIDE, lab.address(HOST), "tcp", 8080),
            "host to container": Probe(HOST, lab.address("web"), "tcp", 80),
            "to the host": Probe(OUTSIDE, lab.address(HOST), "tcp", 22),
        }

        def reached() -> set[str]:
            outcomes = lab.probe_all(probes.values())
            return {n for n, found in zip(probes, outcomes, strict=True) if found.reached}

        unforwarded = {"host to container", "to the host"}
        assert reached() == {"egress", "past the ports", *unforwarded}
        assert run(lab.netns, tmp_path, "baseline", *closed).returncode == 0
        assert reached() == unforwarded
        counters = [
            (rule["expr"][0]["match"]["left"]["meta"]["key"], rule["expr"][1]["counter"]["packets"])
            for rule in (item["rule"] for item in listed(lab.netns) if "rule" in item)
        ]
        assert all(packets for _, packets in counters), "what goes in is let through"
        assert [key for key, _ in counters] == ["iifname", "oifname"]
        assert run(lab.netns, tmp_path, "apply", FILE).returncode == 0
        assert reached() == {"egress", "published", *unforwarded}
        assert "baseline" not in nft(lab.netns, "list", "ruleset")
        assert run(lab.netns, tmp_path, "verify").returncode == 0


def test_it_goes_in_the_transaction_that_brings_the_rules(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline.load(TABLE, namespace, ["br-front"])
    commits: list[list[Command]] = []
    commit = Kernel.commit

    def watched(kernel: Kernel, commands: list[Command]) -> None:
        commits.append(commands)
        commit(kernel, commands)

    monkeypatch.setattr(Kernel, "commit", watched)
    target = Target(netns=namespace, state_directory=tmp_path)
    done = Engine(target, choose("nftables", target).backend).apply(config.load(FILE).host)
    assert "the boot baseline is in force" in done.install[0]
    assert len(commits) == 1
    assert "baseline" not in nft(namespace, "list", "ruleset")


def test_what_is_printed_is_what_is_loaded(namespace: str, tmp_path: Path) -> None:
    wanted = ("--bridge", "docker0", "--bridge", "br-*")
    loaded: list[Any] = []
    for _ in range(2):  # a second time changes nothing
        assert run(namespace, tmp_path, "baseline", FILE, *wanted).returncode == 0
        loaded.append(stateless(namespace))
    nft(namespace, "flush", "ruleset")
    for reader in ((), ("--json",)):  # what each of them is printed for
        printed = run(namespace, tmp_path, "baseline", FILE, *wanted, "--print", *reader).stdout
        for _ in range(2):
            nft(namespace, *reader, "-f", "-", stdin=printed)
            loaded.append(stateless(namespace))
        nft(namespace, "flush", "ruleset")
    assert all(one == loaded[0] for one in loaded)
    rules = [item["rule"]["expr"][0]["match"]["right"] for item in loaded[0] if "rule" in item]
    assert rules == [{"set": ["br-front", "docker0"]}] * 2 + ["br-*"] * 2


def stateless(namespace: str) -> list[Any]:
    """The listing without handles."""
    return [{k: {**v, "handle": 0} for k, v in item.items()} for item in listed(namespace)]


def listed(namespace: str) -> list[Any]:
    """Everything, sets in order."""

    def sorted_sets(found: dict[str, Any]) -> dict[str, Any]:
        return {k: sorted(v) if k == "set" else v for k, v in found.items()}

    text = nft(namespace, "-j", "list", "ruleset")
    found: list[Any] = json.loads(text, object_hook=sorted_sets)["nftables"][1:]
    return found


def test_rules_of_an_apply_are_left_alone(namespace: str, tmp_path: Path) -> None:
    run(namespace, tmp_path, "apply", FILE)
    before = nft(namespace, "list", "ruleset")
    done = run(namespace, tmp_path, "baseline", FILE)
    assert done.stdout.startswith("nothing to do: the rules of an apply")
    assert nft(namespace, "list", "ruleset") == before


def test_loaded_beside_the_rules_it_is_seen_and_mended(namespace: str, tmp_path: Path) -> None:
    """nftables.service reloads what was printed, without a flush: closed until the next apply."""
    run(namespace, tmp_path, "apply", FILE)
    nft(namespace, "-f", "-", stdin=baseline.script(TABLE, ["br-front"]))
    found = run(namespace, tmp_path, "verify")
    assert found.returncode == 2
    assert "because the boot baseline is in force" in found.stdout
    assert run(namespace, tmp_path, "apply", FILE).returncode == 0
    assert run(namespace, tmp_path, "verify").returncode == 0
    assert "baseline" not in nft(namespace, "list", "ruleset")


def test_status_says_that_it_is_in_force(namespace: str, tmp_path: Path) -> None:
    run(namespace, tmp_path, "baseline", FILE)
    said = run(namespace, tmp_path, "status").stdout
    assert "no apply is on record, the boot baseline is in force" in said


def test_remove_takes_it_out(namespace: str, tmp_path: Path) -> None:
    run(namespace, tmp_path, "baseline", FILE)
    assert run(namespace, tmp_path, "remove").returncode == 0
    assert nft(namespace, "list", "ruleset") == ""
    run(namespace, tmp_path, "baseline", FILE)
    nft(namespace, "add chain inet nftbridge DOCKER-USER; add chain inet nftbridge mine")
    assert "kept 'mine'" in run(namespace, tmp_path, "remove").stdout
    assert "baseline" not in nft(namespace, "list", "ruleset")


def test_a_trial_does_not_go_back_to_it(namespace: str, tmp_path: Path) -> None:
    """It would go back to nothing, which is more open."""
    run(namespace, tmp_path, "baseline", FILE)
    refused = run(namespace, tmp_path, "apply", FILE, "--confirm", "60")
    assert refused.returncode == 1
    assert "or the boot baseline" in refused.stderr
    assert "baseline" in nft(namespace, "list", "ruleset")


def test_iptables_has_none(namespace: str, tmp_path: Path) -> None:
    refused = run(namespace, tmp_path, "baseline", FILE, "--backend", "iptables")
    assert refused.returncode == 5
    assert "hint: " in refused.stderr
    assert nft(namespace, "list", "ruleset") == ""
