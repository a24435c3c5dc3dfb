"""Programs of other Debian releases, fetched with apt and unpacked; nothing is installed.

apt works with a sources list, package lists and a dpkg status of its own, so that it fetches all
that a package depends on, down to the C library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_REFUSAL_LINES = 4


class NotAvailable(Exception):  # noqa: N818  it is not an error: tests skip with it
    """A release's program cannot be had here; says why."""


def tree(
    suite: str, packages: tuple[str, ...], folder: Path, finish: Callable[[Path], object]
) -> Path:
    """`folder` with `packages` of a suite and all they depend on, fetched if it is not there yet.

    `finish` gets the unpacked tree, and may refuse it, before it appears in its place, complete or
    not at all. Raises `NotAvailable`.
    """
    outcome = _fetched(suite, packages, folder, finish)
    if isinstance(outcome, NotAvailable):
        raise outcome
    return outcome


@cache  # a failure too: without network each attempt costs a timeout
def _fetched(
    suite: str, packages: tuple[str, ...], folder: Path, finish: Callable[[Path], object]
) -> Path | NotAvailable:
    if not folder.is_dir():
        try:
            _fetch(suite, packages, folder, finish)
        except NotAvailable as reason:
            return reason
    return folder


def _fetch(
    suite: str, packages: Sequence[str], folder: Path, finish: Callable[[Path], object]
) -> None:
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise NotAvailable(f"there is no {missing[0]} here to fetch it with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f"{suite}.") as work:
        unpacked = Path(work, "unpacked")
        for package in _download(suite, packages, Path(work, "apt")):
            _run("dpkg", "--extract", str(package), str(unpacked))
        finish(unpacked)
        unpacked.rename(folder)


def _download(suite: str, packages: Sequence[str], apt: Path) -> list[Path]:
    """apt sees a system where nothing is installed."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (apt / needed).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb {_signed_by()}{_mirror()} {suite} main\n")
    options = _apt_options(apt)
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "install", "--yes", "--download-only", *packages)
    return sorted(apt.glob("cache/archives/*.deb"))


def _apt_options(apt: Path) -> list[str]:
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::Etc::preferences": "-",
        "Dir::Etc::preferencesparts": "-",
        "Dir::State::Lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Install-Recommends": "false",
        "APT::Update::Error-Mode": "any",  # otherwise a failed update counts as done
        "APT::Sandbox::User": "root",  # _apt cannot write in a checkout below somebody's home
        "Acquire::Check-Valid-Until": "false",  # sid as a mirror that lags has it will do
        "Acquire::Languages": "none",
        "Acquire::Retries": 1,
        "Acquire::http::Timeout": 20,
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _mirror() -> str:
    """Where this machine's own apt gets Debian from, as far as it does."""
    sites = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI)", "Created-By: Packages"],
        text=True,
        capture_output=True,
        check=False,
    )
    for origin, _, uri in (line.partition(" ") for line in sites.stdout.splitlines()):
        # Debian's own label is on the security archive too, which has these packages only at times
        if origin == "Debian" and uri.rstrip("/").endswith("/debian"):
            return uri
    return _DEFAULT_MIRROR


def _signed_by() -> str:
    """One keyring for all suites, where there is one; else what apt trusts anyway."""
    return f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""


def _run(*command: str) -> None:
    done = subprocess.run(
        command,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        check=False,
    )
    if done.returncode != 0:
        raise NotAvailable(f"{command[0]} failed: {_last_lines(done.stdout.splitlines())}")


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}


def _last_lines(lines: Sequence[str]) -> str:
    problems = [line for line in lines if line.startswith(("E:", "W:", "dpkg"))] or lines
    return " / ".join(problems[-_REFUSAL_LINES:])
