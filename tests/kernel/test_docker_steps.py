"""A real Docker 28.5 ends up where the steps lead that our lines are held against."""

from __future__ import annotations

import pytest

from nftbridge.model import Family
from tests.golden.docker import lines_by_chain
from tests.golden.docker_steps import BRIDGE, SNAT, SUBNET, Options, combinations, states
from tests.kernel.debian import NotAvailable
from tests.kernel.docker_daemon import Daemon, daemon

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]

_ANYWHERE, _LOOPBACK = ("8080",), ("127.0.0.1:8080", "[::1]:8080")


@pytest.mark.parametrize("hairpin", [False, True], ids=["proxy", "no proxy"])
def test_every_combination_of_options(*, hairpin: bool) -> None:
    """All but WSL2's, which would need a machine that looks like it."""
    every = [o for o, family in combinations() if family is Family.IPV6 and o.hairpin == hairpin]
    proxy = ("--userland-proxy=false",) if hairpin else ()
    try:
        with daemon("28.5", "--bridge=none", *proxy) as engine:
            for options in every:
                made(engine, options)
                for family in Family:
                    assert programmed(engine, family) == states(options, family), options
                if options.network:
                    engine.remove("web")
                    engine.remove_network("dummy")
    except NotAvailable as reason:
        pytest.skip(f"Docker 28.5: {reason}")
    assert len(every) == 51


def made(engine: Daemon, options: Options) -> None:
    """The network and its container, if there is one."""
    if not options.network:
        return
    said = {
        "bridge.name": BRIDGE,
        "bridge.enable_icc": str(options.icc).lower(),
        "bridge.enable_ip_masquerade": str(options.masq).lower(),
    }
    if not options.internal:
        said |= {f"bridge.gateway_mode_{family}": options.mode for family in Family}
    if options.snat:
        said |= {f"host_{family}": address for family, address in SNAT.items()}
    engine.network("dummy", *SUBNET.values(), options=said, internal=options.internal)
    engine.run("web", "dummy", {"80/tcp": _LOOPBACK if options.loopback else _ANYWHERE})


def programmed(engine: Daemon, family: Family) -> dict[tuple[str, str], list[str]]:
    """Docker's lines, for a container at ::1 of its network instead of ::2, without its USER."""
    text = engine.rules(family).replace("aa::2", "aa::1").replace("-p icmpv6", "-p ipv6-icmp")
    found = lines_by_chain(text)
    found["filter", "FORWARD"].remove("-j DOCKER-USER")
    return found
