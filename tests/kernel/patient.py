"""A host in a laboratory on which the doctor is asked, and his commands are run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.cli import main
from nftbridge.engine import Engine
from nftbridge.lab import Laboratory, Probe
from nftbridge.lab.topology import HOST
from nftbridge.model import Address, Family, Host
from tests.kernel.hosts import Site

HOST_FILE = """
version = 1
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
publish = ["8080:80"]
[[network.container]]
name = "worker"
ipv4 = "172.20.0.3"
ipv6 = "fd00:20::3"
[[network]]
name = "lab"
bridge = "br-lab"
subnets = ["172.23.0.0/16", "fd00:23::/64"]
gateway_mode_ipv4 = "routed"
gateway_mode_ipv6 = "routed"
[[network.container]]
name = "routed"
ipv4 = "172.23.0.2"
ipv6 = "fd00:23::2"
publish = ["80"]
"""


INTERNAL = """
version = 1
[host]
userland_proxy = false
[[network]]
name = "data"
bridge = "br-data"
subnets = ["172.21.0.0/16"]
internal = true
[[network.container]]
name = "db"
ipv4 = "172.21.0.2"
[[network]]
name = "front"
bridge = "br-front"
subnets = ["172.20.0.0/16"]
[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
publish = ["8080:80"]
"""


class Patient:
    """A host in a laboratory with nftbridge applied, and the doctor run on it."""

    def __init__(self, place: Site, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.file = file
        self._capsys = capsys

    def sh(self, command: str) -> None:
        """Run a command inside the host's namespace, as an administrator would."""
        inside = ["nsenter", f"--net=/run/netns/{self.place.lab.netns}", "sh", "-c", command]
        done = subprocess.run(inside, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def output(self, command: str) -> str:
        """What a program inside the host's namespace prints."""
        inside = ["nsenter", f"--net=/run/netns/{self.place.lab.netns}", "sh", "-c", command]
        return subprocess.run(inside, capture_output=True, text=True, check=True).stdout

    def doctor(self, *words: str) -> dict[str, Any]:
        """What the command says, as data; its exit status fits."""
        return self.doctor_of_last_apply(str(self.file), *words)

    def doctor_of_last_apply(self, *words: str) -> dict[str, Any]:
        """The same without the host file."""
        target = self.place.target
        where = ["--netns", self.place.lab.netns, "--state-dir", str(target.state_directory)]
        self._capsys.readouterr()
        status = main(["doctor", *words, *where, "--json"])
        found: dict[str, Any] = json.loads(self._capsys.readouterr().out)
        assert status == (2 if found["wrong"] else 0), found
        return found

    def mend(self, diagnosis: str) -> dict[str, Any]:
        """Run every command of the finding, verbatim, and return the finding."""
        found = self.finding(diagnosis)
        self.run(found)
        return found

    def run(self, found: dict[str, Any]) -> None:
        """Run every command of a finding, of which there are some."""
        assert found["commands"], found
        for command in found["commands"]:
            self.sh(command)

    def mend_all(self, *expected: str) -> None:
        """Run every command of every finding, all of which have to be of these diagnoses."""
        for found in self.doctor()["findings"]:
            assert found["diagnosis"] in expected or found["severity"] == "remark", found
            for command in found["commands"]:
                self.sh(command)

    def finding(self, diagnosis: str, *words: str) -> dict[str, Any]:
        """The first finding of a diagnosis; the test fails if there is none."""
        findings = self.doctor(*words)["findings"]
        named = [f for f in findings if f["diagnosis"] == diagnosis]
        assert named, findings
        return dict(named[0])

    def reaches(self, source: str, target: Address, port: int) -> bool:
        """Whether a TCP connection comes about."""
        (outcome,) = self.place.lab.probe_all([Probe(source, target, "tcp", port)])
        return outcome.reached

    def address(self, node: str, version: int = 4) -> Address:
        return self.place.lab.address(node, Family.IPV4 if version == 4 else Family.IPV6)

    def egress(self, version: int = 4) -> bool:
        return self.reaches("worker", self.address("outside", version), 80)

    def published(self, version: int = 4) -> bool:
        probe = Probe("outside", self.address(HOST, version), "tcp", 8080)
        (outcome,) = self.place.lab.probe_all([probe])
        return outcome.answer is not None and outcome.answer.node == "web"

    def routed(self, version: int = 4) -> bool:
        return self.reaches("outside", self.address("routed", version), 80)

    def all_pass(self, *versions: int) -> bool:
        ways = (self.egress, self.published, self.routed)
        return all(way(version) for way in ways for version in versions or (4, 6))

    def is_well(self) -> bool:
        return self.doctor()["wrong"] is False


def loaded(text: str, folder: Path) -> tuple[Host, Path]:
    file = folder / "host.toml"
    file.write_text(text)
    return config.load(str(file)).host, file


@contextmanager
def admitted(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str], backend: str = "nftables"
) -> Generator[Patient]:
    host, file = loaded(text, folder)
    with Laboratory(host) as lab:
        target = Target(netns=lab.netns, state_directory=folder / "state")
        engine = Engine(target, choose(backend, target).backend)
        engine.apply(host)
        yield Patient(Site(host, lab, target, engine), file, capsys)
