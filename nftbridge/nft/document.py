"""Transactions: lists of libnftables JSON commands that the kernel takes whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeAlias

from nftbridge.model import Family
from nftbridge.nft.lower import PLAIN, KernelSet, Setting, Skeleton, elements, sets_of, skeleton
from nftbridge.nft.validate import check_keys, check_values
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import Relation

Command: TypeAlias = dict[str, Any]
"""``{"add": {"rule": …}}`` and the like."""

LONGEST_COMMENT = 128
"""Bytes, with the terminating zero (NFTNL_UDATA_COMMENT_MAXLEN)."""


def wrap(commands: Iterable[Command]) -> dict[str, list[Command]]:
    """The commands as a document that ``nft -j -f`` takes."""
    return {"nftables": list(wrapped(commands))}


def wrapped(commands: Iterable[Command]) -> Iterator[Command]:
    """What such a document lists."""
    yield {"metainfo": {"json_schema_version": 1}}
    yield from commands


def install(
    table: str,
    rows: FlatRows,
    outdated: Iterable[Command] = (),
    setting: Setting = PLAIN,
    users: Iterable[Command] = (),
) -> Iterator[Command]:
    """Everything, over an empty kernel or an older ruleset alike.

    DOCKER-USER is created if missing and else left as it is. Sets are emptied, not deleted, so that
    rules in DOCKER-USER may refer to them. `outdated` are deletions of chains and sets whose
    declaration no longer fits; they come when nothing of ours refers to them any more. `users` make
    what is the user's in a new table. The elements of one set are made when it is its turn: those
    of all would take four times their text.
    """
    parts = skeleton(setting)
    yield {"add": {"table": {"family": "inet", "name": table}}}
    outdated = list(outdated)
    gone = {body["name"] for c in outdated for kind, body in c["delete"].items() if kind == "chain"}
    kept = [chain for chain in parts.chains if chain.name not in gone]
    yield from ({"add": chain.json(table)} for chain in kept)
    yield from (
        {"flush": {"chain": {"family": "inet", "table": table, "name": chain.name}}}
        for chain in parts.chains
        if chain.name != parts.users_chain
    )
    yield from outdated
    yield from ({"add": chain.json(table)} for chain in parts.chains if chain.name in gone)
    yield from _sets_and_rules(table, parts)
    yield from _of_all("add", table, rows)
    yield from users


@cache
def _sets_and_rules(table: str, parts: Skeleton) -> tuple[Command, ...]:
    """What is the same for all hosts; the longest part of a document for a small one."""
    declared = (
        ({"add": kernel_set.declaration.json(table)}, _flush(table, kernel_set))
        for kernel_set in parts.sets
    )
    rules = ({"add": rule.json(table)} for rule in parts.rules)
    return (*(command for pair in declared for command in pair), *rules)


def change(table: str, old: FlatRows, new: FlatRows) -> list[Command]:
    """Only the elements that differ between `old`, what the kernel holds, and `new`."""
    commands: list[Command] = []
    for relation, wanted in new.items():
        held = old.get(relation, {})
        if held == wanted:
            continue
        if relation.has_prefixes:
            commands += _replace(table, relation, held, wanted)
        else:  # another value under a key is an error in the kernel, so the old one goes first
            gone = {k: v for k, v in held.items() if wanted.get(k) != v}
            come = {k: v for k, v in wanted.items() if held.get(k) != v}
            commands += _elements("delete", table, relation, gone)
            commands += _elements("add", table, relation, come)
    return sorted(commands, key=lambda command: "add" in command)  # make room, then fill it


def exchange(table: str, removed: FlatRows, added: FlatRows) -> list[Command]:
    """Only these elements: `removed` are in the kernel, `added` are not.

    Raises `ValueError` if prefixes come and go in one set, which nft 0.9.8 refuses where they
    overlap: `can_exchange` tells beforehand.
    """
    if not can_exchange(removed, added):
        raise ValueError("prefixes cannot be exchanged, only added or removed")
    gone = _of_all("delete", table, removed)
    return [*gone, *_of_all("add", table, added)]  # make room, then fill it


def can_exchange(removed: FlatRows, added: FlatRows) -> bool:
    """Whether no set of prefixes would both lose and gain."""
    return not any(relation.has_prefixes for relation in removed.keys() & added.keys())


def removal(table: str, *, chains: Iterable[str], sets: Iterable[tuple[str, str]]) -> list[Command]:
    """Take out our rules, chains and sets (noun, name); the table stays with what is the user's."""
    chains, spot = list(chains), {"family": "inet", "table": table}
    flush = [{"flush": {"chain": spot | {"name": name}}} for name in chains]
    chains_gone = [{"delete": {"chain": spot | {"name": name}}} for name in chains]
    return flush + chains_gone + [{"delete": {noun: spot | {"name": name}}} for noun, name in sets]


