"""The iptables backend as the engine sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from nftbridge.backend import Incremental, KnownHosts, Observation
from nftbridge.compat import read
from nftbridge.compat.held import EARLY, Held, homes, is_own, lacking
from nftbridge.compat.lower import MARK_ACCEPT, TableChain, chain_name, chains
from nftbridge.compat.restore import Commit, TableText, commits, joined
from nftbridge.compat.syntax import ChainText
from nftbridge.compat.text import chain_text
from nftbridge.compat.tools import Tools, Variant
from nftbridge.compat.tree import DOCKER, TREE, Layout
from nftbridge.effects import Shortcoming
from nftbridge.errors import (
    KernelRefusedError,
    NftbridgeError,
    PartlyAppliedError,
    Problem,
    UnavailableError,
)
from nftbridge.model import Family, Host, counted
from nftbridge.model.parts import DOCKERS_PRIORITIES, Protection
from nftbridge.policy.flat import FlatRows, flat_rows
from nftbridge.policy.program import Relation
from nftbridge.policy.rules import CHAINS, DOCKER_USER, program_of

_LATER = ("filter", "nat")


_FIXED_PRIORITIES = Problem(
    "host.priorities",
    "has no effect: the built-in chains of iptables stand where they are",
    "take it out, or use --backend nftables",
)


class IptablesBackend:
    """Docker's chains in raw (or mangle), filter and nat of both families, by iptables-restore.

    Without a layout the one that is there is observed as the right one, and Docker's is written.
    """

    incremental: Incremental | None = None  # nothing tells whether others have changed a table

    def __init__(self, tools: Tools, layout: Layout | None = None) -> None:
        self._tools = tools
        self._layout = layout
        self.name = "iptables" if tools.variant is Variant.LEGACY else "iptables-nft"

    @property
    def place(self) -> str:
        """The programs that are used, and the layout if it is not Docker's."""
        layout = self._layout or DOCKER
        shape = "" if layout is DOCKER else f", {layout.name} layout"
        return f"iptables-{self._tools.variant.value}{shape}"

    def rows(self, host: Host) -> FlatRows:
        """All rows, less those that no line speaks of, or only lines of tables the kernel lacks."""
        rows = flat_rows(host)
        rows |= {relation: {} for relation in rows.keys() - _asked_by_rules()}
        for family in host.families():
            without = lacking(family, self._tools)
            if without:
                said = _said_without(without, host, family)
                for relation, held in rows.items():
                    known = said.get(relation, {})
                    rows[relation] = {k: v for k, v in held.items() if k[0] != family or k in known}
        return rows

    def observe(self, known: KnownHosts) -> Observation:
        """List the tables that exist; in built-in chains only lines of `known` hosts are ours."""
        hosts = list(known())
        found = [Held.of(family, self._tools, hosts) for family in Family]
        rows: FlatRows = {}
        for held in found:
            for relation, its in held.said.rows.items():
                rows.setdefault(relation, {}).update(its)
        wanted = hosts[-1] if hosts else None
        layouts = {held.layout for held in found if held.present}
        return Observation(
            present=bool(layouts),
            rows=rows,
            differences=tuple(d for held in found for d in held.differences(wanted, self._layout)),
            rules=sum(held.number for held in found),
            user_rules=sum(len(held.users) for held in found),
            layout=next((one.name for one in (TREE, DOCKER) if one in layouts), ""),
            counters=tuple(c for held in found for c in held.counters()),
        )

    def shortcomings(self, host: Host) -> Iterator[Shortcoming]:
        """What this kernel's iptables cannot do for `host`, and what that costs."""
        for family in host.families():
            if self._early(family) is None:
                yield Shortcoming(_without_early(family), Protection.DIRECT_ACCESS)
        if host.priorities != DOCKERS_PRIORITIES:
            yield Shortcoming(_FIXED_PRIORITIES)
        if Family.IPV6 in host.families() and not self._tools.offers(Family.IPV6, "nat"):
            off = ", ".join(_published(host, Family.IPV6))
            problem = Problem(
                "IPv6 nat",
                "the kernel has no such table, so nothing is translated in IPv6"
                + (f"; these publications are off: {off}" if off else ""),
                "a kernel with CONFIG_IP6_NF_NAT; or publish on IPv4 only, or route to containers",
            )
            yield Shortcoming(problem)

    def bring_to(self, host: Host, observed: Observation, known: KnownHosts) -> str:
        """Test every script, then commit table by table, nothing ever more open than both ends.

        DOCKER-USER is left to its user. Raises `KernelRefusedError` if the first is refused
        (nothing was changed then), and `PartlyAppliedError` if a later one is.
        """
        del observed  # what counts is what is there when we hold the lock
        hosts = [*known(), host]
        with self._tools.locked():
            steps: list[Commit] = []
            layout = self._layout or DOCKER
            for family in Family:
                held = Held.of(family, self._tools, hosts)
                wanted = chains(host, family)
                if wanted:
                    steps += commits(
                        family, held.states(), self._texts(host, family, wanted), layout
                    )
                elif held.present:
                    steps += commits(family, held.states(), _nothing(held, keep_users=True))
            self._commit(steps)
        return ""

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

    def _early(self, family: Family) -> str | None:
        """The table for the early drops; None if the kernel has none."""
        return next((table for table in EARLY if self._tools.offers(family, table)), None)

    def _texts(self, host: Host, family: Family, wanted: Sequence[TableChain]) -> list[TableText]:
        """The tables as they should be, in the order of `commits`."""
        early = self._early(family)
        if early is None and Protection.DIRECT_ACCESS not in host.accept_missing:
            problem = _without_early(family)
            raise UnavailableError(problem.message, hint=problem.hint)
        drops = tuple(chain_text(c) for c in wanted if c.table == "raw")
        # what an earlier apply put into the other early table is taken out last
        other = EARLY[1] if early == EARLY[0] else EARLY[0]
        emptied = tuple(replace(chain, lines=()) for chain in drops)
        unwanted = {"filter": (MARK_ACCEPT,)} if host.accept_mark is None else {}
        tables = [
            TableText(t, tuple(chain_text(c) for c in wanted if c.table == t), unwanted.get(t, ()))
            for t in _LATER
        ]
        if family is Family.IPV6 and not self._tools.offers(family, "nat"):
            tables = [table for table in tables if table.name != "nat"]
        first = TableText(EARLY[0]) if early is None else TableText(early, drops)
        return [first, *tables, TableText(other, emptied)]

    def _commit(self, steps: Sequence[Commit]) -> None:
        for whole in joined(steps):
            try:
                self._tools.test(whole.family, whole.script)
            except KernelRefusedError as error:
                place = f"{whole.family.label} {whole.table}, tried before any commit"
                raise KernelRefusedError(f"{place}: {error.reason}", hint=error.hint) from error
        for number, step in enumerate(steps):
            try:
                self._check_unchanged(step)
                self._tools.commit(step.family, step.script)
            except NftbridgeError as error:
                if number == 0:
                    raise
                raise PartlyAppliedError(_account(steps, number, error)) from error

    def _check_unchanged(self, step: Commit) -> None:
        """Where others cannot be kept out, see that line numbers are still those of the listing.

        What is left to chance is the time in which one program starts.
        """
        if self._tools.excludes_others:
            return
        found = read.listed(self._tools.save(step.family, step.table))
        held = {name: tuple(map(str, lines)) for name, lines in found.items() if lines}
        if held != {name: lines for name, lines in step.before.items() if lines}:
            message = f"another program has changed the {step.table} table meanwhile"
            raise KernelRefusedError(message, hint="apply again")


