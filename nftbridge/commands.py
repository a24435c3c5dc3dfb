"""One function per command. Each imports what it needs when it runs, since start-up counts."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from nftbridge import config
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.model import Family, Host

if TYPE_CHECKING:  # these are imported only by the commands that need them
    from nftbridge.applying import Applied
    from nftbridge.choice import Choice, Target
    from nftbridge.engine import Engine
    from nftbridge.explain.question import Question
    from nftbridge.explain.way import Way
    from nftbridge.firewalld import Steps
    from nftbridge.history import Kept
    from nftbridge.migrate.configuration import Configuration
    from nftbridge.past import Past
    from nftbridge.plan import Plan
    from nftbridge.style import Style

CHANGES = 2
"""Exit status of plan and verify when there is a difference."""


_NOTHING = "nothing to do: {} is as {} declares it"

DISAGREEMENT = 70
"""Exit status of a demo in which a packet did not fare as the evaluator says (EX_SOFTWARE)."""


def check(options: Namespace) -> int:
    """Validate a host file."""
    host = _load(options)
    if options.json:
        _print_json({"valid": True})
    else:
        print(f"{options.file}: {host.summary()}")
    return 0


def render(options: Namespace) -> int:
    """Print what would be loaded, without looking at any kernel."""
    from nftbridge.engine import settled

    print(_rendered(settled(_load(options)), options), end="")
    return 0


def plan(options: Namespace) -> int:
    """Show what apply would change."""
    from nftbridge import firewalld
    from nftbridge.report import plan_data, plan_text

    host = _load(options)
    engine = _engine(options)
    _warn(engine.shortcomings(host))
    _warn_of_trial(engine)
    planned, beside = engine.plan(host), firewalld.steps(options.netns, engine.known, host)
    _warn(beside.warnings)
    if options.json:
        changes = {"changes": bool(planned or beside), "firewalld": list(beside.lines())}
        _print_json(plan_data(planned) | changes)
    else:
        _print_lines(plan_text(planned, _style()))
        _print_lines(_of_firewalld(beside))
    return CHANGES if planned or beside else 0


def apply(options: Namespace) -> int:
    """Bring the kernel to the host file in one transaction."""
    source = config.read(options.file, sys.stdin)
    if _stands(source, options):
        if not options.if_changed:
            print(_NOTHING.format(f"table inet {options.table}", options.file))
        return 0
    from nftbridge import applying

    done = applying.apply(source, _target(options), _wanted(options), _warn, options.confirm)
    if options.if_changed and not done:
        return 0
    if options.json:
        _print_json(_applied_data(done))
    else:
        _print_lines(_applied_text(done, options))
    _warn_of_plan(done.plan)
    return 0


def _applied_data(done: Applied) -> dict[str, object]:
    from nftbridge.report import plan_data, trial_data

    return plan_data(done.plan) | {
        "changes": bool(done),
        "firewalld": list(done.beside.lines()),
        "trial": trial_data(done.engine.trial()),
        "connections_ended": done.plan.ended,
    }


def _applied_text(done: Applied, options: Namespace) -> Iterator[str]:
    from nftbridge.report import ended, summary

    if done.plan:
        yield f"applied to {done.engine.place}: {summary(done.plan)}"
    else:
        yield _NOTHING.format(done.engine.place, options.file)
    if (trial := done.engine.trial()) is not None:
        yield str(trial)
    yield from _of_firewalld(done.beside)
    if done.plan.ended:
        yield ended(done.plan)
    for phrase in done.plan.kept:
        yield f"left behind by the other backend: {phrase}"


def _warn_of_plan(done: Plan) -> None:
    from nftbridge.report import unended

    if done.retried:
        print(f"nftbridge: warning: {done.retried}, so all was put in anew", file=sys.stderr)
    if done.unended:
        print(f"nftbridge: warning: {unended(done)}", file=sys.stderr)


def verify(options: Namespace) -> int:
    """Compare the kernel with what was last applied."""
    from nftbridge.report import plan_data, plan_text, summary

    engine, _ = _engine_of_last_apply(options)
    drift = engine.verify()
    _warn_of_trial(engine)
    if options.json:
        _print_json(plan_data(drift))
    elif options.quiet:
        if drift:
            print(f"{engine.place} is not as last applied: {summary(drift)} would mend it")
    elif drift:
        print("the kernel is not as last applied; this would mend it:")
        _print_lines(plan_text(drift, _style()))
    else:
        print(f"{engine.place} is as last applied")
    return CHANGES if drift else 0


def status(options: Namespace) -> int:
    """Show networks, ports, counters and the backend."""
    from nftbridge.report import status_data, status_text

    engine, choice = _engine_of_last_apply(options)
    found = engine.status()
    if options.json:
        _print_json(status_data(found, choice))
    else:
        _print_lines(status_text(found, choice, _target(options), _style()))
    return 0


def explain(options: Namespace) -> int:
    """Follow a packet hook by hook: which rule decides, and why."""
    from nftbridge.explain.question import Typed, read
    from nftbridge.explain.show import lines, to_data

    host = _load(options) if options.file else None
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
    _warn(way.warnings)
    if options.json:
        _print_json(to_data(way))
    else:
        _print_lines(lines(way, _style()))
    return 0


def remove(options: Namespace) -> int:
    """Take out all that is ours."""
    from nftbridge import firewalld

    engine, _ = _engine_of_last_apply(options)
    with firewalld.around(options.netns, engine.known, None) as beside:
        removal = engine.remove(everything=options.all)
    if options.json:
        _print_json({"present": removal.present, "kept": list(removal.kept)})
    elif not removal.present:
        print(f"nothing to do: nothing of ours is in {engine.place}")
    else:
        kept = f"; kept {', '.join(removal.kept)}" if removal.kept else ""
        print(f"removed all that is ours from {engine.place}{kept}")
    if not options.json:
        _print_lines(_of_firewalld(beside))
    return 0


def snippet(options: Namespace) -> int:
    """Print lines with which another firewall lets pass what nftbridge accepts."""
    from nftbridge.snippet import lines

    host = _load(options) if options.file else _last_applied(options)
    found = list(lines(host, options.firewall))
    if options.json:
        _print_json({"for": options.firewall, "lines": found})
    else:
        _print_lines(found)
    return 0


def probe(options: Namespace) -> int:
    """Try what this kernel and its programs offer."""
    from nftbridge.probe.run import probe as try_everything
    from nftbridge.probe.show import lines, to_data

    found = try_everything()
    if options.json:
        _print_json(to_data(found))
    else:
        _print_lines(lines(found, _style()))
    if found.obstacle is None:
        return 0
    unavailable = UnavailableError(found.obstacle.message, hint=found.obstacle.hint)
    # said here, not raised: with --json there is an answer on standard output already
    print(f"nftbridge: {unavailable}", file=sys.stderr)
    return unavailable.exit_status


def doctor(options: Namespace) -> int:
    """Say what else on this host kills or leaks traffic, and what mends it."""
    from nftbridge.doctor.run import run
    from nftbridge.doctor.show import lines, to_data, way_lines

    question = _flow(options)
    declared = (_load(options), str(options.file)) if options.file else None
    found = run(_target(options), _engine_of_last_apply(options), declared, question)
    if options.json:
        asked = None if found.asked is None else (found.asked, found.met)
        _print_json(to_data(found.facts, found.findings, asked))
    else:
        if found.asked is not None:
            _print_lines(way_lines(found.asked, found.met, _style()))
        _print_lines(lines(found.facts, found.findings, _style()))
    return CHANGES if found.wrong else 0


def demo(options: Namespace) -> int:
    """Show it in throw-away network namespaces."""
    from nftbridge.demo import lines, run, to_data

    shown = run()
    if options.json:
        _print_json(to_data(shown))
    else:
        _print_lines(lines(shown, _style()))
    return 0 if shown.as_expected else DISAGREEMENT


def import_(options: Namespace) -> int:
    """Make a host file of what a container engine says."""
    from nftbridge.docker import show
    from nftbridge.docker.host import DaemonOptions, host_of
    from nftbridge.docker.source import Named, gathered

    named = Named(options.docker, options.folder, options.networks, options.containers)
    inspected, source = gathered(named, os.environ)
    found = host_of(inspected, DaemonOptions(options.userland_proxy, options.allow_direct_routing))
    _warn(found.remarks)
    as_json = options.json or options.format == "json"
    print(show.as_json(found) if as_json else show.as_toml(found, source), end="")
    return 0


def confirm(options: Namespace) -> int:
    """Keep what apply --confirm has brought."""
    from nftbridge.deployment import Deployment

    engine, _ = Deployment.of_last_apply(_target(options), _wanted(options))
    host = engine.confirm()
    if options.json:
        _print_json({"confirmed": True})
    else:
        print(f"confirmed: {host.summary() if host else 'nothing of ours'}")
    return 0


def rollback(options: Namespace) -> int:
    """Go back to what was applied before."""
    from nftbridge import firewalld
    from nftbridge.deployment import Deployment
    from nftbridge.engine import state_of
    from nftbridge.report import kept_data, kept_name, kept_text, plan_data, summary

    state = state_of(_target(options))
    if options.list:
        shown = state.kept()
        if options.json:
            _print_json(kept_data(shown))
        else:
            _print_lines(kept_text(shown))
        return 0
    kept = _way_back(state)
    engine = Deployment.to_go_back(_target(options), _wanted(options), kept)
    if kept.host is not None:
        _warn(engine.shortcomings(kept.host))
    with firewalld.around(options.netns, engine.known, kept.host) as beside:
        done = engine.go_back(kept)
    if options.json:
        _print_json(plan_data(done))
    else:
        print(f"went back to {kept_name(kept)}; {summary(done)}")
        _print_lines(_of_firewalld(beside))
    return 0


def baseline(options: Namespace) -> int:
    """Forward nothing into or out of bridges until the first apply."""
    from nftbridge.nft.baseline import load, script

    bridges = _bridges(options)
    if options.print:
        print(script(options.table, bridges), end="")
        return 0
    if options.backend == "iptables":
        hint = "give iptables-restore at boot: -A FORWARD -i BRIDGE -j DROP, -A FORWARD -o BRIDGE …"
        raise UnavailableError("a baseline that apply takes out needs nf_tables", hint=hint)
    from nftbridge.engine import state_of

    with state_of(_target(options)).locked():
        loaded = load(options.table, options.netns, bridges)
    if options.json:
        _print_json({"loaded": loaded, "bridges": bridges})
    elif loaded:
        print(f"until the first apply nothing is forwarded by {', '.join(bridges)}")
    else:
        print(f"nothing to do: the rules of an apply are in table inet {options.table}")
    return 0


def watch(options: Namespace) -> int:
    """Keep the host as declared until told to end."""
    from nftbridge.watch.service import serve

    return serve(options.file, _target(options), _wanted(options), as_json=options.json)


def units(options: Namespace) -> int:
    """Print the systemd units, or write them into a folder."""
    from nftbridge.watch.units import made, written

    if options.write is None:
        files = made(options.file)
        if options.json:
            _print_json(files)
        else:
            _print_lines(f"# {name}\n{text}" for name, text in files.items())
        return 0
    paths = written(options.write, options.file)
    if options.json:
        _print_json({"written": paths})
    else:
        _print_lines(f"written: {path}" for path in paths)
        print("next: systemctl daemon-reload && systemctl enable --now nftbridge-watch.service")
    return 0


def migrate(options: Namespace) -> int:
    """Go over from Docker's own firewall, and back."""
    from nftbridge.docker.host import DaemonOptions
    from nftbridge.docker.source import Named, gathered
    from nftbridge.migrate import show
    from nftbridge.migrate.configuration import Configuration
    from nftbridge.migrate.forward import Policy
    from nftbridge.migrate.run import Migration, Wishes

    _check_migration(options)
    configuration = Configuration(options.daemon_json)
    if options.undo:
        return _undo_migration(options, configuration)
    named = Named(options.docker, options.folder, options.networks, options.containers)
    inspected, _ = gathered(named, os.environ)
    daemon = DaemonOptions(options.userland_proxy, options.allow_direct_routing)
    wishes = Wishes(Policy(options.forward_policy), configuration, daemon, options.write)
    migration = Migration(_target(options), _wanted(options))
    if options.apply:
        looked = migration.apply(inspected, wishes, _warn)
    else:
        looked = migration.look(inspected, wishes)
    _warn(looked.plan.remarks)
    if options.json:
        _print_json(show.data(looked, done=options.apply, written=options.write))
    else:
        shown = show.lines(looked, _style(), done=options.apply, written=options.write)
        _print_lines(shown)
    if looked.plan.problems:
        raise InputError(looked.plan.problems)
    if options.apply:
        if looked and not options.json:
            _print_lines(f"next: {step}" for step in show.AFTERWARDS)
        return 0
    return CHANGES if looked else 0


