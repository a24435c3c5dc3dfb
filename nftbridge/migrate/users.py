"""DOCKER-USER carried over from iptables into our table, rule by rule or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nftbridge.migrate.exchange import reached
from nftbridge.migrate.forward import FORWARD
from nftbridge.migrate.tables import Site, Table
from nftbridge.nft.document import Command
from nftbridge.policy.rules import DOCKER_USER
from nftbridge.translate.chains import Translated, TranslatedRule, translate

_LAST = "-j RETURN"
"""What Docker up to 27 puts at the end of DOCKER-USER; there it changes nothing."""


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
    lines = table.lines(DOCKER_USER)
    if lines and lines[-1] == _LAST:
        lines = lines[:-1]
    if not lines or f"-j {DOCKER_USER}" not in table.lines(FORWARD):
        return None
    chains = {chain: table.lines(chain) for chain in reached(table)} | {DOCKER_USER: lines}
    return Carried(site, lines, translate(chains, site.family))


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
    """What adds them to our table, in one transaction; nothing that is there is touched."""
    found = tuple(found)
    chains = dict.fromkeys(chain for one in found for chain in one.below)
    spot = {"family": "inet", "table": table}
    made: list[Command] = [{"add": {"chain": spot | {"name": chain}}} for chain in chains]
    for one in found:
        made += [{"add": rule.json(table, chain)} for chain, rule in one.rules()]
    return made
