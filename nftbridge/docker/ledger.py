"""What is known of a running Engine, and what has to be asked for that.

Three things come in: listings, events, and answers about single containers and networks. What is
gone goes at once, on the word of an event or a listing alone; what is there has to be inspected.
An answer counts only if nothing has happened to its subject since the question.

Of swarm's own end points Docker tells nothing, nor of the end of a swarm: while there is one, or
end points that belong to no container, somebody has to look again now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from nftbridge.docker.containers import InspectedContainer, container_of
from nftbridge.docker.events import Action, Event, Kind
from nftbridge.docker.host import Inspected, in_swarm
from nftbridge.docker.item import Item
from nftbridge.docker.networks import ID_SHOWN, InspectedNetwork, network_of
from nftbridge.errors import InputError, Problem

_NOTHING = Item(None, "Docker's answer to GET /info")

_GATEWAY = "docker_gwbridge"
"""The network that swarm reaches the host by; its name is fixed in Docker."""


class Question(NamedTuple):
    """About whom, and at which point of the ledger's life."""

    kind: Kind
    identity: str
    serial: int

    @property
    def path(self) -> str:
        """Where to ask, below the version of the API."""
        detail = "/json" if self.kind is Kind.CONTAINER else ""
        return f"/{self.kind.value}/{self.identity}{detail}"


