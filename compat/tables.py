"""What iptables holds, whosever it is: tables of chains, for each of its kinds and families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nftbridge.compat import read
from nftbridge.compat.tools import Tools, Variant
from nftbridge.errors import KernelRefusedError
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


def table_of(tools: Tools, family: Family, name: str) -> Table:
    """A table as it is; an empty one if it is not there."""
    present = name in tools.present(family)
    return Table.of(tools.save(family, name)) if present else EMPTY


def change(tools: Tools, site: Site, name: str, script_of: Callable[[Table], str]) -> bool:
    """Commit what is made of a table as it is when nobody else can change it; "" is nothing.

    Raises `KernelRefusedError` if it is refused; then nothing was changed.
    """
    with tools.locked():
        before = table_of(tools, site.family, name)
        script = script_of(before)
        if not script:
            return False
        tools.test(site.family, script)
        if not tools.excludes_others and table_of(tools, site.family, name) != before:
            message = f"another program has changed {name} of {site} meanwhile"
            raise KernelRefusedError(message, hint="run it again")
        tools.commit(site.family, script)
    return True
