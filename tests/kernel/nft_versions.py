"""The nft of other Debian releases, fetched with apt, unpacked and run against this kernel.

Nothing is installed: apt works with a sources list, package lists and a dpkg status of its own, and
each nft is started through the dynamic loader of its own release, with its own libraries. What has
been fetched once stays; delete .cache/nft to fetch anew.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

SUITES: dict[str, str] = {
    "bullseye": "0.9.8",
    "bookworm": "1.0.6",
    "trixie": "1.1.3",
    "sid": "1.1.7",  # or later: it moves on
}
"""Debian's releases and the version of nft that each is there for."""

CACHE = Path(__file__).parents[2] / ".cache" / "nft"

_DEFAULT_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_REFUSAL_LINES = 4


class NotAvailable(Exception):  # noqa: N818  it is not an error: tests skip with it
    """This suite's nft cannot be had here; says why."""


def nft_command(suite: str) -> list[str]:
    """The command that starts the nft of `suite`; its arguments are to be appended.

    The first call fetches it, a few megabytes. Raises `NotAvailable`.
    """
    outcome = _fetched(suite)
    if isinstance(outcome, NotAvailable):
        raise outcome
    return _through_own_loader(outcome)


def nft_version(suite: str) -> tuple[int, ...]:
    """The version that the nft of `suite` reports. Raises `NotAvailable`."""
    command = [*nft_command(suite), "--version"]
    answer = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    found = re.match(r"nftables v([0-9.]+)", answer)
    if found is None:
        raise NotAvailable(f"its version is not understood: {answer!r}")
    return tuple(int(part) for part in found[1].split("."))


@cache  # a failure too: without network each attempt costs a timeout
def _fetched(suite: str) -> Path | NotAvailable:
    """The folder with the unpacked packages."""
    folder = CACHE / suite
    if folder.is_dir():
        return folder
    try:
        _fetch(suite, folder)
    except NotAvailable as reason:
        return reason
    return folder


def _fetch(suite: str, folder: Path) -> None:
    if missing := [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]:
        raise NotAvailable(f"there is no {missing[0]} here to fetch it with")
    CACHE.mkdir(parents=True, exist_ok=True)
    # next to its final place, where it appears complete or not at all
    with TemporaryDirectory(dir=CACHE, prefix=f"{suite}.") as work:
        unpacked = Path(work, "unpacked")
        for package in _download(suite, Path(work, "apt")):
            _run("dpkg", "--extract", str(package), str(unpacked))
        _through_own_loader(unpacked)
        unpacked.rename(folder)


def _download(suite: str, apt: Path) -> list[Path]:
    """nft's packages and all they depend on; apt sees a system where nothing is installed."""
    for needed in ("lists/partial", "cache/archives/partial"):
        (apt / needed).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb {_signed_by()}{_mirror()} {suite} main\n")
    options = _apt_options(apt)
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "install", "--yes", "--download-only", "nftables")
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


def _through_own_loader(folder: Path) -> list[str]:
    loaders = sorted(folder.glob("lib/*/ld-linux*.so.*")) or sorted(
        folder.glob("usr/lib/*/ld-linux*.so.*")
    )
    nft = folder / "usr" / "sbin" / "nft"
    if not loaders or not nft.exists():
        raise NotAvailable(f"its packages have no {'nft' if loaders else 'dynamic loader'}")
    triplet = loaders[0].parent.name
    libraries = ":".join(str(folder / path / triplet) for path in ("lib", "usr/lib"))
    return [str(loaders[0]), "--library-path", libraries, str(nft)]


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
