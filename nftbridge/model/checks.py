"""Every rule that the networks of a host obey, as functions that yield what violates it.

A `Finding` names the place by path and, in `basis`, the other places it was derived from: a reader
of files that could not make sense of one of those drops the finding as a mere consequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from nftbridge.model.parts import (
    Address,
    Container,
    Family,
    GatewayMode,
    Mark,
    Network,
    Prefix,
    Priorities,
    Publication,
)

Path: TypeAlias = tuple[str | int, ...]

INTERFACE_NAME_BYTES = 15
"""IFNAMSIZ less the terminating zero (include/uapi/linux/if.h)."""

LAST_PORT = 65535

_ALL_BITS = 0xFFFFFFFF
_LAST_PRIORITY = (1 << 31) - 1
_DEFRAGMENTING, _TRACKING, _TRANSLATING = -400, -200, -100
"""Priorities at which the kernel itself is at work (include/uapi/linux/netfilter_ipv4.h)."""

_SHOWN_CHARACTERS = 60
_TOLD_RIVALS = 10
_REFUSED_CHARACTERS = frozenset("/:*\"'\\!")
_RESERVED_INTERFACES = frozenset({"lo", ".", ".."})


@dataclass(frozen=True, slots=True)
class Finding:
    """One violated rule. `other` is a second place it is about: the message ends by naming it."""

    path: Path
    statement: str
    hint: str = ""
    basis: tuple[Path, ...] = ()
    other: Path | None = None

    @property
    def where(self) -> str:
        """The path as people write it: ``network[2].subnets[0]``."""
        return dotted(self.path)

    @property
    def message(self) -> str:
        """What is wrong, with every place as a path in the model."""
        return self.told(dotted)

    def told(self, place: Callable[[Path], str]) -> str:
        """What is wrong, `place` naming the other place: who read files knows a better name."""
        return self.statement if self.other is None else f"{self.statement} {place(self.other)}"


def dotted(path: Path) -> str:
    """``("network", 2, "subnets", 0)`` as ``network[2].subnets[0]``."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{_key(p)}" for p in path)
    return text.removeprefix(".")


def quoted(text: str) -> str:
    """`text` in quotes as a message may show it: printable and short, whatever it holds."""
    if len(text) > _SHOWN_CHARACTERS:
        return f"{text[:_SHOWN_CHARACTERS]!r}..."
    return repr(text)


def host_findings(networks: Sequence[Network]) -> Iterator[Finding]:
    """Everything wrong with these networks, each by itself and then together, in file order."""
    for index, network in enumerate(networks):
        yield from _network_findings(("network", index), network)
    yield from _repeated("name", ((("network", i, "name"), n.name) for i, n in enumerate(networks)))
    yield from _repeated(
        "bridge", ((("network", i, "bridge"), n.bridge) for i, n in enumerate(networks))
    )
    yield from _overlapping_subnets(networks)
    yield from _colliding_publications(networks)


def option_findings(
    accept_mark: Mark | None, trust_mark: Mark | None, priorities: Priorities
) -> Iterator[Finding]:
    """Everything wrong with these options of a host, in file order."""
    for key, mark in (("accept_mark", accept_mark), ("trust_mark", trust_mark)):
        if mark is not None:
            yield from _mark_findings(("host", key), mark)
    if accept_mark is not None and trust_mark is not None and accept_mark.mask & trust_mark.mask:
        path, other = ("host", "trust_mark"), ("host", "accept_mark")
        message = f"the mask of {trust_mark} shares bits with {accept_mark} of"
        hint = "packets that we accept must not look trusted elsewhere: take other bits"
        yield Finding(path, message, hint, (other,), other)
    yield from _priority_findings(priorities)


def _mark_findings(place: Path, mark: Mark) -> Iterator[Finding]:
    if not (0 <= mark.value <= _ALL_BITS and 0 <= mark.mask <= _ALL_BITS):
        yield Finding(place, "a mark has 32 bits", f"write at most {_ALL_BITS:#x}")
    elif mark.value & ~mark.mask:
        hint = f"write {mark.value:#x}/{mark.mask | mark.value:#x}"
        yield Finding(place, f"the mask of {mark} does not cover its value", hint)
    elif not mark.value:
        hint = "packets that nobody has marked look like that: set a bit, e.g. 0x1000/0x1000"
        yield Finding(place, f"the value of {mark} is zero", hint)