def _check_migration(options: Namespace) -> None:
    if options.undo and (options.apply or options.write):
        problem = Problem("--undo", "goes back by itself", "leave --apply and --write out")
        raise InputError((problem,))
    if options.write and not options.apply:
        message = "without nftbridge's rules Docker's firewall must not be off"
        raise InputError((Problem("--write", message, "give --apply, too"),))


def _undo_migration(options: Namespace, configuration: Configuration) -> int:
    from nftbridge.migrate import show
    from nftbridge.migrate.undo import Undoing

    done = Undoing(_target(options), configuration).run()
    if options.json:
        _print_json({"sites": done.sites, "daemon_json": done.daemon_json, "kept": list(done.kept)})
    else:
        _print_lines(show.undone(done))
    return 0


HANDLERS: dict[str, Callable[[Namespace], int]] = {
    handler.__name__.removesuffix("_"): handler
    for handler in (
        *(check, render, plan, apply, verify, status, explain, remove, probe, doctor, demo),
        *(confirm, rollback, baseline),
        import_,
        snippet,
        *(watch, units),
        migrate,
    )
}
"""By the command's name."""


def _load(options: Namespace) -> Host:
    loaded = config.load(options.file, sys.stdin)
    _warn(loaded.warnings)
    return loaded.host


def _warn(warnings: Iterable[Problem]) -> None:
    for warning in warnings:
        print(f"nftbridge: warning: {warning}", file=sys.stderr)


