"""The loop: what has happened comes in, forked processes do something about it, a log says what."""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType

from nftbridge.choice import Target
from nftbridge.engine import state_of
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.watch import work
from nftbridge.watch.bus import Bus
from nftbridge.watch.declared import Declared, OfDocker, OfFile
from nftbridge.watch.docker import Docker
from nftbridge.watch.files import Paths
from nftbridge.watch.lane import Finished, Lane, Reason
from nftbridge.watch.log import Level, Log
from nftbridge.watch.ruleset import INET, IPV4, IPV6, Table, Transactions
from nftbridge.watch.systemd import Manager, logs_to_journal
from nftbridge.watch.work import Outcome

_GENERATIONS = 1 << 32
_PATIENCE = 10.0  # seconds that a process which applies has to come to its end when we end
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ONLY_RULES, _ONLY_FIREWALLD = frozenset((Reason.RULES,)), frozenset((Reason.FIREWALLD,))
_ONLY_TRIAL = frozenset((Reason.TRIAL,))
_IPTABLES = ("raw", "mangle", "filter", "nat")


def serve(
    file: str | None, target: Target, wanted: str, *, docker: str | None = None, as_json: bool
) -> int:
    """Keep the kernel as `file` declares it until SIGTERM or SIGINT; returns the exit status.

    With `docker`, the socket of an Engine, as that has it, and as `file` declares beside it.
    """
    if file == "-":
        hint = "give a .toml or .json file, or a folder"
        raise InputError((Problem("FILE", "standard input cannot be watched", hint),))
    work.warm()
    gc.enable()  # the command line goes without, since other commands end soon
    manager = Manager(os.environ)
    if as_json:
        log = Log(sys.stdout, as_json=True)
    else:
        log = Log(sys.stderr, levels=logs_to_journal(os.environ, sys.stderr.fileno()))
    try:
        with ExitStack() as stack:
            engine = None if docker is None else stack.enter_context(Docker(docker, log))
            stack.enter_context(state_of(target).watched())
            service = Service(_declared(file, engine), target, wanted, log, manager)
            service.listen(stack, engine)
            return service.run()
    except OSError as error:
        hint = "run as root, or see fs.inotify.max_user_instances"
        message = f"the kernel's events cannot be had: {error.strerror}"
        raise UnavailableError(message, hint=hint) from error
    finally:
        manager.close()


def _declared(file: str | None, docker: Docker | None) -> Declared:
    if docker is not None:
        return OfDocker(docker, file)
    if file is None:
        raise InputError((Problem("FILE", "is missing", "name a host file, or say --docker"),))
    return OfFile(file)


