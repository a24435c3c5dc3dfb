"""Turns a way into lines for a terminal, or into data."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.explain.outcome import advice, sentence
from nftbridge.explain.sentences import socket_text
from nftbridge.explain.way import Way
from nftbridge.policy.evaluate import Packet, Result, Step
from nftbridge.policy.path import Journey
from nftbridge.policy.program import Dnat, Final, Jump, MarkedAccept, Snat
from nftbridge.policy.rules import NAT_OUTPUT, NAT_PREROUTING
from nftbridge.style import Style

_COLUMN = 18
_ROUTED_AFTER = (NAT_PREROUTING.name, NAT_OUTPUT.name)


def lines(way: Way, style: Style) -> Iterator[str]:
    """Everything, for people; the last line is the sentence."""
    yield style.title(_asked(way))
    yield from (style.aside(f"  {note}") for note in way.assumptions)
    for result in way.there.results if way.there else ():
        yield from _hook(way, result, style)
    if way.back is not None and way.back.results:
        yield from _answer(way.back, style)
    yield from (style.removed(f"  uncertain: {doubt}") for doubt in way.uncertain)
    yield (style.added if way.passes else style.removed)(sentence(way))


def to_data(way: Way) -> dict[str, object]:
    """Everything, for programs."""
    question = way.question
    return {
        "question": {
            "in": question.iif or "host",
            "source": str(question.source),
            "destination": str(question.destination),
            "protocol": question.protocol,
            "port": question.port or None,
        },
        "assumptions": list(way.assumptions),
        "warnings": [str(problem) for problem in way.warnings],
        "hooks": [_hook_data(result) for result in way.there.results] if way.there else [],
        "out": way.end.oif or None,
        "answer": [_hook_data(result) for result in way.back.results] if way.back else [],
        "uncertain": list(way.uncertain),
        "outcome": way.fate.value,
        "passes": way.passes,
        "advice": advice(way) or None,
        "sentence": sentence(way),
    }


def chain_picture(result: Result) -> str:
    """``DOCKER-USER -> DOCKER-FORWARD -> DOCKER-CT; DOCKER-FORWARD: egress, accept``."""
    if not result.steps:
        return "no rule matches"
    way, last = walked(result), result.steps[-1]
    decided = _decision(last, result.packet)
    if not isinstance(last.rule.verdict, Jump) and last.chain != (way or [result.hook])[-1]:
        way = [*way[:-1], f"{way[-1]}; {last.chain}"]
    return f"{' -> '.join(way)}: {decided}" if way else decided


def walked(result: Result) -> list[str]:
    """The chains below the hook that the packet was sent through, in order."""
    jumps = (s.rule.verdict for s in result.steps)
    return [verdict.chain for verdict in jumps if isinstance(verdict, Jump)]


def _decision(last: Step, packet: Packet | None) -> str:
    if isinstance(last.rule.verdict, Jump):
        return "no rule matches"
    decided = f"{last.rule.name}, {verdict(last)}"
    if isinstance(last.rule.verdict, Dnat) and packet is not None:
        decided += f" {socket_text(packet.daddr, packet.dport)}"
    if isinstance(last.rule.verdict, Snat) and packet is not None:
        decided += f" {packet.saddr}"
    return decided


def verdict(step: Step) -> str:
    """The verdict of a step's rule as a word or two."""
    match step.rule.verdict:
        case Final() as final:
            return final.value
        case Jump(chain):
            return f"jump {chain}"
        case MarkedAccept(mark):
            return f"accept with mark {mark}"
        case Dnat():
            return "dnat to"
        case _:
            return "snat to"


def _asked(way: Way) -> str:
    question = way.question
    destination = socket_text(question.destination, question.port)
    network = way.names.network_on(question.iif)
    came = f"in by {question.iif}" if question.iif else "sent by the host itself"
    known = f", network {network.name}" if network else ", no bridge of the model"
    shown = f"{question.protocol} {question.source} -> {destination}, {came}"
    return shown + (known if question.iif else "")


def _hook(way: Way, result: Result, style: Style) -> Iterator[str]:
    yield f"  {result.hook:<{_COLUMN}}{chain_picture(result)}"
    for step in result.steps:
        if not isinstance(step.rule.verdict, Jump):
            yield style.aside(f"  {'':<{_COLUMN}}{step.rule.reason}")
    if result.hook in _ROUTED_AFTER and result.packet is not None:
        yield f"  {'routing':<{_COLUMN}}{_route(way, result.packet)}"


def _route(way: Way, packet: Packet) -> str:
    oif = way.around.interface_to(packet.daddr)
    network = way.names.network_on(oif)
    if not oif:
        return "to the host itself"
    return f"out by {oif}, network {network.name}" if network else f"out by {oif}"


def _answer(back: Journey, style: Style) -> Iterator[str]:
    decided = next((r.decided for r in reversed(back.results) if r.decided is not None), None)
    by = f"{decided.chain}, {decided.rule.name}" if decided else "no rule of ours concerns it"
    word = "dropped" if back.end is None else "comes back"
    yield f"  {'answer':<{_COLUMN}}{word}: {by}"
    if decided is not None:
        yield style.aside(f"  {'':<{_COLUMN}}{decided.rule.reason}")


def _hook_data(result: Result) -> dict[str, object]:
    decided, packet = result.decided, result.packet
    data: dict[str, object] = {
        "hook": result.hook,
        "chains": [result.hook, *walked(result)],
        "decided_in": decided.chain if decided else None,
        "rule": decided.rule.name if decided else None,
        "reason": decided.rule.reason if decided else None,
        "verdict": verdict(decided) if decided else "accept",
    }
    if decided is not None and isinstance(decided.rule.verdict, MarkedAccept):
        data |= {"verdict": Final.ACCEPT.value, "mark": str(decided.rule.verdict.mark)}
    if packet is not None:
        masqueraded = decided is not None and decided.rule.verdict is Final.MASQUERADE
        data["source"] = None if masqueraded else str(packet.saddr)  # the kernel chooses it
        data["destination"] = str(packet.daddr)
        data["port"] = packet.dport or None
    return data
