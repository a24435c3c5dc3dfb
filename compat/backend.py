"""The iptables backend as the engine sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nftbridge.backend import Incremental, KnownHosts, Observation
from nftbridge.compat.held import EARLY, Held, is_own
from nftbridge.compat.lower import TableChain, chain_name, chains
from nftbridge.compat.restore import ChainText, Commit, TableText, commits
from nftbridge.compat.tools import Tools, Variant
from nftbridge.errors import KernelRefusedError, PartlyAppliedError, Problem, UnavailableError
from nftbridge.model import Family, Host, counted
from nftbridge.policy.flat import FlatRows, flat_rows
from nftbridge.policy.rules import CHAINS, DOCKER_USER

_LATER = ("filter", "nat")


class IptablesBackend:
    """Docker's chains in raw (or mangle), filter and nat of both families, by iptables-restore."""

    incremental: Incremental | None = None  # nothing tells whether others have changed a table

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.name = "iptables" if tools.variant is Variant.LEGACY else "iptables-nft"

    @property
    def place(self) -> str:
        """The programs that are used."""
        return f"iptables-{self._tools.variant.value}"

    def rows(self, host: Host) -> FlatRows:
        """All rows."""
        return flat_rows(host)

    def observe(self, known: KnownHosts) -> Observation:
        """List the tables that exist; in built-in chains only lines of `known` hosts are ours."""
        hosts = list(known())
        found = [Held.of(family, self._tools, hosts) for family in Family]
        rows: FlatRows = {}
        for held in found:
            for relation, its in held.said.rows.items():
                rows.setdefault(relation, {}).update(its)
        wanted = hosts[-1] if hosts else None
        return Observation(
            present=any(held.present for held in found),
            rows=rows,
            differences=tuple(d for held in found for d in held.differences(wanted)),
            rules=sum(held.number for held in found),
            user_rules=sum(len(held.users) for held in found),
            counters=tuple(c for held in found for c in held.counters()),
        )

    def shortcomings(self, host: Host) -> Iterator[Problem]:
        """What this kernel's iptables cannot do for `host`, and what that costs."""
        if Family.IPV6 in host.families() and not self._tools.offers(Family.IPV6, "nat"):
            off = ", ".join(_published(host, Family.IPV6))
            yield Problem(
                "IPv6 nat",
                "the kernel has no such table, so nothing is translated in IPv6"
                + (f"; these publications are off: {off}" if off else ""),
                "a kernel with CONFIG_IP6_NF_NAT; or publish on IPv4 only, or route to containers",
            )

    def bring_to(self, host: Host, observed: Observation, known: KnownHosts) -> None:
        """Test every script, then commit table by table, nothing ever more open than both ends.

        Raises `KernelRefusedError` if the first is refused (nothing was changed then), and
        `PartlyAppliedError` if a later one is.
        """
        del observed  # what counts is what is there when we hold the lock
        hosts = [*known(), host]
        with self._tools.locked():
            steps: list[Commit] = []
            for family in Family:
                held = Held.of(family, self._tools, hosts)
                wanted = chains(host, family)
                if wanted:
                    steps += commits(family, held.states(), self._texts(family, wanted))
                elif held.present:
                    steps += commits(family, held.states(), _nothing(held, keep_users=True))
            self._commit(steps)

    def remove(self, known: KnownHosts, *, everything: bool) -> list[str]:
        """Take out our chains and lines; DOCKER-USER stays if it has rules, unless `everything`."""
        hosts = list(known())
        kept: list[str] = []
        with self._tools.locked():
            steps: list[Commit] = []
            for family in Family:
                held = Held.of(family, self._tools, hosts)
                keep = bool(held.users) and not everything
                if keep:
                    kept.append(
                        f"{counted(len(held.users), f'{family.label} rule')} in {DOCKER_USER}"
                    )
                steps += commits(family, held.states(), _nothing(held, keep_users=keep))
            self._commit(steps)
        return kept

    def _texts(self, family: Family, wanted: Sequence[TableChain]) -> list[TableText]:
        """The tables as they should be, in the order of `commits`."""
        early = next((table for table in EARLY if self._tools.offers(family, table)), None)
        if early is None:
            raise UnavailableError(
                f"the kernel has neither raw nor mangle for {family.label}, so packets past DNAT to"
                " container addresses could not be dropped",
                hint="a kernel with CONFIG_IP_NF_RAW or CONFIG_IP_NF_MANGLE (CONFIG_IP6_NF_…)",
            )
        other = next(table for table in EARLY if table != early)
        tables = [TableText(early, tuple(_text(c) for c in wanted if c.table == "raw"))]
        tables += [TableText(t, tuple(_text(c) for c in wanted if c.table == t)) for t in _LATER]
        if family is Family.IPV6 and not self._tools.offers(family, "nat"):
            tables = [table for table in tables if table.name != "nat"]
        # what an earlier apply put into the other early table is taken out last
        emptied = tuple(ChainText(c.name, (), builtin=True) for c in wanted if c.table == "raw")
        return [*tables, TableText(other, emptied)]

    def _commit(self, steps: Sequence[Commit]) -> None:
        seen: set[tuple[Family, str]] = set()
        for step in steps:  # a second script for a table counts lines that the first one moves
            if (step.family, step.table) not in seen:
                seen.add((step.family, step.table))
                self._tools.test(step.family, step.script)
        for number, step in enumerate(steps):
            try:
                self._tools.commit(step.family, step.script)
            except KernelRefusedError as error:
                if number == 0:
                    raise
                raise PartlyAppliedError(_account(steps, number, error)) from error


def _text(chain: TableChain) -> ChainText:
    return ChainText(chain.name, tuple(map(str, chain.lines)), chain.builtin, chain.users)


def _nothing(held: Held, *, keep_users: bool) -> list[TableText]:
    """Every table without anything of ours."""
    tables: list[TableText] = []
    for table in (*EARLY[:1], *_LATER, *EARLY[1:]):
        homes = [c for c in CHAINS if c.table == table or (c.table == "raw" and table in EARLY)]
        builtin = tuple(ChainText(chain_name(c), (), builtin=True) for c in homes if c.hook)
        gone = [chain_name(c) for c in homes if is_own(c) or (c.users and not keep_users)]
        tables.append(
            TableText(table, builtin, tuple(g for g in gone if g in held.tables.get(table, {})))
        )
    return tables


def _account(steps: Sequence[Commit], failed: int, error: KernelRefusedError) -> str:
    def named(some: Sequence[Commit]) -> str:
        return ", ".join(f"{step.family.label} {step.table}" for step in some) or "none"

    return (
        f"{error}\n    done: {named(steps[:failed])}\n    refused: {named(steps[failed:][:1])}"
        f"\n    not tried: {named(steps[failed + 1 :])}"
        "\n    hint: mend the cause and apply again, or remove"
    )


def _published(host: Host, family: Family) -> Iterator[str]:
    for network in host.networks:
        for container in network.containers:
            if container.address(family) is not None and not network.is_routed(family):
                for publication in container.publish:
                    if publication.covers(family):
                        yield f"{publication} of {container.name}"
