"""Looks at a host: the only module of the doctor that does. Changes nothing.

What cannot be looked at is told and left out; what others' rules say can break no more than the
child process that reads them.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from nftbridge import netns as namespaces
from nftbridge.doctor import iptables, nftables, routing
from nftbridge.doctor.facts import Facts
from nftbridge.doctor.routing import USUAL, Choice, Route
from nftbridge.doctor.ruleset import Chain, Maker, Rule, Table
from nftbridge.effects import listening_interfaces
from nftbridge.errors import UnavailableError
from nftbridge.model import Address, Host
from nftbridge.nft.read import BASELINE_CHAIN
from nftbridge.nft.syntax import Json, is_list, is_object
from nftbridge.policy.rules import DOCKER_USER, FILTER_FORWARD, NAMES

_NET = Path("/proc/thread-self/net")
_SYSCTLS = Path("/proc/sys/net")
_GENERAL = (
    "ipv4/ip_forward",
    "ipv4/conf/all/rp_filter",
    "ipv6/conf/all/forwarding",
    "bridge/bridge-nf-call-iptables",
    "bridge/bridge-nf-call-ip6tables",
)
_PER_INTERFACE = (
    "ipv4/conf/{}/forwarding",
    "ipv4/conf/{}/rp_filter",
    "ipv4/conf/{}/route_localnet",
)
_DAEMONS = frozenset({"dockerd", "firewalld", "ufw", "libvirtd", "incusd", "kube-proxy"})
_FAMILIES = ("inet", "ip", "ip6", "netdev")
_IPTABLES_TABLES = frozenset({"raw", "mangle", "filter", "nat", "security"})
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 1
_PATIENCE = 30.0
_HINT = "run as root, or with CAP_NET_ADMIN in that network namespace"


def gather(host: Host, netns: str | None, our_table: str) -> Facts:
    """The facts of the host in `netns`, but for what our engine knows.

    Raises `UnavailableError` if the rules of others may not be read.
    """
    with namespaces.inside(netns):
        unread: list[str] = []
        tables = (*_nft_tables(our_table, unread), *_legacy_tables(unread))
        baseline = next((t for t in tables if _is_baseline(t, our_table)), None)
        interfaces = dict(_interfaces())
        bridges = [network.bridge for network in host.networks]
        ports = _ports()
        return Facts(
            tables=tuple(table for table in tables if table is not baseline),
            baseline=baseline,
            sysctls=dict(_sysctls((*interfaces, *bridges))),
            interfaces=interfaces,
            ports=ports,
            addresses=tuple(_addresses()),
            routes=tuple(_routes(unread)),
            choices=tuple(_choices()) or USUAL,
            listening=listening_interfaces(),
            daemons=frozenset(_daemons()),
            unread=tuple(unread),
        )


# Rules -----------------------------------------------------------------------------------------


def _nft_tables(our_table: str, unread: list[str]) -> Iterator[Table]:
    """All tables of nf_tables; those of iptables-nft as iptables-save tells them."""
    try:
        names = list(_nft_names())
    except FileNotFoundError:
        unread.append("nft is missing, so no nftables rules were looked into: install nftables")
        return
    saved = dict(_saved_by_iptables_nft(names, unread))
    for family, name in names:
        if family == "bridge":
            unread.append(f"table {family} {name} filters below IP and was not looked into")
        if family not in _FAMILIES:
            continue
        if (family, name) in saved:
            yield saved[family, name]
            continue
        listed = _listing("list", "table", family, name)
        if listed is None:
            unread.append(f"table {family} {name} was not looked into: nft cannot list it")
            continue
        plain = _run("nft", "-a", "-s", "-t", "list", "table", family, name).stdout
        table = nftables.table(family, name, listed, plain)
        yield from _parts(table) if (family, name) == ("inet", our_table) else (table,)


def _nft_names() -> Iterator[tuple[str, str]]:
    done = _run("nft", "--json", "list", "tables")
    if done.returncode != 0:
        if "ermi" in done.stderr:
            raise UnavailableError("listing nftables' tables is not permitted", hint=_HINT)
        return  # this kernel has none
    for node in _objects(done.stdout):
        body = node.get("table") if is_object(node) else None
        if is_object(body):
            yield str(body.get("family")), str(body.get("name"))


def _listing(*words: str) -> list[Any] | None:
    done = _run("nft", "--json", *words)
    return _objects(done.stdout) if done.returncode == 0 else None


def _objects(text: str) -> list[Any]:
    try:
        found: Any = json.loads(text)["nftables"]
    except (ValueError, KeyError, TypeError):
        return []
    return found if is_list(found) else []


def _parts(table: Table) -> Iterator[Table]:
    """Of our own table the boot baseline, and what is the user's.

    That is DOCKER-USER, where it is called, and other chains.
    """
    closing = table.chains.get(BASELINE_CHAIN)
    if closing is not None:
        yield replace(table, chains={BASELINE_CHAIN: closing})
    ours = (NAMES | {BASELINE_CHAIN}) - {DOCKER_USER}
    chains = {name: chain for name, chain in table.chains.items() if name not in ours}
    call = Rule(({"jump": {"target": DOCKER_USER}},), f"jump {DOCKER_USER}")
    if DOCKER_USER in chains:
        chains[FILTER_FORWARD.name] = Chain(FILTER_FORWARD.name, (call,), "forward")
    yield replace(table, chains=chains)


def _is_baseline(table: Table, our_table: str) -> bool:
    return (table.family, table.name) == ("inet", our_table) and BASELINE_CHAIN in table.chains


def _saved_by_iptables_nft(
    names: Iterable[tuple[str, str]], unread: list[str]
) -> Iterator[tuple[tuple[str, str], Table]]:
    for family, program in (("ip", "iptables-nft-save"), ("ip6", "ip6tables-nft-save")):
        if not any(f == family and name in _IPTABLES_TABLES for f, name in names):
            continue
        try:
            done = _run(program)
        except FileNotFoundError:
            unread.append(f"{program} is missing: some matches of iptables are not understood")
            continue
        for table in iptables.tables(done.stdout, Maker.IPTABLES_NFT, family):
            yield (family, table.name), table


def _legacy_tables(unread: list[str]) -> Iterator[Table]:
    """Tables of iptables-legacy, if there are any: asking for one would make it."""
    for family, names, program in (
        ("ip", "ip_tables_names", "iptables-legacy-save"),
        ("ip6", "ip6_tables_names", "ip6tables-legacy-save"),
    ):
        try:
            present = (_NET / names).read_text().split()
        except PermissionError as error:
            raise UnavailableError("reading iptables' tables is not permitted", hint=_HINT) from (
                error
            )
        except OSError:
            continue
        if not present:
            continue
        try:
            done = _run(program)
        except FileNotFoundError:
            unread.append(f"the kernel holds rules of iptables-legacy, and {program} is missing")
            continue
        yield from iptables.tables(done.stdout, Maker.IPTABLES_LEGACY, family)


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a program that prints; one that hangs counts as one that fails."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        return subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "no answer")


# The kernel's state ----------------------------------------------------------------------------


def _sysctls(interfaces: Iterable[str]) -> Iterator[tuple[str, str]]:
    own = [p.format(name) for name in dict.fromkeys(interfaces) for p in _PER_INTERFACE]
    for path in (*_GENERAL, *own):
        with suppress(OSError, ValueError):
            yield path, (_SYSCTLS / path).read_text().strip()


def _interfaces() -> Iterator[tuple[str, bool]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("16s16x8x", name.encode())
            with suppress(OSError):  # gone meanwhile
                answer = fcntl.ioctl(probe, _SIOCGIFFLAGS, request)
                yield name, bool(struct.unpack_from("H", answer, 16)[0] & _IFF_UP)


def _addresses() -> Iterator[Address]:
    """The host's own addresses, loopback ones too; once each."""
    text = _read(_NET / "fib_trie")
    found = re.findall(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL", text)
    yield from map(ip_address, dict.fromkeys(found))
    for line in _read(_NET / "if_inet6").splitlines():
        yield ip_address(bytes.fromhex(line.split()[0]))


def _routes(unread: list[str]) -> Iterator[Route]:
    """The routes of all tables."""
    for family in ("-4", "-6"):
        found = _ip(family, "route", "show", "table", "all")
        if found is None:
            unread.append("ip is missing, so no routes were looked into: install iproute2")
            return
        for body in found:
            route = routing.route(body, 4 if family == "-4" else 6)
            if route is not None:
                yield route


def _choices() -> Iterator[Choice]:
    """The rules that say which table of routes is asked."""
    for family in ("-4", "-6"):
        for body in _ip(family, "rule") or ():
            yield routing.choice(body, 4 if family == "-4" else 6)


def _ports() -> dict[str, tuple[str, ...]]:
    """The ports of each bridge."""
    found: dict[str, tuple[str, ...]] = {}
    for link in _ip("link") or ():
        bridge = str(link.get("master", ""))
        found[bridge] = (*found.get(bridge, ()), str(link.get("ifname", "")))
    return found


def _ip(*words: str) -> list[Json] | None:
    """The objects that ``ip`` lists; None if there is no such program."""
    try:
        done = _run("ip", "-json", *words)
    except FileNotFoundError:
        return None
    try:
        found: Any = json.loads(done.stdout or "[]")
    except ValueError:
        return []
    return [body for body in found if is_object(body)] if is_list(found) else []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _daemons() -> Iterator[str]:
    """Programs of interest that live in this network namespace."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            if os.stat(folder / "ns/net").st_ino == here:
                yield from _known_program((folder / "cmdline").read_bytes())


def _known_program(command_line: bytes) -> Iterator[str]:
    """The program itself, or the script that an interpreter runs."""
    for word in command_line.split(b"\0")[:3]:
        name = os.path.basename(word).decode(errors="replace")
        if name in _DAEMONS:
            yield name
