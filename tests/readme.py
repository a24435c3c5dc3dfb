"""The generated parts of README.md, between ``<!-- begin NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

from nftbridge import config
from nftbridge.compat.tables import TABLES, Site, Table
from nftbridge.compat.tools import Variant
from nftbridge.doctor import nftables
from nftbridge.doctor.case import Case
from nftbridge.doctor.diagnoses import examine
from nftbridge.doctor.facts import Facts
from nftbridge.doctor.routing import Route
from nftbridge.doctor.show import lines as diagnosed
from nftbridge.doctor.traffic import traffic, translated_ports
from nftbridge.explain.question import Typed, read
from nftbridge.explain.show import lines
from nftbridge.explain.way import follow
from nftbridge.migrate.daemon_json import difference, switched_off
from nftbridge.migrate.kernel import Found
from nftbridge.migrate.plan import Given
from nftbridge.migrate.plan import plan as migration
from nftbridge.migrate.run import Looked
from nftbridge.migrate.show import lines as planned
from nftbridge.model import Family, Host
from nftbridge.nft.lower import rows_in_kernel, skeleton
from nftbridge.plan import compare
from nftbridge.report import plan_text
from nftbridge.style import Style
from tests.bench.shown import blocks, reports
from tests.kernel.migrate_layouts import HOST, NEW

README = Path(__file__).parents[1] / "README.md"
_BLOCK = re.compile(r"<!-- begin (\w+) -->(.*?)<!-- end -->", re.DOTALL)


def host(source: str) -> Host:
    """The host file that README shows."""
    body = _blocks(source)["host"].strip().removeprefix("```toml\n").removesuffix("```")
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(body)
        file.flush()
        return config.load(file.name).host


def generated(source: str) -> str:
    """README with its generated blocks made anew from the code and from the host file it shows."""
    shown = host(source)
    plan = compare(
        {},
        rows_in_kernel(shown),
        install=("the table is missing",),
        wanted_host=shown,
    )
    contents = {
        **blocks(reports()),
        "rules": str(len(skeleton().rules)),
        "plan": "\n```\n" + "\n".join(plan_text(plan, Style())) + "\n```\n",
        "doctor": "\n```\n" + "\n".join(_examined(shown)) + "\n```\n",
        "explain": "\n```\n" + "\n".join(_explained(shown)) + "\n```\n",
        "migrate": "\n```\n" + "\n".join(_migrated()) + "\n```\n",
    }

    def block(found: re.Match[str]) -> str:
        name, old = found[1], found[2]
        return f"<!-- begin {name} -->{contents.get(name, old)}<!-- end -->"

    return _BLOCK.sub(block, source)


def _explained(host: Host) -> Iterator[str]:
    """The question that README asks, and its answer."""
    typed = Typed("eth0", "198.51.100.9", "192.0.2.1", "tcp", "8080")
    asked = f"--in {typed.iif} --src {typed.source} --dst {typed.destination}"
    yield f"$ nftbridge explain host.toml {asked} --proto {typed.protocol} --dport {typed.port}"
    yield from lines(follow(host, read(typed)), Style())


def _examined(host: Host) -> Iterator[str]:
    """What doctor says beside a firewall that lets containers out and knows nothing of ports."""
    filter_table = nftables.table("inet", "filter", [{"chain": _FORWARD}, {"rule": _LET_OUT}])
    own = (Route(subnet, n.bridge) for n in host.networks for subnet in n.subnets)
    facts = Facts(
        tables=(filter_table,),
        interfaces={"br-front": True, "br-data": True, "eth0": True},
        addresses=(ip_address("192.0.2.1"),),
        routes=(Route(ip_network("0.0.0.0/0"), "eth0"), *own),
    )
    found = tuple(traffic(host, facts, translated_ports(facts.tables)))
    yield "$ nftbridge doctor"
    yield from diagnosed(facts, examine(Case(host, facts, found)), Style())


def _migrated() -> Iterator[str]:
    """The plan on a host of Docker 28.5 with one container, and one rule of the user's."""
    users = "-A DOCKER-USER -s 203.0.113.9/32 -j DROP"
    rules = NEW.replace("-A DOCKER-FORWARD", f"{users}\n-A DOCKER-FORWARD", 1)
    sections = dict(re.findall(r"^\*(\w+)\n(.*?)^COMMIT$", rules, re.DOTALL | re.MULTILINE))
    site = Site(Variant.LEGACY, Family.IPV4)
    hooks = "".join(f":{chain} ACCEPT [0:0]\n" for chain in ("PREROUTING", "OUTPUT", "POSTROUTING"))
    found = Found({site: {n: Table.of(hooks + sections[n]) for n in TABLES if n in sections}})
    given = Given(HOST, found, "nftables")
    rows = compare({}, rows_in_kernel(HOST), wanted_host=HOST)
    before = '{\n  "live-restore": true\n}\n'
    change = difference(before, switched_off(before), "/etc/docker/daemon.json")
    words = {site: ("ip saddr 203.0.113.9 counter drop",)}  # nft's, which needs a kernel for that
    place = "table inet nftbridge"
    looked = Looked(given, migration(given), rows, place, tuple(change), words)
    yield "$ nftbridge migrate docker"
    yield from planned(looked, Style(), done=False, written=False)


_FORWARD = {"name": "forward", "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}
_LET_OUT = {
    "chain": "forward",
    "handle": 2,
    "expr": [
        {
            "vmap": {
                "key": {"ct": {"key": "state"}},
                "data": {"set": [["established", {"accept": None}]]},
            }
        },
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "br-*"}},
        {"accept": None},
    ],
}


def _blocks(source: str) -> dict[str, str]:
    return {found[1]: found[2] for found in _BLOCK.finditer(source)}
