"""The peers' packages from Debian sid as a root file system of their own, and commands in it.

Mounts and processes belong to namespaces whose first process dies with this one. Whatever the peers
write lies in memory file systems of that mount namespace. So nothing stays, however the run ends.
"""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.running import PREFIX, BenchError
from tests.kernel import debian

PACKAGES = (
    "docker.io",
    "docker-cli",
    "netavark",
    "containernetworking-plugins",
    "iptables",
    "nftables",
    "busybox-static",
)
EXPECTED = {
    "docker.io": "28.5.2",
    "netavark": "1.17.2",
    "containernetworking-plugins": "1.9.1",
}
"""The versions that this was written for; sid moves on, and the report says what it was."""

NAMED = {**{name: name for name in EXPECTED}, "their iptables": "iptables", "their nft": "nftables"}
"""What the report calls the versions of which packages."""

IPTABLES = ("legacy", "nft")
"""Which iptables the box has in the PATH; Debian's alternatives system would choose one."""

CGROUP_PARENT = PREFIX
_MERGED = ("bin", "sbin", "lib", "lib64")  # packages count on these links, which base-files makes
_FILE_SYSTEMS = ("proc", "sys", "dev", "run", "tmp", "peers", "oldroot")
_PROGRAMS = ("iptables", "ip6tables")
_ENTER = """
set -e
cd "$1"
mount --rbind . .
cd "$1"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
for folder in run tmp peers; do mount -t tmpfs tmpfs $folder; done
mkdir run/netns
mount --rbind /run/netns run/netns
pivot_root . oldroot
exec /usr/bin/busybox sh -c '
    busybox umount -l /oldroot
    echo ready
    exec docker-init -s -- busybox sleep 2147483647'
"""


@dataclass(frozen=True, slots=True)
class Box:
    """The running box: `init` is its first process, as the machine numbers it."""

    init: int
    versions: dict[str, str]

    def command(self, netns: str, *words: str) -> list[str]:
        """A command line that runs `words` in the box and in that network namespace."""
        target = ("--target", str(self.init), "--mount", "--pid", f"--net={netns}")
        return ["/usr/bin/nsenter", *target, *words]

    def seen_from_outside(self, path: str) -> str:
        """A path of the box as the machine may open it."""
        return f"/proc/{self.init}/root{path}"


def environment(iptables: str, **more: str) -> dict[str, str]:
    """What commands in the box need to see; `iptables` is one of `IPTABLES`."""
    return {"PATH": f"/alternatives/{iptables}:/usr/sbin:/usr/bin", "LC_ALL": "C", **more}


def differing(versions: dict[str, str]) -> list[str]:
    """What is to be said about versions that are not those expected."""
    return [
        f"{package} is {versions[package]}, not {expected}"
        for package, expected in EXPECTED.items()
        if not versions[package].startswith(expected)
    ]


@contextmanager
def box() -> Generator[Box]:
    """Fetch the packages if they are not there, and open the box."""
    try:
        root = debian.unpacked("peers", "sid", PACKAGES, _finish)
    except debian.NotAvailable as reason:
        raise BenchError(f"the peers' packages cannot be had: {reason}") from reason
    versions = {name: _version(root, package) for name, package in NAMED.items()}
    # /run/netns has to be a mount point that passes new namespaces on; ip makes it one
    subprocess.run(["ip", "netns", "add", f"{PREFIX}-x"], check=True)
    subprocess.run(["ip", "netns", "delete", f"{PREFIX}-x"], check=True)
    namespaces = ("--mount", "--pid", "--fork", "--kill-child", "--propagation", "slave")
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", "-c", _ENTER, "sh", root],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise BenchError("the peers' root file system cannot be entered, see above")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield Box(int(children[0]), versions)
    finally:
        process.kill()
        process.communicate()
        _remove_cgroups()


def _version(root: Path, package: str) -> str:
    """From the first line of its changelog: ``netavark (1.17.2-3) unstable; urgency=medium``."""
    with gzip.open(root / f"usr/share/doc/{package}/changelog.Debian.gz", "rt") as changelog:
        return changelog.readline().partition("(")[2].partition(")")[0]


def _finish(root: Path) -> None:
    """What the packages' installation scripts would have done."""
    for name in _FILE_SYSTEMS:
        (root / name).mkdir(exist_ok=True)
    for name in _MERGED:
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for kind in IPTABLES:
        folder = root / "alternatives" / kind
        folder.mkdir(parents=True)
        for program in _PROGRAMS:
            for suffix in ("", "-save", "-restore"):
                (folder / (program + suffix)).symlink_to(f"/usr/sbin/xtables-{kind}-multi")


def _remove_cgroups() -> None:
    """Those of our containers, and of runs that were killed, innermost first."""
    for top in Path("/sys/fs/cgroup").glob("**/nftb-bench-*"):
        if top.name == CGROUP_PARENT or not Path("/proc", top.name.rpartition("-")[2]).exists():
            for folder, _, _ in os.walk(top, topdown=False):
                _remove_cgroup(folder)


def _remove_cgroup(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError as error:
        print(f"bench: the cgroup {folder} stays behind: {error.strerror}")
