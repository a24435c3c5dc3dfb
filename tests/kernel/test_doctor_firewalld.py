"""A real firewalld that rejects, and firewall-cmd's words that mend it, also after a reload."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.patient import HOST_FILE, admitted

pytestmark = [pytest.mark.kernel, pytest.mark.daemons]


def put_on_path(daemon: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `firewall-cmd` the daemon's own, which lives in a root of its own."""
    environment = [f"{name}={value}" for name, value in daemon._environment().items()]
    command = ["env", "-i", *environment, *daemon._command("firewall-cmd")]
    # the host's namespace has been entered already, and unshare and nsenter are the machine's
    script = f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'
    folder.mkdir()
    program = folder / "firewall-cmd"
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


BEFORE = {
    "as it comes": "true",
    "with the bridge in another zone": "firewall-cmd --permanent --zone=work"
    " --add-interface=br-front && firewall-cmd --reload",
    "with a zone of that name that rejects": "firewall-cmd --permanent --new-zone=docker"
    " && firewall-cmd --permanent --zone=docker --add-interface=br-front && firewall-cmd --reload",
}
"""What an administrator has done before."""


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_firewalld_rejects(
    suite: str,
    before: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    harness: Any = pytest.importorskip("tests.kernel.firewalld_daemon")
    with admitted(HOST_FILE, tmp_path, capsys) as patient:
        try:
            with harness.firewalld(suite, patient.place.lab.netns) as daemon:
                daemon.start()
                put_on_path(daemon, tmp_path / "bin", monkeypatch)
                patient.sh(BEFORE[before])
                assert not patient.egress()
                assert patient.published()  # firewalld lets pass what was translated
                found = patient.finding("firewalld")
                patient.mend_all("firewalld")
                assert "connections of its containers to the outside" in found["traffic"][0]
                assert patient.all_pass()
                assert patient.is_well()
                patient.sh("firewall-cmd --reload")
                assert patient.all_pass()
        except harness.NotAvailable as reason:
            pytest.skip(f"firewalld of {suite}: {reason}")