def _rendered(host: Host, options: Namespace) -> str:
    if options.format in ("restore", "restore6"):
        from nftbridge.compat.text import script
        from nftbridge.compat.tree import LAYOUTS

        family = Family.IPV4 if options.format == "restore" else Family.IPV6
        return script(host, family, LAYOUTS[options.iptables_layout])
    from nftbridge.nft import document, lower, text

    rows, setting = lower.rows_in_kernel(host), lower.Setting.of(host)
    if options.format == "nft":
        return text.script(options.table, rows, setting)
    return document.pretty(document.install(options.table, rows, (), setting)) + "\n"


def _of_firewalld(steps: Steps) -> Iterator[str]:
    if steps:
        yield "firewalld"
        yield from (f"  {line}" for line in steps.lines())


def _target(options: Namespace) -> Target:
    from nftbridge.choice import Target

    layout = getattr(options, "iptables_layout", None)  # asked of commands that write chains
    return Target(options.table, options.netns, options.state_dir, options.wait, layout)


def _wanted(options: Namespace) -> str:
    other = options.iptables == "nft" and options.backend == "iptables"
    return "iptables-nft" if other else str(options.backend)


def _engine(options: Namespace) -> Engine:
    from nftbridge.engine import Engine

    return Engine.to_apply(_target(options), _wanted(options))


