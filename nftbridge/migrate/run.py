"""A migration, step by step, and its undoing. Each step may be the last: the next run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nftbridge import config
from nftbridge.accepts import Places
from nftbridge.beside import around
from nftbridge.choice import Target
from nftbridge.compat.tables import EMPTY, TABLES, Site, Table
from nftbridge.conntrack.revoked import Revoked
from nftbridge.docker.host import UNKNOWN, DaemonOptions, Inspected, host_of
from nftbridge.docker.process import Started, options_in, options_of
from nftbridge.effects import check_forwarding
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError, KernelRefusedError, PartlyAppliedError, Problem
from nftbridge.migrate.configuration import Configuration
from nftbridge.migrate.exchange import alignment_script, removal, removal_script
from nftbridge.migrate.forward import Policy
from nftbridge.migrate.kernel import Found, Rules, listed, unreadable
from nftbridge.migrate.plan import Given, Plan, forward_of, plan, translating
from nftbridge.migrate.record import Record, Saved, Store
from nftbridge.migrate.theirs import is_present
from nftbridge.migrate.users import changed, commands, for_each
from nftbridge.mirrored import settled
from nftbridge.model import Host
from nftbridge.plan import Plan as Rows
from nftbridge.policy.rules import DOCKER_USER

_ROUNDS = 3
"""How often Docker may have put something in while its rules were taken out."""

_TRIAL = "trial"
"""A table in which the user's rules are tried."""

_AGAIN = "go back with --undo, which loses no rule, and migrate again"

_LEAVING = Problem(
    "",
    "what is in our table and not Docker's goes out: networks and ports of a host file",
    "`nftbridge watch FILE --docker` has both",
)

_OFF_ALREADY = (
    "Docker has no rules here: with --iptables=false on its command line it does not start"
)

_OWN_FIREWALL = "Docker's own firewall"
"""Where an import says that Docker's rules are there: here that is no news."""

Warn = Callable[[Iterable[Problem]], None]


class Successor(Engine):
    """An engine whose first apply ends no flow: what comes was published before, by Docker.

    UDP that came to a port which only Docker's proxy served would be taken for something older than
    its publication; it goes on through the proxy.
    """

    def _revoked_since(
        self, held: Host | None, host: Host, plan: Rows, *, cut_short: bool
    ) -> Revoked:
        if held is None and not plan.removed:
            return Revoked()
        return super()._revoked_since(held, host, plan, cut_short=cut_short)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asks for. `daemon` is what Docker was started with, as far as that is said."""

    policy: Policy
    configuration: Configuration
    daemon: DaemonOptions = field(default_factory=DaemonOptions)
    write: bool = False


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found, and what follows. `rows` is what brings our rules in.

    `words` are nft's for the user's rules, if it is to get them. `started` is how Docker was, and
    `shown` what a service will see of that.
    """

    given: Given
    plan: Plan
    rows: Rows
    place: str
    difference: tuple[str, ...]
    words: Mapping[Site, Sequence[str]]
    started: Started = field(default_factory=Started)
    shown: DaemonOptions = UNKNOWN

    def __bool__(self) -> bool:
        return bool(self.plan or self.rows or self.difference or self.started.insisting)


