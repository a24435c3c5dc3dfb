"""Rows as plain text and numbers: what is compared, stored and read back from a kernel.

A flat key starts with the family; addresses are in canonical text. Flat rows have no owners: the
kernel does not know them.
"""

from __future__ import annotations

from typing import TypeAlias

from nftbridge.model import Family
from nftbridge.policy.program import Facts, Key, Relation, Row, Value

Scalar: TypeAlias = str | int
FlatKey: TypeAlias = tuple[Scalar, ...]
FlatRows: TypeAlias = dict[Relation, dict[FlatKey, FlatKey]]
"""By relation: family and key columns -> value columns (empty for a plain set)."""


def flatten(facts: Facts) -> FlatRows:
    """Every row of `facts` in flat form; relations without rows are there, empty."""
    write = _Writer()
    return {relation: dict(map(write.row, rows)) for relation, rows in facts.items()}


def flat_row(row: Row) -> tuple[FlatKey, FlatKey]:
    """One row in flat form."""
    return _Writer().row(row)


class _Writer:
    """Writes rows; an address is turned into text once, however many rows it stands in."""

    def __init__(self) -> None:
        self._texts: dict[Family, dict[object, str]] = {family: {} for family in Family}

    def row(self, row: Row) -> tuple[FlatKey, FlatKey]:
        texts = self._texts[row.family]
        return (row.family.value, *_flat(texts, row.key)), _flat(texts, row.value)


def _flat(texts: dict[object, str], columns: Key) -> FlatKey:
    return tuple([c if isinstance(c, str | int) else _text(texts, c) for c in columns])


def _text(texts: dict[object, str], value: Value) -> str:
    # keyed by identity: hashing an address costs as much as printing it
    known = texts.get(id(value))
    if known is None:
        known = texts[id(value)] = str(value)
    return known
