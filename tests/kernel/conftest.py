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
