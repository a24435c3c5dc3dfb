"""A real Docker that leaves the firewall to `nftbridge watch --docker`."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nftbridge.lab.namespaces import DIRECTORY
from nftbridge.model import Family
from nftbridge.netns import inside
from tests.kernel.debian import NotAvailable
from tests.kernel.docker_daemon import HOST, OUTSIDE, Daemon, daemon, http
from tests.kernel.watching import Watch, watching

WITHOUT_RULES = ("--iptables=false", "--ip6tables=false")
WITHOUT_PROXY = "version = 1\n[host]\nuserland_proxy = false\n"
_PATIENCE = 20.0
_FOUND = 3  # an exit status that no program has by accident


@contextmanager
def engine(
    release: str, *options: str, variant: str = "nft", firewall: bool = False
) -> Generator[Daemon]:
    """A daemon, without a `firewall` of its own unless told; or the test is skipped."""
    without = () if firewall else WITHOUT_RULES
    try:
        with daemon(release, *without, *options, variant=variant) as found:
            yield found
    except NotAvailable as reason:
        pytest.skip(f"Docker {release}: {reason}")


@dataclass(frozen=True, slots=True)
class Site:
    """A daemon, and the folder that holds the state and the host file beside it."""

    docker: Daemon
    folder: Path
    proxy: bool = False
    backend: str = "auto"

    @property
    def file(self) -> Path:
        return self.folder / "host.toml"

    def command(self, *, beside: bool = True) -> list[str]:
        file = [str(self.file)] if beside else []
        watch = [sys.executable, "-m", "nftbridge", "watch", *file, "--json"]
        return [*watch, f"--docker={self.docker.socket}", *self.place()]

    def place(self) -> tuple[str, ...]:
        state = ("--state-dir", str(self.folder / "state"), "--backend", self.backend)
        return ("--netns", self.docker.netns, *state)

    @contextmanager
    def watching(self, *, beside: bool = True) -> Generator[Watch]:
        """The service; at the end the kernel has to hold what a fresh import says."""
        with watching(self.command(beside=beside)) as watch:
            yield watch
            if watch.process.poll() is None:
                self.check_settled()

    @contextmanager
    def waiting(self, command: list[str]) -> Generator[Watch]:
        """The service, ready or not."""
        with watching(command, wait=False) as watch:
            yield watch

    def flush(self) -> None:
        """As somebody who thinks that all rules are his."""
        place = f"--net={DIRECTORY / self.docker.netns}"
        subprocess.run(["nsenter", place, "nft", "flush", "ruleset"], check=True)

    def check_settled(self) -> None:
        """The kernel's rows are those of a fresh import, now or in a moment."""
        end = time.monotonic() + _PATIENCE
        while "nothing to change" not in (said := self._planned()):
            assert time.monotonic() < end, said
            time.sleep(0.2)

    def _planned(self) -> str:
        proxy = "--userland-proxy" if self.proxy else "--no-userland-proxy"
        importing = ["import", "docker", "--docker", str(self.docker.socket), "--format", "json"]
        host = run(*importing, proxy, "--no-allow-direct-routing")
        return run("plan", "-", *self.place(), given=host)

    def rows(self) -> str:
        """All rules: our table, or the tables of iptables-nft."""
        place = f"--net={DIRECTORY / self.docker.netns}"
        command = ["nsenter", place, "nft", "--stateless", "list", "ruleset"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def status(self) -> str:
        """What `nftbridge status` says."""
        return run("status", "--json", *self.place())

    def publishes(self, port: int) -> bool:
        """Whether any row is about that host port."""
        return re.search(rf"\b{port}\b", self.rows()) is not None

    def answers(self, name: str, port: int, family: Family = Family.IPV4) -> bool:
        """Whether a request from outside gets that container's answer, now or in a moment."""
        return gets(name, self.docker.outside, HOST[family], port)

    def silent(self, port: int) -> bool:
        """Whether a request from outside gets no answer."""
        return http(self.docker.outside, HOST[Family.IPV4], port) is None

    def address(self, container: str, network: str) -> str:
        """That of a container in a network."""
        found = self.docker.inspect(container)["NetworkSettings"]["Networks"]
        return str(found[network]["IPAddress"])

    def clear(self) -> None:
        """Take away all containers, and our table."""
        for name in self.docker.names():
            self.docker.remove(name)
        run("remove", "--all", *self.place())


def gets(name: str, netns: str, address: str, port: int) -> bool:
    """Whether that answer comes, now or in a moment: neighbours are not known at once."""
    return soon(lambda: http(netns, address, port) == name)


def source_of(docker: Daemon, container: str) -> str:
    """Whom the outside sees when a container sends; an answer need not come back."""
    with inside(docker.outside):
        outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with outside:
        outside.bind((OUTSIDE[Family.IPV4], 0))
        outside.settimeout(5)
        with inside(docker.namespace(container)):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.sendto(b"?", outside.getsockname())
        return str(outside.recvfrom(10)[1][0])


def soon(condition: Callable[[], bool]) -> bool:
    """Whether it holds, now or in a moment."""
    end = time.monotonic() + _PATIENCE
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def finds(site: Site, container: str, name: str, network: str = "front") -> bool:
    """Whether a program in one container learns another one's address, and TCP tells it as well."""
    address = site.address(name, network)
    script = f"/busybox nslookup {name} | /busybox grep -qF {address} && exit {_FOUND}"

    def found() -> bool:
        status = site.docker.execute(container, "/busybox", "sh", "-c", script)
        told = _asked_by_tcp(site.docker.namespace(container), name)
        return status == _FOUND and told == address

    return soon(found)


def _asked_by_tcp(netns: str, name: str) -> str:
    """The address that Docker's name server tells in a container, "" for none (RFC 1035)."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in (name, ""))
    query = struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + question + struct.pack(">2H", 1, 1)
    try:
        with inside(netns), socket.create_connection(("127.0.0.11", 53), timeout=2) as sock:
            sock.sendall(struct.pack(">H", len(query)) + query)
            answer = sock.recv(1 << 10)
    except OSError:
        return ""
    return socket.inet_ntoa(answer[-4:]) if len(answer) > len(query) + 4 else ""


def run(*arguments: str, given: str = "") -> str:
    """What the command prints, whatever its status."""
    command = [sys.executable, "-m", "nftbridge", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr
