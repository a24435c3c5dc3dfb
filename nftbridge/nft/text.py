"""The same transaction as text for ``nft -f``, for builds of nft without JSON, and for people."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.nft import syntax
from nftbridge.nft.lower import PLAIN, KernelSet, Setting, Skeleton, sets_of, skeleton
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import Kind, Relation


def script(table: str, rows: FlatRows, setting: Setting = PLAIN) -> str:
    """A script that loads everything over an empty kernel or an older ruleset alike."""
    parts = skeleton(setting)
    return "\n".join([*_preamble(table, parts), "", *_table(table, rows, parts), ""])


def ruleset(table: str, rows: FlatRows) -> str:
    """The table alone, without what makes room for it: sets that have rows, then the chains."""
    return "\n".join(_table(table, rows, skeleton(), only_filled=True))


def _preamble(table: str, parts: Skeleton) -> Iterator[str]:
    """Declare everything, so that it can be emptied without failing, and empty it.

    DOCKER-USER is declared only: what is in it stays.
    """
    yield f"add table inet {table}"
    for chain in parts.chains:
        declared = f" {{ {chain.text()} }}" if chain.base else ""
        yield f"add chain inet {table} {chain.name}{declared}"
    for chain in parts.chains:
        if chain.name != parts.users_chain:
            yield f"flush chain inet {table} {chain.name}"
    for kernel_set in parts.sets:
        declaration = kernel_set.declaration
        yield f"add {declaration.noun} inet {table} {declaration.name} {{ {declaration.text()} }}"
        yield f"flush {declaration.noun} inet {table} {declaration.name}"


def _table(
    table: str, rows: FlatRows, parts: Skeleton, *, only_filled: bool = False
) -> Iterator[str]:
    yield f"table inet {table} {{"
    for relation, found in rows.items():
        for kernel_set in sets_of(relation):
            elements = [
                _element(kernel_set, k, v) for k, v in found.items() if _fits(kernel_set, k)
            ]
            if elements or not only_filled:
                yield from _set(kernel_set, relation, elements)
    for chain in parts.chains:
        yield from _chain(parts, chain)
    yield "}"


def _set(kernel_set: KernelSet, relation: Relation, elements: list[str]) -> Iterator[str]:
    declaration = kernel_set.declaration
    yield f"\t# {relation.meaning}"
    yield f"\t{declaration.noun} {declaration.name} {{"
    yield f"\t\t{declaration.text()}"
    if elements:
        yield "\t\telements = {"
        yield from (f"\t\t\t{element}," for element in elements)
        yield "\t\t}"
    yield "\t}"
    yield ""


def _chain(parts: Skeleton, chain: syntax.ChainDeclaration) -> Iterator[str]:
    yield f"\tchain {chain.name} {{"
    if chain.base:
        yield f"\t\t{chain.text()}"
    yield from (f"\t\t{rule.text()}" for rule in parts.rules if rule.chain == chain.name)
    yield "\t}"
    if chain is not parts.chains[-1]:
        yield ""


def _fits(kernel_set: KernelSet, key: FlatKey) -> bool:
    return kernel_set.family is None or key[0] == kernel_set.family.value


def _element(kernel_set: KernelSet, key: FlatKey, value: FlatKey) -> str:
    relation = kernel_set.relation
    columns = [str(key[0]), *map(_scalar, key[1:], relation.key)]
    written = " . ".join(columns[place] for place in kernel_set.order)
    if kernel_set.column is None:
        return written
    return f"{written} : {_scalar(value[kernel_set.column], relation.value[kernel_set.column])}"


def _scalar(value: str | int, kind: Kind) -> str:
    return f'"{value}"' if kind is Kind.INTERFACE else str(value)
