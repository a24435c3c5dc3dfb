"""What a migration will do, told from what was found: nothing here changes anything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nftbridge.accepts import CHAIN, FORWARD, bridges
from nftbridge.compat.lower import chains
from nftbridge.compat.tables import EMPTY, Site, Tables
from nftbridge.compat.text import chain_text
from nftbridge.compat.tools import Variant
from nftbridge.doctor.docker import layout_of
from nftbridge.errors import Problem
from nftbridge.migrate import theirs as known
from nftbridge.migrate.exchange import (
    Removal,
    Staying,
    leads_to_users,
    removal,
    rules_of,
    translation_of,
)
from nftbridge.migrate.forward import Forward, Policy, decide
from nftbridge.migrate.kernel import Found
from nftbridge.migrate.record import Record
from nftbridge.migrate.theirs import Theirs
from nftbridge.migrate.users import Carried, carried, changed, one_per_family
from nftbridge.model import Family, Host, counted
from nftbridge.translate.line import jump_of

VARIANTS = {"iptables": Variant.LEGACY, "iptables-nft": Variant.NFT}
"""The backends that share Docker's tables, and the kind of iptables that it is for each."""

_HOMES = {"raw": ("raw", "mangle"), "nat": ("nat",), "filter": ("filter",)}
"""The tables in which what belongs into one may be: the early drops are in mangle without raw."""

_WITHOUT_EARLY_DROPS = re.compile(r"Docker (1\.|17|up to 1)")


@dataclass(frozen=True, slots=True)
class Out:
    """What of Docker's goes out of one place of iptables, by table."""

    site: Site
    layout: str
    tables: Mapping[str, Removal]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done after ours is in. With `problems` nothing may be done at all.

    `carried` are the user's rules, `adopted` the places where Docker's tables become ours (with its
    layout), `out` what goes out of iptables, `nft` the families whose table of Docker's goes.
    `remarks` are what changes for the user, and what could not be seen.
    """

    backend: str
    carried: tuple[Carried, ...] = ()
    adopted: tuple[tuple[Site, str], ...] = ()
    out: tuple[Out, ...] = ()
    nft: tuple[str, ...] = ()
    remarks: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = field(default_factory=tuple[Problem, ...])

    def __bool__(self) -> bool:
        return bool(self.carried or self.adopted or self.out or self.nft)


@dataclass(frozen=True, slots=True)
class Given:
    """What a plan is made of: the host that Docker tells of, what is in the kernel, what is wanted.

    `record` is that of a migration that was begun before; `held` is the backend that holds rules of
    ours by now, `users` how many rules of the user's our DOCKER-USER has.
    """

    host: Host
    found: Found
    backend: str
    policy: Policy = Policy.AUTO
    record: Record | None = None
    held: str | None = None
    users: int = 0

    @property
    def theirs(self) -> Theirs:
        """What is Docker's, also where it is only partly there any more."""
        saved = self.record.sites.values() if self.record else ()
        return Theirs.of(self.host, [*self.found.sites.values(), *(s.tables for s in saved)])

    def ours(self, site: Site) -> bool:
        """Whether our own rules are, or will be, in the same tables as Docker's."""
        return VARIANTS.get(self.backend) is site.variant

    def staying(self, site: Site, table: str) -> Staying:
        """What of Docker's layout in one table there is ours."""
        if not self.ours(site):
            return Staying()
        wanted = [c for c in chains(self.host, site.family) if table in _HOMES.get(c.table, ())]
        lines = {c.name: frozenset(chain_text(c).lines) for c in wanted if c.builtin}
        own = frozenset(c.name for c in wanted if not c.builtin)
        return Staying(own, lines)


def plan(given: Given) -> Plan:
    """What has to be done, and why it cannot be if so."""
    theirs = given.theirs
    left_alone = VARIANTS.get(given.held or "") if given.held != given.backend else None
    sites = {s: t for s, t in given.found.sites.items() if s.variant is not left_alone}
    out = tuple(_out(given, theirs, sites))
    users, clashes = one_per_family([c for c in _users(given, sites) if c is not None])
    fresh = not _is_carried(given.record)
    return Plan(
        given.backend,
        users if fresh else (),
        tuple(_adopted(given, theirs)),
        out,
        tuple(given.found.nft),
        tuple(_remarks(given, out, users if fresh else ())),
        tuple(_problems(given, theirs, sites, users if fresh else (), clashes)),
    )


def _is_carried(record: Record | None) -> bool:
    """Whether a migration that was cut off has carried DOCKER-USER over."""
    return record is not None and not record.finished and record.rules is not None


def _users(given: Given, sites: Mapping[Site, Tables]) -> Iterator[Carried | None]:
    for site, tables in sites.items():
        if "filter" in tables and not given.ours(site):
            yield carried(site, tables["filter"])


