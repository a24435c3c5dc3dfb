"""What a forked process does: an apply, or putting back what was applied; and what came of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

from nftbridge import applying, config
from nftbridge.choice import Target
from nftbridge.engine import state_of
from nftbridge.errors import InputError, NftbridgeError, Problem
from nftbridge.model import Host
from nftbridge.nft import lower
from nftbridge.report import summary
from nftbridge.state import code

_NEEDED = (
    "hashlib",
    "nftables",
    "nftbridge.compat.backend",
    "nftbridge.conntrack.judge",
    "nftbridge.conntrack.kernel",
    "nftbridge.nft.backend",
    "tomli",
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one piece of work, as plain data.

    `done` says what was changed, "" nothing; `place` and `backend` what was programmed, "" nothing
    is on record. `rejected` is what is wrong with the host file of that `digest`: then what was
    applied before was put back. `error` is anything else that went wrong, with its `exit_status`.
    `held` says why the host file was left alone.
    """

    done: str = ""
    place: str = ""
    backend: str = ""
    warnings: tuple[str, ...] = ()
    rejected: str = ""
    digest: str = ""
    error: str = ""
    exit_status: int = 0
    held: str = ""

    SOFTWARE_FAILURE: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h


def warm() -> None:
    """Import now what every forked process would have to import; nothing of libnftables is run."""
    for module in _NEEDED:
        with suppress(ModuleNotFoundError):  # who needs it says so, and what to install
            importlib.import_module(module)
    lower.skeleton()  # it is kept
    code()  # of these modules; newer ones on the disk do not matter to this process


def apply(file: str, target: Target, wanted: str) -> Outcome:
    """Apply the host file; if it is wrong, put back what was applied last."""
    warnings: list[Problem] = []
    digest = ""
    try:
        source = config.read(file)
        digest = source.digest()
        done = applying.apply(source, target, wanted, warnings.extend)
    except InputError as error:
        return replace(restore(target, with_firewalld=True), rejected=str(error), digest=digest)
    except NftbridgeError as error:
        return _failed(error, warnings)
    return _of(done, warnings)


def hold(target: Target, file: str, *, undone: bool) -> Outcome | None:
    """Put back what was applied last, if `file` must not be applied now; None if it may be.

    Not while an apply waits to be confirmed; nor what was undone for want of that, until the file
    says something else. `undone` tells that the trial has ended just now: if it was undone, the
    file has to change in any case.
    """
    state = state_of(target)
    trial, before = state.trial(), state.undone()
    if trial is not None:
        why = f"the last apply is {trial}"
    elif before is not None and (undone or _declares(file, before)):
        why = f"it was applied on trial and undone: change it, or `nftbridge apply {file}`"
    else:
        return None
    return replace(restore(target, with_firewalld=True), held=why)


def _declares(file: str, host: Host) -> bool:
    try:
        return config.load(file).host == host
    except InputError:
        return False


def restore(target: Target, *, with_firewalld: bool) -> Outcome:
    """Put back what was applied last, if anything was."""
    try:
        done = applying.restore(target, with_firewalld=with_firewalld)
    except NftbridgeError as error:
        return _failed(error, ())
    if done is None:
        return Outcome()
    return _of(done, () if done.beside is None else done.beside.warnings)


def _of(applied: applying.Applied, warnings: Iterable[Problem]) -> Outcome:
    plan, beside = applied.plan, applied.beside
    said = [summary(plan)] if plan else []
    said += [f"left behind by the other backend: {phrase}" for phrase in plan.kept]
    said += [f"firewalld: {line.strip()}" for line in beside.lines()] if beside else []
    retried = (f"{plan.retried}, so all was put in anew",) if plan.retried else ()
    return Outcome(
        done="; ".join(said),
        place=applied.engine.place,
        backend=applied.engine.backend,
        warnings=(*map(str, warnings), *retried),
    )


def _failed(error: NftbridgeError, warnings: Iterable[Problem]) -> Outcome:
    return Outcome(
        error=str(error), exit_status=error.exit_status, warnings=tuple(map(str, warnings))
    )
