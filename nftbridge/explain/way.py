"""The way of the packet asked about, its answer's way, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv6Address

from nftbridge.errors import Problem
from nftbridge.explain.around import assume, doubts
from nftbridge.explain.names import Names
from nftbridge.explain.question import Question
from nftbridge.model import Host
from nftbridge.policy.evaluate import Evaluator, Packet, Result
from nftbridge.policy.path import Journey, Surroundings, answer, journey
from nftbridge.policy.rules import DOCKER_USER, FILTER_FORWARD, POSTROUTING

_LOOPBACK_IPV6 = IPv6Address("::1")
_ROUTED = (FILTER_FORWARD.name, POSTROUTING.name)


class Fate(StrEnum):
    """What becomes of a packet."""

    DROPPED = "dropped"
    """A rule drops it on its way there."""
    LOST = "lost"
    """The kernel itself does not send it on."""
    UNANSWERED = "unanswered"
    """It gets there, and the answer is dropped."""
    TO_HOST = "delivered to the host"
    TO_CONTAINER = "delivered to a network"
    LEAVES = "leaves the host"
    BRIDGED = "stays on its bridge"
    """Netfilter does not see it."""


@dataclass(frozen=True, slots=True)
class Way:
    """A question with its answer. `there` is None where the packet meets no hook at all.

    `back` is None where the packet does not arrive. `assumptions` are what was guessed, `warnings`
    what is odd about the question, `uncertain` what could not be understood of the kernel's rules.
    """

    question: Question
    names: Names
    around: Surroundings
    fate: Fate
    there: Journey | None = None
    back: Journey | None = None
    assumptions: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    uncertain: tuple[str, ...] = ()

    @property
    def packet(self) -> Packet:
        """The packet as it meets the first hook."""
        return packet_of(self.question)

    @property
    def end(self) -> Packet:
        """The packet as it arrives; where it is dropped, as it meets the hook that drops it."""
        if self.there is None:
            return self.packet
        return self.there.end or met(self.there, self.packet, self.around)

    @property
    def passes(self) -> bool:
        """Whether it arrives and its answer comes back, if somebody answers."""
        return self.fate not in (Fate.DROPPED, Fate.LOST, Fate.UNANSWERED)


def follow(
    host: Host,
    question: Question,
    evaluator: Evaluator | None = None,
    *,
    bridged: bool = True,
    names: Names | None = None,
) -> Way:
    """Follow the packet through the rules of `host`, or through those that `evaluator` knows.

    With `bridged` False netfilter is not shown the packets that stay on one bridge. The host's
    `wsl2_mirrored` must be settled. `names` are its names, for who asks often.
    """
    names = names or Names(host)
    assumed = assume(names, question)
    around, warnings = assumed.surroundings, tuple(doubts(names, question))
    stays = question.iif != "" and around.interface_to(question.destination) == question.iif
    notes = assumed.notes
    if stays and names.network_on(question.iif):
        if not bridged:
            return Way(question, names, around, Fate.BRIDGED, None, None, notes, warnings)
        notes = (*notes, f"netfilter sees packets within {question.iif} (module br_netfilter)")
    packet = packet_of(question)
    known = evaluator or Evaluator.of(host)
    there = journey(known, packet, around)
    back = None
    if there.end is not None and not _is_stuck(there.end):
        back = answer(known, packet, there.end, around)
    if evaluator is None and any(r.hook == FILTER_FORWARD.name for r in there.results):
        notes = (*notes, f"rules of yours in {DOCKER_USER} are not in the model; --live reads them")
    if host.trust_mark is not None and any(r.hook == FILTER_FORWARD.name for r in there.results):
        kept = f"with {host.trust_mark} it would be accepted right behind {DOCKER_USER}"
        notes = (*notes, f"the packet is assumed to carry no mark; {kept}")
    fate = _fate(names, there, back)
    return Way(question, names, around, fate, there, back, notes, warnings)


def packet_of(question: Question) -> Packet:
    """The question as a packet of the evaluator's."""
    return Packet(
        saddr=question.source,
        daddr=question.destination,
        protocol=question.protocol,
        dport=question.port,
        iif=question.iif,
        from_host=not question.iif,
    )


def met(way: Journey, first: Packet, around: Surroundings) -> Packet:
    """The packet as the last hook of `way` met it; `first` is it before the first hook."""
    before: tuple[Result, ...] = way.results[:-1]
    packet = (before[-1].packet if before else None) or first
    if way.results and way.results[-1].hook in _ROUTED:
        return replace(packet, oif=around.interface_to(packet.daddr))
    return packet


def _fate(names: Names, there: Journey, back: Journey | None) -> Fate:
    end = there.end
    if end is None:
        return Fate.DROPPED
    if back is None:
        return Fate.LOST
    if back.end is None:
        return Fate.UNANSWERED
    if not end.oif:
        return Fate.TO_HOST
    return Fate.TO_CONTAINER if names.network_on(end.oif) else Fate.LEAVES


def _is_stuck(end: Packet) -> bool:
    """The kernel lets nothing from ::1 leave by another interface than lo."""
    return end.saddr == _LOOPBACK_IPV6 and bool(end.oif)
