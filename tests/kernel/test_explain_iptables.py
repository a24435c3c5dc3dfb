"""The user's rules in DOCKER-USER of iptables: what `explain --live` says, what real packets do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator, Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from nftbridge import config
from nftbridge.cli import main
from nftbridge.lab import Probe
from tests.kernel.hosts import Site, site

pytestmark = pytest.mark.kernel

WEB = "198.51.100.1"
"""The host's address on its first uplink; the outside client there has 198.51.100.9."""

PASSES, DROPPED = True, False
U = "-A DOCKER-USER"
PORT = f"{U} -p tcp -m conntrack --ctorigdstport"

# the rules -> what becomes of the packet, the chain and position of the rule that drops it
CERTAINLY: dict[str, tuple[bool, str, tuple[str, ...]]] = {
    "nothing": (PASSES, "", ()),
    "source": (DROPPED, "DOCKER-USER: rule 1", (f"{U} -s 198.51.100.0/24 -j DROP",)),
    "another source": (PASSES, "", (f"{U} -s 203.0.113.0/24 -j DROP",)),
    "not a source": (DROPPED, "DOCKER-USER: rule 1", (f"{U} ! -s 203.0.113.0/24 -i eth+ -j DROP",)),
    "published port": (
        DROPPED,
        "DOCKER-USER: rule 2",
        (f"{PORT} 80 -j DROP", f"{PORT} 8080 -j DROP"),
    ),
    "another published port": (PASSES, "", (f"{PORT} 80 --ctdir ORIGINAL -j DROP",)),
    "the container's port": (
        DROPPED,
        "DOCKER-USER: rule 1",
        (f"{U} -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset",),
    ),
    "many ports": (
        DROPPED,
        "DOCKER-USER: rule 1",
        (f"{U} -p tcp -m multiport --dports 22,79:81 -j DROP",),
    ),
    "either port": (
        DROPPED,
        "DOCKER-USER: rule 1",
        (f"{U} -p tcp -m multiport --ports 80 -j DROP",),
    ),
    "translated": (DROPPED, "DOCKER-USER: rule 1", (f"{U} -m conntrack --ctstate DNAT -j DROP",)),
    "not translated": (PASSES, "", (f"{U} -m conntrack ! --ctstate DNAT,INVALID -j DROP",)),
    "answers only": (
        DROPPED,
        "DOCKER-USER: rule 2",
        (f"{U} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", f"{U} -j DROP"),
    ),
    "both ways": (
        PASSES,
        "",
        (f"{U} -i eth0 -j ACCEPT", f"{U} -o eth0 -j ACCEPT", f"{U} -j DROP"),
    ),
    "answers": (DROPPED, "DOCKER-USER: rule 1", (f"{U} -d 198.51.100.9/32 -j DROP",)),
    "a range": (
        DROPPED,
        "DOCKER-USER: rule 1",
        (f"{U} -m iprange --src-range 198.51.100.5-198.51.100.20 -j DROP",),
    ),
    "a log first": (
        DROPPED,
        "DOCKER-USER: rule 3",
        (
            f'{U} -i eth0 -m comment --comment "what -j DROP drops" -j LOG --log-prefix "-j "',
            f"{U} -m limit --limit 5/min -j LOG",
            f"{U} -i eth0 -j DROP",
        ),
    ),
    "a chain": (
        DROPPED,
        "mine: rule 2",
        (
            ":mine - [0:0]",
            f"{U} -m mark ! --mark 0x7/0xff -p udp -j DROP",
            f"{U} -i eth0 -j mine",
            "-A mine -s 198.51.100.128/25 -j RETURN",
            "-A mine -j DROP",
        ),
    ),
    "a chain that is left": (
        PASSES,
        "",
        (":mine - [0:0]", f"{U} -g mine", f"{U} -j DROP", "-A mine -s 203.0.113.7/32 -j DROP"),
    ),
    "refused for others": (PASSES, "", (f"{U} -p udp -m ttl --ttl-lt 3 -j DROP",)),
    "refused, only logged": (PASSES, "", (f"{U} -m ttl --ttl-lt 3 -j LOG",)),
}

