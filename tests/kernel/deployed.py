"""A network namespace and nftbridge run on it, for tests of going back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nftbridge.choice import Target
from nftbridge.model import Host, Publication
from nftbridge.trial import Process

OLD = "rulesets/02-published-port/host.toml"
NEW = "rulesets/17-many-networks/host.toml"
OTHER = "rulesets/01-new-host/host.toml"
PATIENCE = 20.0


class Site:
    """A network namespace and a state directory, and nftbridge run on them."""

    def __init__(self, namespace: str, state: Path) -> None:
        self.namespace = namespace
        self.state = state
        self.backend = "auto"

    @property
    def target(self) -> Target:
        return Target(netns=self.namespace, state_directory=self.state)

    def command(self, *arguments: str) -> list[str]:
        common = ("--netns", self.namespace, "--state-dir", str(self.state))
        return [sys.executable, "-m", "nftbridge", *arguments, *common, "--backend", self.backend]

    def run(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done

    def holds(self, file: str) -> bool:
        """Whether the kernel is exactly as `file` declares."""
        self.run("verify")
        return json.loads(self.run_any("plan", file, "--json"))["changes"] is False

    def run_any(self, *arguments: str) -> str:
        command = self.command(*arguments)
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout

    def trial(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = json.loads(self.run("status", "--json").stdout)["trial"]
        return found

    def watchdog(self) -> Process:
        (file,) = self.state.rglob("trial.json")
        return Process(*json.loads(file.read_text())["watchdog"])

    def wait_until_it_went_back(self) -> None:
        wait_until(lambda: not list(self.state.rglob("trial.json")))

    @property
    def inside(self) -> list[str]:
        """What a command begins with that runs there."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def nft(self, *words: str) -> str:
        command = [*self.inside, "nft", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it does not come to pass"
        time.sleep(0.05)


def published_on(host: Host, port: int) -> Host:
    network = host.networks[0]
    web = replace(network.containers[0], publish=(Publication(80, port),))
    network = replace(network, containers=(web, *network.containers[1:]))
    return replace(host, networks=(network,))
