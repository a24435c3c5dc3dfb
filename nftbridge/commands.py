"""One function per command. Each imports what it needs when it runs, since start-up counts."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from nftbridge import config
from nftbridge.errors import Problem, UnavailableError
from nftbridge.model import Host

if TYPE_CHECKING:  # these are imported only by the commands that need them
    from nftbridge.engine import Engine, Target
    from nftbridge.report import Style

CHANGES = 2
"""Exit status of plan and verify when there is a difference."""


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
    from nftbridge.nft import document, lower, text
    from nftbridge.policy.derive import derive

    if options.format == "restore":
        raise UnavailableError(
            "the iptables backend is not built yet", hint="use --format nft or json"
        )
    rows = lower.rows_in_kernel(derive(settled(_load(options))))
    if options.format == "nft":
        print(text.script(options.table, rows), end="")
    else:
        print(document.pretty(document.install(options.table, rows)))
    return 0


def plan(options: Namespace) -> int:
    """Show what apply would change."""
    from nftbridge.report import plan_data, plan_text

    host = _load(options)
    engine = _engine(options)
    _warn(engine.shortcomings(host))
    planned = engine.plan(host)
    if options.json:
        _print_json(plan_data(planned))
    else:
        _print_lines(plan_text(planned, _style()))
    return CHANGES if planned else 0


def apply(options: Namespace) -> int:
    """Bring the kernel to the host file in one transaction."""
    from nftbridge.report import plan_data, summary

    host = _load(options)
    engine = _engine(options)
    _warn(engine.shortcomings(host))
    done = engine.apply(host)
    if options.json:
        _print_json(plan_data(done))
    elif done:
        print(f"applied to inet {options.table}: {summary(done)}")
    else:
        print(f"nothing to do: inet {options.table} is as {options.file} declares it")
    return 0


def verify(options: Namespace) -> int:
    """Compare the kernel with what was last applied."""
    from nftbridge.report import plan_data, plan_text

    drift = _engine(options).verify()
    if options.json:
        _print_json(plan_data(drift))
    elif drift:
        print("the kernel is not as last applied; this would mend it:")
        _print_lines(plan_text(drift, _style()))
    else:
        print(f"inet {options.table} is as last applied")
    return CHANGES if drift else 0


def status(options: Namespace) -> int:
    """Show networks, ports, counters and the backend."""
    from nftbridge.engine import Engine, choose
    from nftbridge.report import status_data, status_text

    target = _target(options)
    choice = choose(options.backend, target)
    found = Engine(target, choice.backend).status()
    if options.json:
        _print_json(status_data(found, choice, target))
    else:
        _print_lines(status_text(found, choice, target, _style()))
    return 0


def remove(options: Namespace) -> int:
    """Take out all that is ours."""
    removal = _engine(options).remove(everything=options.all)
    if options.json:
        _print_json({"present": removal.present, "kept": list(removal.kept)})
    elif not removal.present:
        print(f"nothing to do: there is no table inet {options.table}")
    elif removal.kept:
        print(f"removed all that is ours from inet {options.table}; kept {', '.join(removal.kept)}")
    else:
        print(f"removed table inet {options.table}")
    return 0


def demo(options: Namespace) -> int:
    """Show it in throw-away network namespaces."""
    from nftbridge.demo import lines, run, to_data

    shown = run()
    if options.json:
        _print_json(to_data(shown))
    else:
        _print_lines(lines(shown, _style()))
    return 0 if shown.as_expected else 1


HANDLERS: dict[str, Callable[[Namespace], int]] = {
    handler.__name__: handler
    for handler in (check, render, plan, apply, verify, status, remove, demo)
}
"""By the command's name."""


def _load(options: Namespace) -> Host:
    loaded = config.load(options.file, sys.stdin)
    _warn(loaded.warnings)
    return loaded.host


def _warn(warnings: Iterable[Problem]) -> None:
    for warning in warnings:
        print(f"nftbridge: warning: {warning}", file=sys.stderr)


def _target(options: Namespace) -> Target:
    from nftbridge.engine import Target

    return Target(options.table, options.netns, options.state_dir)


def _engine(options: Namespace) -> Engine:
    from nftbridge.engine import Engine, choose

    target = _target(options)
    return Engine(target, choose(options.backend, target).backend)


def _style() -> Style:
    from nftbridge.report import Style

    return Style(sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def _print_json(data: object) -> None:
    print(json.dumps(data, indent=2))
