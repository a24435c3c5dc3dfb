"""What all kernel tests need: root, and pyroute2 for the laboratory."""

from __future__ import annotations

import importlib.util
import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _kernel_access() -> None:  # pyright: ignore[reportUnusedFunction]  pytest calls it
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if importlib.util.find_spec("pyroute2") is None:
        pytest.skip("the laboratory needs pyroute2")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What test_no_gap has sent and what has passed, whether it was well or not."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind)]
    lines = [str(value) for r in reports for key, value in r.user_properties if key == "storm"]
    if lines:
        terminalreporter.section("traffic during changes")
        for line in lines:
            terminalreporter.write_line(line)
