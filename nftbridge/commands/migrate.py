"""The command that goes over from a container engine's own firewall, and back."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING

from nftbridge.commands.common import CHANGES, print_json, print_lines, style, target, wanted, warn
from nftbridge.errors import InputError, Problem, UnavailableError

if TYPE_CHECKING:  # imported only by the functions that need them
    from nftbridge.docker.host import Inspected
    from nftbridge.docker.source import Named


def migrate(options: Namespace) -> int:
    """Go over from Docker's own firewall, and back."""
    from nftbridge.docker.host import DaemonOptions
    from nftbridge.docker.source import Named, gathered, started
    from nftbridge.migrate import show
    from nftbridge.migrate.configuration import Configuration
    from nftbridge.migrate.forward import Policy
    from nftbridge.migrate.run import Migration, Wishes

    _check(options)
    named = Named(options.docker, options.folder, options.networks, options.containers)
    if options.undo:
        return _undo(options, named)
    inspected, _ = gathered(named, os.environ)
    configuration = Configuration.chosen(options.daemon_json, started(named, os.environ))
    daemon = DaemonOptions(options.userland_proxy, options.allow_direct_routing, options.ip_masq)
    wishes = Wishes(Policy(options.forward_policy), configuration, daemon, options.write)
    migration = Migration(target(options), wanted(options))
    if options.apply:
        looked = migration.apply(inspected, wishes, warn)
    else:
        looked = migration.look(inspected, wishes)
    warn(looked.plan.remarks)
    if options.json:
        if not looked.plan.problems:  # the error is one document
            print_json(show.data(looked, done=options.apply, written=options.write))
    else:
        print_lines(show.lines(looked, style(), done=options.apply, written=options.write))
    if looked.plan.problems:
        raise InputError(looked.plan.problems)
    if options.apply:
        if looked and not options.json:
            print_lines(f"next: {step}" for step in show.afterwards(looked, written=options.write))
        return 0
    return CHANGES if looked else 0


def _check(options: Namespace) -> None:
    if options.undo and (options.apply or options.write):
        problem = Problem("--undo", "goes back by itself", "leave --apply and --write out")
        raise InputError((problem,))
    if options.write and not options.apply:
        message = "without nftbridge's rules Docker's firewall must not be off"
        raise InputError((Problem("--write", message, "give --apply, too"),))


def _undo(options: Namespace, named: Named) -> int:
    from nftbridge.docker.source import started
    from nftbridge.migrate import show
    from nftbridge.migrate.configuration import Configuration
    from nftbridge.migrate.undo import Undoing

    told = _told(named)
    configuration = Configuration.chosen(options.daemon_json, started(named, os.environ))
    done = Undoing(target(options), configuration).run(told)
    if options.json:
        print_json(asdict(done))
    else:
        print_lines(show.undone(done))
    return 0


def _told(named: Named) -> Inspected | None:
    """What Docker says there is now; None, with a warning, if nobody has said where to ask it."""
    from nftbridge.docker.source import Named, gathered

    try:
        return gathered(named, os.environ)[0]
    except UnavailableError:
        if named != Named():
            raise
        message = "Docker cannot be asked whether its containers are those of then"
        hint = "--docker names its socket; it makes its rules anew when it starts"
        warn((Problem("--undo", message, hint),))
        return None
