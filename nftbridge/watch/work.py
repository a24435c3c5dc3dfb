"""What a forked process does: an apply, or putting back what was applied; and what came of it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from nftbridge import applying, config, defaults
from nftbridge.choice import Target
from nftbridge.deployment import Deployment
from nftbridge.docker import names
from nftbridge.docker.host import (
    UNKNOWN,
    DaemonOptions,
    Inspected,
    clashes,
    empty,
    host_of,
    joined,
)
from nftbridge.docker.networks import ID_SHOWN
from nftbridge.engine import state_of
from nftbridge.errors import InputError, NftbridgeError, Problem
from nftbridge.model import Address, Family, Host, Network
from nftbridge.model.parts import Protection
from nftbridge.nft import document
from nftbridge.report import remarks, summary
from nftbridge.state import code

_NEEDED = (
    "hashlib",
    "nftables",
    "nftbridge.beside",
    "nftbridge.compat.backend",
    "nftbridge.conntrack.flows",
    "nftbridge.conntrack.judge",
    "nftbridge.conntrack.kernel",
    "nftbridge.nft.backend",
    "pyroute2",
    "tomli",
)
"""What an apply or a repair may want."""

_MUTE = "Docker's name server does not serve these containers"
_PROGRAMS = "it needs the iptables programs: install them, and restart the containers"


@dataclass(frozen=True, slots=True)
class Beside:
    """The host file beside Docker, None if there is none, and what it last held that was good."""

    file: str | None
    good: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What Docker tells, what it was started with, and what of it could not be taken in."""

    inspected: Inspected
    options: DaemonOptions
    unread: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Own:
    """The host that Docker's networks are added to, and what was said of the file it is from."""

    host: Host
    warnings: tuple[Problem, ...] = ()
    text: str = ""
    rejected: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one piece of work, as plain data.

    `done` says what was changed, "" nothing; `place` and `backend` what was programmed, "" nothing
    is on record. `rejected` is what is wrong with the host file of that `digest`: then what was
    applied before was put back. `error` is anything else that went wrong, with its `exit_status`.
    `held` says why the host file was left alone.
    `own` is what the host file beside Docker's networks holds, as JSON, to fall back on.
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
    own: str = ""

    SOFTWARE_FAILURE: ClassVar[int] = 70  # EX_SOFTWARE of sysexits.h


def warm() -> None:
    """Import now what every forked process would have to import; nothing of libnftables is run."""
    for module in _NEEDED:
        with suppress(ModuleNotFoundError):  # who needs it says so, and what to install
            importlib.import_module(module)
    list(document.install(defaults.TABLE, {}))  # what is the same for all hosts is kept
    code()  # of these modules; newer ones on the disk do not matter to this process


def apply(file: str, target: Target, wanted: str) -> Outcome:
    """Apply the host file; if it is wrong, put back what was applied last."""
    warnings: list[Problem] = []
    digest = ""
    try:
        source = _read(file)
        digest = source.digest()
        done = applying.apply(source, target, wanted, warnings.extend)
    except InputError as error:
        return replace(restore(target, with_others=True), rejected=str(error), digest=digest)
    except NftbridgeError as error:
        return _failed(error, warnings)
    return _of(done, warnings)


def hold(target: Target) -> Outcome | None:
    """Put back what was applied last, if that waits to be confirmed; None if not."""
    trial = state_of(target).trial()
    return None if trial is None else _held(target, f"the last apply is {trial}")


def outlives(target: Target, inspected: Inspected) -> bool:
    """Whether what was applied last has a container in a network of Docker's that is no more."""
    applied = state_of(target).applied()
    if applied is None or not inspected.whole:
        return False
    now = {
        network.bridge: _addresses(network) for network in host_of(inspected, UNKNOWN).host.networks
    }
    return any(_addresses(n) - now[n.bridge] for n in applied.networks if n.bridge in now)


def _addresses(network: Network) -> set[Address]:
    found = (c.address(family) for c in network.containers for family in Family)
    return {address for address in found if address is not None}


def end_trial(target: Target) -> None:
    """Let what is on trial stay, until the apply that follows."""
    with suppress(InputError):  # it has ended by itself
        Deployment.of_last_apply(target, "auto")[0].confirm()


def hold_undone(target: Target, file: str, *, ended: bool) -> Outcome | None:
    """The same if `file` says what was on trial and was undone; None if not.

    `ended` tells that the trial has ended just now: if it was undone, the file has to change in
    any case.
    """
    before = state_of(target).undone()
    if before is None or not (ended or _declares(file, before)):
        return None
    why = f"it was applied on trial and undone: change it, or `nftbridge apply {file}`"
    return _held(target, why)


def _held(target: Target, why: str) -> Outcome:
    return replace(restore(target, with_others=True), held=why)


def _declares(file: str, host: Host) -> bool:
    try:
        return _read(file).load().host == host
    except InputError:
        return False