def _priority_findings(priorities: Priorities) -> Iterator[Finding]:
    """What the kernel refuses, and what would make rules look at packets in another state."""
    at: Path = ("host", "priorities")
    for key in ("raw", "dstnat", "forward", "srcnat"):
        if not -_LAST_PRIORITY <= getattr(priorities, key) <= _LAST_PRIORITY:
            hint = f"write a number from {-_LAST_PRIORITY} to {_LAST_PRIORITY}"
            yield Finding((*at, key), "a priority has 32 bits", hint)
            return
    for key, priority in (("dstnat", priorities.dstnat), ("srcnat", priorities.srcnat)):
        if priority <= _TRACKING:
            message = f"at {priority} there is no connection yet that could be translated"
            yield Finding((*at, key), message, f"connections are found at {_TRACKING}: come later")
    if priorities.raw <= _DEFRAGMENTING:
        message = f"at {priorities.raw} fragments are not put together, and most have no port"
        yield Finding((*at, "raw"), message, f"that is done at {_DEFRAGMENTING}: come later")
    if priorities.raw >= min(_TRANSLATING, priorities.dstnat):
        latest = min(_TRANSLATING, priorities.dstnat)
        message = f"at {priorities.raw} destinations are translated already"
        hint = f"raw drops what is addressed past that: come before {latest}"
        yield Finding((*at, "raw"), message, hint)


def interface_name_problem(name: str) -> str | None:
    """Why no interface that rules can name is called `name`; None if one may be.

    The kernel forbids slash, colon and white space (net/core/dev.c, dev_valid_name). nft reads
    ``*`` and iptables a final ``+`` as wildcards; quotes cannot be written in nft's text.
    """
    if not name:
        return "is empty"
    length = len(name.encode(errors="surrogatepass"))  # JSON can hold half a surrogate pair
    if length > INTERFACE_NAME_BYTES:
        limit = f"an interface name has at most {INTERFACE_NAME_BYTES}"
        return f"{quoted(name)} is {length} bytes long, {limit}"
    wrong = next((c for c in name if c in _REFUSED_CHARACTERS or not "!" <= c <= "~"), None)
    if wrong is not None:
        return f"{name!r} holds {wrong!r}, which no interface name may hold here"
    if name in _RESERVED_INTERFACES:
        return f"'{name}' cannot be named here"
    return _misread(name)


def _misread(name: str) -> str | None:
    if name.startswith("@"):
        return f"{name!r} begins with '@', which nft reads as the name of a set"
    if name.endswith("+"):
        return f"{name!r} ends in '+', which iptables reads as a wildcard"
    return None


def _key(part: str) -> str:
    bare = part.replace("_", "").replace("-", "")
    return part if bare.isascii() and bare.isalnum() and len(part) < 60 else quoted(part)


def _name_findings(place: Path, name: str) -> Iterator[Finding]:
    if not name:
        yield Finding(place, "the name is empty", 'write a name, e.g. "web"')
    elif not name.isprintable():
        hint = "use printable characters; names are written into rule comments"
        yield Finding(place, f"the name {quoted(name)} cannot be printed", hint)


def _network_findings(at: Path, network: Network) -> Iterator[Finding]:
    yield from _name_findings((*at, "name"), network.name)
    if problem := interface_name_problem(network.bridge):
        yield Finding((*at, "bridge"), problem, "name the Linux bridge, e.g. br-front")
    for index, name in enumerate(network.trusted_host_interfaces):
        if problem := interface_name_problem(name):
            yield Finding((*at, "trusted_host_interfaces", index), problem, "e.g. eth1")
    yield from _subnet_findings(at, network.subnets)
    yield from _mode_findings(at, network)
    yield from _snat_findings(at, network)
    yield from _container_findings(at, network)


def _subnet_findings(at: Path, subnets: Sequence[Prefix]) -> Iterator[Finding]:
    if not subnets:
        hint = 'write e.g. subnets = ["172.20.0.0/16"]'
        yield Finding((*at, "subnets"), "a network needs a subnet", hint, ((*at, "subnets"),))
    seen: dict[Family, Prefix] = {}
    for index, subnet in enumerate(subnets):
        here = (*at, "subnets", index)
        first = seen.setdefault(Family.of(subnet), subnet)
        if first is not subnet:
            kind = Family.of(subnet).label
            message = f"{subnet} is a second {kind} subnet beside {first}"
            yield Finding(here, message, "one subnet per family; make a second network of it")
        if subnet.is_loopback or subnet.is_multicast or subnet.prefixlen == 0:
            hint = "take a private prefix, e.g. 172.20.0.0/16 or fd00:20::/64"
            yield Finding(here, f"{subnet} cannot be a container subnet", hint)


