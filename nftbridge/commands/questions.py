"""Commands that answer questions about packets, the kernel and the host, and change nothing."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from nftbridge.commands.common import (
    CHANGES,
    engine_of_last_apply,
    load,
    print_json,
    print_lines,
    style,
    target,
    warn,
)
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.model import Host

if TYPE_CHECKING:  # imported only by the functions that need them
    from nftbridge.explain.question import Question, Typed
    from nftbridge.explain.way import Way

DISAGREEMENT = 70
"""Exit status of a demo in which a packet did not fare as the evaluator says (EX_SOFTWARE)."""


def explain(options: Namespace) -> int:
    """Follow a packet hook by hook: which rule decides, and why."""
    from nftbridge.explain.question import Typed, read
    from nftbridge.explain.show import lines, to_data

    host = load(options) if options.file else None
    typed = Typed(
        options.iif,
        options.source,
        options.destination,
        options.protocol,
        options.dport,
        options.out,
        tuple(options.host_address),
    )
    way = _way(options, read(typed), host)
    warn(way.warnings)
    if options.json:
        print_json(to_data(way))
    else:
        print_lines(lines(way, style()))
    return 0


def doctor(options: Namespace) -> int:
    """Say what else on this host kills or leaks traffic, and what mends it."""
    from nftbridge.doctor.run import run
    from nftbridge.doctor.show import lines, to_data, way_data, way_lines

    question = _flow(options)
    declared = (load(options), str(options.file)) if options.file else None
    found = run(target(options), engine_of_last_apply(options), declared, question)
    if options.json:
        data = to_data(found.facts, found.findings)
        if found.asked is not None:
            data |= way_data(found.asked, found.met, found.assumed)
        print_json(data)
    else:
        if found.asked is not None:
            print_lines(way_lines(found.asked, found.met, found.assumed, style()))
        print_lines(lines(found.facts, found.findings, style()))
    return CHANGES if found.wrong else 0


def probe(options: Namespace) -> int:
    """Try what this kernel and its programs offer."""
    from nftbridge.probe.run import probe as try_everything
    from nftbridge.probe.show import lines, to_data

    found = try_everything()
    if options.json:
        print_json(to_data(found))
    else:
        print_lines(lines(found, style()))
    if found.obstacle is None:
        return 0
    unavailable = UnavailableError(found.obstacle.message, hint=found.obstacle.hint)
    # said here, not raised: with --json there is an answer on standard output already
    print(f"nftbridge: {unavailable}", file=sys.stderr)
    return unavailable.exit_status


def demo(options: Namespace) -> int:
    """Show it in throw-away network namespaces."""
    from nftbridge.demo import lines, run, to_data

    shown = run()
    if options.json:
        print_json(to_data(shown))
    else:
        print_lines(lines(shown, style()))
    return 0 if shown.as_expected else DISAGREEMENT


def _way(options: Namespace, question: Question, host: Host | None) -> Way:
    if options.live:
        from nftbridge.explain.live import follow_live

        engine = engine_of_last_apply(options)
        return follow_live(question, target(options), engine, host)
    if host is None:
        problem = Problem("FILE", "is missing", "give a host file, or --live to ask the kernel")
        raise InputError((problem,))
    from nftbridge.explain.way import follow
    from nftbridge.mirrored import settled

    return follow(settled(host, options.netns), question)


def _flow(options: Namespace) -> Typed | None:
    """The packet that doctor is asked about; None if it is asked about everything."""
    from nftbridge.explain.question import Typed

    iif, source, destination = options.iif, options.source, options.destination
    if not any((iif, source, destination, options.protocol, options.dport, options.out)):
        return None
    if not iif or not destination:
        hint = "give --in and --dst at least, or nothing of it"
        raise InputError((Problem("", "a packet is asked about in part", hint),))
    others = (options.protocol or "", options.dport, options.out)
    return Typed(iif, source or "", destination, *others)
