"""Taking over from another backend: what it holds counts until ours is in, and then goes."""

from __future__ import annotations

from collections.abc import Sequence

from nftbridge.backend import Backend, KnownHosts
from nftbridge.choice import Target, choose
from nftbridge.errors import NftbridgeError, PartlyAppliedError
from nftbridge.past import Past


def others(mine: Backend, target: Target, state: Past, known: KnownHosts) -> list[Backend]:
    """Other backends of the last apply, or of one that was cut off, that have left anything."""
    names = (name for name in state.backends() if name != mine.name)
    found = (choose(name, target).backend for name in names)
    return [other for other in found if other.observe(known).present]


def remove(found: Sequence[Backend], mine: Backend, known: KnownHosts) -> tuple[str, ...]:
    """Take the rules of other backends out, when ours are in; phrases for what was kept."""
    kept: list[str] = []
    for other in found:
        try:
            kept += other.remove(known, everything=False)
        except NftbridgeError as error:
            raise PartlyAppliedError(
                f"{mine.name} has the new rules, but what {other.name} holds is still"
                f" there: {error}"
            ) from error
    return tuple(kept)
