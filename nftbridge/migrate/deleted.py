"""What of the user's rules was deleted since they were carried over: no undo brings that back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nftbridge.compat.tables import Site, Table
from nftbridge.migrate.exchange import reached
from nftbridge.migrate.users import Carried, carried, for_each, one_per_family
from nftbridge.nft.syntax import Json
from nftbridge.policy.rules import DOCKER_USER


@dataclass(frozen=True, slots=True)
class Deleted:
    """What of one place was deleted from our table.

    `table` is its filter table without it, `left_out` are those lines. `again` are lines that come
    into force again: those of the user's own chains, which stayed in iptables, and those that had
    become several rules, of which only some were deleted.
    """

    table: Table
    left_out: tuple[str, ...]
    again: tuple[str, ...]


def deleted(
    saved: Mapping[Site, Table], then: Sequence[Json], now: Iterable[Json]
) -> dict[Site, Deleted]:
    """By place, given its filter table, and the user's rules in our table as they were and are.

    Not a place where nothing was deleted, and none if the rules are not those of the tables.
    """
    found = [one for site, table in saved.items() if (one := carried(site, table)) is not None]
    first, _ = one_per_family(found)
    expected = Counter(chain for one in first for chain, _ in one.rules())
    gone = _gone(then, now)
    if Counter({chain: len(fates) for chain, fates in gone.items()}) != expected:
        return {}
    fates = {site.family: fate for site, fate in for_each(first, gone).items()}
    made = {one.site: _of(one, saved[one.site], fates[one.site.family]) for one in found}
    return {site: one for site, one in made.items() if one.left_out or one.again}


def _gone(then: Sequence[Json], now: Iterable[Json]) -> dict[str, list[bool]]:
    """By chain, for each of its rules whether it is not there any more."""
    left, gone = list(now), dict[str, list[bool]]()
    for rule in then:
        there = rule in left
        if there:
            left.remove(rule)
        gone.setdefault(rule["chain"], []).append(not there)
    return gone


def _of(one: Carried, table: Table, gone: Sequence[bool]) -> Deleted:
    lines: dict[tuple[str, int, str], list[bool]] = {}
    for (chain, rule), fate in zip(one.rules(), gone, strict=True):
        lines.setdefault((chain, rule.line, rule.text), []).append(fate)
    out = {line for line, fates in lines.items() if line[0] == DOCKER_USER and all(fates)}
    without = _without(table, {number for _, number, _ in out})
    chains = reached(without)
    again = (li for li, fates in lines.items() if any(fates) and li not in out and li[0] in chains)
    return Deleted(without, tuple(_shown(one.site, out)), tuple(_shown(one.site, again)))


def _without(table: Table, numbers: Collection[int]) -> Table:
    """A table without these lines of DOCKER-USER."""
    lines = enumerate(table.lines(DOCKER_USER), start=1)
    kept = tuple(line for number, line in lines if number not in numbers)
    return replace(table, chains={**table.chains, DOCKER_USER: kept})


def _shown(site: Site, lines: Iterable[tuple[str, int, str]]) -> Iterator[str]:
    return (f"{site}, {chain}: {text}" for chain, _, text in sorted(lines))