class Service:
    """One table in one network namespace.

    There are kinds of work, so that one does not wait for the other: `_changes` applies what is
    declared and may have to wait for firewalld; `_repairs` puts back what is on record, at once;
    `_names` is about lookups in Docker's containers.
    """

    def __init__(
        self, declared: Declared, target: Target, wanted: str, log: Log, manager: Manager
    ) -> None:
        self._declared = declared
        self._target = target
        self._wanted = wanted
        self._log = log
        self._manager = manager
        self._state = state_of(target)
        self._changes = Lane(self._change)
        self._repairs = Lane(lambda _: work.restore(target, with_others=False))
        self._names = Lane(self._serve_names)
        self._lanes = (self._repairs, self._changes, self._names)
        self._docker: Docker | None = None
        self._nameless: dict[str, str] = {}
        self._being_named: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._touched: int | None = None
        self._rejected = ("", "")
        self._held = ""
        self._warnings = frozenset[str]()
        self._place = ""
        self._end: int | None = None

    def listen(self, stack: ExitStack, docker: Docker | None) -> None:
        """Be told of everything from now on, until `stack` is closed."""
        bus = stack.enter_context(Bus())
        trial = stack.enter_context(Paths(str(self._state.trial_file())))
        rules = stack.enter_context(Transactions(self._tables(), self._target.netns))
        waking, woken = socket.socketpair()
        for end in (waking, woken):
            end.settimeout(0)
            stack.callback(end.close)
        for number in _SIGNALS:
            stack.callback(signal.signal, number, signal.signal(number, self._note))
        stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(waking.fileno()))
        stack.callback(self._selector.close)
        if self._declared.file is not None:
            paths = stack.enter_context(Paths(self._declared.file))
            self._on(paths, lambda: self._ask(Reason.FILE) if paths.changed() else None)
        if docker is not None:
            self._docker = docker
            self._on(docker, lambda: None)  # whatever it is about, it is asked in each round
        self._on(bus, lambda: self._firewalld_changed() if bus.changed() else None)
        self._on(rules, lambda: self._rules_changed(rules.touched()))
        self._on(trial, lambda: self._trial_changed() if trial.changed() else None)
        self._on(woken, lambda: self._signalled(woken))

    def run(self) -> int:
        """Until the end; returns the exit status."""
        self._ask(Reason.START)
        if not self._declared.known:
            self._repairs.ask(Reason.START, time.monotonic())
        alive = time.monotonic()
        while self._end is None:
            self._ask_docker()
            for lane in self._lanes:
                self._start_if_due(lane)
                lane.interrupt(time.monotonic())
            for key, _ in self._selector.select(self._timeout(alive)):
                key.data()
            if self._manager.interval is not None and time.monotonic() >= alive:
                self._manager.alive()
                alive = time.monotonic() + self._manager.interval
        self._manager.stopping()
        self._finish()
        self._log.say(Level.INFO, "ended", rules="stay")
        return self._end

    def _tables(self) -> frozenset[Table]:
        """Those of nf_tables in which there may be rules of ours."""
        tables = {(INET, self._target.table)}
        if self._wanted == "iptables-nft" or self._state.backend() == "iptables-nft":
            tables |= {(family, name) for family in (IPV4, IPV6) for name in _IPTABLES}
        return frozenset(tables)

    def _on(
        self,
        source: Paths | Bus | Transactions | Docker | socket.socket,
        do: Callable[[], None],
    ) -> None:
        self._selector.register(source, selectors.EVENT_READ, do)

    def _ask(self, reason: Reason) -> None:
        self._changes.ask(reason, time.monotonic())

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)

    def _signalled(self, woken: socket.socket) -> None:
        woken.recv(1 << 12)
        numbers, self._signals = self._signals, []
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            self._end = 0
        elif numbers:
            if self._declared.known:
                self._manager.reloading()
            self._ask(Reason.RELOAD)

    def _trial_changed(self) -> None:
        """What was held may be done, or not before the file changes again."""
        if self._held:
            self._ask(Reason.TRIAL)

    def _firewalld_changed(self) -> None:
        """Its iptables backend flushes our rules as well; these must not wait until it answers."""
        self._ask(Reason.FIREWALLD)
        self._repairs.ask(Reason.FIREWALLD, time.monotonic())

    def _rules_changed(self, generation: int | None) -> None:
        if generation is not None:
            self._touched = generation
            self._repairs.ask(Reason.RULES, time.monotonic())

    def _ask_docker(self) -> None:
        """Whether there is news of containers."""
        if self._docker is None:
            return
        news, now = self._docker.progress(), time.monotonic()
        if news.gone:
            self._ask(Reason.GONE)
        if news.changed:
            self._ask(Reason.DOCKER)
        if fresh := self._docker.fresh():
            self._nameless |= fresh
            self._names.ask(Reason.NAMES, now)
        if news.away and not self._place:
            self._manager.ready("waits for Docker; what was applied last is in force")

    def _due(self, lane: Lane) -> float | None:
        """When to begin, None if nothing is to be done or it cannot be known yet what."""
        return None if lane is self._changes and not self._declared.known else lane.due()

    def _start_if_due(self, lane: Lane) -> None:
        due, now = self._due(lane), time.monotonic()
        if due is None or due > now:
            return
        if lane.gathering.reasons == _ONLY_RULES and self._is_on_record():
            lane.gathering.take()
            return
        child = lane.start(now)
        if lane is self._names:
            self._being_named, self._nameless = self._nameless, {}
        self._selector.register(child, selectors.EVENT_READ, lambda: self._progress(lane))

    def _is_on_record(self) -> bool:
        """Whether the latest transaction about our table was an apply, or before one."""
        mark = self._state.mark()
        if mark is None or self._touched is None:
            return False
        return (mark - self._touched) % _GENERATIONS < _GENERATIONS // 2

    def _timeout(self, alive: float) -> float | None:
        """Seconds to wait for events, None for ever."""
        times = [due for lane in self._lanes if (due := self._due(lane)) is not None]
        times += [late for lane in self._lanes if (late := lane.deadline()) is not None]
        if self._docker is not None and (due := self._docker.due()) is not None:
            times.append(due)
        if self._manager.interval is not None:
            times.append(alive)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _change(self, reasons: frozenset[Reason]) -> Outcome:
        if reasons == _ONLY_FIREWALLD:
            return work.restore(self._target, with_others=True)
        undone = reasons == _ONLY_TRIAL
        return self._declared.apply(self._target, self._wanted, undone=undone)

    def _serve_names(self, _: frozenset[Reason]) -> Outcome:
        engine = 0 if self._docker is None else self._docker.peer
        return work.serve_names(self._nameless, engine)

    def _progress(self, lane: Lane) -> None:
        child = lane.child
        if child is None:
            return
        finished = lane.finished(time.monotonic())
        if finished is not None:
            self._selector.unregister(child)  # while it is open, or a forked copy would ring on
            child.close()
            self._settle(lane, finished)

    def _settle(self, lane: Lane, finished: Finished) -> None:
        """Say what came of it, and tell the service manager."""
        starting = not self._place
        self._say(lane, finished, starting=starting)
        if lane is self._changes:
            reloaded = Reason.RELOAD in finished.reasons
            self._tell(finished.outcome, starting=starting, reloaded=reloaded)

    def _say(self, lane: Lane, finished: Finished, *, starting: bool) -> None:
        """What came of it, and whether it is tried again."""
        outcome, now = finished.outcome, time.monotonic()
        declared = lane is self._changes and finished.reasons != _ONLY_FIREWALLD
        why = ",".join(sorted(reason.value for reason in finished.reasons))
        if declared:
            self._declared.settled(outcome)
            self._say_warnings(outcome)
            self._say_held(outcome)
            if not outcome.held:
                self._say_rejected(outcome)
        if lane is not self._changes:  # what is put back, and what is done for names, is news
            for warning in outcome.warnings:
                self._log.say(Level.WARNING, "warning", text=warning)
        if lane is self._names:  # what failed is tried again, with what has come since
            self._nameless = (self._being_named if outcome.error else {}) | self._nameless
        if outcome.error:
            ends = (starting and lane is self._changes) or self._end is not None
            again = {} if ends else {"retry_in": lane.gathering.failed(finished.reasons, now)}
            self._log.say(Level.ERROR, "failed", reason=why, text=outcome.error, **again)
        else:
            lane.gathering.succeeded()
        if outcome.done:
            held = outcome.held or (outcome.rejected and not outcome.own)
            applied = declared and not held
            event = "applied" if applied else "named" if lane is self._names else "restored"
            took = round(1000 * (now - finished.since), 1)
            self._log.say(Level.INFO, event, reason=why, done=outcome.done, ms=took)

    def _say_warnings(self, outcome: Outcome) -> None:
        """Each once, as long as it is there."""
        for warning in outcome.warnings:
            if warning not in self._warnings:
                self._log.say(Level.WARNING, "warning", text=warning)
        if not outcome.rejected:
            self._warnings = frozenset(outcome.warnings)

    def _say_rejected(self, outcome: Outcome) -> None:
        """Once for each content of the files."""
        found = (outcome.digest, outcome.rejected)
        if outcome.rejected and found != self._rejected:
            kept = "what was applied last" if outcome.place else "nothing"
            self._log.say(Level.ERROR, "rejected", text=outcome.rejected, kept=kept)
        elif not outcome.rejected and not outcome.error and self._rejected[1]:
            self._log.say(Level.INFO, "accepted", file=self._declared.file or "")
        if outcome.rejected or not outcome.error:
            self._rejected = found if outcome.rejected else ("", "")

    def _say_held(self, outcome: Outcome) -> None:
        """Once for each reason."""
        if outcome.held and outcome.held != self._held:
            self._log.say(Level.WARNING, "held", file=self._declared.name, text=outcome.held)
        if outcome.held or not outcome.error:
            self._held = outcome.held

    def _tell(self, outcome: Outcome, *, starting: bool, reloaded: bool) -> None:
        """Tell the service manager how it is; whoever cannot start ends."""
        if starting and not outcome.place:
            self._end = outcome.exit_status or InputError.exit_status
            return
        self._place = outcome.place or self._place
        self._wanted = outcome.backend or self._wanted
        name, file = self._declared.name, self._declared.file
        status = f"{self._place} is as {name} declares it"
        if self._rejected[1]:
            first = self._rejected[1].splitlines()[0]
            status = f"{file} is wrong, what was applied last is kept: {first}"
        elif self._held:
            status = f"{name} is not applied: {self._held}"
        elif outcome.error:
            status = f"failed, to be tried again: {outcome.error.splitlines()[0]}"
        if starting:
            fields = {"file": name, "backend": outcome.backend, "place": outcome.place}
            self._log.say(Level.INFO, "ready", **fields)
        elif reloaded:
            self._log.say(Level.INFO, "reloaded", file=name)
        if starting or reloaded:
            self._manager.ready(status)
        else:
            self._manager.status(status)

    def _finish(self) -> None:
        """Let what has begun come to its end, and say what came of it."""
        for lane in self._lanes:
            finished = lane.end(_PATIENCE)
            if finished is not None:
                self._say(lane, finished, starting=not self._place)
