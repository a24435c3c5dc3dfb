"""A packet's way, and its answer's, through the base chains of everybody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nftbridge.doctor.ruleset import Chain, Table, attached
from nftbridge.doctor.traffic import Traffic
from nftbridge.doctor.walk import UNKNOWN, UNMARKED, Bits, Decision, Verdict, decide, sets_marks
from nftbridge.explain.matching import Seen
from nftbridge.explain.way import Fate, Way
from nftbridge.model import Address, Mark
from nftbridge.policy.evaluate import Packet

_TRACKED = -200  # NF_IP_PRI_CONNTRACK: up to here a packet has no state
_TRANSLATED = -100  # NF_IP_PRI_NAT_DST: up to here a packet is addressed to whom it asked for
_SENT = 100  # NF_IP_PRI_NAT_SRC: up to here a packet comes from who made it

LINK_HOOKS = frozenset({"ingress", "egress"})
"""Where packets are seen as they are on the wire, and as a device has them; no rule asks for ct."""

Ports = Mapping[str, tuple[str, ...]]
"""The ports of each bridge."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A packet at one hook, before and after it is translated there."""

    hook: str
    before: Packet
    after: Packet
    is_answer: bool = False

    def at(self, priority: int) -> Packet:
        """The packet as a base chain of that priority sees it."""
        last = _SENT if self.hook == "postrouting" else _TRANSLATED
        return self.before if priority <= last else self.after


@dataclass(frozen=True, slots=True)
class Met:
    """What one base chain did to a packet of this kind."""

    traffic: Traffic
    stage: Stage
    packet: Packet
    priority: int
    decision: Decision
    mark: Mark | None = None
    """The accept mark, where the packet certainly bears it."""


@dataclass(frozen=True, slots=True)
class Marking:
    """The mark that our rules put on what they accept, None if none, and where they do."""

    mark: Mark | None = None
    priority: int = 0

    def seen(self, traffic: Traffic, stage: Stage, base: Chain) -> Mark | None:
        """The mark, if the packet certainly bears it when it comes to a base chain."""
        passes = traffic.wanted and bool(stage.after.iif)
        later = stage.hook == "postrouting" or (
            stage.hook == "forward" and base.priority > self.priority
        )
        return self.mark if passes and later else None

    def is_doubtful(self, stage: Stage, base: Chain) -> bool:
        """Whether it cannot be told which of the two chains is the first."""
        return stage.hook == "forward" and base.priority == self.priority


def meetings(
    traffic: Iterable[Traffic], tables: tuple[Table, ...], marking: Marking, ports: Ports
) -> Iterator[Met]:
    """What every base chain does to the packets and their answers, as if it were the only one.

    A drop anywhere is final; all of them are told, since each has to be mended.
    """
    mark = UNKNOWN if sets_marks(tables) else UNMARKED
    for kind in traffic:
        for stage in stages(kind.way):
            for each in _on_devices(stage, ports):
                yield from _meetings(kind, each, tables, mark, marking)


def _on_devices(stage: Stage, ports: Ports) -> Iterator[Stage]:
    """The stage at each device that the packet passes: a bridge's packets also pass a port."""
    yield stage
    if stage.hook == "ingress":
        for port in ports.get(stage.after.iif, ()):
            packet = replace(stage.after, iif=port)
            yield replace(stage, before=packet, after=packet)
    elif stage.hook == "egress":
        for port in ports.get(stage.after.oif, ()):
            packet = replace(stage.after, oif=port)
            yield replace(stage, before=packet, after=packet)


