"""In which transactions rows are exchanged so that no moment is more open than both ends.

nf_tables changes all hooks at once, but a packet passes one after the other: what raw let by under
the old rules may meet the new ones in nat and filter a microsecond later. Where raw begins to drop
what they begin to let through, that packet would pass, although it would at neither end. So then
raw's rows come in a transaction of their own, before the rest. The other way round there is no such
moment: what raw lets by anew finds the others as new.
"""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.policy import catalogue as known
from nftbridge.policy.flat import FlatRows

_EARLY = (
    known.TRUSTED_ACCESS,
    known.GUARDED,
    known.GUARDED_INTERFACES,
    known.MIRRORED_PUBLISHED,
    known.LOOPBACK_PUBLISHED,
)
"""What raw asks; the exceptions come with the drops."""


def steps(removed: FlatRows, added: FlatRows) -> list[tuple[FlatRows, FlatRows]]:
    """The transactions, each as the rows that go and those that come; none if none do."""
    first: FlatRows = {}
    if _closes_what_opens(removed, added):
        first = {relation: rows for relation, rows in added.items() if relation in _EARLY}
    rest = {relation: rows for relation, rows in added.items() if relation not in first}
    found: list[tuple[FlatRows, FlatRows]] = [({}, first), (removed, rest)]
    return [(gone, come) for gone, come in found if gone or come]


def stages(held: FlatRows, wanted: FlatRows) -> Iterator[FlatRows]:
    """The same for all rows: what the kernel holds after each transaction, `wanted` at last."""
    removed, added = _without(held, wanted), _without(wanted, held)
    closed = held | {r: held.get(r, {}) | added[r] for r in _EARLY if r in added}
    if _closes_what_opens(removed, added) and closed != wanted:
        yield closed
    yield wanted


def _without(rows: FlatRows, others: FlatRows) -> FlatRows:
    """The rows whose keys the others lack."""
    found = {
        r: {k: v for k, v in its.items() if k not in others.get(r, {})} for r, its in rows.items()
    }
    return {relation: its for relation, its in found.items() if its}


def _closes_what_opens(removed: FlatRows, added: FlatRows) -> bool:
    """Whether raw begins to drop what a published port begins to let through."""
    if added.get(known.LOOPBACK_PUBLISHED):
        return True
    guarded = added.get(known.GUARDED, {})
    if not guarded:
        return False
    internal = removed.get(known.INTERNAL_BRIDGES, {})
    new = {key for key in added.get(known.BRIDGES, {}) if key not in internal}
    return any(  # on new bridges nothing of ours has stopped anybody before
        (family, address) in guarded and (family, bridge) not in new
        for family, bridge, address, *_ in added.get(known.OPEN_PORTS, {})
    )