def table_removal(table: str) -> list[Command]:
    """Take out the table with all that is in it, DOCKER-USER's rules as well."""
    return [{"delete": {"table": {"family": "inet", "name": table}}}]


def _of_all(verb: str, table: str, rows: FlatRows) -> Iterator[Command]:
    for relation, its in rows.items():
        yield from _elements(verb, table, relation, its)


def _replace(
    table: str, relation: Relation, held: dict[FlatKey, FlatKey], wanted: dict[FlatKey, FlatKey]
) -> Iterator[Command]:
    """Interval sets are filled anew: nft 0.9.8 refuses to exchange overlapping prefixes."""
    before, after = _by_family(relation, held), _by_family(relation, wanted)
    for kernel_set in sets_of(relation):
        rows = after.get(kernel_set.family, {})
        if before.get(kernel_set.family, {}) != rows:
            yield _flush(table, kernel_set)
            yield from _into("add", table, kernel_set, rows)


def _elements(
    verb: str, table: str, relation: Relation, rows: dict[FlatKey, FlatKey]
) -> Iterator[Command]:
    """The same rows may go into several maps: they are sorted out and looked at once."""
    parts = _by_family(relation, rows) if rows else {}
    for kernel_set in sets_of(relation):
        yield from _into(verb, table, kernel_set, parts.get(kernel_set.family, {}))


def _into(
    verb: str, table: str, kernel_set: KernelSet, rows: dict[FlatKey, FlatKey]
) -> Iterator[Command]:
    if not rows:
        return
    if verb == "add":
        if not kernel_set.column:  # the first map of several, or the only one
            check_keys(kernel_set, rows)
        check_values(kernel_set, rows)
    spot = {"family": "inet", "table": table, "name": kernel_set.name}
    yield {verb: {"element": spot | {"elem": elements(kernel_set, rows)}}}


def _by_family(
    relation: Relation, rows: dict[FlatKey, FlatKey]
) -> dict[Family | None, dict[FlatKey, FlatKey]]:
    """The rows as the sets of the relation take them: None for both families together."""
    if not relation.addressed:
        return {None: rows}
    return {
        family: {key: value for key, value in rows.items() if key[0] == family}
        for family in relation.families
    }


def _flush(table: str, kernel_set: KernelSet) -> Command:
    noun = kernel_set.declaration.noun
    return {"flush": {noun: {"family": "inet", "table": table, "name": kernel_set.name}}}


def relation_of(set_name: str) -> Relation | None:
    """The relation whose rows a set of that name holds."""
    names = {kernel_set.name: kernel_set.relation for kernel_set in skeleton().sets}
    return names.get(set_name)


def pretty(commands: Iterable[Command]) -> str:
    """The document with a line per command and per element: JSON that people can compare."""
    lines = (_pretty_command(command) for command in wrapped(commands))
    return '{"nftables": [\n' + ",\n".join(lines) + "\n]}"


def _pretty_command(command: Command) -> str:
    elements = command.get("add", {}).get("element", {}).get("elem")
    if not elements:
        return json.dumps(command)
    head = command["add"]["element"] | {"elem": []}
    rows = ",\n  ".join(map(json.dumps, elements))
    return json.dumps({"add": {"element": head}}).removesuffix("]}}}") + f"\n  {rows}\n]}}}}}}"
