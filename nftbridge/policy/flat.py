"""Rows as plain text and numbers: what is compared, stored and read back from a kernel.

A flat key starts with the family; addresses are in canonical text. Flat rows have no owners: the
kernel does not know them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias, cast

from nftbridge.model import Address, Host, Prefix
from nftbridge.policy.catalogue import RELATIONS
from nftbridge.policy.derive import walk
from nftbridge.policy.program import Key, Relation, Row

Scalar: TypeAlias = str | int
FlatKey: TypeAlias = tuple[Scalar, ...]
FlatRows: TypeAlias = dict[Relation, dict[FlatKey, FlatKey]]
"""By relation: family and key columns -> value columns (empty for a plain set)."""


_SCALARS = (str, int)

Shadows: TypeAlias = Mapping[Relation, tuple[Relation, int]]
"""Relation -> another one, and the column of the former's key that may be a key of the latter."""


def flat_rows(host: Host, shadows: Shadows = MappingProxyType({})) -> FlatRows:
    """Every row of `host` in flat form; relations without rows are there, empty.

    A row is left out if the relation that shadows its own has that column as a key.
    """
    rows: dict[Relation, dict[Key, Key]] = {relation: {} for relation in RELATIONS}
    for family, _, facts in walk(host, _printer()):
        for relation, key, value in facts:
            if relation in shadows:  # the facts that shadow come before the shadowed ones
                other, column = shadows[relation]
                if (family, key[column]) in rows[other]:
                    continue
            rows[relation][family, *key] = value
    return cast("FlatRows", rows)


def _printer() -> Callable[[Address | Prefix], str]:
    """Writes addresses as text, each once, however many rows it stands in.

    By identity, since to hash an address costs as much as to print it; the host keeps them alive.
    """
    texts: dict[int, str] = {}

    def printed(thing: Address | Prefix) -> str:
        text = texts.get(id(thing))
        if text is None:
            text = texts[id(thing)] = str(thing)
        return text

    return printed


def flat_key(row: Row) -> FlatKey:
    """The key of one row in flat form."""
    return (row.family, *(c if isinstance(c, _SCALARS) else str(c) for c in row.key))
