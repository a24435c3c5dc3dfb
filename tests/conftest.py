"""Fixtures that unit and kernel tests share."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

PACKAGE = Path(__file__).parents[1] / "nftbridge"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which Docker the tests of `nftbridge watch --docker` are about."""
    releases = ("20.10", "28.5")
    parser.addoption("--docker", default=releases[0], choices=releases, help="release of Docker")


@pytest.fixture
def public_copy() -> Generator[Path]:
    """A folder that everybody may read, holding the package: the checkout may be for root alone."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(PACKAGE, folder / "nftbridge", ignore=shutil.ignore_patterns("__pycache__"))
        yield folder
