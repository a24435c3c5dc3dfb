"""Back to Docker's own rules: first these come in, then ours go out.

The rules that were saved are those of the networks and containers of then. If these are others now,
only Docker itself can make the right ones: it is restarted with its firewall on while ours are
still in force, and then ours go out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nftbridge import config
from nftbridge.accepts import Accepts
from nftbridge.choice import Target
from nftbridge.compat.tables import EMPTY, TABLES, Site, Table
from nftbridge.docker.host import DaemonOptions, Inspected, host_of
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError, Problem
from nftbridge.migrate.configuration import Configuration
from nftbridge.migrate.deleted import Deleted, deleted
from nftbridge.migrate.exchange import Restoration
from nftbridge.migrate.kernel import Found, Rules
from nftbridge.migrate.plan import VARIANTS
from nftbridge.migrate.record import Record, Saved, Store
from nftbridge.migrate.theirs import Theirs, is_present
from nftbridge.nft.document import Command
from nftbridge.nft.syntax import Json
from nftbridge.policy.rules import DOCKER_USER

_BY_HAND = "put them into iptables' DOCKER-USER by hand, take them out of ours, and run this again"


@dataclass(frozen=True, slots=True)
class Undone:
    """What was done: places whose rules came back, and whether daemon.json did.

    `kept` is what of the user's was left in our table. Of what he has deleted there since it was
    carried over, `left_out` has not come back, and `again` has. Not `on_record`: there were no
    rules to put back, after a reboot. `still_off`: daemon.json forbids Docker its firewall, or what
    is on its command line does.
    """

    sites: tuple[str, ...]
    daemon_json: bool
    kept: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    on_record: bool = True
    still_off: bool = False


class Undoing:
    """The way back in one network namespace."""

    def __init__(self, target: Target, configuration: Configuration) -> None:
        self._target = target
        self._configuration = configuration
        self._rules = Rules(target)
        self._store = Store.of(target.state_directory, target.table, target.netns)

    def run(self, told: Inspected | None) -> Undone:
        """Go back; `told` is what Docker says there is now, None if it says nothing.

        Raises `InputError` where a user's rule, or a protection, would be lost, and while a service
        puts back what goes.
        """
        with self._store.unwatched(), self._store.held():
            record = self._store.migration()
            if record is None:
                return self._without_record()
            self._check_users(record)
            lost = self._deleted(record)
            self._store.keep(replace(record, finished=False))  # whoever migrates now goes on
            if record.file is not None and not self._configuration.named:
                self._configuration = replace(self._configuration, path=Path(record.file))
            # before what may be refused: a restart of Docker, with its firewall, is what helps then
            back = self._configuration.put_back(existed=record.existed)
            found = self._rules.found()
            shared = record.backend in VARIANTS
            self._check_fitting(record, found, told, shared=shared, back=back)
            record = _less(record, lost)
            sites = [*self._bring_back(record, found, shared=shared)]
            Accepts(self._target).take_out()
            kept = self._forget() if shared else self._take_ours_out(record)
            self._store.drop()
        left_out = tuple(line for one in lost.values() for line in one.left_out)
        again = tuple(line for one in lost.values() for line in one.again)
        still_off = not self._configuration.difference()
        return Undone(tuple(sites), back, kept, left_out, again, still_off=still_off)

    def _without_record(self) -> Undone:
        """After a reboot daemon.json is all that is left to put back."""
        if self._configuration.put_back(existed=None):
            return Undone((), daemon_json=True, on_record=False)
        hint = "`nftbridge remove` takes out what is ours; a restart of Docker makes its rules anew"
        if not self._configuration.difference():
            place = f"{self._configuration.path}, or off Docker's command line"
            hint = f"take iptables and ip6tables out of {place}; {hint}"
        raise InputError((Problem("--undo", "no migration is on record", hint),))

    def _check_users(self, record: Record) -> None:
        """What was added to our DOCKER-USER since cannot be translated back."""
        if record.backend in VARIANTS:
            return
        now = self._rules.users(record.chains)
        if record.rules is None and len(now) == record.carried:
            return  # a run was cut off right after it had put them in
        carried: list[Json] = [] if record.rules is None else json.loads(record.rules)
        if all(rule in carried for rule in now):
            return
        message = "of our table has other rules than were carried over; they would be lost"
        raise InputError((Problem(DOCKER_USER, message, _BY_HAND),))

    def _deleted(self, record: Record) -> dict[Site, Deleted]:
        """What the user does not want any more of what was carried over."""
        if record.rules is None:
            return {}
        saved = {site: one.tables.get("filter", EMPTY) for site, one in record.sites.items()}
        return deleted(saved, json.loads(record.rules), self._rules.users(record.chains))

    def _check_fitting(
        self, record: Record, found: Found, told: Inspected | None, *, shared: bool, back: bool
    ) -> None:
        """Raise `InputError` if saved rules would have to come back that no longer fit.

        `back` is whether daemon.json has come back by now.
        """
        then = config.host_from_data(record.host).networks
        if told is None:
            now = state_of(self._target).applied()
            fits = now is None or now.networks == then
        else:  # whether the default bridge is masqueraded is no difference: Docker may not tell
            masq = (DaemonOptions(ip_masq=value) for value in (True, False))
            fits = any(host_of(told, options).host.networks == then for options in masq)
        if fits:
            return
        gone = [s for s in record.sites if shared or not is_present(found.sites.get(s, {}))]
        if not gone and not record.nft.keys() - found.nft.keys():
            return
        message = "networks or containers are others than when Docker's rules went out"
        if shared:
            steps = "stop Docker; `nftbridge remove`; start Docker"
        else:
            steps = "restart Docker, which makes its rules anew, and run this again"
        if back:
            message = f"{message}; {self._configuration.path} was put back, and nothing else"
        hint = f"see that {self._configuration.path} lets it have its firewall; {steps}"
        raise InputError((Problem("--undo", message, hint),))

    def _bring_back(self, record: Record, found: Found, *, shared: bool) -> Iterable[str]:
        host = config.host_from_data(record.host)
        saved = (one.tables for one in record.sites.values())
        theirs = Theirs.of(host, [*found.sites.values(), *saved])
        missing = [text for family, text in record.nft.items() if family not in found.nft]
        if missing:
            self._rules.load_nft(missing)
            yield "nftables"
        for site, one in record.sites.items():
            whole = shared or not is_present(found.sites.get(site, {}))
            changed = [self._restore(site, name, one, theirs, whole=whole) for name in _BACK]
            if any(changed):
                yield str(site)

    def _restore(self, site: Site, name: str, saved: Saved, theirs: Theirs, *, whole: bool) -> bool:
        if name != "filter" and not whole:
            return False
        was = saved.tables.get(name, EMPTY)

        def script(now: Table) -> str:
            back = Restoration(name, was, now, theirs, saved.take_back, whole)
            return back.script(site.variant)

        return self._rules.change(site, name, script)

    def _take_ours_out(self, record: Record) -> tuple[str, ...]:
        """Docker's rules decide already; what was carried over is in force there."""
        if there := self._rules.users(record.chains):
            # from here on they are to be carried over again
            self._store.keep(replace(record, carried=len(there), rules=None, finished=False))
            self._rules.commit(_emptied(self._target.table, record.chains))
        engine, _ = Engine.of_last_apply(self._target, "auto")
        return engine.remove(everything=False).kept

    def _forget(self) -> tuple[str, ...]:
        """The chains are Docker's again; nothing of ours is beside them."""
        state = state_of(self._target)
        with state.locked():
            state.forget()
        return ()


def _less(record: Record, lost: Mapping[Site, Deleted]) -> Record:
    """A record without what was deleted."""
    sites = dict(record.sites)
    for site, one in lost.items():
        sites[site] = replace(sites[site], tables={**sites[site].tables, "filter": one.table})
    return replace(record, sites=sites)


_BACK = tuple(reversed(TABLES))
"""filter comes last, as it went first: where it has Docker's chains, all of them are there."""


def _emptied(table: str, chains: Iterable[str]) -> list[Command]:
    spot = {"family": "inet", "table": table}
    below = list(chains)
    emptied: list[Command] = [
        {"flush": {"chain": spot | {"name": chain}}} for chain in (DOCKER_USER, *below)
    ]
    return [*emptied, *({"delete": {"chain": spot | {"name": chain}}} for chain in below)]
