"""Real Docker daemons of Debian's releases, each in a network namespace of its own.

A daemon runs in its release's own tree, which is unpacked once into .cache/debian and then only
read; data, sockets and pids are in a temporary folder. Its mount and process namespaces end with
it, and it ends when whoever started it does: a pipe is all that keeps it alive.
"""

from __future__ import annotations

import io
import json
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nftbridge.docker.api import UnixConnection
from nftbridge.lab import namespaces
from nftbridge.model import Family
from nftbridge.netns import FORWARDING, inside
from tests.kernel.debian import NotAvailable, unpacked

SUITES = {"20.10": "bookworm", "28.5": "sid"}
"""Docker's releases that tests want, and the Debian suite that each is looked for in."""

IMAGE = "busybox:1"
"""The image that every daemon starts with: a static busybox as /busybox, and /www."""

OUTSIDE = {Family.IPV4: "10.99.0.2", Family.IPV6: "fd00:99::2"}
HOST = {Family.IPV4: "10.99.0.1", Family.IPV6: "fd00:99::1"}
"""The addresses at both ends of the host's uplink, ``eth0``."""

_PACKAGES = ("docker.io", "iptables", "busybox-static")
_FOLDERS = ("proc", "sys", "dev", "run", "tmp", "oldroot", "daemon", "etc/docker", "var/lib/docker")
_IPTABLES = ("iptables", "ip6tables", "iptables-save", "ip6tables-save")
_IMPORT = "/images/create?fromSrc=-&repo=busybox&tag=1"
_FIRST_REFUSAL = 300
_SERVER = "/busybox httpd -p 80 -h /www; exec /busybox sleep 1000000"
_PATIENCE = 120.0
_SILENCE = 1.0
"""Seconds without an answer that count as none."""

