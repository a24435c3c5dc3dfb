"""The part `packets`: client - host - container, with the same traffic under every ruleset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Series, Size
from tests.bench.hosts import Hosting
from tests.bench.layouts import LAYOUTS, Layout
from tests.bench.running import NFTBRIDGE, PREFIX, interleaved, namespace, output, say
from tests.bench.traffic import INWARD, OUTWARD, Way, compiled, cost

SIZES = tuple(Size(networks, ports) for networks in (1, 100, 1000) for ports in (10, 1000, 10000))
ONE = Size(1, 1)
"""The size of what has no size: one translation, or nothing at all."""

OUTSIDE = "198.18.0.1"  # RFC 2544: addresses for benchmarks; the host's, seen by the client
_CLIENT = "198.18.0.2"
_DISCARD = 9
_BOGUS = "02:00:00:00:00:01"


@dataclass(frozen=True, slots=True)
class Contender:
    """A ruleset at one size, in place, and the way through it."""

    name: str
    size: Size
    way: Way
    kinds: tuple[str, ...] = INWARD


def run(rounds: int, milliseconds: int, sizes: Sequence[Size] = SIZES) -> list[Series]:
    """Every layout at every size, one container for each port, beside the two limits."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        program = compiled(folder)
        contenders = [floor(stack), plain(stack), masquerading(stack)]
        for size in sizes:
            for layout in LAYOUTS:
                say(f"packets: {layout.name}, {size}")
                hosting = Hosting(size, containers=size.ports)
                contenders.append(found := programmed(stack, folder, layout, hosting))
                contenders.append(replace(found, way=outward(found.way), kinds=OUTWARD))
        return measured(program, contenders, rounds, milliseconds)


def measured(
    program: Path, contenders: Iterable[Contender], rounds: int, milliseconds: int
) -> list[Series]:
    """The cost of each kind of traffic for each contender, interleaved."""
    tasks = [(contender, kind) for contender in contenders for kind in contender.kinds]
    runs: list[Callable[[], float]] = [
        partial(cost, program, contender.way, kind, milliseconds) for contender, kind in tasks
    ]
    say(f"packets: {rounds} rounds of {len(tasks)} measurements")
    return [
        Series(kind, contender.name, contender.size, tuple(values))
        for (contender, kind), values in zip(tasks, interleaved(rounds, runs), strict=True)
    ]


def programmed(stack: ExitStack, folder: Path, layout: Layout, hosting: Hosting) -> Contender:
    """A laboratory under a ruleset of nftbridge's."""
    way = laboratory(stack, hosting, name := next(NAMES))
    file = folder / f"{name}.json"
    file.write_text(hosting.document())
    target = ["--netns", f"{name}-h", "--state-dir", str(folder / name)]
    output([*NFTBRIDGE, "apply", str(file), *layout.options, *target])
    return Contender(layout.name, hosting.size, way)


def plain(stack: ExitStack) -> Contender:
    """The least that publishing a port takes: forwarding, conntrack, one translation, no filter."""
    hosting = Hosting(ONE)
    way = laboratory(stack, hosting, next(NAMES))
    to = f"dnat to {hosting.address}:{way.listen}"
    script = (
        "add table ip plain",
        "add chain ip plain prerouting { type nat hook prerouting priority dstnat; }",
        f"add rule ip plain prerouting tcp dport {way.port} {to}",
        f"add rule ip plain prerouting udp dport {way.port} {to}",
    )
    output(["nsenter", f"--net={way.host}", "nft", "-f", "-"], stdin="\n".join(script))
    return Contender("plain", ONE, way)


def masquerading(stack: ExitStack) -> Contender:
    """The least that a container's own connections take: forwarding, conntrack, masquerading."""
    way = laboratory(stack, Hosting(ONE), next(NAMES))
    script = (
        "add table ip plain",
        "add chain ip plain postrouting { type nat hook postrouting priority srcnat; }",
        "add rule ip plain postrouting oifname wan masquerade",
    )
    output(["nsenter", f"--net={way.host}", "nft", "-f", "-"], stdin="\n".join(script))
    return Contender("plain", ONE, outward(way), OUTWARD)


def outward(way: Way) -> Way:
    """The other direction, from the container to a port of the client."""
    if way.server is None:
        raise ValueError("nobody is behind this way who could send")
    return Way(way.server, way.host, way.client, _CLIENT, _DISCARD, _DISCARD)


def floor(stack: ExitStack) -> Contender:
    """Sending to a neighbour that throws everything away: no host, no container."""
    name = next(NAMES)
    for part in ("c", "h"):
        stack.enter_context(namespace(f"{name}-{part}"))
    _ip(
        f"link add eth0 netns {name}-c type veth peer name wan netns {name}-h",
        f"-n {name}-h link set wan up",
        f"-n {name}-c link set eth0 up",
        f"-n {name}-c address add {_CLIENT}/30 dev eth0",
        # not the neighbour's address: it sees packets for somebody else
        f"-n {name}-c neighbour replace {OUTSIDE} lladdr {_BOGUS} dev eth0 nud permanent",
    )
    client, host = (f"/run/netns/{name}-{part}" for part in ("c", "h"))
    way = Way(client, host, None, OUTSIDE, _DISCARD, _DISCARD)
    return Contender("floor", ONE, way, ("established",))


def laboratory(stack: ExitStack, hosting: Hosting, name: str) -> Way:
    """Namespaces NAME-c, NAME-h and NAME-s: client, host with the measured bridge, container."""
    way = outside(stack, hosting, name)
    bridge, subnet = hosting.bridge, hosting.subnet
    _ip(
        f"-n {name}-h link add {bridge} type bridge",
        f"-n {name}-h address add {subnet[1]}/{subnet.prefixlen} dev {bridge}",
        f"-n {name}-h link set {bridge} up",
        f"link add port netns {name}-h type veth peer name eth0 netns {name}-s",
        f"-n {name}-h link set port master {bridge} up",
        f"-n {name}-s link set eth0 up",
        f"-n {name}-s address add {hosting.address}/{subnet.prefixlen} dev eth0",
        f"-n {name}-s route add default via {subnet[1]}",
    )
    return way


def outside(stack: ExitStack, hosting: Hosting, name: str) -> Way:
    """The three namespaces, of which only client and host are joined."""
    for part in ("c", "h", "s"):
        stack.enter_context(namespace(f"{name}-{part}"))
    _ip(
        f"link add eth0 netns {name}-c type veth peer name wan netns {name}-h",
        f"-n {name}-h address add {OUTSIDE}/30 dev wan",
        f"-n {name}-h link set wan up",
        f"-n {name}-c address add {_CLIENT}/30 dev eth0",
        f"-n {name}-c link set eth0 up",
    )
    output(["nsenter", f"--net=/run/netns/{name}-h", "sysctl", "-qw", "net.ipv4.ip_forward=1"])
    client, host, server = (f"/run/netns/{name}-{part}" for part in ("c", "h", "s"))
    return Way(client, host, server, OUTSIDE, hosting.port, hosting.listen)


def _ip(*commands: str) -> None:
    for command in commands:
        output(["ip", *command.split()])


NAMES = (f"{PREFIX}-{number}" for number in range(10**6))