def _adopted(given: Given, theirs: Theirs) -> Iterator[tuple[Site, str]]:
    if given.held == given.backend:
        return
    for site, tables in given.found.sites.items():
        if given.ours(site) and known.is_present(tables):
            yield site, _layout(tables, theirs)


def _out(given: Given, theirs: Theirs, sites: Mapping[Site, Tables]) -> Iterator[Out]:
    for site, tables in sites.items():
        forward = forward_of(given, theirs, site, tables)
        found = {
            name: removal(name, table, theirs, forward, given.staying(site, name))
            for name, table in tables.items()
        }
        found = {name: one for name, one in found.items() if one}
        if found:
            yield Out(site, _layout(tables, theirs), found)


def forward_of(given: Given, theirs: Theirs, site: Site, tables: Tables) -> Forward:
    """What becomes of FORWARD there. Where our rules are in it, its policy does them no harm."""
    if "filter" not in tables or not known.is_present(tables):
        return Forward()
    wanted = given.policy
    if given.ours(site) and wanted is not Policy.ACCEPT:
        return Forward()
    decided = decide(tables["filter"], theirs, [*bridges(given.host, site.family)], wanted)
    return Forward(decided.take_back, None, decided.reason) if given.ours(site) else decided


def _layout(tables: Tables, theirs: Theirs) -> str:
    names = Counter(c for name, t in tables.items() for c in t.chains if known.is_own(name, c))
    lines = (
        line
        for name, table in tables.items()
        for chain in table.policies
        for line in table.lines(chain)
        if theirs.owns(name, chain, line)
    )
    return layout_of(names, lines) or "parts of Docker's"


# --- what stands in the way ----------------------------------------------------------------------


def _problems(
    given: Given,
    theirs: Theirs,
    sites: Mapping[Site, Tables],
    users: tuple[Carried, ...],
    clashes: tuple[str, ...],
) -> Iterator[Problem]:
    for clash in clashes:
        yield Problem("DOCKER-USER", clash, "merge them in one of the two, and empty the other")
    for one in users:
        yield from _untranslated(given, one)
    if users and given.users and not _begun(given.record):
        message = f"has {counted(given.users, 'rule')} in our table already"
        hint = "an order of both cannot be told: empty one of the two"
        yield Problem("DOCKER-USER", message, hint)
    for site in _changed_since(given, sites):
        message = f"of {site} was changed since a migration that was cut off has carried it over"
        hint = "go back with --undo, which loses no rule, and migrate again"
        yield Problem("DOCKER-USER", message, hint)
    for site, tables in sites.items():
        yield from _strangers(given, theirs, site, tables)
    yield from _unknown_bridges(given, theirs)


def _changed_since(given: Given, sites: Mapping[Site, Tables]) -> Iterator[Site]:
    """Where the user's rules are others than those that were carried over."""
    record = given.record
    if record is None or not _is_carried(record):
        return
    for site, saved in record.sites.items():
        now = sites.get(site, {}).get("filter", EMPTY)
        if not given.ours(site) and changed(saved.tables.get("filter", EMPTY), now):
            yield site


def _begun(record: Record | None) -> bool:
    return record is not None and not record.finished and record.carried > 0


def _untranslated(given: Given, one: Carried) -> Iterator[Problem]:
    if given.backend != "nftables":
        kind = one.site.variant.value
        message = f"of {one.site} has rules, and {given.backend} is another firewall"
        yield Problem("DOCKER-USER", message, f"--backend nftables, or --iptables {kind}")
        return
    kind = f"--backend iptables --iptables {one.site.variant.value}"
    for refused in one.translated.refused:
        hint = f"write it otherwise, or use {kind}, which leaves DOCKER-USER as it is"
        yield Problem(f"{one.site}", f"{refused}: cannot be carried over to nftables", hint)


def _strangers(given: Given, theirs: Theirs, site: Site, tables: Tables) -> Iterator[Problem]:
    for stranger in theirs.strangers(tables):
        if "DOCKER-INGRESS" in (stranger.chain, jump_of(stranger.line)):
            message = f"swarm's routing mesh publishes ports there: {stranger}"
            yield Problem(str(site), message, "leave Docker's own firewall on")
        elif stranger.inside:
            message = f"{stranger} is not one of Docker's, and would be lost"
            yield Problem(str(site), message, "put it into DOCKER-USER, or take it out")
        elif jump_of(stranger.line) not in given.staying(site, stranger.table).chains:
            message = f"{stranger} jumps to a chain of Docker's, which goes"
            yield Problem(str(site), message, "take it out first")


