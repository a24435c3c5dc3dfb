"""The units under a real systemd, with all of their sandbox, and no capability but theirs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from nftbridge.watch.units import made
from tests.kernel.systemd import PATIENCE, NotAvailable, Systemd, systemd

pytestmark = [pytest.mark.kernel, pytest.mark.daemons]

BOOT, WATCH = "nftbridge.service", "nftbridge-watch.service"
FILE = "/run/host.toml"
CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "rulesets" / "02-published-port" / "host.toml"
SEEN = f"BindReadOnlyPaths={CHECKOUT}"
"""A checkout below /tmp would not be seen by a service with a /tmp of its own."""

FLUSHING = """
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft flush ruleset
"""
"""nftables.service, as far as it matters here."""

NET_ADMIN = 1 << 12  # include/uapi/linux/capability.h


def units() -> dict[str, str]:
    """Ours with their log in a file, since there is no journal."""
    found = {"nftables.service": FLUSHING}
    for name, text in made(FILE).items():
        log = f"{SEEN}\nStandardOutput=append:/run/{name}.log\nStandardError=append:/run/{name}.log"
        found[name] = text.replace("[Service]\n", f"[Service]\n{log}\n").replace(
            f"watch {FILE}", f"watch {FILE} --json"
        )
    return found


class Booted:
    """The systemd, and what is asked of it."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        systemd.file(FILE).write_text(EXAMPLE.read_text())

    def holds(self, text: str) -> bool:
        return text in self.systemd.run("nft", "list", "ruleset").stdout

    def log(self, event: str) -> list[dict[str, Any]]:
        text = self.systemd.file(f"/run/{WATCH}.log").read_text()
        lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if line["event"] == event]

    def main_process(self) -> str:
        return self.systemd.shown(WATCH, "MainPID")


@pytest.fixture
def booted(tmp_path: Path) -> Generator[Booted]:
    try:
        with systemd(units(), tmp_path / "units") as found:
            yield Booted(found)
    except NotAvailable as reason:
        pytest.skip(str(reason))


def test_at_boot_and_with_nftables_service(booted: Booted) -> None:
    control = booted.systemd.systemctl
    control("start", "nftables.service", BOOT)
    assert booted.systemd.shown(BOOT, "ActiveState") == "active"
    assert booted.holds("8080")
    control("restart", "nftables.service")  # it flushes all, and takes ours along
    wait_for(lambda: booted.systemd.shown(BOOT, "Job") == "")
    assert booted.holds("8080")
    booted.systemd.file(FILE).write_text(EXAMPLE.read_text().replace("8080:80", "8081:80"))
    control("reload", BOOT)
    assert booted.holds("8081")
    control("stop", BOOT)
    assert booted.holds("8081"), "the rules stay"


def test_the_service_does_its_work_with_what_it_is_given(booted: Booted) -> None:
    control = booted.systemd.systemctl
    control("start", WATCH)  # which returns when it has said that it is ready
    assert booted.holds("8080")
    status = booted.systemd.status(booted.main_process())
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[kind], 16) == NET_ADMIN, kind
    niceness = int(booted.systemd.run("sh", "-c", f"ps -o ni= -p {booted.main_process()}").stdout)
    assert niceness == -10
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    booted.systemd.run("nft", "flush", "ruleset")
    wait_for(lambda: booted.holds("8080"))
    booted.systemd.file(FILE).write_text(EXAMPLE.read_text().replace("8080:80", "8081:80"))
    wait_for(lambda: booted.holds("8081"))
    control("reload", WATCH)
    wait_for(lambda: bool(booted.log("reloaded")))
    assert "is as /run/host.toml declares it" in booted.systemd.shown(WATCH, "StatusText")
    assert not booted.log("failed")


def test_forwarding_is_switched_on_from_within(booted: Booted) -> None:
    switch = ("cat", "/proc/sys/net/ipv4/ip_forward")
    booted.systemd.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    text = EXAMPLE.read_text().replace("version = 1", 'version = 1\n[host]\nip_forward = "enable"')
    booted.systemd.file(FILE).write_text(text)
    booted.systemd.systemctl("start", WATCH)
    assert booted.systemd.run(*switch).stdout == "1\n"


def test_it_is_started_again_and_its_end_leaves_the_rules(booted: Booted) -> None:
    control = booted.systemd.systemctl
    control("start", WATCH)
    killed = booted.main_process()
    booted.systemd.run("kill", "-KILL", killed)
    wait_for(lambda: booted.main_process() not in (killed, "0"))
    wait_for(lambda: booted.systemd.shown(WATCH, "ActiveState") == "active")
    assert booted.holds("8080")
    control("stop", WATCH)
    assert booted.holds("8080")
    assert booted.systemd.shown(WATCH, "Result") == "success"
    assert len(booted.log("ended")) == 1


def test_bad_input_is_not_tried_again(booted: Booted) -> None:
    booted.systemd.file(FILE).write_text("version = 2")
    assert booted.systemd.run("systemctl", "start", WATCH).returncode != 0
    assert booted.systemd.shown(WATCH, "ActiveState") == "failed"
    assert booted.log("rejected")


def test_less_than_it_is_given_does_not_do(tmp_path: Path) -> None:
    """The capability is needed: without it the same service does not start."""
    poor = units()
    poor[WATCH] = poor[WATCH].replace("BoundingSet=CAP_NET_ADMIN", "BoundingSet=CAP_NET_RAW")
    try:
        with systemd(poor, tmp_path / "units") as found:
            booted = Booted(found)
            assert found.run("systemctl", "start", WATCH).returncode != 0
            assert "not permitted" in booted.systemd.file(f"/run/{WATCH}.log").read_text()
    except NotAvailable as reason:
        pytest.skip(str(reason))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
