"""What a feature is, and the ways to try one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeAlias

from nftbridge.compat.tools import Variant
from nftbridge.model import Family
from nftbridge.nft.syntax import Json, prefix


class Group(Enum):
    """Who needs a feature."""

    NFTABLES = "nftables"
    IPTABLES = "iptables-legacy, IPv4"
    IP6TABLES = "iptables-legacy, IPv6"
    ALTERNATIVE = "iptables-nft"


class NftObject(Protocol):
    """Something that can be added to a table."""

    def json(self, table: str) -> Json:
        """Its description in libnftables' JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a named set, column by column; prefixes are written as such."""

    set: str
    columns: tuple[str, ...]

    def json(self, table: str) -> Json:
        """Its description in libnftables' JSON."""
        columns = [prefix(column) if "/" in column else column for column in self.columns]
        value = columns[0] if len(columns) == 1 else {"concat": columns}
        return {"element": {"family": "inet", "table": table, "name": self.set, "elem": [value]}}


@dataclass(frozen=True, slots=True)
class BindingTrial:
    """Import libnftables' Python binding and have it read JSON; needs no privilege."""


@dataclass(frozen=True, slots=True)
class ProgramsTrial:
    """Look for the programs of one iptables on the path; needs no privilege."""

    family: Family
    variant: Variant


@dataclass(frozen=True, slots=True)
class NftTrial:
    """Add a table of `family` with these objects in it, in one transaction."""

    objects: tuple[NftObject, ...] = ()
    family: str = "inet"

    def commands(self, table: str) -> list[Json]:
        """The commands of the document."""
        head: Json = {"add": {"table": {"family": self.family, "name": table}}}
        return [head, *({"add": item.json(table)} for item in self.objects)]


@dataclass(frozen=True, slots=True)
class RestoreTrial:
    """Commit this text with iptables-restore; a mere test never asks the kernel for extensions."""

    family: Family
    script: str
    variant: Variant = Variant.LEGACY


Trial: TypeAlias = BindingTrial | ProgramsTrial | NftTrial | RestoreTrial


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing that a kernel or a distribution has or lacks.

    `options` are the kernel's configuration options that bring it; `remark` what they leave unsaid.
    `needs` are the features without which this one cannot even be tried.
    """

    name: str
    group: Group
    trial: Trial
    options: tuple[str, ...]
    lost: str
    instead: str
    needs: tuple[str, ...] = ()
    remark: str = ""

    @property
    def source(self) -> str:
        """Where to get it from: options, packages, versions."""
        return ", ".join((*self.options, *filter(None, (self.remark,))))
