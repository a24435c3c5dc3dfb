"""Whether there is nothing to do, found with as few imports as can be: this is asked most often."""

from __future__ import annotations

from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.config import Source
from nftbridge.nft.generation import current
from nftbridge.state import State


def stands(source: Source, directory: Path, table: str, netns: str | None) -> bool:
    """Whether nftables' last apply was of these very files, and nobody has touched it since."""
    state = State.of(directory, table, netns)
    mark = state.mark() if state.backend() == "nftables" else None
    if mark is None or not state.source() or state.is_on_trial() or state.accepting():
        return False
    if not namespaces.forwards_all(state.forwarded(), netns):
        return False
    with namespaces.inside(netns):
        return mark == current() and state.source() == source.digest()
