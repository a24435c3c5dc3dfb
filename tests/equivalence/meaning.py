"""What a hook does to a packet, in the terms in which all readings are compared.

A packet is `nftbridge.policy.evaluate.Packet`, which is plain data; the reference evaluator gives
its `Outcome` by `Reference`, the kernels' listings by the readings beside this module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from nftbridge.model import Address, Host
from nftbridge.policy.evaluate import Evaluator, Packet, Result
from nftbridge.policy.program import Dnat, Final, MarkedAccept, Snat
from nftbridge.policy.rules import CHAINS


class Hook(Enum):
    """The hooks that have rules; the value is the program's base chain."""

    RAW = "raw-PREROUTING"
    INBOUND = "nat-PREROUTING"
    OUTPUT = "nat-OUTPUT"
    FORWARD = "filter-FORWARD"
    POSTROUTING = "nat-POSTROUTING"


class Fate(Enum):
    """What a hook can do to a packet.

    UNDECIDED is what no rule has decided about. With nftbridge's policies it is accepted too; on
    iptables the policy, and rules behind ours, may be somebody else's.
    """

    UNDECIDED = "undecided"
    ACCEPT = "accept"
    DROP = "drop"
    DNAT = "dnat"
    SNAT = "snat"
    MASQUERADE = "masquerade"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fate with the address, and the port if there is one, of a translation.

    `mark` is the packet's afterwards, 0 if it was dropped.
    """

    fate: Fate
    address: Address | None = None
    port: int | None = None
    mark: int = 0

    def __str__(self) -> str:
        where = "" if self.address is None else f" to {self.address}"
        marked = f", mark {self.mark:#x}" if self.mark else ""
        port = "" if self.port is None else f" port {self.port}"
        return f"{self.fate.value}{where}{port}{marked}"

    def marked(self, mark: int) -> Outcome:
        """The same for a packet that has this mark by then."""
        return self if self.fate is Fate.DROP else replace(self, mark=mark)


UNDECIDED = Outcome(Fate.UNDECIDED)
ACCEPTED = Outcome(Fate.ACCEPT)
DROPPED = Outcome(Fate.DROP)
MASQUERADED = Outcome(Fate.MASQUERADE)


class Reading(Protocol):
    """A ruleset as somebody understands it."""

    def outcome(self, hook: Hook, packet: Packet) -> Outcome:
        """What the hook does to the packet."""
        ...

    def plant(self, chain: str, outcome: Outcome) -> None:
        """Put a rule for every packet at the end of a chain of the filter table."""
        ...


class Reference:
    """The reference evaluator's opinion."""

    def __init__(self, host: Host) -> None:
        self._evaluator = Evaluator.of(host)
        self._chains = {chain.name: chain for chain in CHAINS}

    def outcome(self, hook: Hook, packet: Packet) -> Outcome:
        """What the program means."""
        result = self._evaluator.hook(self._chains[hook.value], packet)
        return DROPPED if result.packet is None else _passed(result, result.packet)


def _passed(result: Result, packet: Packet) -> Outcome:
    mark = packet.mark
    match result.decided and result.decided.rule.verdict:
        case Dnat():
            return Outcome(Fate.DNAT, packet.daddr, packet.dport, mark)
        case Snat():
            return Outcome(Fate.SNAT, packet.saddr, mark=mark)
        case Final.MASQUERADE:
            return MASQUERADED.marked(mark)
        case Final.ACCEPT | MarkedAccept():
            return ACCEPTED.marked(mark)
        case _:
            return UNDECIDED.marked(mark)
