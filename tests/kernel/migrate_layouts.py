"""A network and a container as Docker tells of them, and its rules for them in all its layouts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from nftbridge.compat import text
from nftbridge.model import Family
from tests.unit import docker_inspect as inspect

NETWORKS = [
    inspect.network(Options={f"{inspect.BRIDGE}name": "br-front"}),
]
CONTAINERS = [
    inspect.container(
        "web",
        {
            "80/tcp": inspect.bound("0.0.0.0 8080", ":: 8080"),
            "81/udp": inspect.bound("127.0.0.1 81"),
        },
    ),
]
HOST = inspect.imported(NETWORKS, CONTAINERS).host


def tell(
    folder: Path,
    containers: Iterable[object] = CONTAINERS,
    networks: Iterable[object] = NETWORKS,
) -> None:
    """Put into files what Docker says of its networks and containers."""
    (folder / "networks.json").write_text(json.dumps(list(networks)))
    (folder / "containers.json").write_text(json.dumps(list(containers)))


OLD = """\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.20.0.0/16 ! -o br-front -j MASQUERADE
-A POSTROUTING -s 172.20.0.2/32 -d 172.20.0.2/32 -p tcp -m tcp --dport 80 -j MASQUERADE
-A DOCKER -i br-front -j RETURN
-A DOCKER ! -i br-front -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.20.0.2:80
-A DOCKER -d 127.0.0.1/32 ! -i br-front -p udp --dport 81 -j DNAT --to-destination 172.20.0.2:81
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o br-front -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o br-front -j DOCKER
-A FORWARD -i br-front ! -o br-front -j ACCEPT
-A FORWARD -i br-front -o br-front -j ACCEPT
-A DOCKER -d 172.20.0.2/32 ! -i br-front -o br-front -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER -d 172.20.0.2/32 ! -i br-front -o br-front -p udp -m udp --dport 81 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i br-front ! -o br-front -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br-front -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""
"""As Docker 17.12 to 27 writes it, in IPv4."""

NEW = text.script(HOST, Family.IPV4).replace("*filter", "*filter\n:FORWARD DROP [0:0]")
"""As Docker 28.2 to 28.5 writes it."""

_EARLY = "-A PREROUTING -d 172.20.0.2/32 ! -i br-front -j DROP"
_EARLY_BY_PORT = _EARLY.replace("-j", "-p tcp -m tcp --dport 80 -j")
_STAGE_1 = "-i br-front ! -o br-front -j DOCKER-ISOLATION-STAGE-2"


def _swapped(rules: str, *pairs: tuple[str, str]) -> str:
    """Other text in place of some that must be there."""
    for old, new in pairs:
        assert old in rules, old
        rules = rules.replace(old, new)
    return rules


OLDEST = _swapped(
    OLD,
    (":DOCKER-ISOLATION-STAGE-2 - [0:0]\n:DOCKER-USER - [0:0]\n", ""),
    ("-A FORWARD -j DOCKER-USER\n", ""),
    ("-A DOCKER-ISOLATION-STAGE-2 -o br-front -j DROP\n", ""),
    ("-A DOCKER-ISOLATION-STAGE-2 -j RETURN\n-A DOCKER-USER -j RETURN\n", ""),
    (_STAGE_1, "-i br-front -o docker0 -j DROP"),
    ("DOCKER-ISOLATION-STAGE-1", "DOCKER-ISOLATION"),
)
"""As Docker 1.10 to 17.11 writes it: a drop for each pair of bridges."""

SETS = _swapped(
    OLD,
    ("FORWARD -o br-front -", "FORWARD -m set --match-set docker-ext-bridges-v4 dst -"),
    ("-A DOCKER-USER", "-A DOCKER ! -i br-front -o br-front -j DROP\n-A DOCKER-USER"),
    ("*nat\n", f"*raw\n{_EARLY_BY_PORT}\nCOMMIT\n*nat\n"),
)
"""As Docker 28.0.0 writes it, with a set of bridges."""

BY_PORT = _swapped(NEW, (_EARLY, _EARLY_BY_PORT))
"""As Docker 28.0.1 to 28.1 writes it: early drops by port."""

INTERNAL = _swapped(
    NEW,
    (f"-A DOCKER-ISOLATION-STAGE-1 {_STAGE_1}\n", ""),
    ("-A DOCKER-ISOLATION-STAGE-2 -o br-front -j DROP\n", ""),
    (":DOCKER-ISOLATION-STAGE-2 - [0:0]\n", ""),
    ("DOCKER-ISOLATION-STAGE-1", "DOCKER-INTERNAL"),
)
"""As Docker 29 writes it with iptables."""

LAYOUTS = {
    "1.10 to 17.11": OLDEST,
    "17.12 to 27": OLD,
    "28.0.0": SETS,
    "28.0.1 to 28.1": BY_PORT,
    "28.2 to 28.5": NEW,
    "29": INTERNAL,
}
"""The rules by the versions that make them, as `nftbridge.doctor.docker` tells these."""

TABLES = """\
table ip docker-bridges {
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname "br-front" ct state { established, related } accept
		oifname "br-front" iifname != "br-front" drop
	}
}
table ip6 docker-bridges {
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname "br-front" iifname != "br-front" drop
	}
}
"""
"""Of the shape that Docker 29 gives its tables of nftables."""
