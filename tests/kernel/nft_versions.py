"""The nft of other Debian releases, fetched with apt, unpacked and run against this kernel.

Each is started through the dynamic loader of its own release, with its own libraries. What has been
fetched once stays; delete .cache/nft to fetch anew.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.kernel.debian import NotAvailable, tree

SUITES: dict[str, str] = {
    "bullseye": "0.9.8",
    "bookworm": "1.0.6",
    "trixie": "1.1.3",
    "sid": "1.1.7",  # or later: it moves on
}
"""Debian's releases and the version of nft that each is there for."""

CACHE = Path(__file__).parents[2] / ".cache" / "nft"


def nft_command(suite: str) -> list[str]:
    """The command that starts the nft of `suite`; its arguments are to be appended.

    The first call fetches it, a few megabytes. Raises `NotAvailable`.
    """
    return _through_own_loader(tree(suite, ("nftables",), CACHE / suite, _through_own_loader))


def nft_version(suite: str) -> tuple[int, ...]:
    """The version that the nft of `suite` reports. Raises `NotAvailable`."""
    command = [*nft_command(suite), "--version"]
    answer = subprocess.run(command, text=True, capture_output=True, check=True).stdout
    found = re.match(r"nftables v([0-9.]+)", answer)
    if found is None:
        raise NotAvailable(f"its version is not understood: {answer!r}")
    return tuple(int(part) for part in found[1].split("."))


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
