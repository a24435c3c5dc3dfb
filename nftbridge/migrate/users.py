"""DOCKER-USER carried over from iptables into our table, rule by rule or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from nftbridge.compat.tables import Site, Table
from nftbridge.migrate.exchange import leads_to_users, rules_of
from nftbridge.nft.document import Command
from nftbridge.policy.rules import DOCKER_USER
from nftbridge.translate.chains import Translated, TranslatedRule, translate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Carried:
    """DOCKER-USER of one place, with the chains below it, in iptables' words and in nft's."""

    site: Site
    lines: tuple[str, ...]
    translated: Translated

    @property
    def below(self) -> tuple[str, ...]:
        """The user's chains that DOCKER-USER leads to: copies of them are made."""
        return tuple(chain for chain in self.translated.rules if chain != DOCKER_USER)

    def rules(self) -> Iterator[tuple[str, TranslatedRule]]:
        """Every rule of nft's, with its chain."""
        for chain, rules in self.translated.rules.items():
            yield from ((chain, rule) for rule in rules)


def carried(site: Site, table: Table) -> Carried | None:
    """What the user has in DOCKER-USER; None if there is nothing, or nothing leads there."""
    chains = rules_of(table)
    if not chains or not leads_to_users(table):
        return None
    return Carried(site, chains[DOCKER_USER], translate(chains, site.family))


def changed(before: Table, now: Table) -> bool:
    """Whether the user has rules in DOCKER-USER that are others than before."""
    return bool(rules_of(now)) and rules_of(now) != rules_of(before)


def one_per_family(found: Sequence[Carried]) -> tuple[tuple[Carried, ...], tuple[str, ...]]:
    """Those to carry over, and why two of them cannot be one: an ACCEPT in the one ends that one.

    The same rules in both kinds of iptables count once.
    """
    ordered = sorted(found, key=lambda c: c.site.family.value)
    clashes = tuple(
        f"DOCKER-USER of {one.site} and of {other.site} have different rules"
        for one, other in pairwise(ordered)
        if one.site.family is other.site.family and not _same(one, other)
    )
    return tuple({c.site.family: c for c in ordered}.values()), clashes


def _same(one: Carried, other: Carried) -> bool:
    return [rule for _, rule in one.rules()] == [rule for _, rule in other.rules()]


def commands(table: str, found: Iterable[Carried]) -> list[Command]:
    """What adds them to our table, in one transaction; nothing that is there is touched.

    The table need not be there: it decides nothing as long as it has no other chains.
    """
    found = tuple(found)
    chains = dict.fromkeys([DOCKER_USER, *(chain for one in found for chain in one.below)])
    spot = {"family": "inet", "table": table}
    made: list[Command] = [{"add": {"table": {"family": "inet", "name": table}}}]
    made += [{"add": {"chain": spot | {"name": chain}}} for chain in chains]
    for one in found:
        made += [{"add": rule.json(table, chain)} for chain, rule in one.rules()]
    return made


def for_each(found: Iterable[Carried], those: Mapping[str, Iterable[T]]) -> dict[Site, list[T]]:
    """By place, what belongs to each of its `rules`, out of what a chain has after `commands`."""
    left = {chain: iter(them) for chain, them in those.items()}
    return {one.site: [next(left[chain]) for chain, _ in one.rules()] for one in found}