def _unknown_bridges(given: Given, theirs: Theirs) -> Iterator[Problem]:
    declared = {network.bridge for network in given.host.networks}
    for bridge in sorted((theirs.bridges & given.found.interfaces) - declared):
        message = "is guarded by Docker's rules, but what Docker tells has no network for it"
        hint = "see what `nftbridge import docker` leaves out and why; or remove that network"
        yield Problem(f"bridge {bridge}", message, hint)


# --- what the user should know -------------------------------------------------------------------


def _remarks(given: Given, out: tuple[Out, ...], users: tuple[Carried, ...]) -> Iterator[Problem]:
    yield from (Problem("", what) for what in given.found.unread)
    for one in users:
        for chain in one.below:
            message = f"of {one.site} is copied: whoever changes it there does not change the copy"
            yield Problem(f"chain {chain}", message, "see what fills it, e.g. fail2ban or ufw")
    yield from _idle(given)
    for leaving in out:
        yield from _of_forward(leaving)
        if _WITHOUT_EARLY_DROPS.match(leaving.layout) and not given.host.allow_direct_routing:
            message = "let others address containers directly, past their publications; ours do not"
            hint = "--allow-direct-routing keeps it, on open ports"
            yield Problem(str(leaving.site), f"the rules of {leaving.layout} {message}", hint)
    yield from _outweighed(out, users)
    yield from _publications(given, out)


def _outweighed(out: tuple[Out, ...], users: tuple[Carried, ...]) -> Iterator[Problem]:
    """Accepts of the user's about other interfaces than bridges, where FORWARD goes on dropping."""
    accepting = {
        one.site: one.tables["filter"].forward.accepts for one in out if "filter" in one.tables
    }
    for one in users:
        accepts = accepting.get(one.site)
        if accepts is None:
            continue
        ours = {line.partition(" -j ")[0] for line in accepts}
        for chain, rule in one.rules():
            if jump_of(rule.text) == "ACCEPT" and not any(_asks(rule.text, name) for name in ours):
                program = "iptables" if one.site.family is Family.IPV4 else "ip6tables"
                message = f"'{rule.text}' will not outweigh the drop that stays in FORWARD"
                hint = f"{program}-{one.site.variant.value} -A FORWARD {rule.text}"
                yield Problem(f"{one.site}, {chain}", message, hint)


def _asks(line: str, interface: str) -> bool:
    """Whether a line has that option, such as ``-i br-front``, and has it not negated."""
    return f" {interface} " in f" {line} " and f"! {interface} " not in f"{line} "


def _idle(given: Given) -> Iterator[Problem]:
    for site, tables in given.found.sites.items():
        table = tables.get("filter", EMPTY)
        if rules_of(table) and not leads_to_users(table):
            message = "nothing leads there from FORWARD: its rules stay, and are not carried over"
            yield Problem(f"DOCKER-USER of {site}", message)


def _of_forward(one: Out) -> Iterator[Problem]:
    if "filter" not in one.tables:
        return
    forward = one.tables["filter"].forward
    where = f"{FORWARD} of {one.site}"
    if forward.take_back:
        message = "its policy is ACCEPT then: the host forwards between its other interfaces, too"
        hint = "--forward-policy keep keeps DROP, with accepts for what nftbridge decides about"
        yield Problem(where, message, hint)
    elif forward.accepts is not None:
        message = f"it goes on dropping, but for bridges in chain {CHAIN}, which every apply keeps"
        yield Problem(where, message)
    for line in forward.overruled:
        message = f"'{line}' comes before Docker's rules, but lets pass nothing that ours drop"
        yield Problem(where, message, "write what it should let pass into DOCKER-USER")


def _publications(given: Given, out: tuple[Out, ...]) -> Iterator[Problem]:
    """Where Docker's rules and what Docker tells differ about published ports."""
    for one in out:
        tables = given.found.sites[one.site]
        if not known.is_present(tables):
            continue
        held = _translations(tables.get("nat", EMPTY).lines("DOCKER"))
        wanted = _translations(translating(given.host, one.site.family))
        for differing, how in ((held - wanted, "ends"), (wanted - held, "begins")):
            for address, port in sorted(differing):
                to = f"{address} " if address else ""
                whose = "is in Docker's rules alone" if how == "ends" else "is not in its rules"
                yield Problem(f"{one.site}", f"{to}{port} {whose}, and {how}")


def translating(host: Host, family: Family) -> tuple[str, ...]:
    """The lines that chain DOCKER of nat has in our words."""
    nat = (c for c in chains(host, family) if (c.table, c.name) == ("nat", "DOCKER"))
    return tuple(line for c in nat for line in chain_text(c).lines)


def _translations(lines: Iterable[str]) -> set[tuple[str, str]]:
    return {what for line in lines if (what := translation_of(line)) is not None}
