"""`Docker`: a file descriptor that says when there is more to know of an Engine's containers.

It listens first and asks then, so that nothing is lost in between. When the connection is lost,
what is known stays until the Engine has been listed anew; in the meantime it is looked for ever
more rarely, and at once when its socket is made. An Engine that ends takes its socket away first
and still tells of its containers' ends: it is listened to until it hangs up.

Of a swarm it does not tell all. While there is one, or an end point that is no container's, it is
asked every few seconds what has become of that; where there is none, nothing is polled.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from nftbridge.docker import api, events, process
from nftbridge.docker.events import Kind
from nftbridge.docker.host import DaemonOptions
from nftbridge.docker.item import Item
from nftbridge.docker.ledger import Ledger, Question
from nftbridge.docker.wire import Exchange
from nftbridge.errors import InputError, UnavailableError
from nftbridge.watch.files import Paths
from nftbridge.watch.log import Level, Log

_AT_ONCE = 64
"""Questions that are asked at a time; a container that is just starting lets one wait."""

_PATIENCE = {"/version": 10.0, "/info": 30.0}
_PATIENCE_WITH_LISTINGS = 30.0
_PATIENCE_WITH_ONE = 5.0
"""Seconds for an answer."""

_SILENCE = 0.5
"""Seconds without an answer after which others need not wait for Docker, as we do.

