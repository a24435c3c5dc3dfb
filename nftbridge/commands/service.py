"""Commands for a host in service: trials, the way back, boot, and the service that keeps it."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from nftbridge.commands.common import (
    docker_socket,
    load,
    of_others,
    print_json,
    print_lines,
    target,
    wanted,
    warn,
    warn_of_plan,
)
from nftbridge.errors import InputError, Problem, UnavailableError

if TYPE_CHECKING:  # imported only by the functions that need them
    from nftbridge.history import Kept
    from nftbridge.past import Past


def confirm(options: Namespace) -> int:
    """Keep what apply --confirm has brought."""
    from nftbridge.deployment import Deployment

    engine, _ = Deployment.of_last_apply(target(options), wanted(options))
    host = engine.confirm()
    if options.json:
        print_json({"confirmed": True})
    else:
        print(f"confirmed: {host.summary() if host else 'nothing of ours'}")
    return 0


def rollback(options: Namespace) -> int:
    """Go back to what was applied before."""
    from nftbridge.beside import around
    from nftbridge.deployment import Deployment
    from nftbridge.engine import state_of
    from nftbridge.report import kept_data, kept_name, kept_text, plan_data, summary

    state = state_of(target(options))
    if options.list:
        shown = state.kept()
        if options.json:
            print_json(kept_data(shown))
        else:
            print_lines(kept_text(shown))
        return 0
    kept = _way_back(state)
    engine = Deployment.to_go_back(target(options), wanted(options), kept)
    if kept.host is not None:
        warn(engine.shortcomings(kept.host))
    with around(target(options), engine.known, kept.host) as beside:
        done = engine.go_back(kept)
    warn_of_plan(done)
    if options.json:
        print_json(plan_data(done))
    else:
        print(f"went back to {kept_name(kept)}; {summary(done)}")
        print_lines(of_others(beside))
    return 0


def baseline(options: Namespace) -> int:
    """Forward nothing into or out of bridges until the first apply."""
    from nftbridge.nft.baseline import commands, script
    from nftbridge.nft.baseline import load as load_baseline
    from nftbridge.nft.document import wrap

    bridges = _bridges(options)
    if options.print and options.json:
        print_json(wrap(commands(options.table, bridges)))
        return 0
    if options.print:
        print(script(options.table, bridges), end="")
        return 0
    if options.backend == "iptables":
        hint = "give iptables-restore at boot: -A FORWARD -i BRIDGE -j DROP, -A FORWARD -o BRIDGE …"
        raise UnavailableError("a baseline that apply takes out needs nf_tables", hint=hint)
    from nftbridge.engine import state_of

    with state_of(target(options)).locked():
        loaded = load_baseline(options.table, options.netns, bridges)
    if options.json:
        print_json({"loaded": loaded, "bridges": bridges})
    elif loaded:
        print(f"until the first apply nothing is forwarded by {', '.join(bridges)}")
    else:
        print(f"nothing to do: the rules of an apply are in table inet {options.table}")
    return 0


def watch(options: Namespace) -> int:
    """Keep the host as declared until told to end."""
    from nftbridge.watch.service import serve

    docker, place, backend = docker_socket(options), target(options), wanted(options)
    return serve(options.file, place, backend, docker=docker, as_json=options.json)


def _way_back(state: Past) -> Kept:
    """What `rollback` goes back to; says what it passes over on the way."""
    from nftbridge.report import kept_name

    way_back = state.way_back()
    if way_back is None:
        hint = "`nftbridge remove` takes out what is there"
        raise InputError((Problem("", "nothing that was applied before is on record", hint),))
    for other in state.kept():
        if not other.readable and other.time > way_back.time:
            print(f"nftbridge: warning: passed over: {kept_name(other)}", file=sys.stderr)
    return way_back


def _bridges(options: Namespace) -> list[str]:
    """The bridges that are meant, each once."""
    networks = load(options).networks if options.file else ()
    found = dict.fromkeys([*(network.bridge for network in networks), *options.bridge])
    if not found:
        hint = "give a host file with networks, or --bridge 'br-*'"
        raise InputError((Problem("", "there is no bridge to close", hint),))
    return list(found)
