"""The narrowest rule that lets a packet pass where a rule stops it, and the command that adds it.

It goes right before the rule that stops the packet, or to the end of the chain where the policy
does: all that stands before stays in force. Of what stands behind, `behind` says what does not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from nftbridge.doctor.passage import LINK_HOOKS, Met
from nftbridge.doctor.ruleset import Maker, Place
from nftbridge.model import Address, Family, Mark
from nftbridge.nft.syntax import MatchMark
from nftbridge.policy.evaluate import Packet
from nftbridge.policy.rules import DOCKER_FORWARD, DOCKER_USER, FILTER_FORWARD

_NFT_STATES = {"established": "ct state established,related", "dnat": "ct status dnat"}
_IPTABLES_STATES = {"established": "RELATED,ESTABLISHED", "dnat": "DNAT"}


@dataclass(frozen=True, slots=True)
class Opening:
    """What is let pass; "", None and 0 stand for anything. `state`: ``established``, ``dnat``."""

    iif: tuple[str, ...] = ()
    oif: tuple[str, ...] = ()
    state: str = ""
    saddr: Address | None = None
    daddr: Address | None = None
    protocol: str = ""
    dport: int = 0
    mark: Mark | None = None


def opening(met: Met, bridges: frozenset[str]) -> Opening:
    """What has to be let pass for the packet of `met`; `bridges` are those of our networks.

    In the forward path the bridge is enough: what goes in and out of it is decided by our own
    table, whose drops count whatever is accepted here. Better is the mark of what our table has
    accepted, if there is one: that lets nothing pass while our rules are missing. A rule that asks
    for addresses out there, a block list, is opened for the one that was looked into only.
    """
    if met.mark is not None:
        found = Opening(mark=met.mark)
    elif met.stage.hook in LINK_HOOKS:
        found = _on_the_wire(met, bridges)
    else:
        found = _routed(met, bridges)
    named = {field for place in _way_into(met) if place.rule for field in place.rule.fields}
    saddr = met.packet.saddr if "saddr" in named and _is_far(met, met.packet.saddr) else None
    far = "daddr" in named and _is_far(met, met.packet.daddr)
    return replace(found, saddr=saddr, daddr=met.packet.daddr if far else found.daddr)


def behind(met: Met) -> tuple[Place, ...]:
    """What an opening lets pass that rules behind the one that stops the packet would drop."""
    stops, *callers = _way_into(met)
    if stops.rule is None or not stops.rule.asks:
        return ()  # it stops whatever comes so far
    later = (
        Place(p.table, p.chain, r) for p in (stops, *callers) for r in p.chain.rules[p.number :]
    )
    return tuple(place for place in later if place.blocks_some())


def only(met: Met, bridges: frozenset[str]) -> tuple[Address, ...]:
    """Those out there to whom an opening is limited; all of them if none."""
    found = opening(met, bridges)
    return tuple(a for a in (found.saddr, found.daddr) if a is not None and _is_far(met, a))


def _way_into(met: Met) -> tuple[Place, ...]:
    """The rule that stops the packet, and those that led to it."""
    return met.decision.place, *met.decision.via


def _is_far(met: Met, address: Address) -> bool:
    """Whether it belongs neither to a network of ours nor to the host."""
    way = met.traffic.way
    return not way.around.is_own(address) and way.names.network_around(address) is None


def _routed(met: Met, bridges: frozenset[str]) -> Opening:
    packet, hook = met.packet, met.stage.hook
    state = "established" if met.stage.is_answer else ""
    if hook in ("forward", "prerouting") and packet.iif in bridges:
        return Opening(iif=(packet.iif,), state=state)
    if hook != "prerouting" and packet.oif in bridges:
        translated = (packet.daddr, packet.dport) != (met.traffic.way.packet.daddr, packet.dport)
        return Opening(oif=(packet.oif,), state=state or ("dnat" if translated else ""))
    if hook in ("postrouting", "output"):
        return Opening(oif=(packet.oif,), state=state)
    if state:
        return Opening(iif=(packet.iif,), state=state)
    return _asked_for(packet)


def _asked_for(packet: Packet) -> Opening:
    return Opening((packet.iif,), daddr=packet.daddr, protocol=packet.protocol, dport=packet.dport)


def _on_the_wire(met: Met, bridges: frozenset[str]) -> Opening:
    """The same for a device's own chain, which knows no connections; it may be a bridge's port."""
    packet = met.packet
    if met.stage.hook == "egress":
        return Opening(oif=(packet.oif,))
    if met.traffic.way.question.iif in bridges:
        return Opening(iif=(packet.iif,))
    return _asked_for(packet)


def is_asked_before_ours(met: Met, shared: Maker | None) -> bool:
    """Whether the packet is stopped in DOCKER-USER, from where it would go on to our own rules.

    An accept there would keep it from them, and open what they close. `shared` is whose tables hold
    our rules, None if ours are in a table of their own.
    """
    way = _way_into(met)
    if all(place.chain.name != DOCKER_USER for place in way):
        return False
    if shared is not None:
        return met.decision.place.table.maker is shared
    return way[-1].chain.name == FILTER_FORWARD.name


def stands_before_ours(met: Met, shared: Maker | None) -> bool:
    """Whether it is stopped by a line before our own, which an apply would put first."""
    if is_asked_before_ours(met, shared):
        return False
    outermost = _way_into(met)[-1]
    later = outermost.chain.rules[outermost.number :] if outermost.rule else ()
    jumps = (s.get("jump") for rule in later for s in rule.statements)
    return outermost.table.maker is shared and {"target": DOCKER_FORWARD} in jumps


def commands(
    place: Place, hook: str, openings: Iterable[Opening], verdict: str = "accept"
) -> Iterator[str]:
    """The commands that let these pass at `place`, which lies below a base chain at `hook`.

    Run one after the other; the rules that they add stand in the order of the openings.
    """
    needed = _widest(openings)
    if place.table.maker is Maker.NFT:
        for found in _merged(needed):
            yield _nft(place, found, verdict)
        return
    family = Family.IPV4 if place.table.family == "ip" else Family.IPV6
    for found in needed:
        yield _iptables(place, hook, found, family, verdict)


def _widest(openings: Iterable[Opening]) -> list[Opening]:
    """Each once, without those that another one contains."""
    unique = dict.fromkeys(openings)
    return [o for o in unique if not o.state or replace(o, state="") not in unique]


def _merged(openings: Iterable[Opening]) -> Iterator[Opening]:
    """Openings that differ in one interface as one, which nft writes as a set."""
    groups: dict[Opening, tuple[list[str], list[str]]] = {}
    for found in openings:
        iifs, oifs = groups.setdefault(replace(found, iif=(), oif=()), ([], []))
        if found.iif and not found.oif:
            iifs += found.iif
        else:
            oifs += found.oif
    for rest, (iifs, oifs) in groups.items():
        if not (iifs or oifs):
            yield rest
        if iifs:
            yield replace(rest, iif=tuple(dict.fromkeys(iifs)))
        if oifs:
            yield replace(rest, oif=tuple(dict.fromkeys(oifs)))


def _nft(place: Place, found: Opening, verdict: str) -> str:
    table, chain = place.table, place.chain.name
    words = [*_nft_words(found), verdict]
    where = f"{table.family} {table.name} {chain}"
    if place.rule is not None:
        where += f" handle {place.rule.handle}"
    verb = "add" if place.rule is None else "insert"
    return f"nft '{verb} rule {where} {' '.join(words)}'"


def _nft_words(found: Opening) -> Iterator[str]:
    for key, names in (("iifname", found.iif), ("oifname", found.oif)):
        quoted = [f'"{name}"' for name in names]
        if quoted:
            yield f"{key} {quoted[0] if len(quoted) == 1 else '{ ' + ', '.join(quoted) + ' }'}"
    if found.mark is not None:
        yield MatchMark(found.mark.value, found.mark.mask).text()
    for key, address in (("saddr", found.saddr), ("daddr", found.daddr)):
        if address is not None:
            yield f"{'ip' if address.version == 4 else 'ip6'} {key} {address}"
    if found.state:
        yield _NFT_STATES[found.state]
    if found.dport:
        yield f"{found.protocol} dport {found.dport}"
    elif found.protocol:
        yield f"meta l4proto {found.protocol}"


def _iptables(place: Place, hook: str, found: Opening, family: Family, verdict: str) -> str:
    table, chain = place.table, place.chain.name
    words = [table.program, "-w", "-t", table.name]
    words += ["-A", chain] if place.rule is None else ["-I", chain, str(place.number)]
    words += [w for name in found.iif for w in ("-i", name)]
    words += [w for name in found.oif for w in ("-o", name)] if hook != "prerouting" else []
    words += ["-s", str(found.saddr)] if found.saddr is not None else []
    words += ["-d", str(found.daddr)] if found.daddr is not None else []
    if found.protocol:
        words += ["-p", "icmp" if family is Family.IPV4 and not found.dport else found.protocol]
    if found.dport:
        words += ["--dport", str(found.dport)]
    if found.mark is not None:
        words += ["-m", "mark", "--mark", str(found.mark)]
    if found.state:
        words += ["-m", "conntrack", "--ctstate", _IPTABLES_STATES[found.state]]
    return shlex.join([*words, "-j", verdict.upper()])