def _mode_findings(at: Path, network: Network) -> Iterator[Finding]:
    if network.internal:
        return
    for family in Family:
        if network.gateway_mode(family) is GatewayMode.ISOLATED:
            yield Finding(
                (*at, f"gateway_mode_{family.value}"),
                "'isolated' is for internal networks only",
                "add internal = true, or choose nat, nat-unprotected or routed",
                ((*at, "internal"),),
            )


def _snat_findings(at: Path, network: Network) -> Iterator[Finding]:
    for family in Family:
        address = network.snat_address(family)
        if address is not None and _not_unicast(address):
            here = (*at, f"host_{family.value}")
            yield Finding(
                here, f"{address} cannot be a source address", "name an address of this host"
            )


def _container_findings(at: Path, network: Network) -> Iterator[Finding]:
    containers = [((*at, "container", i), c) for i, c in enumerate(network.containers)]
    for here, container in containers:
        yield from _name_findings((*here, "name"), container.name)
    yield from _repeated("container name", (((*p, "name"), c.name) for p, c in containers))
    for family in Family:
        key = family.value
        found = (((*p, key), c.address(family)) for p, c in containers if c.address(family))
        yield from _repeated("container address", found)
    for here, container in containers:
        for family in Family:
            yield from _address_findings(at, here, network, container.address(family))
        yield from _publish_findings(at, here, network, container)


def _address_findings(
    at: Path, here: Path, network: Network, address: Address | None
) -> Iterator[Finding]:
    if address is None:
        return
    family = Family.of(address)
    subnet, place = network.subnet(family), (*here, family.value)
    basis = ((*at, "subnets"),)
    if subnet is None:
        hint = f"add an {family.label} subnet to the network, or drop the address"
        message = (
            f"{address} has no subnet: network {quoted(network.name)} has none of {family.label}"
        )
        yield Finding(place, message, hint, basis)
    elif address not in subnet:
        yield Finding(
            place, f"{address} lies outside {subnet}", f"choose one inside {subnet}", basis
        )
    elif _names_the_subnet(address, subnet):
        message = f"{address} is the network or broadcast address of {subnet}"
        yield Finding(place, message, "choose an address between them", basis)


def _publish_findings(
    at: Path, here: Path, network: Network, container: Container
) -> Iterator[Finding]:
    if network.internal and container.publish:
        message = f"network {quoted(network.name)} is internal, nothing can be published on it"
        hint = "remove publish, or attach the container to a network that is not internal"
        yield Finding((*here, "publish"), message, hint, ((*at, "internal"),))
    for index, publication in enumerate(container.publish):
        place = (*here, "publish", index)
        yield from _port_findings(place, publication)
        yield from _bound_address_findings(place, publication)
        if publication.host_port is None:
            yield from _missing_port_findings(at, place, network, container, publication)


def _missing_port_findings(
    at: Path, place: Path, network: Network, container: Container, publication: Publication
) -> Iterator[Finding]:
    """A family in which the container has no address publishes nothing and needs no host port."""
    families = [f for f in Family if publication.covers(f) and container.address(f) is not None]
    if not all(map(network.is_routed, families)):
        hint = f"write HOST_PORT:{publication.container_port}; only routed networks do without"
        basis = tuple((*at, f"gateway_mode_{f.value}") for f in Family)
        yield Finding(place, "the host port is missing", hint, basis)


def _port_findings(place: Path, publication: Publication) -> Iterator[Finding]:
    named = (("host port", publication.host_port), ("container port", publication.container_port))
    for what, first in named:
        last = None if first is None else first + publication.count - 1
        if first is not None and last is not None and not (first >= 1 and last <= LAST_PORT):
            shown = first if first < 1 or first > LAST_PORT else last
            yield Finding(
                place, f"{what} {shown} is out of range", f"ports go from 1 to {LAST_PORT}"
            )
    if publication.count < 1:
        yield Finding(place, "the port range is empty", "write the lower port first")


def _bound_address_findings(place: Path, publication: Publication) -> Iterator[Finding]:
    address = publication.host_address
    if address is not None and (address.is_multicast or getattr(address, "scope_id", None)):
        yield Finding(place, f"cannot publish on {address}", "name a unicast address of this host")


def _repeated(what: str, found: Iterable[tuple[Path, object]]) -> Iterator[Finding]:
    first: dict[object, Path] = {}
    for path, value in found:
        other = first.setdefault(value, path)
        if other is not path:
            message = f"{what} {quoted(str(value))} is taken already by"
            yield Finding(path, message, f"each {what} may stand once", (other,), other)


