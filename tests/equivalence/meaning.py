"""What a hook does to a packet, in the terms in which all readings are compared.

A packet is `nftbridge.policy.evaluate.Packet`, which is plain data; the reference evaluator gives
its `Outcome` by `Reference`, the kernels' listings by the readings beside this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from nftbridge.model import Address, Host
from nftbridge.policy.evaluate import Evaluator, Packet
from nftbridge.policy.program import Dnat, Final, Snat
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
    """A fate with the address, and the port if there is one, of a translation."""

    fate: Fate
    address: Address | None = None
    port: int | None = None

    def __str__(self) -> str:
        where = "" if self.address is None else f" to {self.address}"
        return f"{self.fate.value}{where}" + ("" if self.port is None else f" port {self.port}")


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
        if result.packet is None:
            return DROPPED
        match result.decided and result.decided.rule.verdict:
            case Dnat():
                return Outcome(Fate.DNAT, result.packet.daddr, result.packet.dport)
            case Snat():
                return Outcome(Fate.SNAT, result.packet.saddr)
            case Final.MASQUERADE:
                return MASQUERADED
            case Final.ACCEPT:
                return ACCEPTED
            case _:
                return UNDECIDED
