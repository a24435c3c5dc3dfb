"""The nftables backend as the engine sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

from nftbridge.backend import Incremental, KnownHosts, Observation
from nftbridge.effects import Shortcoming
from nftbridge.errors import KernelRefusedError
from nftbridge.model import Host
from nftbridge.nft import document, lower, order, read
from nftbridge.nft.kernel import Kernel, trim
from nftbridge.policy.flat import FlatRows


class NftablesBackend:
    """One table ``inet NAME`` in one network namespace."""

    name = "nftables"

    def __init__(self, table: str, netns: str | None = None) -> None:
        self._kernel = Kernel(table, netns)
        self._table = table
        self._rows: tuple[Host, FlatRows] | None = None

    @property
    def place(self) -> str:
        """The table."""
        return f"table inet {self._table}"

    @property
    def incremental(self) -> Incremental:
        """This very backend: nf_tables counts its transactions."""
        return self

    def rows(self, host: Host) -> FlatRows:
        """All rows but those that no packet gets to ask for; for the same host made only once."""
        if self._rows is None or self._rows[0] is not host:
            self._rows = host, lower.rows_in_kernel(host)
        return self._rows[1]

    def observe(self, known: KnownHosts) -> Observation:
        """List our table and nothing else; all of it is ours, and the last of `known` is wanted."""
        objects = self._kernel.objects()
        if objects is None:
            missing = ("the table is missing",)
            return Observation(present=False, rows={}, differences=missing, bereft=True)
        listing = read.parse(objects)
        rows, torn = read.rows(listing)
        return Observation(
            present=True,
            rows=rows,
            differences=(*read.skeleton_differences(listing, _wanted(known)), *torn),
            rules=read.our_rules(listing),
            user_rules=listing.user_rules,
            foreign=listing.foreign,
            users=read.belongings(listing),
            bereft=listing.bereft,
            counters=tuple(listing.counters),
        )

    def shortcomings(self, host: Host) -> tuple[Shortcoming, ...]:
        """None: a kernel in which something is missing refuses the whole transaction."""
        del host
        return ()

    def bring_to(self, host: Host, observed: Observation, known: KnownHosts) -> str:
        """One transaction, seldom two: the elements that differ, or everything if more does.

        DOCKER-USER and what is not ours stay untouched either way, or come back with the table.
        """
        del known
        wanted = self.rows(host)
        self._rows = None  # a program that stays must not keep them all
        if not observed.differences:
            self._change(observed.rows, wanted)
            return ""
        objects = self._kernel.objects() if observed.present else None
        listing, setting = read.parse(objects or []), lower.Setting.of(host)
        outdated = read.outdated(self._table, listing, setting)
        install = partial(document.install, self._table, wanted, outdated, setting)
        users = observed.users.commands if listing.bereft else ()
        if not users:
            self._kernel.commit(install())
            return ""
        try:
            self._kernel.commit(install(users=users), explained=False)
        except KernelRefusedError as refusal:
            self._kernel.commit(install())
            return self._kernel.objection(users) or refusal.reason
        return ""

    def generation(self) -> int | None:
        """nf_tables' own count of transactions, whatever table they were about."""
        return self._kernel.generation()

    def connected(self) -> AbstractContextManager[None]:
        """Keep a libnftables context for writing."""
        return self._kernel.connected()

    def trim(self) -> None:
        """Forget the rows that were last made, and what libnftables has freed."""
        self._rows = None
        trim()

    def can_exchange(self, removed: FlatRows, added: FlatRows) -> bool:
        """All but prefixes that would come and go in one set."""
        return document.can_exchange(removed, added)

    def _change(self, held: FlatRows, wanted: FlatRows) -> None:
        before = held
        for stage in order.stages(held, wanted):
            try:
                self._kernel.commit(document.change(self._table, before, stage))
            except KernelRefusedError:
                if before is not held:
                    self._kernel.commit(document.change(self._table, before, held))
                raise
            before = stage

    def commits(self, removed: FlatRows, added: FlatRows) -> int:
        """One transaction, two where raw has to be the first to change, none for nothing."""
        return len(order.steps(removed, added))

    def exchange(self, removed: FlatRows, added: FlatRows) -> None:
        """Delete and add these elements, without looking at any other; all of them or none."""
        done: FlatRows = {}
        for gone, come in order.steps(removed, added):
            try:
                self._kernel.send(document.exchange(self._table, gone, come))
            except KernelRefusedError:
                if done:
                    self._kernel.send(document.exchange(self._table, done, {}))
                raise
            done = come

    def remove(self, known: KnownHosts, *, everything: bool) -> list[str]:
        """Delete the table, or all that is ours in it where something of the user's has to stay."""
        del known
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


def _wanted(known: KnownHosts) -> lower.Setting:
    hosts = list(known())
    return lower.Setting.of(hosts[-1]) if hosts else lower.PLAIN
