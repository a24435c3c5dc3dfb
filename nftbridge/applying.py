"""Everything that an apply is: the rules, other firewalls beside them, the kernel's switches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nftbridge.choice import Target
from nftbridge.config import Source
from nftbridge.deployment import Deployment
from nftbridge.effects import check_forwarding
from nftbridge.engine import Engine, state_of
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.firewalld import presence
from nftbridge.model import Host
from nftbridge.plan import Plan

if TYPE_CHECKING:  # not every apply gets that far
    from nftbridge.beside import Beside

Warn: TypeAlias = Callable[[Iterable[Problem]], None]
"""Takes warnings as soon as they come up: an error may follow."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done: by whom, to the rules, and to others beside them (None: not asked)."""

    engine: Engine
    plan: Plan
    beside: Beside | None = None

    def __bool__(self) -> bool:
        return bool(self.plan or self.beside)


def apply(
    source: Source, target: Target, wanted: str, warn: Warn, confirm: float | None = None
) -> Applied:
    """Bring the kernel, and other firewalls beside us, to what `source` declares.

    `wanted` is the backend as `choice.choose` takes it; with `confirm` it is undone after so many
    seconds unless it is confirmed. Raises what an apply can raise.
    """
    done = None if confirm else _in_passing(source, target, wanted)
    return _wholly(source, target, wanted, warn, confirm) if done is None else done


def bring(host: Host, target: Target, wanted: str, warn: Warn) -> Applied:
    """`apply` for a host that nobody has written down."""
    engine = Deployment.to_apply(target, wanted)
    return _around(lambda _: engine.apply(host), host, engine, target, warn)


def check(host: Host, target: Target, wanted: str) -> None:
    """Raise what would keep an apply of `host` from being tried: a protection that is missing."""
    Engine.to_apply(target, wanted).shortcomings(host)
    check_forwarding(host, target.netns)


def restore(target: Target, *, with_others: bool) -> Applied | None:
    """Bring the kernel, and other firewalls beside us, back to what was last applied.

    None, and nothing was done, if nothing is on record, or a remove. Without the others no time is
    lost with asking them: firewalld may be busy starting, while our table is gone.
    """
    engine = Engine.to_restore(target)
    host = None if engine is None else engine.last_applied()
    if engine is None or host is None:
        return None
    if not with_others:
        plan = engine.restore()
        return None if plan is None else Applied(engine, plan)
    from nftbridge.beside import around

    with around(target, engine.known, host) as beside:
        plan = engine.restore()
    return None if plan is None else Applied(engine, plan, beside)


def _in_passing(source: Source, target: Target, wanted: str) -> Applied | None:
    """What was done, if that could be told without reading all of the files."""
    if presence.is_running() or state_of(target).accepting():
        return None
    try:
        engine = Engine.of_record(target, wanted)
        done = None if engine is None else engine.apply_source(source)
    except (InputError, UnavailableError):
        return None  # what is wrong with the files is said first
    return None if engine is None or done is None else Applied(engine, done)


def _wholly(
    source: Source, target: Target, wanted: str, warn: Warn, confirm: float | None
) -> Applied:
    loaded = source.load()
    warn(loaded.warnings)
    vouched = source.unvouched() if loaded.warnings else source

    def rules(engine: Deployment) -> Plan:
        if not confirm:
            return engine.apply(loaded.host, vouched)
        from nftbridge.watchdog import watching

        with watching(target) as watchdog:
            return engine.try_out(loaded.host, confirm, watchdog, vouched)

    return _around(rules, loaded.host, Deployment.to_apply(target, wanted), target, warn)


def _around(
    rules: Callable[[Deployment], Plan], host: Host, engine: Deployment, target: Target, warn: Warn
) -> Applied:
    """What comes before and after the rules."""
    warn(engine.shortcomings(host))
    check_forwarding(host, target.netns)
    from nftbridge.beside import around

    with around(target, engine.known, host) as beside:
        warn(beside.warnings)
        done = rules(engine)
    warn(switch.turned_on() for switch in done.forwarding)
    return Applied(engine, done, beside)