systemd may hold its socket before it is started, and start it only after us.
"""

_FIRST_RETRY, _LAST_RETRY = 0.05, 10.0
_RETRY_ONE = 5.0
_LOOK_AGAIN = 5.0
_TOO_MANY = 1000
"""Events at once after which some may have been lost: Docker keeps no more for who reads slowly."""

_OK, _NOT_FOUND = 200, 404


@dataclass(slots=True)
class News:
    """What has come of it: `gone` is something that must not be reachable any more.

    `away` is an Engine that is not there, or says nothing.
    """

    gone: bool = False
    changed: bool = False
    away: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    """What becomes of an answer, and until when it has to be there."""

    take: Callable[[Exchange], None]
    deadline: float
    late: Callable[[], None] | None = None


class Docker:
    """The Engine at the unix socket `path`, whether it is there yet or not."""

    def __init__(self, path: str, log: Log) -> None:
        self.ledger = Ledger()
        self.peer = 0
        self.options = DaemonOptions()
        self._path = path
        self._log = log
        self._paths = Paths(path)
        self._selector = selectors.EpollSelector()
        self._selector.register(self._paths, selectors.EVENT_READ)
        self._asked: dict[Exchange, _Asked] = {}
        self._events: Exchange | None = None
        self._since = 0.0
        self._name = self._prefix = ""
        self._away = False
        self._delay = 0.0
        self._retry_at: float | None = 0.0
        self._retry_refused_at: float | None = None
        self._silent_at: float | None = None
        self._seek_at: float | None = None
        self._whole = False
        self._news = News()
        self._fresh: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ask_no_more()
        self._listen_no_more()
        self._selector.close()
        self._paths.close()

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._selector.fileno()

    def due(self) -> float | None:
        """When `progress` is to be called though nothing has come, in seconds of time.monotonic."""
        times = [asked.deadline for asked in self._asked.values()]
        more = (self._retry_at, self._retry_refused_at, self._silent_at, self._seek_at)
        times += [at for at in more if at is not None]
        return min(times, default=None)

    def progress(self) -> News:
        """Take in what there is; does not wait."""
        self._news, now = News(), time.monotonic()
        try:
            self._take_in(now)
            self._sum_up(now)
            self._ask_more(now)
        except (UnavailableError, InputError) as error:
            self._lose(str(error), now)
        return self._news

    def fresh(self) -> dict[str, str]:
        """Containers that were inspected since the last call: where their namespaces are, by ID."""
        found, self._fresh = self._fresh, set()
        return {one: sandbox for one in found if (sandbox := self.ledger.sandbox(one))}

    # --- what comes ------------------------------------------------------------------------------

    def _take_in(self, now: float) -> None:
        for key, _ in self._selector.select(0):
            if key.fileobj is self._paths:
                self._look_for_it(now)
            elif isinstance(key.fileobj, Exchange):
                self._read(key.fileobj, now)
        for exchange, asked in list(self._asked.items()):
            if asked.deadline <= now:
                self._give_up(exchange, asked)
        if self._retry_refused_at is not None and self._retry_refused_at <= now:
            self._retry_refused_at = None
            self.ledger.retry()
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            self._silent_at = now + _SILENCE
            self._ask("/version", self._greet, now)
        if self._silent_at is not None and self._silent_at <= now:
            self._silent_at = None
            self._news.away = True

    def _sum_up(self, now: float) -> None:
        """Whether that was all of a listing, and whether there is more than is told."""
        if self.ledger.complete and not self._whole:
            self._whole = True
            self._delay = 0.0
            self._news.changed = True
        if self._news.changed and self._seek_at is None and self.ledger.untold():
            self._seek_at = now + _LOOK_AGAIN

    def _read(self, exchange: Exchange, now: float) -> None:
        if exchange is self._events:
            self._hear(exchange, now)
        elif exchange in self._asked:
            self._take(exchange)

    def _look_for_it(self, now: float) -> None:
        if self._paths.changed() and self._retry_at is not None:
            self._delay, self._retry_at = 0.0, now

    def _take(self, exchange: Exchange) -> None:
        exchange.read()
        if exchange.ended:
            asked = self._asked.pop(exchange)
            self._selector.unregister(exchange)
            exchange.close()
            asked.take(exchange)

    def _give_up(self, exchange: Exchange, asked: _Asked) -> None:
        if asked.late is None:
            raise UnavailableError(f"Docker gave no answer to GET {exchange.what} in time")
        del self._asked[exchange]
        self._selector.unregister(exchange)
        exchange.close()
        asked.late()

    def _hear(self, stream: Exchange, now: float) -> None:
        try:
            self._hear_more(stream, now)
        except (UnavailableError, InputError):
            self._listen_no_more()
            raise

    def _hear_more(self, stream: Exchange, now: float) -> None:
        waiting = stream.status is None
        stream.read()
        if waiting and stream.status is not None:
            if stream.status != _OK:
                raise UnavailableError(f"Docker tells of no events: status {stream.status}")
            self._list(now)
        if stream.status is None:
            return
        count = 0
        for count, line in enumerate(stream.lines(), 1):  # noqa: B007 - counted
            event = events.event_of(line)
            if event is not None and self.ledger.happened(event):
                self._news.gone = True
        if stream.ended:
            raise UnavailableError("Docker has closed the connection")
        if count > _TOO_MANY:
            raise UnavailableError(f"{count} events came at once, and some may be lost")

    # --- what is asked ---------------------------------------------------------------------------

    def _greet(self, exchange: Exchange) -> None:
        self._name, self._prefix = api.greeting(_answer(exchange))
        self._silent_at = None
        self._listen_no_more()
        self._events = Exchange(self._path, f"{self._prefix}{events.path(self._since)}")
        self._selector.register(self._events, selectors.EVENT_READ)
        self.peer = self._events.peer()
        self.options = process.options_of(process.started_as(self.peer))

    def _list(self, now: float) -> None:
        self._away = False
        self._log.say(Level.INFO, "docker", state="listening", engine=self._name)
        self._ask(f"{self._prefix}/info", self._take_info, now)
        for kind in Kind:
            self._ask(f"{self._prefix}{kind.listing}", self._taker(kind), now)

    def _taker(self, kind: Kind) -> Callable[[Exchange], None]:
        def take(exchange: Exchange) -> None:
            if self.ledger.listed(kind, _identities(exchange)):
                self._news.gone = True

        return take

    def _take_info(self, exchange: Exchange) -> None:
        self._news.changed |= self.ledger.set_info(_answer(exchange))

    def _ask_more(self, now: float) -> None:
        if self._away:
            return
        surprised, due = self.ledger.surprised(), self._seek_at is not None and self._seek_at <= now
        if due:
            self._seek_at = None
        if surprised or due:
            # what comes without a word may come after that, and what goes may take its time
            again = surprised or self.ledger.untold()
            self._seek_at = now + _LOOK_AGAIN if again else None
            self._seek(now)
        for question in self.ledger.to_ask(max(0, _AT_ONCE - len(self._asked))):
            self._ask_about(question, now)

    def _seek(self, now: float) -> None:
        """Look for what nobody has told of: networks, end points, the beginning or end of a swarm.

        Not while Docker has still to answer the same question.
        """
        underway = {exchange.what for exchange in self._asked}
        networks, info = f"{self._prefix}{Kind.NETWORK.listing}", f"{self._prefix}/info"
        if networks not in underway:
            self._ask(networks, lambda e: self.ledger.seen(_identities(e)), now)
        if info not in underway:
            self._ask(info, self._take_info, now)
        self.ledger.doubt()

    def _ask_about(self, question: Question, now: float) -> None:
        def take(exchange: Exchange) -> None:
            if exchange.status not in (_OK, _NOT_FOUND):
                refuse(f"Docker refuses to tell of it with status {exchange.status}")
            elif self.ledger.answered(question, _answer(exchange)):
                self._news.changed = True
            if question.kind is Kind.CONTAINER:
                self._fresh.add(question.identity)

        def refuse(reason: str) -> None:
            self._news.changed |= self.ledger.refused(question, reason)
            self._retry_refused_at = time.monotonic() + _RETRY_ONE

        late = f"Docker gave no answer within {_PATIENCE_WITH_ONE:.0f} seconds"
        what = f"{self._prefix}{question.path}"
        self._ask(what, take, now, lambda: refuse(late))

    def _ask(
        self,
        what: str,
        take: Callable[[Exchange], None],
        now: float,
        late: Callable[[], None] | None = None,
    ) -> None:
        if what == "/version":
            self._since = time.time()
        patience = _PATIENCE_WITH_ONE if late else _PATIENCE.get(what, _PATIENCE_WITH_LISTINGS)
        exchange = Exchange(self._path, what)
        self._asked[exchange] = _Asked(take, now + patience, late)
        self._selector.register(exchange, selectors.EVENT_READ)

    # --- when it is lost -------------------------------------------------------------------------

    def _lose(self, reason: str, now: float) -> None:
        if not self._away:
            kept = "what was known last" if self.peer else "nothing"
            self._log.say(Level.WARNING, "docker", state="away", text=reason, kept=kept)
        self._news.away = self._away = True
        self._silent_at = self._seek_at = None
        self._whole = False
        self._ask_no_more()
        if self._events is not None and self._events.status is None:
            self._listen_no_more()
        self.ledger.again()
        self._delay = min(max(_FIRST_RETRY, 2 * self._delay), _LAST_RETRY)
        self._retry_at = now + self._delay

    def _ask_no_more(self) -> None:
        for exchange in self._asked:
            self._selector.unregister(exchange)
            exchange.close()
        self._asked.clear()

    def _listen_no_more(self) -> None:
        if self._events is not None:
            self._selector.unregister(self._events)
            self._events.close()
            self._events = None


def _answer(exchange: Exchange) -> Item:
    return api.read_answer(exchange.what, exchange.status or 0, exchange.body())


def _identities(listed: Exchange) -> list[str]:
    return [one["Id"].required() for one in _answer(listed).elements()]
