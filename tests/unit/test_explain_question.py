"""How `explain` takes its question: every error, all of them at once, and the command itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nftbridge.cli import main
from nftbridge.errors import InputError
from nftbridge.explain.question import Typed, read

OUTSIDE = "198.51.100.9"


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (Typed("eth0", "1.1.1.1", "fd00::1", "tcp", "80"), "of different families"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "gre"), "'gre' is not a protocol"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "tcp"), "tcp needs a port"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "icmp", "80"), "icmp has no ports"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "icmpv6"), "icmpv6 goes with IPv6"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "udp", "0"), "out of range"),
        (Typed("eth0", "1.1.1.1", "1.1.1.2", "udp", "1-2"), "one packet has one port"),
        (Typed("eth0", "1.1.1", "1.1.1.2", "udp", "1"), "--src: '1.1.1' is not an IP address"),
        (Typed("eth0", "1.1.1.1", "224.0.0.1", "udp", "1"), "--dst: 224.0.0.1 is not followed"),
        (Typed("eth0", "fd00::1", "fe80::1", "udp", "1"), "--dst: fe80::1 is never routed"),
        (Typed("a/b", "1.1.1.1", "1.1.1.2", "udp", "1"), "--in: 'a/b' holds '/'"),
        (Typed("a", "1.1.1.1", "1.1.1.2", "udp", "1", "b c"), "--out: 'b c' holds ' '"),
        (Typed("a", "1.1.1.1", "1.1.1.2", "udp", "1", "", ("x",)), "--host-address: 'x'"),
    ],
)
def test_bad_questions(typed: Typed, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        read(typed)
    (problem,) = error.value.problems
    assert complaint in str(problem)
    assert problem.hint


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        read(Typed("a/b", "x", "y", "z", "0", "", ("w",)))
    places = [problem.where for problem in error.value.problems]
    assert sorted(places) == ["--dport", "--dst", "--host-address", "--in", "--proto", "--src"]


def test_icmp_is_the_family_s_own() -> None:
    assert read(Typed("", "1.1.1.1", "1.1.1.2", "ICMP")).protocol == "icmp"
    assert read(Typed("lo", "fd00::1", "fd00::2", "icmp")).protocol == "ipv6-icmp"
    assert read(Typed("lo", "fd00::1", "fd00::2", "icmpv6")).protocol == "ipv6-icmp"
    assert read(Typed("host", "fd00::1", "fd00::2", "tcp", "1")).iif == ""


LINE = ("--src", OUTSIDE, "--dst", "192.0.2.1", "--proto", "tcp")
FILE = "rulesets/02-published-port/host.toml"


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", FILE, "--in", "eth0", *LINE, "--dport", "8080"]) == 0
    shown = capsys.readouterr().out.splitlines()
    told = shown[-1]
    assert told.startswith("translated to container web of network frontend (172.20.0.2:80) by")
    hooks = [line.split()[0] for line in shown if line.startswith("  ") and line[2] != " "]
    assert hooks[2:] == [
        *("raw-PREROUTING", "nat-PREROUTING", "routing", "filter-FORWARD", "nat-POSTROUTING"),
        "answer",
    ]
    assert main(["explain", FILE, "--in", "eth0", *LINE, "--dport", "8080", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["sentence"] == told
    assert [hook["rule"] for hook in data["hooks"]] == [None, "publish-anywhere", "open-port", None]


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", FILE),
        ("explain", FILE, "--in", "eth0", *LINE),
        ("explain", "--in", "eth0", *LINE, "--dport", "1"),
        ("explain", "missing.toml", "--in", "eth0", *LINE, "--dport", "1"),
        ("explain", FILE, "--in", "eth0", *LINE, "--dport", "1", "--netns", "none", "--live"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_status_1(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 1
    assert "hint:" in capsys.readouterr().err


def test_the_model_alone_needs_no_libnftables(public_copy: Path) -> None:
    for hidden in ("nftables", "pyroute2"):
        (public_copy / f"{hidden}.py").write_text("raise ImportError('hidden')\n")
    words = ["explain", "-", "--in", "eth0", *LINE, "--dport", "8080"]
    environment = os.environ | {"PYTHONPATH": str(public_copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "nftbridge", *words],
        input='{"version": 1}',
        env=environment,
        cwd=public_copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no container publishes 192.0.2.1:8080/tcp" in done.stdout
