"""Holding readings against the reference, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from nftbridge.compat import text
from nftbridge.compat.tree import DOCKER, TREE, Layout
from nftbridge.model import Family, Host
from nftbridge.nft import document, lower
from nftbridge.policy.evaluate import Packet
from tests.equivalence.iptables_reading import IptablesReading
from tests.equivalence.meaning import Hook, Outcome, Reading, Reference
from tests.equivalence.nft_reading import NftReading, as_listed
from tests.equivalence.partition import Depth, Partition

TABLE = "nftbridge"


@dataclass(frozen=True, slots=True)
class Case:
    """A cell at a hook, and what the program means to do with it."""

    hook: Hook
    packet: Packet
    wanted: Outcome

    def __str__(self) -> str:
        return f"{self.hook.value}: {self.packet}: {self.wanted}"


def cases(host: Host, family: Family, depth: Depth) -> Iterator[Case]:
    """Every cell of `depth` with the reference evaluator's answer."""
    reference, partition = Reference(host), Partition(host, family)
    for hook in Hook:
        for packet in partition.cells(hook, depth):
            yield Case(hook, packet, reference.outcome(hook, packet))


def first_difference(wanted: Iterable[Case], reading: Reading) -> str:
    """The first cell that the reading answers in another way; empty if there is none."""
    for case in wanted:
        found = reading.outcome(case.hook, case.packet)
        if found != case.wanted:
            return f"{case}, not {found}"
    return ""


def sent_nft(host: Host) -> NftReading:
    """What the document says that would be sent to the kernel."""
    rows, setting = lower.rows_in_kernel(host), lower.Setting.of(host)
    return NftReading(as_listed(document.install(TABLE, rows, (), setting)))


def rendered_iptables(host: Host, family: Family, layout: Layout = DOCKER) -> IptablesReading:
    """What the text says that would be given to iptables-restore."""
    return IptablesReading(text.script(host, family, layout), family.version)


FINEST = replace(TREE, leaf=1)
"""The tree layout with everything split that can be: the hosts here are small."""

READINGS: dict[str, Callable[[Host, Family], Reading]] = {
    "nftables": lambda host, _: sent_nft(host),
    "iptables": rendered_iptables,
    "iptables tree": lambda host, family: rendered_iptables(host, family, TREE),
    "iptables finest tree": lambda host, family: rendered_iptables(host, family, FINEST),
}
"""Both backends without a kernel; iptables in both layouts."""
