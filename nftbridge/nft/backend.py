"""The nftables backend as the engine sees it."""

from __future__ import annotations

from nftbridge.backend import Observation
from nftbridge.nft import document, lower, read
from nftbridge.nft.kernel import Kernel
from nftbridge.policy.flat import FlatRows
from nftbridge.policy.program import Facts


class NftablesBackend:
    """One table ``inet NAME`` in one network namespace."""

    name = "nftables"

    def __init__(self, table: str, netns: str | None = None) -> None:
        self._kernel = Kernel(table, netns)
        self._table = table

    def rows(self, facts: Facts) -> FlatRows:
        """All rows but those that no packet gets to ask for."""
        return lower.rows_in_kernel(facts)

    def observe(self) -> Observation:
        """List our table and nothing else."""
        objects = self._kernel.objects()
        if objects is None:
            return Observation(present=False, rows={}, differences=("the table is missing",))
        listing = read.parse(objects)
        rows, torn = read.rows(listing)
        return Observation(
            present=True,
            rows=rows,
            differences=(*read.skeleton_differences(listing), *torn),
            rules=sum(map(len, listing.rules.values())) - listing.user_rules,
            user_rules=listing.user_rules,
            foreign=listing.foreign,
            counters=tuple(listing.counters),
        )

    def install(self, rows: FlatRows) -> None:
        """Everything anew in one transaction, DOCKER-USER and what is not ours untouched."""
        objects = self._kernel.objects()
        outdated = () if objects is None else read.outdated(self._table, read.parse(objects))
        self._kernel.commit(document.install(self._table, rows, outdated))

    def change(self, old: FlatRows, new: FlatRows) -> None:
        """Only the elements that differ."""
        self._kernel.commit(document.change(self._table, old, new))

    def remove(self, *, everything: bool) -> list[str]:
        """Delete the table, or all that is ours in it where something of the user's has to stay."""
        objects = self._kernel.objects()
        if objects is None:
            return []
        listing = read.parse(objects)
        kept = read.users_property(listing)
        if everything or not kept:
            self._kernel.commit(document.table_removal(self._table))
            return []
        chains, sets = read.ours(listing)
        self._kernel.commit(document.removal(self._table, chains=chains, sets=sets))
        return kept
