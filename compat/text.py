"""Text for iptables-restore: all that is ours, as iptables-save would list it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nftbridge.compat.lower import TableChain, chains
from nftbridge.compat.syntax import ChainText
from nftbridge.compat.tree import DOCKER, Layout
from nftbridge.model import Family, Host

_NOTE = "# for a kernel that holds nothing of nftbridge or Docker, not even DOCKER-USER"

TABLES = ("raw", "filter", "nat")
"""In the order of Docker's captures."""


def script(host: Host, family: Family, layout: Layout = DOCKER) -> str:
    """Input for iptables-restore or ip6tables-restore ``--noflush``, for a kernel without ours.

    It would empty a DOCKER-USER that is there, and append to built-in chains a second time: `apply`
    knows what is there and does neither.
    """
    found = chains(host, family)
    texts = {t: layout.shape([chain_text(c) for c in found if c.table == t]) for t in TABLES}
    lines = (line for table, of_it in texts.items() for line in _table(table, of_it))
    return "\n".join((_NOTE, *lines)) + "\n"


def chain_text(chain: TableChain) -> ChainText:
    """The chain as iptables-save would list it."""
    return ChainText(chain.name, tuple(map(str, chain.lines)), chain.builtin, chain.users)


def _table(table: str, found: Sequence[ChainText]) -> Iterator[str]:
    yield f"*{table}"
    yield from (f":{chain.name} - [0:0]" for chain in found if not chain.builtin)
    for chain in found:
        yield from (f"-A {chain.name} {line}" for line in chain.lines)
    yield "COMMIT"
