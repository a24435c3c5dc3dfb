"""`nftbridge import docker` against real daemons: the same rules as theirs, and real requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from nftbridge.compat import text
from nftbridge.docker.api import ask
from nftbridge.docker.host import DaemonOptions, Import, host_of
from nftbridge.engine import settled
from nftbridge.model import Family, Host
from tests.golden.docker import lines_by_chain
from tests.kernel.debian import NotAvailable
from tests.kernel.docker_daemon import HOST, Daemon, daemon

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

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
