"""What iptables holds: tables of chains with their lines, for each of its kinds and families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nftbridge.compat import read
from nftbridge.compat.tools import Variant
from nftbridge.model import Family

TABLES = ("filter", "nat", "raw", "mangle")
"""Those with rules of Docker's, in the order in which these are taken out."""


@dataclass(frozen=True, slots=True)
class Site:
    """One of the four places where iptables keeps rules."""

    variant: Variant
    family: Family

    def __str__(self) -> str:
        return f"iptables-{self.variant.value} {self.family.label}"

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.variant.value}-{self.family.value}"


SITES = tuple(Site(variant, family) for variant in Variant for family in Family)


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its chains with their lines, as iptables-save has them behind ``-A CHAIN``.

    `policies` are those of the built-in chains.
    """

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    policies: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, saved: str) -> Table:
        """What iptables-save says of one table."""
        chains = {name: tuple(map(str, lines)) for name, lines in read.listed(saved).items()}
        return cls(chains, read.policies(saved))

    def lines(self, chain: str) -> tuple[str, ...]:
        """The lines of a chain; none if there is no such chain."""
        return self.chains.get(chain, ())

    def data(self) -> dict[str, Any]:
        """For JSON."""
        chains = {name: list(lines) for name, lines in self.chains.items()}
        return {"chains": chains, "policies": dict(self.policies)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Table:
        """What `data` made; raises as looking into strange data does."""
        chains = {str(name): tuple(map(str, lines)) for name, lines in data["chains"].items()}
        return cls(chains, {str(c): str(p) for c, p in data["policies"].items()})


EMPTY = Table()

Tables: TypeAlias = Mapping[str, Table]
"""By the table's name."""
