"""The same way through what the kernel holds now: its rows, and the user's rules in DOCKER-USER."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from nftbridge.backend import Observation
from nftbridge.choice import Choice, Target
from nftbridge.compat.read import listed
from nftbridge.compat.tools import Tools, Variant
from nftbridge.effects import bridges_filtered
from nftbridge.engine import Engine
from nftbridge.errors import InputError, Problem, UnavailableError
from nftbridge.explain.matching import Seen
from nftbridge.explain.question import Question
from nftbridge.explain.users import UserRules, iptables_rules, nft_rules
from nftbridge.explain.way import Way, follow, packet_of
from nftbridge.mirrored import settled
from nftbridge.model import Family, Host
from nftbridge.nft import read
from nftbridge.nft.kernel import Kernel
from nftbridge.plan import Plan
from nftbridge.policy.evaluate import Evaluator, Packet, Result, Step
from nftbridge.policy.flat import FlatKey, FlatRows
from nftbridge.policy.program import Chain, Facts, Final, Kind, Owner, Relation, Row, Value
from nftbridge.policy.rules import DOCKER_USER, FILTER_FORWARD, program_of
from nftbridge.report import summary
from nftbridge.translate.chains import translate


@dataclass(frozen=True, slots=True)
class _Held:
    """What a kernel holds: rows, the user's rules, and what makes an answer doubtful at once."""

    facts: Facts
    users: UserRules
    doubts: tuple[str, ...]


def follow_live(
    question: Question, target: Target, at: tuple[Engine, Choice], host: Host | None
) -> Way:
    """Follow the packet through the kernel's rules; `host` (None: last applied) has the names.

    Raises `UnavailableError` if nothing of ours is there, `InputError` if nobody knows the names.
    """
    engine, choice = at
    status = engine.status()
    if not status.observation.present:
        hint = "bring it there with `nftbridge apply FILE`, or leave --live out"
        raise UnavailableError(f"nothing of ours is in {engine.place}", hint=hint)
    named = host or status.applied
    if named is None:
        hint = "give the host file too: its names are needed"
        raise InputError((Problem("FILE", "no apply is on record", hint),))
    named = settled(named, target.netns)
    drift = status.drift if host is None else engine.plan(named)
    held = _held(status.observation, target, choice.backend.name, question.family)
    program = program_of(status.applied or named)
    gated = choice.backend.name == "nftables"  # the gates' rows are in its sets alone
    asked = packet_of(question)
    evaluator = LiveEvaluator(held.facts, program, held.users, asked, gated=gated)
    bridged = question.family in bridges_filtered(target.netns)
    way = follow(named, question, evaluator, bridged=bridged)
    notes = (*way.assumptions, *_notes(drift.of_rules()))
    return replace(way, assumptions=notes, uncertain=(*held.doubts, *held.users.doubts))


class LiveEvaluator(Evaluator):
    """The program over the kernel's rows, with the user's rules where DOCKER-USER is called.

    Made for the one packet that is asked about, since rules can ask what its connection was.
    """

    def __init__(
        self,
        facts: Facts,
        program: tuple[Chain, ...],
        users: UserRules,
        asked: Packet,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__(facts, program, gated=gated)
        self._users = users
        self._asked = asked
        self._delivered = asked

    def hook(self, chain: Chain, packet: Packet) -> Result:
        """As the program does; in the forward chain the user's rules come first."""
        result = super().hook(chain, packet)
        if chain is not FILTER_FORWARD:
            return result
        if packet.state == "new":
            self._delivered = packet
        first, others = result.steps[:1], result.steps[1:]  # the first is the jump to DOCKER-USER
        steps: list[Step] = []
        seen = Seen(packet, self._asked, self._delivered)
        verdict = self._users.run(DOCKER_USER, seen, steps)
        if verdict is Final.RETURN:
            return replace(result, steps=(*first, *steps, *others))
        end = None if verdict is Final.DROP else packet
        return Result(chain.name, (*first, *steps), end)


def facts_of(rows: FlatRows) -> tuple[Facts, tuple[str, ...]]:
    """Flat rows as facts, without owners; and a phrase for each that cannot be understood."""
    facts: dict[Relation, tuple[Row, ...]] = {}
    odd: list[str] = []
    for relation, held in rows.items():
        found: list[Row] = []
        for key, value in held.items():
            try:
                found.append(_row(relation, key, value))
            except ValueError:
                shown = " ".join(map(str, (*key, *value)))
                odd.append(f"row {shown} of {relation.name} cannot be understood")
        facts[relation] = tuple(found)
    return facts, tuple(odd)


def _row(relation: Relation, key: FlatKey, value: FlatKey) -> Row:
    family, *columns = key
    typed = tuple(map(_typed, relation.key, columns))
    return Row(Family(str(family)), typed, tuple(map(_typed, relation.value, value)), Owner())


def _typed(kind: Kind, column: str | int) -> Value:
    if kind is Kind.ADDRESS:
        return ip_address(column)
    if kind is Kind.PREFIX:
        return ip_network(column)
    return int(column) if kind is Kind.PORT else str(column)


def _held(observed: Observation, target: Target, backend: str, family: Family) -> _Held:
    facts, odd = facts_of(observed.rows)
    doubts = (*odd, *(f"the rules are not ours: {how}" for how in observed.differences))
    if backend != "nftables":
        variant = Variant.NFT if backend == "iptables-nft" else Variant.LEGACY
        return _Held(facts, _in_iptables(target, variant, family), doubts)
    listing = read.parse(Kernel(target.table, target.netns).objects() or [])
    users = UserRules(nft_rules(listing.rules), listing.sets)
    return _Held(facts, users, (*doubts, *_foreign_hooks(listing)))


def _in_iptables(target: Target, variant: Variant, family: Family) -> UserRules:
    """The user's rules of one family: no packet of the other meets any."""
    tools = Tools(variant, target.netns, target.wait)
    present = FILTER_FORWARD.table in tools.present(family)
    saved = tools.save(family, FILTER_FORWARD.table) if present else ""
    lines = {name: list(map(str, found)) for name, found in listed(saved).items()}
    return UserRules(iptables_rules(translate(lines, family)), {})


def _foreign_hooks(listing: read.Listing) -> Iterator[str]:
    """Base chains that the user added to our table: they see packets, too."""
    for name in listing.foreign:
        if listing.chains.get(name, {}).get("hook"):
            yield f"the chain {name} of yours has a hook of its own and is not followed"


def _notes(drift: Plan) -> Iterator[str]:
    if drift:
        yield f"the kernel is not as the model says ({summary(drift)} would change it)"
