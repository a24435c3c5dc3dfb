"""`nftbridge import docker` against real daemons: the same rules as theirs, and real requests."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nftbridge.compat import text
from nftbridge.docker.api import ask
from nftbridge.docker.host import DaemonOptions, Import, host_of
from nftbridge.effects import bridges_filtered
from nftbridge.mirrored import settled
from nftbridge.model import Family, Host
from tests.golden.docker import lines_by_chain
from tests.kernel.debian import NotAvailable
from tests.kernel.docker_daemon import HOST, OUTSIDE, Daemon, daemon, http, udp, udp_server

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]

V4, V6 = Family.IPV4, Family.IPV6


def started(stack: ExitStack, release: str, *options: str) -> Daemon:
    """A daemon that ends with `stack`, or the test is skipped."""
    try:
        return stack.enter_context(daemon(release, *options))
    except NotAvailable as reason:
        pytest.skip(f"Docker {release}: {reason}")


def imported(engine: Daemon, options: DaemonOptions) -> Import:
    inspected, _ = ask(str(engine.socket))
    return host_of(inspected, options)


# --- the newest: its own rules -------------------------------------------------------------------

DAEMONS = {
    "plain": ((), DaemonOptions(userland_proxy=True, allow_direct_routing=False)),
    "hairpin": (("--userland-proxy=false",), DaemonOptions(False, False)),  # noqa: FBT003
    "direct": (("--allow-direct-routing",), DaemonOptions(True, True)),  # noqa: FBT003
}


def every_kind(engine: Daemon) -> None:
    """A network of every kind, and every way to publish."""
    bridge = "bridge."
    engine.network("front", "172.20.0.0/16", "fd00:20::/64", options={f"{bridge}name": "br-front"})
    engine.network("plain", "172.21.0.0/16")
    engine.network("noicc", "172.22.0.0/16", options={f"{bridge}enable_icc": "0"})
    engine.network("inner", "172.23.0.0/16", "fd00:23::/64", internal=True)
    routed = {f"{bridge}gateway_mode_{family}": "routed" for family in Family}
    engine.network("routed", "172.24.0.0/16", "fd00:24::/64", options=routed)
    mixed = {f"{bridge}gateway_mode_ipv6": "routed"}
    engine.network("mixed", "172.25.0.0/16", "fd00:25::/64", options=mixed)
    open_ = {f"{bridge}gateway_mode_ipv4": "nat-unprotected"}
    engine.network("open", "172.26.0.0/16", "fd00:26::/64", options=open_)
    unmasked = {f"{bridge}enable_ip_masquerade": "false"}
    engine.network("unmasked", "172.27.0.0/16", options=unmasked)
    snat = {f"host_{family}": address for family, address in HOST.items()}
    engine.network("snat", "172.28.0.0/16", "fd00:28::/64", options=snat)
    bound = {f"{bridge}host_binding_ipv4": HOST[V4]}
    engine.network("bound", "172.29.0.0/16", "fd00:29::/64", options=bound)
    trusting = {f"{bridge}trusted_host_interfaces": "eth0:eth7"}
    engine.network("trusting", "172.30.0.0/16", "fd00:30::/64", options=trusting)
    unnumbered = {f"{bridge}inhibit_ipv4": "true"}
    engine.network("unnumbered", "172.31.0.0/16", options=unnumbered)

    ranges = {f"{9000 + n}/tcp": [str(8000 + n)] for n in range(5)}
    addresses = {"81/udp": ["127.0.0.1:8100", "[::1]:8100"], "82/tcp": ["0.0.0.0:8101"]}
    engine.run("ranges", "front", ranges | {"80/tcp": ["", "8102"], "83/tcp": ["[::]:8103"]})
    engine.run("addresses", "front", addresses | {"84/udp": [f"{HOST[V4]}:8104"]})
    published = {"80/tcp": [""], "81/udp": [""]}
    for network in ("bridge", "noicc", "inner", "routed", "mixed", "open", "unmasked", "snat"):
        engine.run(f"in-{network}", network, published)
    for network in ("bound", "trusting", "unnumbered"):
        engine.run(f"in-{network}", network, published)
    engine.run("idle", "plain")
    several_networks(engine)
    engine.run("lodger", "container:idle")


def several_networks(engine: Daemon) -> None:
    """Containers in two networks: Docker chooses the one that serves the ports."""
    only_ipv6 = {"Name": "six", "EnableIPv4": False, "EnableIPv6": True}
    engine.post("/networks/create", {**only_ipv6, "IPAM": {"Config": [{"Subnet": "fd00:6::/64"}]}})
    pairs = {
        "both-families-win": ("plain", "front", 0),
        "whatever-the-priority": ("front", "plain", 10),
        "priority-among-equals": ("front", "trusting", 10),
        "name-among-equals": ("trusting", "front", 0),
        "each-its-family": ("noicc", "six", 0),
    }
    for number, (name, (first, second, priority)) in enumerate(pairs.items()):
        engine.run(name, first, {"80/tcp": [str(8200 + number)]})
        engine.connect(name, second, GwPriority=priority)


def left_out(engine: Daemon) -> None:
    """What has no place in the model."""
    engine.network("vlan", "10.98.0.0/24", driver="macvlan", options={"parent": "eth0"})
    engine.run("on-vlan", "vlan")
    engine.run("on-host", "host")
    engine.run("on-none", "none")


@pytest.fixture(scope="module", params=DAEMONS)
def newest(request: pytest.FixtureRequest) -> Generator[tuple[Daemon, Import]]:
    """Docker 28.5 with everything that it can have, and what is imported from it."""
    options, known = DAEMONS[str(request.param)]
    with ExitStack() as stack:
        engine = started(stack, "28.5", "--ipv6", "--fixed-cidr-v6=fd00:dead::/64", *options)
        every_kind(engine)
        left_out(engine)
        yield engine, imported(engine, known)


def differences(host: Host, family: Family, saved: str) -> list[str]:
    """Our lines that Docker has not (+) and its lines that we have not (-), chain by chain.

    The order within a chain may differ where it cannot matter.
    """
    ours = lines_by_chain(text.script(settled(host), family))
    theirs = lines_by_chain(saved)
    found: list[str] = []
    for chain in sorted({*ours, *theirs}):
        mine, other = Counter(ours.get(chain, ())), Counter(theirs.get(chain, ()))
        found += (f"+ {' '.join(chain)} {line}" for line in (mine - other).elements())
        found += (f"- {' '.join(chain)} {line}" for line in (other - mine).elements())
    return found


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_our_rules_are_those_that_docker_programmed(
    newest: tuple[Daemon, Import], family: Family
) -> None:
    engine, found = newest
    assert differences(found.host, family, engine.rules(family)) == []


def test_what_is_left_out_is_named(newest: tuple[Daemon, Import]) -> None:
    _, found = newest
    told = {remark.where: remark.message for remark in found.remarks}
    for network, container in (("vlan", "on-vlan"), ("host", "on-host"), ("none", "on-none")):
        assert told[f"network '{network}'"].endswith(f"containers: '{container}'")
    assert "namespace of container" in told["container 'lodger'"]


# --- the oldest, without a firewall of its own: real requests under ours --------------------------

WITHOUT_RULES = ("--iptables=false", "--userland-proxy=false")
SAYING_SO = ("--no-userland-proxy", "--no-allow-direct-routing")


@pytest.fixture(scope="module")
def oldest() -> Generator[Daemon]:
    """Docker 20.10 that leaves the firewall, and the ports, to us."""
    with ExitStack() as stack:
        engine = started(stack, "20.10", *WITHOUT_RULES)
        engine.network("front", "172.20.0.0/16", "fd00:20::/64")
        engine.network("other", "172.21.0.0/16", "fd00:21::/64")
        engine.network("noicc", "172.22.0.0/16", options={"bridge.enable_icc": "false"})
        engine.network("inner", "172.23.0.0/16", internal=True)
        published = {"80/tcp": ["8080", "127.0.0.1:8081", ""], "81/udp": ["8082"]}
        engine.run("web", "front", published)
        engine.run("neighbour", "front")
        engine.run("stranger", "other", {"80/tcp": ["8090"]})
        for name in ("shy", "timid"):
            engine.run(name, "noicc")
        engine.run("hermit", "inner")
        yield engine


def run(*arguments: str, given: str = "", status: int = 0) -> str:
    """What the command prints on standard output."""
    command = [sys.executable, "-m", "nftbridge", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


def host_file(engine: Daemon) -> str:
    socket = str(engine.socket)
    return run("import", "docker", "--docker", socket, "--format", "json", *SAYING_SO)


def target(engine: Daemon, state: Path) -> tuple[str, ...]:
    return ("--netns", engine.netns, "--state-dir", str(state))


Ask = Callable[[str, str, int], str | None]


def gets(answer: str, ask: Ask, netns: str, address: str, port: int) -> bool:
    """Whether the answer comes, now or in a few seconds: addresses and neighbours take a moment."""
    end = time.monotonic() + 10
    while (found := ask(netns, address, port)) != answer and time.monotonic() < end:
        time.sleep(0.1)
    return found == answer


def ephemeral(host: Host) -> int:
    """The port that Docker chose for web's port 80."""
    (web,) = (c for n in host.networks for c in n.containers if c.name == "web")
    (chosen,) = (p.host_port for p in web.publish if p.host_port and p.host_port > 9000)
    return chosen