class Ledger:
    """The containers and networks of one Engine. Nothing waits, and nothing is asked, in here."""

    def __init__(self) -> None:
        self._containers: dict[str, InspectedContainer] = {}
        self._networks: dict[str, InspectedNetwork] = {}
        self._unread: dict[str, Problem] = {}  # by ID
        self._refused: dict[str, Question] = {}  # by ID
        self._info = _NOTHING
        self._serial = 0
        self._open: dict[str, Question] = {}  # by ID; those to be asked, and those that were
        self._waiting: dict[Question, None] = {}
        self._to_list = set(Kind)
        self._surprised = False  # by a network that nobody has told of, or by swarm

    @property
    def complete(self) -> bool:
        """Whether all that was listed has been inspected."""
        return not self._to_list and not self._open

    def inspected(self) -> Inspected:
        """All that is known now."""
        return Inspected(
            tuple(self._networks.values()),
            tuple(self._containers.values()),
            self._info,
            self.complete,
        )

    def unread(self) -> tuple[Problem, ...]:
        """What is left out since it is not as Docker writes it."""
        return tuple(self._unread.values())

    def sandbox(self, container: str) -> str:
        """Where the network namespace of a container is; "" if it has none of its own."""
        found = self._containers.get(container)
        return "" if found is None else found.sandbox

    def to_ask(self, most: int) -> list[Question]:
        """The next questions, which somebody asks now."""
        found = list(self._waiting)[:most]
        for question in found:
            del self._waiting[question]
        return found

    def again(self) -> None:
        """All has to be listed once more; until then what is known stays, questions do not."""
        self._open.clear()
        self._waiting.clear()
        self._refused.clear()
        self._to_list = set(Kind)
        self._surprised = False

    def set_info(self, info: Item) -> bool:
        """What ``GET /info`` said; returns whether that is news.

        Its numbers and times are not: they are other ones each time.
        """
        news = in_swarm(info) != in_swarm(self._info)
        self._info = info
        return news

    def listed(self, kind: Kind, identities: Iterable[str]) -> bool:
        """These are there, and no others; returns whether anything is gone."""
        found = set(identities)
        self._to_list.discard(kind)
        known = self._containers if kind is Kind.CONTAINER else self._networks
        gone = [self._drop(kind, identity) for identity in known.keys() - found]
        for identity in found:
            self._want(kind, identity)
        return any(gone)

    def surprised(self) -> bool:
        """Whether to look for what nobody has told of; not a second time for the same surprise.

        Docker does not tell that it makes docker_gwbridge for swarm, only what comes after that.
        """
        surprised, self._surprised = self._surprised, False
        return surprised

    def untold(self) -> bool:
        """Whether something may change of which no event tells."""
        return not self._to_list and (in_swarm(self._info) or any(self._with_strangers()))

    def doubt(self) -> None:
        """Networks whose end points may have changed without a word shall be asked about again."""
        gateways = [i for i, network in self._networks.items() if network.name == _GATEWAY]
        self._want_unless_asked([*gateways, *self._with_strangers()])

    def seen(self, networks: Iterable[str]) -> None:
        """These are listed now; others that are known may be newer than that, or be gone."""
        found = set(networks)
        for identity in found:
            if self._is_news(identity):
                self._want(Kind.NETWORK, identity)
        self._want_unless_asked(self._networks.keys() - found)

    def happened(self, event: Event) -> bool:
        """What an event tells; returns whether anything is gone."""
        match event:
            case Event(None):
                self._surprised = True
            case Event(Kind() as kind, Action.DIE | Action.DESTROY | Action.REMOVE, identity):
                return self._drop(kind, identity)
            case Event(Kind.NETWORK, Action.DISCONNECT, network, container):
                self._want_if_known(container)
                return self._leave(network, container)
            case Event(Kind.NETWORK, Action.CONNECT, network, container):
                self._surprised |= self._is_news(network)
                # of one that does not run yet, its start will tell
                self._want_if_known(container)
            case Event(Kind.CONTAINER, Action.RENAME, container):
                self._want_if_known(container)
            case Event(Kind.CONTAINER, Action.START, container):
                self._want(Kind.CONTAINER, container)
            case Event(Kind.NETWORK, Action.CREATE, network):
                self._surprised |= self._is_news(network)
                self._want(Kind.NETWORK, network)
            case _:
                pass
        return False

    def answered(self, question: Question, answer: Item) -> bool:
        """Null: it does not exist. Returns whether anything has changed by that."""
        kind, identity, _ = question
        if self._open.get(identity) != question:
            return False
        del self._open[identity]
        unread = self._unread.pop(identity, None)
        try:
            return self._put(kind, identity, answer) or unread is not None
        except InputError as error:
            self._drop(kind, identity)
            return self._refuse(question, error.problems[0], unread)

    def refused(self, question: Question, reason: str) -> bool:
        """There will be no answer, for a reason of Docker's; returns whether that is news.

        What was known stays until an event takes it away.
        """
        if self._open.get(question.identity) != question:
            return False
        del self._open[question.identity]
        self._refused[question.identity] = question
        unread = self._unread.pop(question.identity, None)
        return self._refuse(question, Problem("", reason), unread)

    def retry(self) -> None:
        """What was refused shall be asked again."""
        refused, self._refused = self._refused, {}
        for question in refused.values():
            self._want(question.kind, question.identity)

    def _refuse(self, question: Question, problem: Problem, before: Problem | None) -> bool:
        noun = question.kind.value.removesuffix("s")
        told = f"{problem.where}: {problem.message}" if problem.where else problem.message
        place = f"{noun} {question.identity[:ID_SHOWN]}"
        found = Problem(place, f"cannot be taken in: {told}", problem.hint)
        self._unread[question.identity] = found
        return found != before

    def _put(self, kind: Kind, identity: str, answer: Item) -> bool:
        if answer.value is None:
            return self._drop(kind, identity)
        if kind is Kind.NETWORK:
            network = network_of(answer)
            changed = self._networks.get(identity) != network
            self._networks[identity] = network
            return changed
        container = container_of(answer)
        left = False
        if not container.endpoints and not container.remarks:
            # it may not run any more, and networks that were asked before may tell of it
            left = self._leave_all(identity)
        changed = self._containers.get(identity) != container
        self._containers[identity] = container
        return changed or left

    def _want(self, kind: Kind, identity: str) -> None:
        self._forget_questions(identity)
        self._serial += 1
        question = self._open[identity] = Question(kind, identity, self._serial)
        self._waiting[question] = None

    def _want_unless_asked(self, networks: Iterable[str]) -> None:
        """A slow answer is waited for, since it is asked again later anyway."""
        for identity in networks:
            if identity not in self._open:
                self._want(Kind.NETWORK, identity)

    def _with_strangers(self) -> Iterator[str]:
        """Networks with end points of no container that is known or asked about."""
        for identity, network in self._networks.items():
            if any(i not in self._containers and i not in self._open for i in network.members):
                yield identity

    def _is_news(self, network: str) -> bool:
        known = (self._networks, self._open, self._unread)
        return Kind.NETWORK not in self._to_list and not any(network in one for one in known)

    def _want_if_known(self, container: str) -> None:
        if container in self._containers or container in self._open:
            self._want(Kind.CONTAINER, container)

    def _forget_questions(self, identity: str) -> None:
        question = self._open.pop(identity, None)
        if question is not None:
            self._waiting.pop(question, None)

    def _drop(self, kind: Kind, identity: str) -> bool:
        """Also when it was only asked about: the answer may be older than this."""
        self._forget_questions(identity)
        self._unread.pop(identity, None)
        self._refused.pop(identity, None)
        if kind is Kind.NETWORK:
            return self._networks.pop(identity, None) is not None
        left = self._leave_all(identity)
        return self._containers.pop(identity, None) is not None or left

    def _leave(self, network: str, container: str) -> bool:
        """Take away one end point, whoever tells of it."""
        left = False
        known = self._containers.get(container)
        if known is not None:
            others = tuple(end for end in known.endpoints if end.network != network)
            left = others != known.endpoints
            self._containers[container] = replace(known, endpoints=others)
        return self._leave_member(network, container) or left

    def _leave_all(self, container: str) -> bool:
        left = [self._leave_member(network, container) for network in self._networks]
        return any(left)

    def _leave_member(self, network: str, container: str) -> bool:
        known = self._networks.get(network)
        if known is None or container not in known.members:
            return False
        members = {name: end for name, end in known.members.items() if name != container}
        self._networks[network] = replace(known, members=members)
        return True