def _meetings(
    traffic: Traffic, stage: Stage, tables: tuple[Table, ...], others: Bits, marking: Marking
) -> Iterator[Met]:
    way = traffic.way
    for table, base in attached(tables, traffic.family, stage.hook):
        packet = stage.at(base.priority)
        if not base.hangs_on(packet.oif if stage.hook == "egress" else packet.iif):
            continue
        if base.kind == "nat" and stage.is_answer:
            continue  # translations are decided by a connection's first packet
        left = stage.hook == "egress" or (stage.hook == "postrouting" and base.priority > _SENT)
        asked_for = way.packet if left else way.end
        seen = Seen(packet, way.packet, asked_for if stage.is_answer else packet)
        ours = marking.seen(traffic, stage, base)
        bits = others
        if ours is not None:
            bits = Bits(ours.put_on(others.value), others.known | ours.mask)
        elif marking.mark is not None and marking.is_doubtful(stage, base):
            bits = Bits(others.value, others.known & ~marking.mark.mask)
        decision = decide(table, base, seen, mark=bits)
        yield Met(traffic, stage, packet, base.priority, decision, ours)


def drops(met: Met) -> bool:
    """Whether the packet ends there."""
    verdict = met.decision.verdict
    if verdict is Verdict.UNTRACKED:
        return met.stage.hook in ("prerouting", "output")
    return verdict is Verdict.DROP


def takes(met: Met) -> bool:
    """Whether a foreign chain sends a connection to another place than ours does."""
    said, way = met.decision.statement, met.traffic.way
    if said.get("kind") not in ("dnat", "redirect") or met.stage.is_answer:
        return False
    port = said.get("port") or way.question.port
    return (str(said.get("addr")), port) != (str(way.end.daddr), way.end.dport)


def is_early_answer(met: Met) -> bool:
    """Whether it is an answer, where no rule can ask connection tracking whether it is one."""
    hook = met.stage.hook
    early = hook in ("prerouting", "output") and met.priority <= _TRACKED
    return met.stage.is_answer and (early or hook in LINK_HOOKS)


def stages(way: Way) -> Iterator[Stage]:
    """The hooks of the packet, then those of its answer, as far as our own rules let them go."""
    asked = replace(way.packet, to_host=way.around.is_own(way.packet.daddr))
    to_host = way.around.is_own(way.end.daddr)
    oif = way.end.oif or ("" if to_host else way.around.interface_to(way.end.daddr))
    # its source is translated after all that is looked at here
    delivered = replace(asked, daddr=way.end.daddr, dport=way.end.dport, to_host=to_host, oif=oif)
    translated = way.end.from_host and not asked.from_host
    sent = replace(delivered, saddr=_source(way)) if translated else delivered
    yield from _stages(asked, delivered, sent, is_answer=False)
    if way.fate in (Fate.DROPPED, Fate.LOST):
        return
    back = Packet(
        saddr=delivered.daddr,
        daddr=asked.saddr,
        protocol=asked.protocol,
        iif=oif,
        oif=asked.iif,
        state="established",
        from_host=to_host,
        to_host=not asked.iif,
    )
    first = replace(back, daddr=_source(way), to_host=True) if translated else back
    yield from _stages(first, back, replace(back, saddr=asked.daddr), is_answer=True)


def _source(way: Way) -> Address:
    """The address that the packet left with; if the kernel chose it, one that is likely."""
    if way.end.saddr != way.packet.saddr:
        return way.end.saddr
    own = (a for a in way.around.own if a.version == way.end.saddr.version and not a.is_loopback)
    likely = (a for a in sorted(own, key=int) if way.names.network_around(a) is None)
    return next(likely, way.end.saddr)


def _stages(before: Packet, after: Packet, sent: Packet, *, is_answer: bool) -> Iterator[Stage]:
    """`sent` is the packet as it leaves, its source translated, too."""
    entering = before.iif or after.iif
    if entering:
        early = (replace(before, oif=""), replace(after, oif=""))
        yield Stage("ingress", early[0], early[0], is_answer)
        yield Stage("prerouting", *early, is_answer)
        if after.to_host or not after.oif:
            yield Stage("input", early[1], early[1], is_answer)
        else:
            yield Stage("forward", after, after, is_answer)
            yield Stage("postrouting", after, sent, is_answer)
            yield Stage("egress", sent, sent, is_answer)
    elif after.oif:
        leaving = replace(before, oif=before.oif or after.oif)
        yield Stage("output", leaving, after, is_answer)
        yield Stage("postrouting", after, sent, is_answer)
        yield Stage("egress", sent, sent, is_answer)
