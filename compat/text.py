"""Text for iptables-restore: all that is ours, as iptables-save would list it."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.compat.lower import TableChain, chains
from nftbridge.model import Family, Host

_NOTE = "# for a kernel that holds nothing of nftbridge or Docker, not even DOCKER-USER"

TABLES = ("raw", "filter", "nat")
"""In the order of Docker's captures."""


def script(host: Host, family: Family) -> str:
    """Input for iptables-restore or ip6tables-restore ``--noflush``, for a kernel without ours.

    It would empty a DOCKER-USER that is there, and append to built-in chains a second time: `apply`
    knows what is there and does neither.
    """
    found = chains(host, family)
    lines = (line for table in TABLES for line in _table(table, found))
    return "\n".join((_NOTE, *lines)) + "\n"


def _table(table: str, found: tuple[TableChain, ...]) -> Iterator[str]:
    mine = [chain for chain in found if chain.table == table]
    yield f"*{table}"
    yield from (f":{chain.name} - [0:0]" for chain in mine if not chain.builtin)
    for chain in mine:
        yield from (f"-A {chain.name} {line}" for line in chain.lines)
    yield "COMMIT"