class Migration:
    """From Docker's rules to ours in one network namespace."""

    def __init__(self, target: Target, wanted: str) -> None:
        self._target = target
        self._engine = Successor.to_apply(target, wanted)
        self._rules = Rules(target)
        self._store = Store.of(target.state_directory, target.table, target.netns)

    def look(self, inspected: Inspected, wishes: Wishes) -> Looked:
        """What there is and what would be done; changes nothing."""
        record, found = self._store.migration(), self._rules.found()
        text = wishes.configuration.text() or ""
        imported = host_of(inspected, _daemon_options(wishes, text, found, record))
        host = settled(imported.host, self._target.netns)
        below = record.chains if record else ()
        users = self._rules.users(below) if self._engine.backend == "nftables" else []
        held = state_of(self._target).backend()
        given = Given(host, found, self._engine.backend, wishes.policy, record, held, len(users))
        made = plan(given)
        made = replace(made, problems=(*made.problems, *_unstartable(inspected)))
        told = tuple(r for r in imported.remarks if r.where != _OWN_FIREWALL)
        made = replace(made, remarks=(*told, *made.remarks))
        made = replace(made, remarks=(*made.remarks, *_about_daemon(wishes)))
        difference = tuple(wishes.configuration.difference())
        unknown = wishes.configuration.started.root is None
        if unknown and difference and record is None and not (made.adopted or made.out or made.nft):
            where, message = str(wishes.configuration.path), f"{_OFF_ALREADY} with this file"
            remark = Problem(where, message, "leave --write out then")
            made = replace(made, remarks=(*made.remarks, remark))
        rows = self._engine.plan(host)
        if rows.removed:
            made = replace(made, remarks=(*made.remarks, _LEAVING))
        words: Mapping[Site, Sequence[str]] = {}
        if made.carried and self._engine.backend == "nftables":
            made = replace(made, problems=(*made.problems, *_misnamed(made)))
            words = for_each(made.carried, listed(_TRIAL, commands(_TRIAL, made.carried)))
        started = wishes.configuration.started
        place, shown = self._engine.place, options_of(started)
        return Looked(given, made, rows, place, difference, words, started, shown)

    def apply(self, inspected: Inspected, wishes: Wishes, warn: Warn) -> Looked:
        """Migrate; returns what there was to do. Raises `InputError` for what forbids it."""
        with self._store.held():
            looked = self.look(inspected, wishes)
            given, made = looked.given, looked.plan
            if made.problems:
                raise InputError(made.problems)
            warn(self._engine.shortcomings(given.host))
            check_forwarding(given.host, self._target.netns)
            if wishes.write:
                wishes.configuration.check_writable()
            if made.carried:
                self._rules.check(commands(self._target.table, made.carried))
            record = self._begun(looked)
            record = self._carry(record, looked)  # first: what they accept is never dropped by ours
            self._align(given, made)
            self._bring_in(given.host, warn)
            self._take_out(replace(given, record=record), made)
            if wishes.write:
                record = self._switch_off(record, wishes.configuration)
            if record is not None:
                self._store.keep(replace(record, finished=True))
        return looked

    def _begun(self, looked: Looked) -> Record | None:
        """The record of what is there, before anything is changed; None if nothing is to be."""
        given, made, old = looked.given, looked.plan, looked.given.record
        if not made:
            return old
        document: Mapping[str, Any] = config.host_to_data(given.host)
        again = old is not None and not (old.finished and (made.out or made.nft))
        record = old if old is not None and again else Record(given.backend, document)
        saved = dict(self._saved(looked, record))
        # rules of then are those of the host of then
        anew = record.sites.keys() <= saved.keys() and record.nft.keys() <= given.found.nft.keys()
        record = replace(
            record,
            backend=given.backend,
            host=document if anew else record.host,
            sites={**record.sites, **saved},
            nft={**record.nft, **given.found.nft},
            finished=False,
            existed=old.existed if old else None,
            file=old.file if old else None,
        )
        if made.carried:
            number = sum(1 for one in made.carried for _ in one.rules())
            chains = tuple(dict.fromkeys(c for one in made.carried for c in one.below))
            record = replace(record, carried=number, chains=chains, rules=None)
        self._store.keep(record)
        return record

    @staticmethod
    def _saved(looked: Looked, record: Record) -> Iterator[tuple[Site, Saved]]:
        """What is to be kept of iptables: where the record has nothing, and where Docker is whole.

        Where Docker's tables become ours, it may have had rules in one family only.
        """
        given, made = looked.given, looked.plan
        shared = [site for site in given.found.sites if made.adopted and given.ours(site)]
        for site in (*shared, *(out.site for out in made.out)):
            tables = given.found.sites[site]
            if site not in record.sites or (is_present(tables) and not given.ours(site)):
                yield (
                    site,
                    Saved(
                        tables, take_back=forward_of(given, given.theirs, site, tables).take_back
                    ),
                )

    def _align(self, given: Given, made: Plan) -> None:
        """Where Docker's tables become ours: let no translation go that comes again."""
        for site, _ in made.adopted:
            wanted = translating(given.host, site.family)
            self._rules.change(site, "nat", partial(alignment_script, wanted=wanted))

    def _bring_in(self, host: Host, warn: Warn) -> None:
        with around(self._target, self._engine.known, host) as beside:
            warn(beside.warnings)
            done = self._engine.apply(host)
        warn(switch.turned_on() for switch in done.forwarding)

    def _carry(self, record: Record | None, looked: Looked) -> Record | None:
        """Put the user's rules in, unless a run that was cut off has done it."""
        if record is None or not looked.plan.carried:
            return record
        there = self._rules.users(record.chains)
        if not there:
            self._rules.commit(commands(self._target.table, looked.plan.carried))
            there = self._rules.users(record.chains)
        elif len(there) != record.carried:
            message = "was changed while a migration was cut off"
            hint = "see that it has what you want, or is empty; and run this again"
            raise InputError((Problem("DOCKER-USER", message, hint),))
        record = replace(record, rules=json.dumps(there))
        self._store.keep(record)
        return record

    def _take_out(self, given: Given, made: Plan) -> None:
        for _ in range(_ROUNDS):
            for out in made.out:
                for name in TABLES:
                    if name in out.tables:
                        self._empty(given, out.site, name)
            if made.nft:
                self._rules.delete_nft(made.nft)
            found = self._rules.found()
            made = plan(replace(given, found=found))
            if not (made.out or made.nft):
                return
        left = ", ".join([*(str(out.site) for out in made.out), *made.nft])
        message = f"ours are in, but Docker puts its rules in again as they go out: {left}"
        hint = "run this again when no container is being started"
        raise PartlyAppliedError(f"{message}\n    hint: {hint}")

    def _empty(self, given: Given, site: Site, name: str) -> None:
        """Take Docker's part out of one table, told from it as it is under the lock."""
        theirs, staying = given.theirs, given.staying(site, name)
        forward = forward_of(given, theirs, site, given.found.sites[site])
        if name == "filter" and forward.accepts is not None:
            Places.at(self._target).add(site)

        def script(table: Table) -> str:
            if name == "filter" and not given.ours(site):
                self._check_users(site, given.found.sites[site].get(name, EMPTY), table)
            return removal_script(
                name, table, removal(name, table, theirs, forward, staying), site.variant
            )

        try:
            self._rules.change(site, name, script)
        except KernelRefusedError as error:
            message = f"ours are in, but Docker's rules stay in {name} of {site}: {error}"
            raise PartlyAppliedError(message) from error

    @staticmethod
    def _check_users(site: Site, before: Table, now: Table) -> None:
        """Nobody has carried over what came to DOCKER-USER since it was read."""
        if changed(before, now):
            message = f"ours are in, but {DOCKER_USER} of {site} was changed meanwhile"
            raise PartlyAppliedError(f"{message}; Docker's rules stay there\n    hint: {_AGAIN}")

    def _switch_off(self, record: Record | None, configuration: Configuration) -> Record | None:
        existed = configuration.text() is not None
        if record is not None and record.existed is None:
            record = replace(record, existed=existed, file=str(configuration.path.absolute()))
            self._store.keep(record)
        configuration.switch_off()
        return record