def _said_without(tables: frozenset[str], host: Host, family: Family) -> FlatRows:
    """The rows that a kernel without these tables says it has."""
    program = program_of(host)
    wanted = zip(program, chains(host, family, program), strict=True)
    lines = {
        chain: chain_text(made).lines
        for chain, made in wanted
        if not tables.issuperset(homes(chain))
    }
    return read.understand(family, lines).rows


def _without_early(family: Family) -> Problem:
    return Problem(
        family.label,
        "the kernel has neither raw nor mangle, so packets past DNAT to container addresses cannot"
        " be dropped",
        "a kernel with CONFIG_IP_NF_RAW or CONFIG_IP_NF_MANGLE (CONFIG_IP6_NF_…)",
    )


def _nothing(held: Held, *, keep_users: bool) -> list[TableText]:
    """Every table without anything of ours."""
    tables: list[TableText] = []
    for table in (*EARLY[:1], *_LATER, *EARLY[1:]):
        ours = [chain for chain in CHAINS if table in homes(chain)]
        builtin = tuple(ChainText(chain_name(c), (), builtin=True) for c in ours if c.hook)
        gone = [chain_name(c) for c in ours if is_own(c) or (c.users and not keep_users)]
        if table == "filter":
            gone.append(MARK_ACCEPT)
        tables.append(
            TableText(table, builtin, tuple(g for g in gone if g in held.tables.get(table, {})))
        )
    return tables


def _account(steps: Sequence[Commit], failed: int, error: NftbridgeError) -> str:
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


@cache
def _asked_by_rules() -> frozenset[Relation]:
    """All but those that only gates ask for, which have no lines."""
    return frozenset(r for chain in CHAINS for rule in chain.rules() for r in rule.relations())
