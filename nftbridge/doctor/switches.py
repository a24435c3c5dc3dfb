"""Conditions of the kernel's state: switches, interfaces, and whether our rules are there."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.doctor.case import Case
from nftbridge.doctor.finding import Evidence
from nftbridge.model import Family

_FORWARDING = {Family.IPV4: "ipv4/ip_forward", Family.IPV6: "ipv6/conf/all/forwarding"}
_OWN_FORWARDING = "ipv4/conf/{}/forwarding"
_BRIDGED = {Family.IPV4: "bridge-nf-call-iptables", Family.IPV6: "bridge-nf-call-ip6tables"}


def rules_missing(case: Case) -> Iterator[Evidence]:
    """The kernel differs from the host file, and not all is closed until it does not."""
    closed = {id(met.traffic) for met in case.closed}
    open_ = {t.network for t in case.traffic if id(t) not in closed}
    names = tuple(n.name for n in case.host.networks if not closed or n.name in open_)
    if case.facts.drift and (names or not closed):
        yield Evidence({"drift": case.facts.drift} | _unknown(case), names)


def baseline(case: Case) -> Iterator[Evidence]:
    """The boot baseline is in force."""
    kinds = dict.fromkeys(str(met.traffic) for met in case.closed if met.traffic.wanted)
    if case.facts.baseline is not None:
        where = f"{case.facts.baseline}, chain {next(iter(case.facts.baseline.chains))}"
        yield Evidence(_unknown(case), tuple(kinds), where)


def _unknown(case: Case) -> dict[str, str]:
    """What to say where there is no command that brings our rules in."""
    said = "the host file is not on record: give it to `nftbridge apply`, or to doctor"
    return {"unknown": "" if case.facts.again else said}


def bridge_unfiltered(case: Case) -> Iterator[Evidence]:
    """Packets within one bridge are shown to netfilter by br_netfilter only."""
    for family, switch in _BRIDGED.items():
        names = [n.name for n in case.host.networks if not n.icc and n.subnet(family)]
        if names and family in case.host.families() and family not in case.facts.bridged():
            kinds = tuple(f"{n}: connections among its containers, {family.label}" for n in names)
            words = {"family": family.label, "switch": f"net.bridge.{switch}"}
            yield Evidence(words, kinds, words["switch"])


def forwarding_off(case: Case) -> Iterator[Evidence]:
    """The kernel is no router in a family in which networks need one."""
    for family, path in _FORWARDING.items():
        networks = case.host.forwarded(family)
        if networks and case.facts.switch(path) == 0:
            kinds = tuple(f"{n.name}: everything routed, {family.label}" for n in networks)
            words = {"family": family.label, "switch": _sysctl(path)}
            yield Evidence(words, kinds, words["switch"])


def interface_forwarding_off(case: Case) -> Iterator[Evidence]:
    """Of IPv4 the switch of the interface that a packet comes in by counts, too."""
    bridges = {n.bridge: n.name for n in case.host.forwarded(Family.IPV4)}
    used = dict.fromkeys((*bridges, case.facts.uplink(Family.IPV4)))
    questions = [t.way.question for t in case.traffic if t.wanted and t.family is Family.IPV4]
    used |= dict.fromkeys(name for q in questions for name in (q.iif, q.oif))
    for name in used if bridges else ():
        if _forwards_nothing(case, name):
            kind = f"{bridges.get(name, 'all networks')}: what comes in by {name}"
            switch = _sysctl(_OWN_FORWARDING.format(name))
            yield Evidence({"interface": name, "switch": switch}, (kind,), switch)


def forwarding_off_elsewhere(case: Case) -> Iterator[Evidence]:
    """The same of interfaces that no traffic looked into comes in by."""
    told = {evidence.words["interface"] for evidence in interface_forwarding_off(case)}
    if case.host.forwarded(Family.IPV4):
        for name in sorted(_others(case) - told):
            if _forwards_nothing(case, name):
                words = {"interface": name, "switch": _sysctl(_OWN_FORWARDING.format(name))}
                yield Evidence(words, where=words["switch"])


def _forwards_nothing(case: Case, interface: str) -> bool:
    """Whether only that interface's own switch is off."""
    own = case.facts.switch(_OWN_FORWARDING.format(interface))
    return own == 0 and bool(case.facts.switch(_FORWARDING[Family.IPV4]))


def _others(case: Case) -> set[str]:
    """Interfaces by which routes lead and which are no bridge of ours."""
    found = {route.interface for route in case.facts.plain if route.prefix.version == 4}
    return found - case.bridges - {"lo"}


def reverse_path(case: Case) -> Iterator[Evidence]:
    """Strict reverse path filtering: an answer has to leave by where the packet came in."""
    told: set[str] = set()
    for traffic in case.traffic:
        question = traffic.way.question
        iif, source = question.iif, question.source
        if traffic.family is not Family.IPV4 or not iif or iif in told or not traffic.wanted:
            continue
        back = case.facts.route_to(source)
        if _is_strict(case, iif) and back != iif:
            told.add(iif)
            way = f"answers to {source} leave by {back}" if back else f"no route leads to {source}"
            words = {"source": str(source), "interface": iif, "way": way}
            words["switch"] = _sysctl(f"ipv4/conf/{iif}/rp_filter")
            yield Evidence(words, (str(traffic),), words["switch"])


def strict_elsewhere(case: Case) -> Iterator[Evidence]:
    """The same for what could come in by another uplink than that of the default route."""
    default = case.facts.uplink(Family.IPV4)
    if not default or not case.host.forwarded(Family.IPV4):
        return
    for name in sorted(_others(case) - {default}):
        if _is_strict(case, name):
            words = {"interface": name, "default": default}
            words["switch"] = _sysctl(f"ipv4/conf/{name}/rp_filter")
            yield Evidence(words, where=words["switch"])


def loopback_unroutable(case: Case) -> Iterator[Evidence]:
    """Without a proxy the kernel has to route what comes from 127.0.0.1 to a bridge."""
    if case.host.userland_proxy or not case.host.ipv4:
        return
    for network in case.host.networks:
        published = any(c.publish for c in network.containers if c.ipv4)
        path = f"ipv4/conf/{network.bridge}/route_localnet"
        if published and case.facts.switch(path) == 0:
            kind = f"{network.name}: published ports at 127.0.0.1"
            yield Evidence({"switch": _sysctl(path)}, (kind,), _sysctl(path))


def bridge_down(case: Case) -> Iterator[Evidence]:
    """A bridge is there and not up."""
    for network in case.host.networks:
        if case.facts.interfaces.get(network.bridge) is False:
            yield Evidence({"bridge": network.bridge}, (f"{network.name}: everything",))


def bridge_missing(case: Case) -> Iterator[Evidence]:
    """A bridge is not there yet."""
    for network in case.host.networks:
        if network.bridge not in case.facts.interfaces:
            yield Evidence({"bridge": network.bridge}, (f"{network.name}: everything",))


def unread(case: Case) -> Iterator[Evidence]:
    """Something could not be looked at."""
    return (Evidence({"what": what}) for what in case.facts.unread)


def _is_strict(case: Case, interface: str) -> bool:
    """The higher one of both switches counts; 1 is strict, 2 is loose (ip-sysctl.rst)."""
    paths = (f"ipv4/conf/{name}/rp_filter" for name in ("all", interface))
    return max(case.facts.switch(path) or 0 for path in paths) == 1


def _sysctl(path: str) -> str:
    """A path below /proc/sys/net as sysctl(8) writes it, where dots and slashes trade places."""
    return "net." + path.translate(str.maketrans("./", "/."))
