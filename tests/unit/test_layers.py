"""Imports point one way, down the table of layers. Read from syntax trees, nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# Lowest first. A module sees its own part and all lower lines, never another part of its own line:
# that is what keeps the two backends apart.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("", "errors", "defaults", "style"),  # "" is nftbridge/__init__.py
    ("netns", "model"),
    ("notation", "effects"),
    ("schema",),
    ("config", "policy", "trial"),
    ("plan", "difference", "inventory", "journal", "history", "mirrored"),
    ("conntrack",),
    ("backend",),
    ("nft", "compat"),
    ("state", "probe", "firewalld", "translate"),
    ("past", "standing"),
    ("choice", "record"),
    ("takeover", "accepts"),
    ("engine", "beside"),
    ("session", "deployment"),
    ("watchdog",),
    ("applying",),
    ("report", "lab", "docker", "snippet"),
    ("explain",),
    ("doctor",),
    ("demo", "watch", "migrate"),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

# Each door to the outside has one place, given as the import names that may go through it.
DOORS: dict[str, tuple[str, ...]] = {
    "nftables": ("nftbridge.nft.kernel",),
    "tomli": ("nftbridge.config",),
    "tomli_w": ("nftbridge.docker.show",),
    "http": ("nftbridge.docker.api",),
    "pyroute2": ("nftbridge.conntrack.flows", "nftbridge.lab", "nftbridge.netns"),
    "jeepney": ("nftbridge.firewalld.bus",),
    "compat": (),  # the folder's name in the checkout; installed it is nftbridge.compat
    "tests": (),
}


class Import(NamedTuple):
    """One name that a module brings in, as fully as its text tells."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _part(name: str) -> str:
    """The layer's name of a module: the first part below nftbridge."""
    return name.split(".")[1] if "." in name else ""


def _sources() -> dict[str, str]:
    """Import name -> source of every module of the checkout."""
    found: dict[str, str] = {}
    for folder, above in (("nftbridge", ""), ("compat", "nftbridge.")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[:2] != ("nftbridge", "compat"):  # the symlink to the other folder
                name = above + ".".join(parts).removesuffix(".__init__")
                found[name] = path.read_text(encoding="utf-8")
    return found


def _imports(sources: Mapping[str, str]) -> Iterator[Import]:
    for importer, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            for imported in _imported(node, sources):
                yield Import(importer, imported, getattr(node, "lineno", 0))


def _imported(node: ast.AST, known: Mapping[str, str]) -> Iterator[str]:
    """What one node imports; `from package import name` may mean a module or something in one."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(level=level) if level > 0:
            yield "." * level  # never resolved: reported as such
        case ast.ImportFrom(module=str(module), names=names):
            for alias in names:
                full = f"{module}.{alias.name}"
                yield full if full in known else module
        case ast.Call(
            func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            yield module
        case _:
            pass


def violations(sources: Mapping[str, str]) -> list[str]:
    """Everything that is against the rules, in words."""
    homeless = [f"{name} has no layer" for name in sources if _part(name) not in RANK]
    return homeless + [
        f"{found}: {reason}" for found in _imports(sources) for reason in _against(found)
    ]


def _against(found: Import) -> Iterator[str]:
    if found.imported.startswith("."):
        yield "relative imports hide the layer"
    for door, allowed in DOORS.items():
        if _within(found.imported, door) and not any(_within(found.importer, a) for a in allowed):
            yield f"only for {', '.join(allowed) or 'nobody'}"
    if _within(found.imported, "nftbridge"):
        yield from _upwards(_part(found.importer), _part(found.imported))


def _upwards(importer: str, imported: str) -> Iterator[str]:
    if importer == imported or not {importer, imported} <= RANK.keys():
        return  # a module without a layer is reported once, as such
    if RANK[imported] == RANK[importer]:
        yield "side by side, they must not know each other"
    if RANK[imported] > RANK[importer]:
        yield "imports point down"


def test_the_tree_keeps_its_layers() -> None:
    sources = _sources()
    assert {"nftbridge", "nftbridge.model", "nftbridge.compat"} <= sources.keys()
    assert not violations(sources)


def test_every_layer_exists() -> None:
    """A line that nothing lives on is out of date."""
    assert RANK.keys() - {_part(name) for name in _sources()} == set()


@pytest.mark.parametrize(
    ("importer", "source", "complaint"),
    [
        ("nftbridge.model.host", "from nftbridge.policy import rules", "imports point down"),
        ("nftbridge.errors", "import nftbridge.cli", "imports point down"),
        ("nftbridge.policy.derive", "def f():\n    import nftbridge.engine", "point down"),
        ("nftbridge.plan", "if X:\n    from nftbridge.engine import E", "point down"),
        ("nftbridge.nft.lower", "from nftbridge.compat import lower", "side by side"),
        ("nftbridge.nft.lower", "from nftbridge import compat", "side by side"),
        ("nftbridge.compat.read", "import nftbridge.nft.read", "side by side"),
        ("nftbridge.nft.lower", "import nftables", "only for nftbridge.nft.kernel"),
        ("nftbridge.engine", "importlib.import_module('nftables')", "only for nftbridge.nft"),
        (
            "nftbridge.engine",
            "from pyroute2.netns import create",
            "only for nftbridge.conntrack.flows",
        ),
        ("nftbridge.cli", "import compat.lower", "only for nobody"),
        ("nftbridge.cli", "from tests import helper", "only for nobody"),
        ("nftbridge.cli", "from . import engine", "relative imports"),
        ("nftbridge.misc.helpers", "", "nftbridge.misc.helpers has no layer"),
    ],
)
def test_a_planted_violation_is_found(importer: str, source: str, complaint: str) -> None:
    planted = {"nftbridge.compat": "", "nftbridge.engine": "", importer: source}
    assert [found for found in violations(planted) if complaint in found]


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("nftbridge.cli", "from nftbridge import __version__, engine"),
        ("nftbridge.nft.lower", "from nftbridge.nft import syntax"),
        ("nftbridge.nft.kernel", "importlib.import_module('nftables')"),
        ("nftbridge.lab.netlink", "import pyroute2"),
        ("nftbridge.engine", "import nftbridge.nft.backend, nftbridge.compat"),
    ],
)
def test_what_is_allowed_is_not_reported(importer: str, source: str) -> None:
    assert not violations({"nftbridge.engine": "", importer: source})
