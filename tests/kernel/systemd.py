"""A systemd of its own as PID 1 in namespaces, which knows no units but those it is given.

Nothing of the distribution's is started, and no generator run: it boots in a moment and touches
neither the machine's services nor its sysctls.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0

_SYSTEMD = "/usr/lib/systemd/systemd"
_TARGETS = ("sysinit", "basic", "shutdown", "network-pre", "multi-user", "local-fs")
_START = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/units
cp "$1"/* /run/units
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
exec env -i PATH="$PATH" container=lxc SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH= \
  SYSTEMD_ENVIRONMENT_GENERATOR_PATH= {systemd} --system --unit=basic.target --log-target=console \
  --show-status=no
"""


class NotAvailable(Exception):  # noqa: N818  it is not an error: tests skip with it
    """Why no systemd can be had here."""


class Systemd:
    """The running one, whose PID 1 is this machine's `process`."""

    def __init__(self, process: int) -> None:
        self.process = process

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program in all of its namespaces."""
        inside = ["nsenter", f"--target={self.process}", "--all", *words]
        return subprocess.run(inside, capture_output=True, text=True, check=False)

    def systemctl(self, *words: str) -> str:
        """What systemctl prints, which must succeed."""
        done = self.run("systemctl", *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def shown(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def file(self, path: str) -> Path:
        """A file of its, as this machine sees it."""
        return Path(f"/proc/{self.process}/root{path}")

    def status(self, process: str) -> Mapping[str, str]:
        """What /proc says of one of its processes."""
        lines = self.run("cat", f"/proc/{process}/status").stdout.splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@contextmanager
def systemd(units: Mapping[str, str], folder: Path) -> Generator[Systemd]:
    """Boot it with these units; it and all it started end with the context.

    Raises `NotAvailable`.
    """
    if not Path(_SYSTEMD).exists() or shutil.which("systemctl") is None:
        raise NotAvailable("there is no systemd")
    places = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    tree = next((place for place in places if (place / "cgroup.procs").exists()), None)
    if tree is None:
        raise NotAvailable("there is no cgroup2")
    _write(units, folder)
    group = tree / f"nftbridge-{os.getpid()}"
    group.mkdir()
    try:
        with _booted(group, folder) as found:
            yield found
    finally:
        _remove(group)


@contextmanager
def _booted(group: Path, folder: Path) -> Generator[Systemd]:
    into = f'echo $$ > {group}/cgroup.procs && exec unshare "$@"'
    apart = ("--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts", "--ipc")
    script = _START.format(systemd=_SYSTEMD)
    command = ["sh", "-ec", into, "-", *apart, "--cgroup", "sh", "-c", script, "-", str(folder)]
    with (folder.parent / "systemd.log").open("w") as log:
        starter = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield _ready(starter, folder.parent / "systemd.log")
    finally:
        starter.kill()  # and with it goes PID 1, and all the others with that
        starter.wait()


def _ready(starter: subprocess.Popen[bytes], log: Path) -> Systemd:
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children")
    deadline = time.monotonic() + PATIENCE
    while starter.poll() is None and time.monotonic() < deadline:
        if child := children.read_text().split():
            found = Systemd(int(child[0]))
            if found.run("systemctl", "is-active", "basic.target").stdout == "active\n":
                return found
        time.sleep(0.05)
    raise NotAvailable(f"it does not start here: {log.read_text()[-500:]}")


def _write(units: Mapping[str, str], folder: Path) -> None:
    folder.mkdir()
    for name in _TARGETS:
        (folder / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (folder / "basic.target").write_text("[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\n")
    for name, text in units.items():
        (folder / name).write_text(text)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(file.read_text() for file in group.rglob("cgroup.procs")):
        assert time.monotonic() < deadline, f"{group} does not empty"
        time.sleep(0.02)
    for folder, _, _ in os.walk(group, topdown=False):
        Path(folder).rmdir()