def _stands(source: config.Source, options: Namespace) -> bool:
    if options.json or options.confirm or _wanted(options) not in ("auto", "nftables"):
        return False
    from nftbridge.firewalld.presence import is_running
    from nftbridge.standing import stands

    try:
        return not is_running() and stands(source, options.state_dir, options.table, options.netns)
    except (InputError, UnavailableError):
        return False  # what is wrong with the files is said first


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


def _warn_of_trial(engine: Engine) -> None:
    """What is there now may not stay."""
    trial = engine.trial()
    if trial is not None:
        print(f"nftbridge: warning: the last apply is {trial}", file=sys.stderr)


def _bridges(options: Namespace) -> list[str]:
    """The bridges that are meant, each once."""
    networks = _load(options).networks if options.file else ()
    found = dict.fromkeys([*(network.bridge for network in networks), *options.bridge])
    if not found:
        hint = "give a host file with networks, or --bridge 'br-*'"
        raise InputError((Problem("", "there is no bridge to close", hint),))
    return list(found)


def _engine_of_last_apply(options: Namespace) -> tuple[Engine, Choice]:
    from nftbridge.engine import Engine

    return Engine.of_last_apply(_target(options), _wanted(options))


def _flow(options: Namespace) -> Question | None:
    """The packet that doctor is asked about; None if it is asked about everything."""
    from nftbridge.explain.question import Typed, read

    needed = (options.iif, options.source, options.destination, options.protocol)
    if not any((*needed, options.dport, options.out)):
        return None
    if None in needed:
        hint = "give --in, --src, --dst and --proto, or none of them"
        raise InputError((Problem("", "a packet is asked about in part", hint),))
    return read(Typed(*needed, options.dport, options.out))


def _last_applied(options: Namespace) -> Host:
    from nftbridge.engine import state_of

    applied = state_of(_target(options)).applied()
    if applied is None:
        problem = Problem("FILE", "no apply is on record", "give the host file")
        raise InputError((problem,))
    return applied


def _way(options: Namespace, question: Question, host: Host | None) -> Way:
    if options.live:
        from nftbridge.explain.live import follow_live

        engine = _engine_of_last_apply(options)
        return follow_live(question, _target(options), engine, host)
    if host is None:
        problem = Problem("FILE", "is missing", "give a host file, or --live to ask the kernel")
        raise InputError((problem,))
    from nftbridge.engine import settled
    from nftbridge.explain.way import follow

    return follow(settled(host, options.netns), question)


def _style() -> Style:
    from nftbridge.style import Style

    return Style(sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2))