def test_requests_fare_as_docker_means_them_to(oldest: Daemon, tmp_path: Path) -> None:
    web, stranger = oldest.namespace("web"), oldest.namespace("stranger")
    outside, here = oldest.outside, oldest.netns
    host = imported(oldest, DaemonOptions(False, False)).host  # noqa: FBT003
    inside = {c.name: str(c.ipv4) for n in host.networks for c in n.containers}
    assert http(outside, HOST[V4], 8080) is None, "somebody else serves it"

    run("apply", "-", *target(oldest, tmp_path), given=host_file(oldest))

    with udp_server(web, 81, "web"), udp_server(outside, 5000, "outside"):
        for family in Family:
            assert gets("web", http, outside, HOST[family], 8080)
            assert gets(f"web {OUTSIDE[family]}", udp, outside, HOST[family], 8082)
            assert gets(f"outside {HOST[family]}", udp, web, OUTSIDE[family], 5000), "masquerading"
        assert udp(oldest.namespace("hermit"), OUTSIDE[V4], 5000) is None
    assert gets("web", http, outside, HOST[V4], ephemeral(host))
    assert gets("web", http, here, "127.0.0.1", 8081)
    assert gets("web", http, web, HOST[V4], 8080), "from itself, there and back"
    assert gets("web", http, oldest.namespace("neighbour"), inside["web"], 80)
    assert http(stranger, HOST[V4], 8080) is None, "without a proxy networks are apart here, too"
    assert http(outside, HOST[V4], 8081) is None, "published on loopback only"
    for name in ("web", "neighbour", "stranger", "shy", "hermit"):
        assert http(outside, inside[name], 80) is None, f"{name}, addressed directly"
    assert http(stranger, inside["web"], 80) is None, "networks are apart"
    assert http(oldest.namespace("hermit"), inside["web"], 80) is None
    if V4 in bridges_filtered(here):
        assert http(oldest.namespace("shy"), inside["timid"], 80) is None, "icc = false"
    assert "nothing to change" in run(
        "plan", "-", *target(oldest, tmp_path), given=host_file(oldest)
    )


def test_a_container_that_is_gone_answers_no_more(oldest: Daemon, tmp_path: Path) -> None:
    """Docker gives its address to the next one."""
    run("apply", "-", *target(oldest, tmp_path), given=host_file(oldest))
    assert gets("stranger", http, oldest.outside, HOST[V4], 8090)
    oldest.remove("stranger")
    oldest.run("successor", "other", {"80/tcp": ["8091"]})
    run("apply", "-", *target(oldest, tmp_path), given=host_file(oldest))
    assert gets("successor", http, oldest.outside, HOST[V4], 8091)
    assert http(oldest.outside, HOST[V4], 8090) is None
