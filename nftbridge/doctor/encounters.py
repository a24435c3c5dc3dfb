"""Conditions of other people's rules: what they drop, take, or accept before ours."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.doctor.case import Case, by_place
from nftbridge.doctor.finding import Evidence
from nftbridge.doctor.opening import behind, only
from nftbridge.doctor.owners import owner
from nftbridge.doctor.passage import LINK_HOOKS, Met, drops, is_early_answer, takes
from nftbridge.doctor.ruleset import Place, Table
from nftbridge.doctor.walk import Rewrite, Verdict

_TOLD = 3
"""How many rules are shown where many say the same."""

_DESTINATION = frozenset({"daddr", "dport"})
_LOOKED_AFTER = frozenset({"", "Docker", "firewalld"})


def accepted_before(case: Case) -> Iterator[Evidence]:
    """In tables that we share, an accept before our lines lets pass what they would drop."""
    if case.shared is None:
        return
    leaking = [
        met
        for met in case.forbidden
        if met.decision.place.table.maker is case.shared
        and met.stage.hook == "forward"
        and not met.stage.is_answer
        and met.decision.verdict is Verdict.ACCEPT
        and met.decision.place.rule is not None
        and not met.decision.doubts
        and not case.stops(met.traffic)
    ]
    for place, met in by_place(leaking):
        yield Evidence.at(place, met)


def foreign_drop(case: Case) -> Iterator[Evidence]:
    """A rule that a narrower accept can go before, or a policy."""
    for place, met in _dropping(case):
        if not _is_early(place, met) and owner(place.table) != "firewalld":
            words = {"only": _only(case, met), "behind": _behind(met)}
            yield Evidence.at(place, met, table=_named(place.table), **words)


def _only(case: Case, met: tuple[Met, ...]) -> str:
    """What is said of an advice that does not undo a list of those who are kept out, or let in."""
    told = ", ".join(dict.fromkeys(str(a) for m in met for a in only(m, case.bridges)))
    return f"it is about {told} alone, and that rule goes on stopping others; " if told else ""


def _behind(met: tuple[Met, ...]) -> str:
    """What is said of an advice that opens more than the rule that it goes before."""
    rules = dict.fromkeys(f"'{p.rule.text}'" for m in met for p in behind(m) if p.rule)
    told = ", ".join([*rules][:_TOLD]) + (" and others" if len(rules) > _TOLD else "")
    return f"it lets pass, too, what is dropped behind that rule by {told}; " if rules else ""


def early_drop(case: Case) -> Iterator[Evidence]:
    """What drops answers where connection tracking does not tell them, or by policy even ARP."""
    for place, met in _dropping(case):
        if _is_early(place, met):
            yield Evidence.at(place, met, table=_named(place.table))


def firewalld_drop(case: Case) -> Iterator[Evidence]:
    """Firewalld lets no bridge forward that is in no zone of the right kind."""
    for place, met in _dropping(case):
        if owner(place.table) == "firewalld" and not _is_early(place, met):
            yield Evidence.at(place, met)


def untracked(case: Case) -> Iterator[Evidence]:
    """What is not tracked is not translated, and its answers are not known."""
    found = [m for m in case.met if drops(m) and m.decision.verdict is Verdict.UNTRACKED]
    for place, met in by_place(found):
        yield Evidence.at(place, met, table=_named(place.table))


def port_taken(case: Case) -> Iterator[Evidence]:
    """Of several translations the first counts; with the same priority that is the newest."""
    for place, met in by_place(m for m in case.met if takes(m)):
        said = met[0].decision.statement
        target = str(said.get("addr") or "the host itself")
        target += f" port {said['port']}" if said.get("port") else ""
        yield Evidence.at(place, met, table=_named(place.table), target=target)


def rewritten(case: Case) -> Iterator[Evidence]:
    """Rules that send packets elsewhere without a translation that connection tracking knows."""
    for rewrite, met in _rewrites(case):
        if rewrite.value and rewrite.field in _DESTINATION:
            words = {"table": _named(rewrite.place.table), "value": rewrite.value}
            field = "destination" + (" port" if rewrite.field == "dport" else "")
            yield Evidence.at(rewrite.place, met, **words, field=field)


def rewritten_somehow(case: Case) -> Iterator[Evidence]:
    """Rules after which it cannot be told whether the packet still arrives."""
    for rewrite, met in _rewrites(case):
        if not (rewrite.value and rewrite.field in _DESTINATION):
            yield Evidence.at(
                rewrite.place, met, table=_named(rewrite.place.table), field=rewrite.field
            )


def _rewrites(case: Case) -> Iterator[tuple[Rewrite, tuple[Met, ...]]]:
    """Each rule that rewrites what is wanted, with the packets that it does it to."""
    found: dict[tuple[str, str], tuple[Rewrite, list[Met]]] = {}
    for met in case.met:
        for rewrite in met.decision.rewrites:
            named = found.setdefault((str(rewrite.place), rewrite.field), (rewrite, []))
            named[1].append(met)
    return ((rewrite, tuple(met)) for rewrite, met in found.values())


def docker_left_over(case: Case) -> Iterator[Evidence]:
    """Docker does not run, and its rules decide over what is ours now."""
    met = case.harmed_by_docker
    if met:
        places = [str(place) for place, _ in by_place(met)]
        where = "; ".join(places[:_TOLD]) + (" and others" if len(places) > _TOLD else "")
        kinds = tuple(dict.fromkeys(str(m.traffic) for m in met))
        yield Evidence({"layout": case.remains.layout}, kinds, where, met=met)


def docker_remains(case: Case) -> Iterator[Evidence]:
    """Docker does not run, and its rules are still there without doing harm."""
    if case.remains and not case.docker_runs and not case.harmed_by_docker:
        yield Evidence({"layout": case.remains.layout})


def docker_runs(case: Case) -> Iterator[Evidence]:
    """Docker runs and programs rules."""
    if case.remains and case.docker_runs:
        yield Evidence({"layout": case.remains.layout})


def neighbour(case: Case) -> Iterator[Evidence]:
    """Programs with a table of their own for the same purpose."""
    for table in case.facts.tables:
        whose = owner(table)
        if whose not in _LOOKED_AFTER:
            yield Evidence({"table": str(table), "owner": whose})


def not_understood(case: Case) -> Iterator[Evidence]:
    """Rules that might stop what every other rule lets pass."""
    places: dict[str, list[Met]] = {}
    for met in case.met:
        if not drops(met):
            for place in met.decision.doubts:
                places.setdefault(str(place), []).append(met)
    for where, concerned in places.items():
        kinds = tuple(dict.fromkeys(str(m.traffic) for m in concerned))
        yield Evidence(traffic=kinds, where=where)


def _dropping(case: Case) -> list[tuple[Place, tuple[Met, ...]]]:
    """The rules that drop what is wanted."""
    return by_place(met for met in case.met if met.decision.verdict is Verdict.DROP)


def _is_early(place: Place, met: tuple[Met, ...]) -> bool:
    closed = place.rule is None and place.chain.hook in LINK_HOOKS
    return closed or any(map(is_early_answer, met))


def _named(table: Table) -> str:
    whose = owner(table)
    return f"{table} ({whose})" if whose else str(table)
