"""Rows as plain text and numbers: what is compared, stored and read back from a kernel.

A flat key starts with the family; addresses are in canonical text. Flat rows have no owners: the
kernel does not know them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, cast

from nftbridge.model import Address, Host, Prefix
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.derive import walk
from nftbridge.policy.program import Key, Kind, Relation, Row

Scalar: TypeAlias = str | int
FlatKey: TypeAlias = tuple[Scalar, ...]
FlatRows: TypeAlias = dict[Relation, dict[FlatKey, FlatKey]]
"""By relation: family and key columns -> value columns (empty for a plain set)."""


_SCALARS = (str, int)
_ADDRESSES = {Kind.ADDRESS, Kind.PREFIX}
_PLAIN = frozenset(relation for relation in RELATIONS if _ADDRESSES.isdisjoint(relation.key))
"""Relations whose keys are text and numbers as they are."""

Shadows: TypeAlias = Mapping[Relation, tuple[Relation, int]]
"""Relation -> another one, and the column of the former's key that may be a key of the latter."""


def flat_rows(host: Host, shadows: Shadows = MappingProxyType({})) -> FlatRows:
    """Every row of `host` in flat form; relations without rows are there, empty.

    A row is left out if the relation that shadows its own has that column as a key.
    """
    rows: dict[Relation, dict[Key, Key]] = {relation: {} for relation in RELATIONS}
    texts: dict[int, str] = {}
    for family, _, facts in walk(host):  # the facts that shadow come before the shadowed ones
        for relation, key, value in facts:
            if relation in shadows:
                other, column = shadows[relation]
                if (family, key[column]) in rows[other]:
                    continue
            flat = key if relation in _PLAIN else _flat(key, texts)
            rows[relation][family, *flat] = _flat(value, texts) if value else value
    return cast("FlatRows", rows)


def flat_key(row: Row) -> FlatKey:
    """The key of one row in flat form."""
    return (row.family, *(c if isinstance(c, _SCALARS) else str(c) for c in row.key))


def _flat(columns: Key, texts: dict[int, str]) -> FlatKey:
    """The columns as text and numbers. An address stands in many rows and is printed once.

    `texts` goes by identity, since to hash an address costs as much as to print it; the host keeps
    the addresses alive meanwhile.
    """
    return tuple(
        [  # a list is made faster than a generator, here by the hundred thousand
            column
            if isinstance(column, _SCALARS)
            else texts.get(id(column)) or _text(column, texts)
            for column in columns
        ]
    )


def _text(thing: Address | Prefix, texts: dict[int, str]) -> str:
    text = texts[id(thing)] = str(thing)
    return text