# pivot_root, not chroot: importing an image remounts /. The tree itself stays as it is.
_START = """
set -e
root=$1 daemon=$2 variant=$3
shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$daemon" "$root/daemon"
mount -t proc proc "$root/proc"
for folder in sys dev; do mount --rbind "/$folder" "$root/$folder"; done
for folder in run tmp etc/docker; do mount -t tmpfs tmpfs "$root/$folder"; done
touch "$root/run/xtables.lock" /run/xtables.lock
mount --bind /run/xtables.lock "$root/run/xtables.lock"
case $variant in
    legacy) mount --bind "$root/usr/sbin/xtables-legacy-multi" "$root/usr/sbin/xtables-nft-multi" ;;
    none) mount --bind /dev/null "$root/usr/sbin/xtables-nft-multi" ;;
esac
cd "$root"
pivot_root . oldroot
/bin/busybox umount -l /oldroot
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
start() {
    dockerd --data-root /daemon/data --exec-root /daemon/exec --pidfile /daemon/pid \\
        --host unix:///daemon/docker.sock "$@" &
}
start "$@"
while read -r signal other; do
    kill "-$signal" $!
    wait $! || true
    [ "$other" = 1 ] || kill -KILL "$other"
    # its containerd dies with it, and is to be buried before another one looks for that
    /bin/busybox sleep 0.5 &
    wait $!
    read -r more
    start "$@" $more
done
kill $!
wait $!
"""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon, its network namespace, and one outside, at the other end of an uplink."""

    root: Path
    socket: Path
    pid: int
    netns: str
    outside: str
    process: subprocess.Popen[bytes]

    def post(self, path: str, body: object = None) -> bytes:
        """Ask it to do something; the answer, or RuntimeError with its reason."""
        return _call(self.socket, "POST", path, json.dumps(body).encode())

    def network(
        self,
        name: str,
        *subnets: str,
        options: Mapping[str, str] | None = None,
        driver: str = "bridge",
        internal: bool = False,
    ) -> None:
        """Create a network; a bridge's `options` stand without ``com.docker.network.``."""
        prefix = "com.docker.network." if driver == "bridge" else ""
        body = {
            "Name": name,
            "Driver": driver,
            "Internal": internal,
            "EnableIPv6": any(":" in subnet for subnet in subnets),
            "IPAM": {"Config": [{"Subnet": subnet} for subnet in subnets]},
            "Options": {f"{prefix}{key}": value for key, value in (options or {}).items()},
        }
        self.post("/networks/create", body)

    def run(
        self,
        name: str,
        network: str,
        ports: Mapping[str, Sequence[str]] | None = None,
        policy: str = "no",
        **more: Any,
    ) -> None:
        """Start a container that answers HTTP on port 80 with its name.

        `ports` is "80/tcp" -> ["8080", "127.0.0.1:", ...]: a host port, or none, after an address.
        `more` goes into its end point's settings.
        """
        self.create(name, network, ports, policy, **more)
        self.post(f"/containers/{name}/start")

    def create(
        self,
        name: str,
        network: str,
        ports: Mapping[str, Sequence[str]] | None = None,
        policy: str = "no",
        **more: Any,
    ) -> None:
        """The same, but it is not started."""
        bindings = {inside: list(map(_binding, bound)) for inside, bound in (ports or {}).items()}
        body: dict[str, Any] = {
            "Image": IMAGE,
            "StopSignal": "SIGKILL",  # an init without handlers ignores all others
            "Cmd": ["/busybox", "sh", "-c", f"echo {name} >/www/index.html; {_SERVER}"],
            "ExposedPorts": {inside: dict[str, str]() for inside in bindings},
            "HostConfig": {
                "NetworkMode": network,
                "PortBindings": bindings,
                "RestartPolicy": {"Name": policy},
            },
            "NetworkingConfig": {"EndpointsConfig": {network: more} if more else {}},
        }
        self.post(f"/containers/create?name={name}", body)

    def connect(self, container: str, network: str, **more: Any) -> None:
        """Put a container into one more network."""
        body = {"Container": container, "EndpointConfig": more}
        self.post(f"/networks/{network}/connect", body)

    def each(self, do: Callable[[int], object], numbers: Iterable[int]) -> None:
        """Ask it for several things at a time."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(do, numbers))

    def disconnect(self, container: str, network: str) -> None:
        """Take a container out of a network."""
        self.post(f"/networks/{network}/disconnect", {"Container": container})

    def names(self) -> list[str]:
        """Its containers, running or not."""
        found = json.loads(_call(self.socket, "GET", "/containers/json?all=1"))
        return [one["Names"][0].removeprefix("/") for one in found]

    def remove_network(self, name: str) -> None:
        """Take a network away, which nobody is in."""
        _call(self.socket, "DELETE", f"/networks/{name}")

    def remove(self, container: str) -> None:
        """End a container and take it away."""
        _call(self.socket, "DELETE", f"/containers/{container}?force=1")

    def stop(self, container: str) -> None:
        """End a container; it can be started again."""
        self.post(f"/containers/{container}/stop?t=0")

    def execute(self, container: str, *command: str) -> int:
        """The exit status of a program that runs in a container."""
        body = {"Cmd": command, "AttachStdout": True, "Tty": True}
        made = json.loads(self.post(f"/containers/{container}/exec", body))["Id"]
        self.post(f"/exec/{made}/start", {"Detach": False, "Tty": True})
        while (seen := self._get(f"/exec/{made}/json"))["Running"]:
            time.sleep(0.02)
        return int(seen["ExitCode"])

    def inspect(self, container: str) -> Any:
        """What it says of a container."""
        return self._get(f"/containers/{container}/json")

    def _get(self, path: str) -> Any:
        return json.loads(_call(self.socket, "GET", path))

    def inside_pid(self, container: str) -> int:
        """The process of a container, as the daemon numbers it."""
        return int(self.inspect(container)["State"]["Pid"])

    def restart(self, signal: str = "TERM", meanwhile: int = 1) -> None:
        """End it and start another one in its place, which answers when this returns.

        The process `meanwhile`, as `inside_pid` gives it, is killed in between.
        """
        self.halt(signal, meanwhile)
        self.start()

    def halt(self, signal: str = "TERM", meanwhile: int = 1) -> None:
        """End it, and then the process `meanwhile`."""
        self._tell(f"{signal} {meanwhile}")
        end = time.monotonic() + _PATIENCE
        with suppress(OSError):
            while time.monotonic() < end:
                _call(self.socket, "GET", "/version")
                time.sleep(0.02)

    def start(self, *options: str) -> None:
        """Start another one in the place of one that was ended, with these options besides."""
        before = _pid(self.socket)
        self._tell(" ".join(options))
        end = time.monotonic() + _PATIENCE
        while _pid(self.socket) in (before, "") and time.monotonic() < end:
            time.sleep(0.02)
        _await(self.socket, self.process, self.socket.with_name("log"))

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def rules(self, family: Family) -> str:
        """What it has programmed, as its own iptables-save prints it."""
        program = "iptables-save" if family is Family.IPV4 else "ip6tables-save"
        place = f"--net={namespaces.DIRECTORY / self.netns}"
        command = ["nsenter", place, "chroot", str(self.root), f"/usr/sbin/{program}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def namespace(self, container: str) -> str:
        """The path of a running container's network namespace, for `inside`."""
        seen = json.loads(_call(self.socket, "GET", f"/containers/{container}/json"))
        # the daemon tells the pid in its own process namespace, whose /proc is mounted there
        return f"/proc/{self.pid}/root/proc/{seen['State']['Pid']}/ns/net"


def http(netns: str, address: str, port: int, seconds: float = _SILENCE) -> str | None:
    """What an HTTP server says to a request out of a namespace; None if there is no answer."""
    try:
        with inside(netns), socket.create_connection((address, port), timeout=seconds) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
    except OSError:
        return None
    return answer.decode().rpartition("\r\n\r\n")[2].strip()


