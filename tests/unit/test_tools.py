"""The linters and type checkers have nothing to say about the tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Each is run by this interpreter, so that it is this environment's and sees its libraries.
TOOLS: dict[str, tuple[str, ...]] = {
    "ruff check": ("ruff", "check", "--output-format", "concise"),
    "ruff format": ("ruff", "format", "--check"),
    "mypy": ("mypy",),
    "pyright": ("pyright", "--pythonpath", sys.executable),
}


def complaints(tool: str, folder: Path) -> str:
    """Everything `tool` says about `folder`; empty if it is content."""
    done = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout if done.returncode != 0 else ""


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_tool_is_content_with_the_tree(tool: str) -> None:
    said = complaints(tool, ROOT)
    if said:
        pytest.fail(f"{tool}:\n{said}", pytrace=False)


PLANTED = {
    "ruff check": "import compat\n",
    "ruff format": "x  =  1\n",
    "mypy": "x: int = ''\n",
    "pyright": "x: int = ''\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_tool_finds_a_planted_fault(tool: str, tmp_path: Path) -> None:
    """With this project's configuration, in a tree of the same shape."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for folder in ("nftbridge", "compat", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    planted = tmp_path / "nftbridge" / "planted.py"
    planted.write_text(f'"""Planted."""\n\n{PLANTED[tool]}', encoding="utf-8")
    assert "planted.py" in complaints(tool, tmp_path)