def _overlapping_subnets(networks: Sequence[Network]) -> Iterator[Finding]:
    """Sorted by first address, two prefixes overlap only if one contains the next one's start."""
    for family in Family:
        found: list[tuple[int, int, Path, Prefix]] = sorted(
            (int(subnet.network_address), subnet.prefixlen, ("network", i, "subnets", j), subnet)
            for i, network in enumerate(networks)
            for j, subnet in enumerate(network.subnets)
            if Family.of(subnet) is family
        )
        widest = found[:1]
        for current in found[1:]:
            outer, inner = widest[0], current
            if int(outer[3].broadcast_address) < inner[0]:
                widest = [inner]
            elif outer[2][1] != inner[2][1]:
                message, other = f"{inner[3]} overlaps {outer[3]} of", outer[2]
                hint = "give every network a prefix of its own"
                yield Finding(inner[2], message, hint, (other,), other)


def _colliding_publications(networks: Sequence[Network]) -> Iterator[Finding]:
    """Each pair once, though a wildcard clashes in both families."""
    if not _any_port_twice(networks):  # nearly always the end of it
        return
    claims: dict[tuple[Family, str], list[_Claim]] = {}
    for claim in _claims(networks):
        claims.setdefault((claim.family, claim.publication.protocol.value), []).append(claim)
    seen: set[tuple[Path, Path]] = set()
    for group in claims.values():
        for finding, pair in _collisions(group):
            if pair not in seen:
                seen.add(pair)
                yield finding


def _any_port_twice(networks: Sequence[Network]) -> bool:
    """Whether any two publications name a port of one protocol, be it on different addresses."""
    spans = sorted(
        (publication.protocol.value, publication.host_port, publication.count)
        for network in networks
        for container in network.containers
        for publication in container.publish
        if publication.host_port is not None
    )
    return any(
        protocol == other and port < first + count
        for (protocol, first, count), (other, port, _) in pairwise(spans)
    )


class _Claim(NamedTuple):  # made by the thousand, which a frozen data class is too slow for
    path: Path
    owner: str
    family: Family
    publication: Publication
    first: int
    last: int
    address: Address | None


def _claims(networks: Sequence[Network]) -> Iterator[_Claim]:
    for i, network in enumerate(networks):
        families = [f for f in Family if not network.is_routed(f)]
        for j, container in enumerate(network.containers):
            owner = f"container {quoted(container.name)} of network {quoted(network.name)}"
            for k, publication in enumerate(container.publish):
                path = ("network", i, "container", j, "publish", k)
                first = publication.host_port
                for family in families:
                    if first is None or not publication.covers(family):
                        continue
                    if container.address(family) is not None:
                        bound = publication.bound_address(family)
                        last = first + publication.count - 1
                        yield _Claim(path, owner, family, publication, first, last, bound)


def _collisions(group: list[_Claim]) -> Iterator[tuple[Finding, tuple[Path, Path]]]:
    """Sweep the ports upwards; per bound address the claim that reaches furthest stays open.

    So a claim is reported against one other per address, and a wildcard against a few, not all:
    a file that repeats one line thousands of times gets thousands of findings, not their square.
    """
    reaching: dict[Address | None, _Claim] = {}
    for claim in sorted(group, key=lambda c: (c.first, c.path)):
        told = 0
        for address in list(reaching) if claim.address is None else [claim.address, None]:
            other = reaching.get(address)
            if other is not None and other.last < claim.first:
                del reaching[address]
            elif other is not None:
                late, early = (claim, other) if claim.path > other.path else (other, claim)
                yield _collision(late, early), (late.path, early.path)
                told += 1
                if told == _TOLD_RIVALS:
                    break
        other = reaching.get(claim.address)
        if other is None or other.last < claim.last:
            reaching[claim.address] = claim


def _collision(late: _Claim, early: _Claim) -> Finding:
    message = (
        f"{late.publication} of {late.owner} collides with {early.publication} of {early.owner}, at"
    )
    hint = "choose another host port, or bind each to an address of its own"
    return Finding(late.path, message, hint, (early.path,), early.path)


def _not_unicast(address: Address) -> bool:
    return address.is_unspecified or address.is_loopback or address.is_multicast


def _names_the_subnet(address: Address, subnet: Prefix) -> bool:
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return False
    if address == subnet.network_address:
        return True
    return isinstance(subnet, IPv4Network) and address == subnet.broadcast_address
