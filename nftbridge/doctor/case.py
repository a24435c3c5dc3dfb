"""One examination: a host file, what was found on its host, and the traffic looked into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from nftbridge.doctor.docker import Remains
from nftbridge.doctor.facts import Facts
from nftbridge.doctor.passage import Marking, Met, drops, meetings, takes
from nftbridge.doctor.ruleset import Maker, Place, Table
from nftbridge.doctor.traffic import Traffic
from nftbridge.model import Host
from nftbridge.model.parts import DOCKERS_PRIORITIES

_SHARED = {"iptables": Maker.IPTABLES_LEGACY, "iptables-nft": Maker.IPTABLES_NFT}


@dataclass(frozen=True)
class Case:
    """What every diagnosis asks. Its parts are worked out once, when first asked for."""

    host: Host
    facts: Facts
    traffic: tuple[Traffic, ...]

    @cached_property
    def met(self) -> tuple[Met, ...]:
        """What every base chain does to each kind of traffic that is wanted.

        If what Docker left does harm, it is taken out first; then, as it is without.
        """
        if not self.harmed_by_docker:
            return self._met_now
        return tuple(self._meetings(self.remains.without(self.facts.tables), wanted=True))

    @cached_property
    def harmed_by_docker(self) -> tuple[Met, ...]:
        """Where rules that Docker left decide over what is wanted."""
        if self.docker_runs or not self.remains:
            return ()
        return tuple(
            met
            for met in self._met_now
            if (drops(met) or takes(met)) and self._is_left_over(met.decision.place)
        )

    @cached_property
    def forbidden(self) -> tuple[Met, ...]:
        """What every base chain does to what the host file forbids."""
        return tuple(self._meetings(self.facts.tables, wanted=False))

    @cached_property
    def _met_now(self) -> tuple[Met, ...]:
        return tuple(self._meetings(self.facts.tables, wanted=True))

    @cached_property
    def remains(self) -> Remains:
        """What is Docker's in the tables of others; nothing in those that our backend shares."""
        return Remains(tuple(t for t in self.facts.tables if t.maker is not self.shared))

    @property
    def shared(self) -> Maker | None:
        """Whose tables hold our own rules beside those of others; None if ours has its own."""
        return _SHARED.get(self.facts.backend)

    @property
    def marking(self) -> Marking:
        """What our rules put on the packets that they accept; iptables' chains have their place."""
        ours = DOCKERS_PRIORITIES if self.shared else self.host.priorities
        return Marking(self.host.accept_mark, ours.forward)

    @property
    def docker_runs(self) -> bool:
        """Whether a Docker daemon looks after its rules."""
        return "dockerd" in self.facts.daemons

    @property
    def bridges(self) -> frozenset[str]:
        """The bridges of our networks."""
        return frozenset(network.bridge for network in self.host.networks)

    @cached_property
    def closed(self) -> tuple[Met, ...]:
        """What the boot baseline drops of what is forwarded, wanted or not."""
        held = self.facts.baseline
        if held is None:
            return ()
        met = meetings(self.traffic, (held,), self.marking, self.facts.ports)
        return tuple(filter(drops, met))

    def stops(self, traffic: Traffic) -> bool:
        """Whether any base chain drops what the host file forbids."""
        return any(met.traffic is traffic and drops(met) for met in self.forbidden)

    def _is_left_over(self, place: Place) -> bool:
        if place.table.maker is self.shared:
            return False
        return self.remains.owns(place.table, place.chain, place.rule)

    def _meetings(self, tables: tuple[Table, ...], *, wanted: bool) -> Iterator[Met]:
        found = (t for t in self.traffic if t.wanted is wanted)
        return meetings(found, tables, self.marking, self.facts.ports)


def by_place(met: Iterable[Met]) -> list[tuple[Place, tuple[Met, ...]]]:
    """Grouped by the rule that decides."""
    groups: dict[tuple[int, str, int], list[Met]] = {}
    for found in met:
        place = found.decision.place
        groups.setdefault((id(place.table), place.chain.name, id(place.rule)), []).append(found)
    return [(group[0].decision.place, tuple(group)) for group in groups.values()]
