"""What a migration reads of the kernel and commits to it: the rim of this package."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nftbridge import netns as namespaces
from nftbridge.choice import Target
from nftbridge.compat.tables import SITES, TABLES, Site, Table, Tables, change, table_of
from nftbridge.compat.tools import Tools, Variant
from nftbridge.doctor.docker import NFT_TABLE
from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.nft import read
from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel
from nftbridge.nft.syntax import Json, is_list, is_object
from nftbridge.policy.rules import DOCKER_USER

_FAMILIES = ("ip", "ip6")
_VOLATILE = frozenset({"handle", "packets", "bytes"})
_PATIENCE = 60.0
_CHAIN = re.compile(r"^\tchain (\S+) \{\n(.*?)^\t\}$", re.DOTALL | re.MULTILINE)
_RULE = re.compile(r"^\t\t", re.MULTILINE)
_NAMED = "add table inet names; add chain inet names {}\n"


@dataclass(frozen=True, slots=True)
class Found:
    """What is in the kernel. `unread` says what could not be looked at."""

    sites: Mapping[Site, Tables] = field(default_factory=dict[Site, Tables])
    nft: Mapping[str, str] = field(default_factory=dict[str, str])
    """Docker's own tables of nftables by family, as text that nft reads."""
    interfaces: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()


class Rules:
    """The rules of one network namespace, others' and the user's part of ours."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tools = {v: Tools(v, target.netns, target.wait) for v in Variant}
        self._ours = Kernel(target.table, target.netns)

    def found(self) -> Found:
        """Look at everything."""
        unread: list[str] = []
        sites: dict[Site, Tables] = {}
        for site in SITES:
            try:
                sites[site] = self.tables(site)
            except (KernelRefusedError, UnavailableError) as error:
                if "not permitted" in str(error):
                    raise
                unread.append(f"{site} was not looked into: {error}")
        with namespaces.inside(self._target.netns):
            interfaces = frozenset(name for _, name in socket.if_nameindex())
            return Found(sites, _nft_tables(), interfaces, tuple(unread))

    def tables(self, site: Site) -> Tables:
        """The tables of one place."""
        tools = self._tools[site.variant]
        present = tools.present(site.family)
        return {name: table_of(tools, site.family, name) for name in TABLES if name in present}

    def change(self, site: Site, name: str, script_of: Callable[[Table], str]) -> bool:
        """As `nftbridge.compat.tables.change`."""
        return change(self._tools[site.variant], site, name, script_of)

    def delete_nft(self, families: Iterable[str]) -> None:
        """Take out Docker's tables of nftables, in one transaction."""
        self._nft("".join(f"delete table {family} {NFT_TABLE}\n" for family in families))

    def load_nft(self, tables: Iterable[str]) -> None:
        """Put tables of nftables back, in one transaction."""
        self._nft("\n".join(tables))

    def _nft(self, script: str) -> None:
        with namespaces.inside(self._target.netns):
            done = _run(["nft", "-f", "-"], script)
        if done.returncode != 0:
            raise KernelRefusedError(f"nft refused it, nothing was changed: {done.stderr.strip()}")

    def users(self, below: Iterable[str]) -> list[Json]:
        """The rules in our DOCKER-USER and in these chains, without what changes by itself."""
        listing = read.parse(self._ours.objects() or [])
        chains = (DOCKER_USER, *below)
        return [_steady(rule) for chain in chains for rule in listing.rules.get(chain, [])]

    def commit(self, commands: list[Command]) -> None:
        """A transaction in our table."""
        self._ours.commit(commands)

    def check(self, commands: list[Command]) -> None:
        """Raise what `commit` would raise."""
        self._ours.check(commands)


def listed(table: str, commands: Iterable[Command]) -> dict[str, list[str]]:
    """The rules of each chain in nft's own words, when a kernel has taken these commands.

    It is tried in a network namespace that is thrown away. Raises `KernelRefusedError`.
    """
    with namespaces.thrown_away():
        Kernel(table).commit(commands)
        shown = _run(["nft", "--stateless", "list", "table", "inet", table])
    if shown.returncode != 0:
        raise KernelRefusedError(f"nft cannot list what it was given: {shown.stderr.strip()}")
    found = ((chain, _RULE.split(rules)[1:]) for chain, rules in _CHAIN.findall(shown.stdout))
    return {chain: [rule.rstrip("\n") for rule in rules] for chain, rules in found}


def unreadable(chains: Iterable[str]) -> list[str]:
    """Those of these names that nft does not read: its own words, signs that it does not know."""
    check = ["nft", "--check", "-f", "-"]
    with namespaces.thrown_away():
        return [name for name in chains if _run(check, _NAMED.format(name)).returncode != 0]


def _nft_tables() -> dict[str, str]:
    """In the current network namespace; none where there is no nft."""
    try:
        done = _run(["nft", "--json", "list", "tables"])
    except UnavailableError:
        return {}
    if done.returncode != 0 or not done.stdout:
        return {}
    listed: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    named = [(n["table"]["family"], n["table"]["name"]) for n in listed if "table" in n]
    found: dict[str, str] = {}
    for family in _FAMILIES:
        if (family, NFT_TABLE) in named:
            shown = _run(["nft", "--stateless", "list", "table", family, NFT_TABLE])
            if shown.returncode != 0:
                message = f"nft cannot list table {family} {NFT_TABLE}: {shown.stderr.strip()}"
                raise KernelRefusedError(message)
            found[family] = shown.stdout
    return found


def _run(words: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            env=os.environ | {"LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise UnavailableError("nft is missing", hint="install nftables") from error
    except subprocess.TimeoutExpired as error:
        raise KernelRefusedError(f"nft did not end within {_PATIENCE:g} seconds") from error


def _steady(node: Any) -> Any:
    """A rule as JSON without handles and counts."""
    if is_object(node):
        return {key: _steady(value) for key, value in node.items() if key not in _VOLATILE}
    return [_steady(part) for part in node] if is_list(node) else node