def _misnamed(made: Plan) -> Iterator[Problem]:
    """Chains that nobody could load again from what nft lists."""
    for name in unreadable(dict.fromkeys(chain for one in made.carried for chain in one.below)):
        message = "cannot be carried over: nft lists that name, but does not read it"
        yield Problem(f"chain {name}", message, f"rename it, e.g. iptables -E {name} my-{name}")


def _unstartable(inspected: Inspected) -> Iterator[Problem]:
    """What dockerd refuses to start with when its firewall is off."""
    for network in inspected.networks:
        if network.links:
            message = "Docker does not start when both icc and iptables are false"
            hint = (
                "take icc out of its configuration, and put containers that shall be apart into a"
                " network made with -o com.docker.network.bridge.enable_icc=false"
            )
            yield Problem(f"network {network.name}", message, hint)


def _about_daemon(wishes: Wishes) -> Iterator[Problem]:
    """What the daemon's command line has to do with its file."""
    yield from wishes.configuration.elsewhere()
    if not wishes.write:
        yield from wishes.configuration.insisting()


def _daemon_options(
    wishes: Wishes, text: str, found: Found, record: Record | None
) -> DaemonOptions:
    """What the daemon was started with, as its rules show where nothing says it.

    What the user says comes first, then its command line, then its file. When its rules are gone it
    is as it was while they were there.
    """
    configuration = wishes.configuration
    said = {**options_in(text, str(configuration.path)), **configuration.started.flags}
    then = DaemonOptions()
    if record is not None:
        host = config.host_from_data(record.host)
        then = DaemonOptions(host.userland_proxy, host.allow_direct_routing)
    # with a firewall of its own, Docker tells of its default bridge's masquerading as it is
    masq = False if said.get("iptables") is not False and _is_on(found) else None
    shown = DaemonOptions(_proxy_of(found), ip_masq=masq)
    written = DaemonOptions(
        *(_flag(said.get(name)) for name in ("userland-proxy", "allow-direct-routing", "ip-masq"))
    )
    known = options_of(configuration.started)  # with Docker's defaults
    return wishes.daemon.otherwise(written).otherwise(shown).otherwise(then).otherwise(known)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _is_on(found: Found) -> bool:
    return bool(found.nft) or any(is_present(tables) for tables in found.sites.values())


def _proxy_of(found: Found) -> bool | None:
    """With a proxy the host's own connections to loopback are not translated."""
    lines = [
        line
        for tables in found.sites.values()
        for line in tables.get("nat", EMPTY).lines("OUTPUT")
        if line.endswith("-m addrtype --dst-type LOCAL -j DOCKER")
    ]
    return any(line.startswith("! -d") for line in lines) if lines else None
