"""Docker's name server inside containers, at 127.0.0.11: that port 53 leads to it.

In a container's network namespace dockerd listens at two ports that it takes as they come, and
redirects port 53 to them with the iptables programs. It does so also with ``"iptables": false``
(seen with 20.10 and 28.5.2). Where these programs are missing, lookups are refused: then the same
four rules are set here, in a table of our own in that namespace. That is all it takes for 20.10;
28.5.2 does not even serve its ports then, which can only be said.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from nftbridge import netns as namespaces
from nftbridge.errors import InputError, UnavailableError
from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel

SERVER = IPv4Address("127.0.0.11")
TABLE = "nftbridge-names"

_PORT = 53
_TCP_LISTENS, _TCP_ESTABLISHED, _UDP_OPEN = 0x0A, 0x01, 0x07  # include/net/tcp_states.h
_TABLES = Path("/proc/thread-self/net")
_PATIENCE = 1.0  # seconds
_DNS_HEADER = 12  # bytes
_BEFORE_DOCKERS = {"output": -101, "postrouting": 99}
"""Of chains that do NAT the first one decides, and rules of Docker's may lead to an old port."""


class _Socket(NamedTuple):
    address: IPv4Address
    port: int
    peer_port: int
    state: int


class Ports(NamedTuple):
    """Where Docker's name server listens."""

    tcp: int
    udp: int


def place(sandbox: str, engine: int) -> str:
    """A path to the network namespace that Docker, the process `engine`, has at `sandbox`.

    Docker may live in a mount namespace of its own. ``/var/run`` is a link there as here, but one
    cannot follow it from outside. Raises `InputError` if there is none: the container has ended.
    """
    run = sandbox.replace("/var/run/", "/run/", 1)
    roots = ("", f"/proc/{engine}/root")
    found = (f"{root}{path}" for root in roots for path in dict.fromkeys((sandbox, run)))
    return next(filter(os.path.exists, found), sandbox)


class Found(Enum):
    """How it is with lookups in a network namespace, or was until something was done."""

    WELL = "there is no name server, or port 53 leads to it"
    REDIRECTED = "port 53 led elsewhere, and now leads to the name server"
    MUTE = "the name server has its ports and does not serve them"


def serve(netns: str) -> Found:
    """See to it that port 53 leads to the name server in this namespace.

    Nothing is done where no name server is, as in containers on Docker's default network.
    """
    try:
        with namespaces.inside(netns):
            ports = listening(_sockets("tcp"), _sockets("udp"))
            if ports is None or _leads_there(ports):
                return Found.WELL
            Kernel(TABLE).commit(commands(ports))
            return Found.REDIRECTED if _answers() else Found.MUTE
    except InputError:
        return Found.WELL  # it has ended
    except OSError as error:
        message = f"Docker's name server cannot be tried: {error.strerror}"
        hint = "the service needs AF_INET and 127.0.0.11, see `nftbridge units --docker`"
        raise UnavailableError(message, hint=hint) from error


def listening(tcp: Iterator[_Socket], udp: Iterator[_Socket]) -> Ports | None:
    """The ports of the name server among a namespace's sockets; None if there is none."""
    tcp_ports = [s.port for s in tcp if s.address == SERVER and s.state == _TCP_LISTENS]
    udp_ports = [s.port for s in udp if s.address == SERVER and s.state == _UDP_OPEN]
    return Ports(tcp_ports[0], udp_ports[0]) if tcp_ports and udp_ports else None


def commands(ports: Ports) -> list[Command]:
    """One transaction that puts the redirection in, in the place of an older one."""
    table = {"family": "ip", "name": TABLE}
    found: list[Command] = [{verb: {"table": table}} for verb in ("add", "delete", "add")]
    for hook, priority in _BEFORE_DOCKERS.items():
        base = {"type": "nat", "hook": hook, "prio": priority}
        chain = {"family": "ip", "table": TABLE, "name": f"DOCKER_{hook.upper()}"}
        found.append({"add": {"chain": chain | base}})
    for protocol, port in ports._asdict().items():
        to: Command = {"dnat": {"addr": str(SERVER), "port": port}}
        found.append(_rule("DOCKER_OUTPUT", ("daddr", protocol, "dport", _PORT), to))
        back: Command = {"snat": {"port": _PORT}}
        found.append(_rule("DOCKER_POSTROUTING", ("saddr", protocol, "sport", port), back))
    return found


def _rule(chain: str, match: tuple[str, str, str, int], statement: Command) -> Command:
    address, protocol, port, number = match
    fields = (("ip", address, str(SERVER)), (protocol, port, number))
    matches = [
        {"match": {"op": "==", "left": {"payload": {"protocol": p, "field": f}}, "right": value}}
        for p, f, value in fields
    ]
    rule = {"family": "ip", "table": TABLE, "chain": chain, "expr": [*matches, statement]}
    return {"add": {"rule": rule}}


def _leads_there(ports: Ports) -> bool:
    """Whether a connection to port 53 comes to the name server, and not to one in the container."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PATIENCE)
        try:
            probe.connect((str(SERVER), _PORT))
        except OSError:
            return False
        own = probe.getsockname()[1]
        ends = (s for s in _sockets("tcp") if s.address == SERVER and s.peer_port == own)
        return any(s.port == ports.tcp and s.state == _TCP_ESTABLISHED for s in ends)


def _answers() -> bool:
    """Whether anything comes back for a datagram: what is no question gets an error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(_PATIENCE)
        probe.connect((str(SERVER), _PORT))
        try:
            probe.send(bytes(_DNS_HEADER))
            return bool(probe.recv(_DNS_HEADER))
        except (TimeoutError, ConnectionRefusedError):
            return False


def _sockets(protocol: str) -> Iterator[_Socket]:
    """Those of IPv4 in the network namespace that one is in."""
    return parse((_TABLES / protocol).read_text())


def parse(text: str) -> Iterator[_Socket]:
    """The sockets of ``/proc/net/tcp`` or ``udp``; addresses are in the machine's byte order."""
    for line in text.splitlines()[1:]:
        _, local, peer, state, *_ = line.split()
        address, _, port = local.partition(":")
        packed = struct.pack("=I", int(address, 16))
        peer_port = int(peer.partition(":")[2], 16)
        yield _Socket(IPv4Address(packed), int(port, 16), peer_port, int(state, 16))
