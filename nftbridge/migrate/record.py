"""What was there before a migration, kept in the state directory until that is undone.

It is written before anything is changed. Each place of iptables is saved anew as long as Docker's
rules are in it, so that a run that was cut off can be repeated or undone.
"""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from nftbridge.compat.tables import SITES, Site, Table, Tables
from nftbridge.state import State

_NAME = "migration.json"


@dataclass(frozen=True, slots=True)
class Saved:
    """One place of iptables as it was; `take_back` tells that FORWARD's policy was Docker's."""

    tables: Tables
    take_back: bool


@dataclass(frozen=True, slots=True)
class Record:
    """A migration that was begun. `finished` says that nothing of it was left to do.

    host      the document of what was applied
    sites     iptables as it was
    nft       Docker's tables of nftables, by family, as text for nft
    carried   how many rules were to be put into our DOCKER-USER and the chains below it
    chains    those chains
    rules     what was in them then; None until they are there
    existed   whether there was a daemon.json; None if it was not written
    file      its path; None if it was not written
    """

    backend: str
    host: Mapping[str, Any]
    sites: Mapping[Site, Saved] = field(default_factory=dict[Site, Saved])
    nft: Mapping[str, str] = field(default_factory=dict[str, str])
    carried: int = 0
    chains: tuple[str, ...] = ()
    rules: str | None = None
    existed: bool | None = None
    finished: bool = False
    file: str | None = None

    def data(self) -> dict[str, object]:
        """For JSON."""
        return {
            "backend": self.backend,
            "host": self.host,
            "sites": {site.key: _saved_data(saved) for site, saved in self.sites.items()},
            "nft": dict(self.nft),
            "carried": self.carried,
            "chains": list(self.chains),
            "rules": self.rules,
            "existed": self.existed,
            "finished": self.finished,
            "file": self.file,
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Record | None:
        """What `data` made; None if somebody has edited it."""
        try:
            sites = data["sites"]
            return cls(
                str(data["backend"]),
                data["host"],
                {s: _saved(sites[s.key]) for s in SITES if s.key in sites},
                dict(data["nft"]),
                int(data["carried"]),
                tuple(data["chains"]),
                data["rules"],
                data["existed"],
                bool(data["finished"]),
                data.get("file"),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


class Store(State):
    """Where the record is kept: beside what was last applied."""

    @contextmanager
    def held(self) -> Generator[None]:
        """Nobody else migrates meanwhile; an apply has a lock of its own."""
        with self._opened("migration.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def migration(self) -> Record | None:
        """The migration on record."""
        return Record.from_data(self._body(_NAME))

    def keep(self, record: Record) -> None:
        """Put it on record."""
        self._write(_NAME, record.data())

    def drop(self) -> None:
        """Record that it was undone."""
        with self._reported():
            (self._folder / _NAME).unlink(missing_ok=True)


def _saved_data(saved: Saved) -> dict[str, object]:
    return {
        "tables": {name: table.data() for name, table in saved.tables.items()},
        "take_back": saved.take_back,
    }


def _saved(data: Mapping[str, Any]) -> Saved:
    tables = cast("Mapping[str, Mapping[str, Any]]", data["tables"])
    found = {name: Table.from_data(table) for name, table in tables.items()}
    return Saved(found, take_back=bool(data["take_back"]))
