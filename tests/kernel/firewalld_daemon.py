"""firewalld of a Debian release in a network namespace, with a bus and a configuration of its own.

Both daemons run in a mount namespace whose root is the unpacked packages; their /run and
/etc/firewalld are folders that a test can look into. Neither knows the machine's own bus, services
or network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kernel.debian import NotAvailable, unpacked

SUITES: dict[str, str] = {
    "bullseye": "0.9.3",  # the first 0.9 has policies
    "bookworm": "1.3.3",
    "trixie": "2.3.1",  # 2.3 is the first with StrictForwardPorts
    "sid": "2.5.2",  # or later: it moves on
}
"""Debian's releases and the version of firewalld that each is there for."""

_PACKAGES = ("firewalld", "dbus-daemon", "iptables", "ipset")
_PATIENCE = 60.0
_ALTERNATIVES = ("", "-restore", "-save")

# Whoever reaches the socket may do all; the folder it is in is root's.
_BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow send_type="method_return"/>
    <allow send_type="error"/>
  </policy>
</busconfig>
"""

# $1 root, $2 work; the rest is the command. The mount namespace goes with its last process.
_ENTER = """\
set -e
mount --bind "$2/run" "$1/run"
mount --bind "$2/etc" "$1/etc/firewalld"
mount -t tmpfs tmpfs "$1/var"
mount --rbind /proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
root=$1
shift 2
exec chroot "$root" "$@"
"""


class Firewalld:
    """The two daemons, the bus running, firewalld to be started; see `firewalld`."""

    def __init__(self, root: Path, namespace: str, work: Path) -> None:
        self._root = root
        self._namespace = namespace
        self._work = work
        self._daemon: subprocess.Popen[bytes] | None = None
        self._bus: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Value for DBUS_SYSTEM_BUS_ADDRESS."""
        return f"unix:path={self._work}/run/bus"

    def configure(self, **settings: str) -> None:
        """Write settings into firewalld.conf; they hold from the next start or reload on."""
        path = self._work / "etc" / "firewalld.conf"
        kept = [
            line
            for line in path.read_text().splitlines()
            if line.partition("=")[0].strip() not in settings
        ]
        path.write_text("\n".join([*kept, *(f"{k}={v}" for k, v in settings.items()), ""]))

    def start_bus(self) -> None:
        """Start the bus; returns when its socket is there."""
        socket = self._work / "run" / "bus"
        socket.unlink(missing_ok=True)
        self._bus = self._started("dbus-daemon", "--config-file=/run/bus.conf", "--nofork")
        self._wait_until(socket.exists, self._bus)

    def start(self) -> None:
        """Start firewalld; returns when it answers."""
        self.launch()
        assert self._daemon is not None
        self._wait_until(lambda: self._answers("--state"), self._daemon)

    def launch(self) -> None:
        """Start firewalld and do not wait for it."""
        self._daemon = self._started("firewalld", "--nofork", "--nopid")

    def stop(self) -> None:
        """Stop firewalld as its service is stopped; it takes its rules out."""
        _end(self._daemon)
        self._daemon = None

    def stop_all(self) -> None:
        """Stop both."""
        self.stop()
        _end(self._bus)
        self._bus = None

    def reload(self) -> None:
        """Reload, as an administrator does."""
        self.cmd("--reload")

    def begin_reload(self) -> subprocess.Popen[bytes]:
        """Start a reload and do not wait for it."""
        return self._started("firewall-cmd", "--reload")

    def cmd(self, *words: str) -> str:
        """What firewall-cmd answers: the administrator's view."""
        done = subprocess.run(
            self._command("firewall-cmd", *words),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"firewall-cmd {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def log(self) -> str:
        """What the daemons said."""
        return (self._work / "log").read_text(errors="replace")

    def _answers(self, *words: str) -> bool:
        command = self._command("firewall-cmd", *words)
        done = subprocess.run(command, env=self._environment(), capture_output=True, check=False)
        return done.returncode == 0

    def _started(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._work / "log").open("ab") as log:
            return subprocess.Popen(
                self._command(*command),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _command(self, *words: str) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self._namespace}"]
        apart = ["unshare", "--mount", "--propagation", "private"]
        shell = ["sh", "-c", _ENTER, "sh", str(self._root), str(self._work)]
        return [*enter, *apart, *shell, *words]

    def _environment(self) -> dict[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        bus = "unix:path=/run/bus"
        return {"PATH": path, "LC_ALL": "C.UTF-8", "DBUS_SYSTEM_BUS_ADDRESS": bus}

    def _wait_until(self, ready: object, process: subprocess.Popen[bytes]) -> None:
        assert callable(ready)
        deadline = time.monotonic() + _PATIENCE
        while not ready():
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


@contextmanager
def firewalld(suite: str, namespace: str) -> Generator[Firewalld]:
    """firewalld of `suite`, not started yet, in a network namespace of ``ip netns``.

    Raises `NotAvailable`.
    """
    root = unpacked("firewalld", suite, _PACKAGES, _finish)
    # not pytest's folder: the path of a socket holds 107 bytes
    with TemporaryDirectory(prefix="nftb-fw-") as name:
        work = Path(name)
        (work / "run").mkdir()
        (work / "run" / "bus.conf").write_text(_BUS)
        (work / "log").touch()
        shutil.copytree(root / "etc" / "firewalld", work / "etc")
        daemons = Firewalld(root, namespace, work)
        try:
            daemons.start_bus()
            yield daemons
        finally:
            daemons.stop_all()


def _finish(root: Path) -> None:
    """What the maintainer scripts of a real installation would do, as far as it is needed."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for name in ("proc", "dev", "sys", "run", "tmp", "var"):
        (root / name).mkdir(exist_ok=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    for family in ("iptables", "ip6tables"):
        for suffix in _ALTERNATIVES:
            link = root / "usr" / "sbin" / f"{family}{suffix}"
            link.symlink_to(f"{family}-legacy{suffix}")
    if not (root / "usr" / "sbin" / "firewalld").exists():
        raise NotAvailable("its packages have no firewalld")


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
