"""Commands about what the kernel holds: to compare it, to change it, to show it."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nftbridge import config
from nftbridge.commands.common import (
    CHANGES,
    engine_of_last_apply,
    load,
    of_others,
    print_json,
    print_lines,
    style,
    target,
    wanted,
    warn,
    warn_of_plan,
    warned_of_trial,
)
from nftbridge.errors import InputError, UnavailableError

if TYPE_CHECKING:  # imported only by the functions that need them
    from nftbridge.applying import Applied
    from nftbridge.engine import Engine

_NOTHING = "nothing to do: {} is as {} declares it"


def plan(options: Namespace) -> int:
    """Show what apply would change."""
    from nftbridge.beside import steps
    from nftbridge.report import plan_data, plan_text, trial_data

    host = load(options)
    engine = _engine(options)
    warn(engine.shortcomings(host))
    trial = warned_of_trial(engine)
    planned, beside = engine.plan(host), steps(target(options), engine.known, host)
    warn(beside.warnings)
    if options.json:
        changes = {"changes": bool(planned or beside), **beside.lines()}
        print_json(plan_data(planned) | changes | {"trial": trial_data(trial)})
    else:
        print_lines(plan_text(planned, style()))
        print_lines(of_others(beside))
    return CHANGES if planned or beside or trial else 0


def apply(options: Namespace) -> int:
    """Bring the kernel to the host file in one transaction."""
    source = config.read(options.file, sys.stdin)
    if _stands(source, options):
        if not options.if_changed:
            print(_NOTHING.format(f"table inet {options.table}", options.file))
        return 0
    from nftbridge import applying

    done = applying.apply(source, target(options), wanted(options), warn, options.confirm)
    if options.if_changed and not done and done.engine.trial() is None:
        return 0
    if options.json:
        print_json(_applied_data(done))
    else:
        print_lines(_applied_text(done, options))
    warn_of_plan(done.plan)
    return 0


def verify(options: Namespace) -> int:
    """Compare the kernel with what was last applied."""
    from nftbridge.report import plan_data, plan_text, summary, trial_data

    engine, _ = engine_of_last_apply(options)
    drift = engine.verify()
    trial = warned_of_trial(engine)
    if options.json:
        print_json(plan_data(drift) | {"trial": trial_data(trial)})
    elif options.quiet:
        if drift:
            print(f"{engine.place} is not as last applied: {summary(drift)} would mend it")
    elif drift:
        print("the kernel is not as last applied; this would mend it:")
        print_lines(plan_text(drift, style()))
    else:
        print(f"{engine.place} is as last applied")
    forsaken = trial is not None and not trial.guarded()
    return CHANGES if drift or forsaken else 0


def status(options: Namespace) -> int:
    """Show networks, ports, counters and the backend."""
    from nftbridge.report import status_data, status_text

    engine, choice = engine_of_last_apply(options)
    found = engine.status()
    if options.json:
        print_json(status_data(found, choice))
    else:
        print_lines(status_text(found, choice, target(options), style()))
    return 0


def remove(options: Namespace) -> int:
    """Take out all that is ours."""
    from nftbridge.beside import around, leave

    engine, _ = engine_of_last_apply(options)
    with around(target(options), engine.known, None) as beside:
        removal = engine.remove(everything=options.all)
    if options.all:
        leave(target(options))
    if options.json:
        print_json({"present": removal.present, "kept": list(removal.kept)})
    elif not removal.present:
        print(f"nothing to do: nothing of ours is in {engine.place}")
    else:
        kept = f"; kept {', '.join(removal.kept)}" if removal.kept else ""
        print(f"removed all that is ours from {engine.place}{kept}")
    if not options.json:
        print_lines(of_others(beside))
    return 0


def _engine(options: Namespace) -> Engine:
    from nftbridge.engine import Engine

    return Engine.to_apply(target(options), wanted(options))


def _stands(source: config.Source, options: Namespace) -> bool:
    if options.json or options.confirm or wanted(options) not in ("auto", "nftables"):
        return False
    from nftbridge.firewalld.presence import is_running
    from nftbridge.standing import stands

    try:
        return not is_running() and stands(source, options.state_dir, options.table, options.netns)
    except (InputError, UnavailableError):
        return False  # what is wrong with the files is said first


def _applied_data(done: Applied) -> dict[str, object]:
    from nftbridge.report import plan_data, trial_data

    return plan_data(done.plan) | {
        "changes": bool(done),
        **(done.beside.lines() if done.beside else {"firewalld": [], "iptables": []}),
        "trial": trial_data(done.engine.trial()),
        "connections_ended": done.plan.ended,
        "lost": done.plan.lost,
    }


def _applied_text(done: Applied, options: Namespace) -> Iterator[str]:
    from nftbridge.report import ended, summary

    if done.plan:
        yield f"applied to {done.engine.place}: {summary(done.plan)}"
    else:
        yield _NOTHING.format(done.engine.place, options.file)
    if (trial := done.engine.trial()) is not None:
        yield str(trial)
    yield from of_others(done.beside)
    if done.plan.ended:
        yield ended(done.plan)
    for phrase in done.plan.kept:
        yield f"left behind by the other backend: {phrase}"
