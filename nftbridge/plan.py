"""What stands between two states of a kernel: rows to add and to remove, each with its owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from nftbridge.effects import Switch
from nftbridge.model import Host
from nftbridge.policy.derive import derive
from nftbridge.policy.flat import FlatKey, FlatRows, flat_key
from nftbridge.policy.program import Owner, Relation

NOBODY = Owner("?")
"""Owner of a row that no known host has: somebody else put it there."""


class RowChange(NamedTuple):
    """One row that comes (`added`) or goes."""

    added: bool
    relation: Relation
    key: FlatKey
    value: FlatKey
    owner: Owner


@dataclass(frozen=True, slots=True)
class Plan:
    """What a transaction would do; `install` says why chains and rules are put in anew, if so.

    `kept` is what of the user's was left behind by a backend that is no longer used; `retried` says
    why everything was put in anew where rows ought to have sufficed. `forwarding` is what
    is switched on when the rules are in. `put_back` counts the user's
    rules that come back with a table which others took away; `lost` says why they could not.
    `ended` counts the connections that were ended afterwards, since nothing lets them pass any
    more; `unended` says why they could not be. `held_host` and `wanted_host`, where known, tell
    whose rows they are.
    """

    install: tuple[str, ...] = ()
    removed: FlatRows = field(default_factory=dict[Relation, dict[FlatKey, FlatKey]])
    added: FlatRows = field(default_factory=dict[Relation, dict[FlatKey, FlatKey]])
    kept: tuple[str, ...] = ()
    retried: str = ""
    forwarding: tuple[Switch, ...] = ()
    put_back: int = 0
    lost: str = ""
    ended: int = 0
    unended: str = ""
    held_host: Host | None = field(default=None, repr=False)
    wanted_host: Host | None = field(default=None, repr=False)

    def __bool__(self) -> bool:
        return bool(self.install or self.removed or self.added or self.forwarding)

    def of_rules(self) -> Plan:
        """Of that what rules are about."""
        return replace(self, forwarding=())

    @property
    def count_removed(self) -> int:
        """How many rows go."""
        return sum(map(len, self.removed.values()))

    @property
    def count_added(self) -> int:
        """How many rows come."""
        return sum(map(len, self.added.values()))

    def rows(self) -> Iterator[RowChange]:
        """Every row that goes, then every row that comes, in the order of the relations."""
        yield from _attributed(self.removed, self.held_host, added=False)
        yield from _attributed(self.added, self.wanted_host, added=True)


def compare(
    held: FlatRows,
    wanted: FlatRows,
    *,
    install: tuple[str, ...] = (),
    held_host: Host | None = None,
    wanted_host: Host | None = None,
) -> Plan:
    """The way from `held` to `wanted`."""
    removed, added = _missing(held, wanted), _missing(wanted, held)
    return Plan(install, removed, added, held_host=held_host, wanted_host=wanted_host)


def _missing(here: FlatRows, there: FlatRows) -> FlatRows:
    """The rows of `here` that `there` lacks or has with another value."""
    missing: FlatRows = {}
    for relation, rows in here.items():
        others = there.get(relation, {})
        if rows != others:
            found = {k: v for k, v in rows.items() if others.get(k) != v} if others else rows
            if found:
                missing[relation] = found
    return missing


def _attributed(rows: FlatRows, host: Host | None, *, added: bool) -> Iterator[RowChange]:
    owners = _owners(rows, host) if rows and host is not None else {}
    for relation, found in rows.items():
        for key, value in found.items():
            yield RowChange(added, relation, key, value, owners.get((relation, key), NOBODY))


def _owners(rows: FlatRows, host: Host) -> dict[tuple[Relation, FlatKey], Owner]:
    facts, owners = derive(host), dict[tuple[Relation, FlatKey], Owner]()
    for relation, wanted in rows.items():
        for row in facts[relation]:
            key = flat_key(row)
            if key in wanted:
                owners[relation, key] = row.owner
    return owners