def udp(netns: str, address: str, port: int) -> str | None:
    """What comes back for a datagram out of a namespace; None if nothing does."""
    try:
        with inside(netns), _datagrams(address) as sock:
            sock.connect((address, port))
            sock.send(b"?")
            return sock.recv(100).decode()
    except OSError:
        return None


@contextmanager
def udp_server(netns: str, port: int, name: str) -> Generator[None]:
    """Somebody in a namespace who answers each datagram with his name and whom it came from."""
    with inside(netns):
        sock = _datagrams("::")
    with sock:
        sock.bind(("::", port))
        over = threading.Event()
        server = threading.Thread(target=_serve, args=(sock, name, over))
        server.start()
        try:
            yield
        finally:
            over.set()
            server.join()


def _serve(sock: socket.socket, name: str, over: threading.Event) -> None:
    sock.settimeout(0.1)
    while not over.is_set():
        with suppress(TimeoutError):
            _, peer = sock.recvfrom(100)
            sock.sendto(f"{name} {peer[0].removeprefix('::ffff:')}".encode(), peer)


def _datagrams(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(_SILENCE)
    return sock


@contextmanager
def daemon(release: str, *options: str, variant: str = "nft") -> Generator[Daemon]:
    """A daemon that was started with these options and has `IMAGE`. Raises `NotAvailable`.

    `variant` is the kind of iptables that it programs: nft or legacy; with none it finds no program
    of that name.
    """
    suite = SUITES[release]
    root = unpacked("docker", suite, _PACKAGES, _prepare)
    with _namespaces() as (netns, outside), TemporaryDirectory(prefix="nftb-docker-") as work:
        with open(Path(work, "log"), "wb") as log:
            process = subprocess.Popen(
                [
                    *("nsenter", f"--net={namespaces.DIRECTORY / netns}"),
                    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
                    *("--propagation", "private", "/bin/sh", "-c", _START, "sh"),
                    *(str(root), work, variant, *options),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        path = Path(work, "docker.sock")
        try:
            _await(path, process, Path(work, "log"))
            _check(release, path)
            _call(path, "POST", _IMPORT, _image(root), "application/x-tar")
            yield Daemon(root, path, _child(process.pid), netns, outside, process)
        finally:
            _end(process)


def _call(
    path: Path, method: str, what: str, body: bytes = b"", kind: str = "application/json"
) -> bytes:
    with closing(UnixConnection(str(path))) as connection:
        connection.timeout = _PATIENCE  # a start takes long while others use the machine
        connection.request(method, what, body, {"Content-Type": kind})
        response = connection.getresponse()
        content = response.read()
    if response.status >= _FIRST_REFUSAL:
        raise RuntimeError(f"{method} {what}: {response.status} {content.decode()}")
    return content


def _check(release: str, path: Path) -> None:
    """sid moves on."""
    version = json.loads(_call(path, "GET", "/version"))["Version"]
    if not version.startswith(f"{release}."):
        raise NotAvailable(f"{SUITES[release]} has Docker {version} now")


def _pid(path: Path) -> str:
    """That of the daemon, as it has written it down."""
    try:
        return path.with_name("pid").read_text().strip()
    except OSError:
        return ""


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _binding(text: str) -> dict[str, str]:
    address, _, port = text.rpartition(":")
    return {"HostIp": address.strip("[]"), "HostPort": port}


def _prepare(root: Path) -> None:
    """What the base system and the packages' own scripts would do, and the mount points."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in _IPTABLES:
        (root / "usr/sbin" / name).symlink_to("xtables-nft-multi")


def _await(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            _call(path, "GET", "/version")
            return
        time.sleep(0.05)
    raise RuntimeError(f"dockerd does not answer: {log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it stop its containers; with the process goes everything in its namespaces."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _image(root: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(root / "bin/busybox", "busybox")
        folder = tarfile.TarInfo("www")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
    return content.getvalue()


@contextmanager
def _namespaces() -> Generator[tuple[str, str]]:
    """The daemon's namespace and one outside, joined by a link; both are taken away afterwards."""
    prefix = namespaces.unique_prefix()
    host, outside = f"{prefix}host", f"{prefix}out"
    try:
        for name in (host, outside):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _forward_nothing(name)
        _ip("-n", host, "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", outside)
        for name, addresses in ((host, HOST), (outside, OUTSIDE)):
            _ip("-n", name, "address", "add", f"{addresses[Family.IPV4]}/24", "dev", "eth0")
            _ip(
                "-n", name, "address", "add", f"{addresses[Family.IPV6]}/64", "dev", "eth0", "nodad"
            )
            _ip("-n", name, "link", "set", "eth0", "up")
        for family, gateway in HOST.items():
            _ip(f"-{family.version}", "-n", outside, "route", "add", "default", "via", gateway)
        yield host, outside
    finally:
        namespaces.remove_all(prefix)


def _forward_nothing(netns: str) -> None:
    """As a machine is at first; a new namespace may be as this machine is."""
    with inside(netns):
        for switch in FORWARDING.values():
            switch.write_text("0")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
