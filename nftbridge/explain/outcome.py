"""The one sentence at the end: what happens to the packet, and if it does not pass, what would."""

from __future__ import annotations

from nftbridge.explain.names import Published
from nftbridge.explain.sentences import (
    DESTINATIONS,
    SOURCES,
    Case,
    accept,
    drop,
    dropped_answer,
    place,
    socket_text,
    whose,
)
from nftbridge.explain.way import Fate, Way, met
from nftbridge.policy.evaluate import Packet, Step
from nftbridge.policy.program import Final
from nftbridge.policy.rules import FILTER_FORWARD, POSTROUTING, RAW_PREROUTING


def sentence(way: Way) -> str:
    """What happens to the packet, in one sentence."""
    told = _TELLERS[way.fate](way)
    if way.uncertain:
        return f"uncertain, since {way.uncertain[0]}; apart from that: {told}"
    return told


def advice(way: Way) -> str:
    """What to write to let it pass; "" where it does."""
    if way.fate is Fate.DROPPED:
        case = _dropping(way)
        return drop(case).advice if case else ""
    if way.fate is Fate.UNANSWERED:
        case = _dropping_answer(way)
        return dropped_answer(case).advice if case else ""
    return _USE_IPV4 if way.fate is Fate.LOST else ""


_USE_IPV4 = "use 127.0.0.1 or another address of the host"


def _dropped(way: Way) -> str:
    case = _dropping(way)
    if case is None:
        return "dropped"
    stop = drop(case)
    return f"dropped in {case.step.chain}: {stop.why}; {stop.advice}"


def _lost(way: Way) -> str:
    return (
        f"lost: translated to {place(way.names, way.end)}, but the kernel lets nothing from ::1"
        f" leave by {way.end.oif}; {_USE_IPV4}"
    )


def _unanswered(way: Way) -> str:
    case = _dropping_answer(way)
    if case is None:
        return "unanswered"
    stop = dropped_answer(case)
    reached = _arrival(way)
    return f"{reached}, but the answer is dropped in {case.step.chain}: {stop.why}; {stop.advice}"


def _to_host(way: Way) -> str:
    packet, names = way.end, way.names
    start = "delivered to the host itself"
    found = names.published_at(packet.daddr, packet.protocol, packet.dport)
    if found is not None and names.host.userland_proxy:
        via = f"{start}, where the userland proxy serves publication {_named(found)}"
        let_in = _raw_accept(way)
        return f"{via} ({let_in})" if let_in else via
    if found is not None:
        why = f"peers with link-local addresses such as {packet.saddr} are not translated"
        return f"{start}: {why} to {_named(found)}; connect from a routable address"
    if not packet.dport:
        return f"{start}, which answers: no rule of ours concerns it"
    shown = f"{socket_text(packet.daddr, packet.dport)}/{packet.protocol}"
    routed = names.routed_at(packet.family, packet.protocol, packet.dport)
    if routed is not None:
        inside = routed.container.address(packet.family)
        hint = f"network {routed.network.name} is routed, connect to {inside} itself"
        return f"{start}: host ports such as that of {routed.publication} are not used; {hint}"
    return f"{start}: no container publishes {shown}, a service of the host may answer"


def _bridged(way: Way) -> str:
    owner = whose(way.names, way.question.destination) or str(way.question.destination)
    return (
        f"passes within {way.question.iif} to {owner}: this kernel does not show bridged packets to"
        " netfilter, so no rule concerns it (modprobe br_netfilter)"
    )


def _arrival(way: Way) -> str:
    """Where the packet goes, under which addresses, and who let it."""
    return f"{_goal(way)}{_source(way)}{_reason(way)}"


def _goal(way: Way) -> str:
    end, names = way.end, way.names
    owner = whose(names, end.daddr)
    if _is_translated(way):
        found = names.published_at(
            way.question.destination, way.question.protocol, way.question.port
        )
        by = f"publication {found.publication}" if found else "a publication not in the model"
        shown = socket_text(end.daddr, end.dport)
        return f"translated to {owner} ({shown}) by {by}" if owner else f"translated to {shown}"
    if way.fate is Fate.TO_CONTAINER or names.network_on(end.oif):
        return f"passes to {place(names, end)}"
    return f"leaves by {end.oif} for {socket_text(end.daddr, end.dport)}"


def _is_translated(way: Way) -> bool:
    results = way.there.results if way.there else ()
    return any(r.decided is not None and r.decided.rule.name in DESTINATIONS for r in results)


def _step(way: Way, hook: str) -> Step | None:
    """The rule that decided at that hook."""
    results = way.there.results if way.there else ()
    return next((r.decided for r in results if r.hook == hook), None)


def _source(way: Way) -> str:
    step, names = _step(way, POSTROUTING.name), way.names
    if step is not None:
        return f", {SOURCES[step.rule.name](Case(names, step, way.end))}"
    leaves = names.network_on(way.question.iif) and not names.network_on(way.end.oif)
    return ", with its own address" if leaves else ""


def _reason(way: Way) -> str:
    if not way.question.iif:
        return ": what the host itself sends is not filtered"
    step = _step(way, FILTER_FORWARD.name)
    if step is None:
        return ": no rule of ours concerns it"
    reason = f", accepted in {step.chain}: {accept(Case(way.names, step, way.end))}"
    let_in = _raw_accept(way)
    return f"{reason}, and {let_in}" if let_in else reason


def _raw_accept(way: Way) -> str:
    """Why raw-PREROUTING let it past its drops; "" if no rule there did."""
    step = _step(way, RAW_PREROUTING.name)
    if step is None or step.rule.verdict is not Final.ACCEPT:
        return ""
    return accept(Case(way.names, step, way.packet))


def _dropping(way: Way) -> Case | None:
    step = way.there.decided if way.there else None
    return None if step is None else Case(way.names, step, way.end)


def _dropping_answer(way: Way) -> Case | None:
    back, end = way.back, way.end
    if back is None or back.decided is None:
        return None
    packet = Packet(end.daddr, way.question.source, end.protocol, iif=end.oif, state="established")
    return Case(way.names, back.decided, met(back, packet, way.around))


def _named(found: Published) -> str:
    network, container = found.network.name, found.container.name
    return f"{found.publication} of container {container} of network {network}"


_TELLERS = {
    Fate.DROPPED: _dropped,
    Fate.LOST: _lost,
    Fate.UNANSWERED: _unanswered,
    Fate.TO_HOST: _to_host,
    Fate.TO_CONTAINER: _arrival,
    Fate.LEAVES: _arrival,
    Fate.BRIDGED: _bridged,
}
