"""What people get who install nftbridge: the wheel's exact content, and a wheel that works."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Not what the builds need, or made by tools: left out of the copy that is built.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".cache", "*.egg-info", "__pycache__", "tests", "build", "dist"
)

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    """The output of a command; a failed one fails the test with all it said."""
    done = subprocess.run(
        command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(source: Path, kind: str, out: Path) -> Path:
    """Build one distribution of `source` with this environment's setuptools, without network."""
    run(
        *(sys.executable, "-m", "build", f"--{kind}", "--no-isolation"),
        *("--outdir", out, source),
        cwd=out,
    )
    (made,) = [path for path in out.iterdir() if path.suffix in {".whl", ".gz"}]
    return made


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: builds write next to their source."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    return shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_OUT)


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(checkout, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist, as `pip install nftbridge` without a wheel would."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    run("tar", "-xf", sdist, cwd=unpacked)  # tarfile's safe filter came with 3.11.4 only
    (source,) = unpacked.iterdir()
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


def files_in(wheel: Path) -> set[str]:
    """The files a wheel installs, without its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def package_files() -> Iterator[str]:
    """What the checkout's two folders hold, under the names they have when installed."""
    for folder in ("nftbridge", "compat"):
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT)
            through_symlink = relative.parts[:2] == ("nftbridge", "compat")
            if path.is_file() and "__pycache__" not in relative.parts and not through_symlink:
                yield f"{'nftbridge/' if folder == 'compat' else ''}{relative}"


def test_the_wheel_from_the_sdist_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    assert files_in(wheel) == set(package_files())


def test_the_wheel_has_what_is_easily_lost(wheel: Path) -> None:
    """The same as above in words, should both sides ever be wrong together."""
    files = files_in(wheel)
    assert "nftbridge/compat/__init__.py" in files
    assert {"nftbridge/py.typed", "nftbridge/compat/py.typed"} <= files
    assert {name.split("/")[0] for name in files} == {"nftbridge"}


def test_the_wheel_from_the_checkout_is_the_same(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    assert files_in(build(checkout, "wheel", tmp_path)) == files_in(wheel)


def test_the_wheel_carries_the_licence_and_the_command(wheel: Path) -> None:
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "License-Expression: GPL-2.0-or-later\n" in metadata
        assert "nftbridge = nftbridge.cli:run" in archive.read(f"{info}/entry_points.txt").decode()
        licence = archive.read(f"{info}/licenses/LICENSE")
    assert licence == (ROOT / "LICENSE").read_bytes()


def test_an_installed_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    target = run(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
    )
    with zipfile.ZipFile(wheel) as archive:  # a pure wheel is installed by unpacking it
        archive.extractall(target.strip())
    version = run(python, "-m", "nftbridge", "--version", cwd=tmp_path)
    assert PROJECT["project"]["name"] in version
    assert run(python, "-c", "import nftbridge.compat", cwd=tmp_path) == ""
    seen = "import importlib.util as u; print(u.find_spec('compat'), u.find_spec('tests'))"
    assert run(python, "-c", seen, cwd=tmp_path) == "None None\n"


def test_the_symlink_is_one() -> None:
    """A copy in its place would be packaged twice and then drift."""
    assert (ROOT / "nftbridge" / "compat").readlink() == Path("../compat")
