"""Docker Engine, by its own command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from tests.bench.hosts import Hosting
from tests.bench.peers.box import CGROUP_PARENT, Box, environment
from tests.bench.peers.documents import attachment
from tests.bench.running import BenchError, output, timed

_IMAGE = "busybox:bench"
_SERVER = (_IMAGE, "/busybox", "httpd", "-f", "-p", "80")
_START = 30.0  # seconds
_STOP = 60.0


@dataclass(frozen=True, slots=True)
class Docker:
    """A daemon in the network namespace `netns`, whose files are in the box's folder `folder`."""

    box: Box
    netns: str
    folder: str
    iptables: str
    runs: int = 1  # a round takes minutes

    @property
    def name(self) -> str:
        """In tables and plots."""
        return f"docker-{self.iptables}"

    def publish(self, hosting: Hosting) -> float:
        """``docker run`` with an option for each port."""
        ports = [f"--publish={host}:{port}/{kind}" for host, port, kind in hosting.published]
        what = (_IMAGE, "/busybox", "sleep", "2147483647")
        return self._timed("run", "--detach", *_options("web"), *ports, *what)

    def recreate(self, hosting: Hosting) -> float:  # noqa: ARG002  the daemon remembers the ports
        """``docker restart``."""
        return self._timed("restart", "web")

    def withdraw(self, hosting: Hosting) -> None:  # noqa: ARG002  as above
        """``docker rm``."""
        self._timed("rm", "--force", "web")

    def make_networks(self, count: int) -> float:
        """``docker network create`` for each; with a subnet, since the default pool has 31."""
        return sum(
            self._timed("network", "create", f"--subnet={attachment(i).subnet}", f"net{i}")
            for i in range(1, count + 1)
        )

    def remove_networks(self, count: int) -> None:
        """``docker network rm``."""
        self._timed("network", "rm", *(f"net{i}" for i in range(1, count + 1)))

    def serve(self, name: str, publish: Sequence[str]) -> None:
        """``docker run`` of a web server on port 80."""
        self._timed("run", "--detach", *_options(name), *publish, *_SERVER)

    def create(self, name: str, publish: Sequence[str]) -> None:
        """The same container, not yet started."""
        self._timed("create", *_options(name), *publish, *_SERVER)

    def start(self, name: str) -> None:
        """``docker start``."""
        self._timed("start", name)

    def remove(self, names: Sequence[str]) -> None:
        """``docker rm``."""
        self._timed("rm", "--force", *names)

    def socket(self) -> str:
        """The path of its socket, for the machine to open."""
        return self.box.seen_from_outside(f"{self.folder}/socket")

    def container_netns(self) -> str:
        """The path of the running container's network namespace, for the machine to open."""
        form = "{{.NetworkSettings.SandboxKey}}"
        path = output(self._cli("inspect", f"--format={form}", "web")).strip()
        return self.box.seen_from_outside(path)

    def end_proxies(self) -> None:
        """End the userland proxies of all daemons in the box; its process namespace has no others.

        Forwarded packets do not meet them, and thousands with their threads reach the limits of
        small machines.
        """
        output(self.box.command(self.netns, "/usr/bin/busybox", "killall", "docker-proxy"))

    def import_image(self) -> None:
        """An image that consists of a static busybox."""
        with TemporaryDirectory() as folder:
            archive = Path(folder, "image.tar")
            source = self.box.seen_from_outside("/usr/bin")
            output(["tar", "-C", source, "-cf", str(archive), "busybox"])
            with archive.open("rb") as file:
                subprocess.run(
                    self._cli("import", "-", _IMAGE),
                    stdin=file,
                    stdout=subprocess.DEVNULL,
                    check=True,
                )

    def answers(self) -> bool:
        """Whether the daemon is ready."""
        command = self._cli("version", "--format={{.Server.Version}}")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _timed(self, *words: str) -> float:
        return timed(self._cli(*words)).seconds

    def _cli(self, *words: str) -> list[str]:
        place = (f"--config={self.folder}/config", f"--host=unix://{self.folder}/socket")
        return self.box.command(self.netns, "/usr/bin/docker", *place, *words)


def _options(name: str) -> tuple[str, ...]:
    """Options; a first process ignores the usual signal, and would be killed seconds later."""
    return (f"--name={name}", "--stop-signal=KILL")


@contextmanager
def docker(box: Box, netns: str, iptables: str, options: Sequence[str] = ()) -> Generator[Docker]:
    """A daemon as Debian's package starts it, but for its paths and `options`; stopped later."""
    folder = f"/peers/{Path(netns).name}"
    command = box.command(
        netns,
        "/usr/sbin/dockerd",
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--pidfile={folder}/pid",
        f"--host=unix://{folder}/socket",
        f"--cgroup-parent={CGROUP_PARENT}",
        *options,
    )
    driver = Docker(box, netns, folder, iptables)
    with TemporaryFile("w+") as log:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(iptables)
        )
        try:
            _wait_for(driver, daemon, log)
            driver.import_image()
            yield driver
        finally:
            _stop(driver, daemon)


def _wait_for(driver: Docker, daemon: subprocess.Popen[bytes], log: IO[str]) -> None:
    end = time.monotonic() + _START
    while not driver.answers():
        if daemon.poll() is not None or time.monotonic() > end:
            log.seek(0)
            raise BenchError(f"dockerd does not start: {log.read()[-600:]}")
        time.sleep(0.1)


def _stop(driver: Docker, daemon: subprocess.Popen[bytes]) -> None:
    """Through its pid file, because nsenter passes no signals on."""
    subprocess.run(
        driver.box.command(
            driver.netns, "/usr/bin/busybox", "sh", "-c", f"kill $(cat {driver.folder}/pid)"
        ),
        check=False,
    )
    try:
        daemon.wait(_STOP)
    except subprocess.TimeoutExpired:
        daemon.kill()  # what it started ends with the box
        daemon.wait()
