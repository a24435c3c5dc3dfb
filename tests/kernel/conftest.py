"""What all kernel tests need: root, and pyroute2 for the laboratory."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest

from nftbridge.choice import Target
from tests.kernel.deployed import Site
from tests.kernel.patient import HOST_FILE, Patient, admitted
from tests.namespaces import network_namespace


@pytest.fixture(scope="session", autouse=True)
def _kernel_access() -> None:  # pyright: ignore[reportUnusedFunction]  pytest calls it
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if importlib.util.find_spec("pyroute2") is None:
        pytest.skip("the laboratory needs pyroute2")


@pytest.fixture
def namespace() -> Generator[str]:
    """An empty network namespace that forwards."""
    with network_namespace(forwarding=True) as name:
        yield name


@pytest.fixture
def target(namespace: str, tmp_path: Path) -> Target:
    """What is programmed: that namespace, with a record of its own."""
    return Target(netns=namespace, state_directory=tmp_path)


@pytest.fixture
def patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Generator[Patient]:
    """A host with `HOST_FILE` applied, for the doctor."""
    with admitted(HOST_FILE, tmp_path, capsys) as found:
        yield found


@pytest.fixture
def here(tmp_path: Path) -> Generator[Site]:
    """A network namespace that forwards, for trials; no watchdog outlives its test."""
    with network_namespace(forwarding=True) as name:
        site = Site(name, tmp_path / "state")
        yield site
        with suppress(ValueError):  # there is none
            found = site.watchdog()
            if found.is_alive() and found.number != os.getpid():
                os.kill(found.number, signal.SIGKILL)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What test_no_gap has sent and what has passed, whether it was well or not."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    lines = [str(value) for r in reports for key, value in r.user_properties if key == "storm"]
    if lines:
        terminalreporter.section("traffic during changes")
        for line in lines:
            terminalreporter.write_line(line)