def apply_docker(said: Said, beside: Beside, target: Target, wanted: str) -> Outcome:
    """Apply what Docker has, and the host file beside it if there is one.

    If the file is wrong, what it held before counts; if it never was right, nothing is done.
    """
    try:
        own = _own(beside, said, target, wanted)
    except NftbridgeError as error:
        if not beside.good:
            return Outcome(rejected=str(error), exit_status=error.exit_status)
        good = config.host_from_data(json.loads(beside.good))
        own = _Own(good, text=beside.good, rejected=str(error), digest=_digest(beside.file))
    joint = joined(own.host, said.inspected, said.options)
    # nobody is there to be refused: what Docker wants and the kernel cannot do is a warning
    host = replace(joint.host, accept_missing=tuple(Protection))
    warnings = [*own.warnings, *said.unread, *joint.remarks]
    if beside.file is not None:
        warnings += _contradictions(beside.file, host, said.options)
    try:
        outcome = _of(applying.bring(host, target, wanted, warnings.extend), warnings)
    except NftbridgeError as error:
        outcome = _failed(error, warnings)
    return replace(outcome, rejected=own.rejected, digest=own.digest, own=own.text)


def _contradictions(file: str, host: Host, started: DaemonOptions) -> Iterator[Problem]:
    """Where the file, whose word counts, says otherwise."""
    for name, held, value in (
        ("userland_proxy", host.userland_proxy, started.userland_proxy),
        ("allow_direct_routing", host.allow_direct_routing, started.allow_direct_routing),
    ):
        if value not in (None, held):
            says = str(value).lower()
            message = f"host.{name} is {str(held).lower()}, but Docker was started with {says}"
            yield Problem(file, message, f"say {name} = {says} under [host]")


def serve_names(sandboxes: Mapping[str, str], engine: int) -> Outcome:
    """See to it that these containers, by ID, reach Docker's name server; `engine` is its pid."""
    done: list[str] = []
    mute: list[str] = []
    for container, sandbox in sorted(sandboxes.items()):
        try:
            found = names.serve(names.place(sandbox, engine))
        except NftbridgeError as error:
            message = f"lookups in container {container[:ID_SHOWN]} are not seen to: {error}"
            return Outcome(error=message, exit_status=error.exit_status)
        if found is not names.Found.WELL:
            told = done if found is names.Found.REDIRECTED else mute
            told.append(container[:ID_SHOWN])
    return Outcome(
        done=f"lookups redirected to Docker's name server: {', '.join(done)}" if done else "",
        warnings=(f"{_MUTE}: {', '.join(mute)}\n    hint: {_PROGRAMS}",) if mute else (),
    )


def restore(target: Target, *, with_others: bool) -> Outcome:
    """Put back what was applied last, if anything was."""
    try:
        done = applying.restore(target, with_others=with_others)
    except NftbridgeError as error:
        return _failed(error, ())
    if done is None:
        return Outcome()
    return _of(done, () if done.beside is None else done.beside.warnings)


def _own(beside: Beside, said: Said, target: Target, wanted: str) -> _Own:
    """What the file holds.

    Raises `InputError`, also if it is new and Docker's networks clash with it, and what an apply of
    it alone would raise.
    """
    if beside.file is None:
        return _Own(empty(said.options))
    source = _read(beside.file)
    loaded = source.load()
    text = json.dumps(config.host_to_data(loaded.host))
    if text != beside.good:
        if beside.good and (problems := clashes(loaded.host, said.inspected)):
            raise InputError(problems)
        applying.check(loaded.host, target, wanted)
    return _Own(loaded.host, loaded.warnings, text, digest=source.digest())


def _read(file: str) -> config.Source:
    """Whoever waits for somebody to write into a pipe would wait for ever."""
    path = Path(file)
    if path.exists() and not (path.is_file() or path.is_dir()):
        hint = "a service watches a .toml or .json file, or a folder of them"
        raise InputError((Problem(file, "is neither a file nor a folder", hint),))
    return config.read(file)


def _digest(file: str | None) -> str:
    try:
        return "" if file is None else _read(file).digest()
    except InputError:
        return ""


def _of(applied: applying.Applied, warnings: Iterable[Problem]) -> Outcome:
    plan, beside = applied.plan, applied.beside
    said = [summary(plan)] if plan else []
    said += [f"left behind by the other backend: {phrase}" for phrase in plan.kept]
    if beside:
        said += [f"{name}: {li.strip()}" for name, done in beside.lines().items() for li in done]
    return Outcome(
        done="; ".join(said),
        place=applied.engine.place,
        backend=applied.engine.backend,
        warnings=(*map(str, warnings), *remarks(plan)),
    )


def _failed(error: NftbridgeError, warnings: Iterable[Problem]) -> Outcome:
    return Outcome(
        error=str(error), exit_status=error.exit_status, warnings=tuple(map(str, warnings))
    )