# what is not understood of the last rule -> the rules
DOUBTS: dict[str, tuple[str, ...]] = {
    "-m ttl --ttl-lt 3: the module has no equal here": (
        f"{U} -s 203.0.113.1/32 -j DROP",
        f"{U} -i eth0 -m ttl --ttl-lt 3 -j DROP",
    ),
    "-m mark --mark 0x7": (f"{U} -m mark --mark 0x7 -j DROP",),
    "--ctstatus NONE: the option has no equal here": (
        f"{U} -m conntrack --ctstate NEW --ctstatus NONE -j DROP",
    ),
    "-j NFQUEUE --queue-num 3 --queue-bypass: neither a chain of yours nor a known target": (
        f"{U} -i eth0 -j NFQUEUE --queue-num 3 --queue-bypass",
    ),
    "-j DOCKER-CT: neither a chain of yours nor a known target": (
        f"{U} -s 198.51.100.9/32 -j DOCKER-CT",
    ),
}


@pytest.fixture(scope="module", params=["iptables", "iptables-nft"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def place(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    host = config.load("rulesets/02-published-port/host.toml").host
    with site(host, tmp_path_factory.mktemp("state"), backend=backend) as found:
        yield found


@pytest.fixture
def user_rules(backend: str, place: Site) -> Callable[[Sequence[str]], None]:
    """Has lines, and no others, in DOCKER-USER and the chains that they name."""
    variant = "nft" if backend == "iptables-nft" else "legacy"
    enter = ["nsenter", f"--net=/run/netns/{place.lab.netns}"]

    def write(lines: Sequence[str]) -> None:
        script = "\n".join(("*filter", ":DOCKER-USER - [0:0]", *lines, "COMMIT", ""))
        words = [*enter, f"iptables-{variant}-restore", "--noflush"]
        subprocess.run(words, input=script, check=True, capture_output=True, text=True)

    return write


def live(place: Site, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What ``explain --live`` says about the client's packet to the published port."""
    state = str(place.target.state_directory)
    words = ["--netns", place.lab.netns, "--state-dir", state, "--json"]
    packet = ["--in", "eth0", "--src", "198.51.100.9", "--dst", WEB, "--proto", "tcp"]
    assert main(["explain", "--live", *words, *packet, "--dport", "8080"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def reached(place: Site) -> bool:
    (outcome,) = place.lab.probe_all([Probe("outside", ip_address(WEB), "tcp", 8080)])
    return outcome.reached


@pytest.mark.parametrize("name", CERTAINLY)
def test_user_rules_are_understood(
    name: str,
    place: Site,
    user_rules: Callable[[Sequence[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    passes, decided, lines = CERTAINLY[name]
    user_rules(lines)
    told = live(place, capsys)
    assert (told["passes"], told["uncertain"]) == (passes, []), told["sentence"]
    assert reached(place) is passes
    if decided:
        chain, _, position = decided.partition(": rule ")
        ours = [line for line in lines if line.startswith(f"-A {chain} ")]
        written = ours[int(position) - 1].removeprefix(f"-A {chain} ")
        assert f"dropped in {decided} of yours says so ({written})" in told["sentence"]


@pytest.mark.parametrize("what", DOUBTS)
def test_what_is_not_understood_is_named(
    what: str,
    place: Site,
    user_rules: Callable[[Sequence[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = DOUBTS[what]
    user_rules(lines)
    told = live(place, capsys)
    written = lines[-1].removeprefix(f"{U} ")
    doubt = f"rule {len(lines)} of DOCKER-USER ({written}) cannot be understood: {what}"
    assert told["uncertain"] == [doubt]
    assert told["sentence"].startswith(f"uncertain, since {doubt}; apart from that: ")
