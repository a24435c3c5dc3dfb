"""Every nft from Debian 11 to sid understands what we write."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from nftbridge import config
from nftbridge.model import Host, Mark, Network, Priorities
from nftbridge.nft import baseline, document, lower, read, text
from nftbridge.nft.document import Command
from nftbridge.nft.syntax import Json
from nftbridge.policy.flat import FlatRows
from tests.kernel.debian import NotAvailable
from tests.kernel.nft_versions import SUITES, nft_command, nft_version

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

MANY = config.load("rulesets/17-many-networks/host.toml").host
OTHERS = tuple(
    config.load(f"rulesets/{name}/host.toml").host
    for name in ("04-no-proxy", "10-fixed-snat", "11-dual-stack", "16-wsl2-mirrored")
)


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """A suite whose nft runs here."""
    name = str(request.param)
    try:
        nft_command(name)
    except NotAvailable as reason:
        pytest.skip(f"nft of {name}: {reason}")
    return name


def rows_of(host: Host) -> FlatRows:
    return lower.rows_in_kernel(host)


def loaded(suite: str, *inputs: str) -> list[Json]:
    """Load each input (JSON or text) in one fresh network namespace; what is listed at the end."""
    nft = shlex.join(nft_command(suite))
    with TemporaryDirectory() as folder:
        steps: list[str] = []
        for number, content in enumerate(inputs):
            path = Path(folder) / str(number)
            path.write_text(content)
            steps.append(f"{nft} {'-j' if content.startswith('{') else ''} -f {path}")
        script = " && ".join([*steps, f"{nft} -j list table inet nftbridge"])
        command = ["unshare", "--net", "sh", "-ec", script]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    objects: list[Json] = json.loads(done.stdout)["nftables"]
    return objects


def as_json(commands: Iterable[Command]) -> str:
    return json.dumps(document.wrap(commands))


def assert_holds(objects: list[Json], host: Host) -> None:
    """The listing is read as exactly the skeleton and the rows of `host`."""
    listing = read.parse(objects)
    assert not list(read.skeleton_differences(listing, lower.Setting.of(host)))
    rows, torn = read.rows(listing)
    assert not torn
    assert rows == rows_of(host)


def test_it_is_the_version_it_is_there_for(suite: str) -> None:
    expected = tuple(int(part) for part in SUITES[suite].split("."))
    found = nft_version(suite)
    assert found >= expected if suite == "sid" else found == expected


@pytest.mark.parametrize("host", [MANY, *OTHERS], ids=("all", "hairpin", "snat", "dual", "wsl2"))
def test_it_loads_our_document_and_lists_what_we_read(suite: str, host: Host) -> None:
    whole = as_json(document.install("nftbridge", rows_of(host)))
    assert_holds(loaded(suite, whole), host)


def test_it_loads_our_text(suite: str) -> None:
    assert_holds(loaded(suite, text.script("nftbridge", rows_of(MANY))), MANY)


MARKS = {
    "one bit": (Mark(0x1000, 0x1000), Mark(0x2000, 0x2000)),
    "some bits": (Mark(0x1000, 0x3000), Mark(0x4000, 0xC000)),
    "all but one": (Mark(7, 0x7FFFFFFF), Mark(0x80000000, 0x80000000)),
}


@pytest.mark.parametrize("bits", MARKS)
def test_marks_and_priorities(suite: str, bits: str) -> None:
    """As JSON and as text, brought into a table without them and taken out of it again."""
    accept, trust = MARKS[bits]
    host = replace(MANY, accept_mark=accept, trust_mark=trust, priorities=Priorities(forward=-5))
    setting, rows = lower.Setting.of(host), rows_of(host)
    plain = as_json(document.install("nftbridge", rows_of(MANY)))
    assert_holds(loaded(suite, text.script("nftbridge", rows, setting)), host)
    here = read.parse(loaded(suite, plain))
    there = as_json(
        document.install("nftbridge", rows, read.outdated("nftbridge", here, setting), setting)
    )
    marked = loaded(suite, plain, there)
    assert_holds(marked, host)
    assert list(read.skeleton_differences(read.parse(marked)))  # they are seen
    outdated = read.outdated("nftbridge", read.parse(marked), lower.PLAIN)
    back = as_json(document.install("nftbridge", rows_of(MANY), outdated))
    assert_holds(loaded(suite, plain, there, back), MANY)


def test_it_loads_a_document_over_an_older_one(suite: str) -> None:
    first, second = (as_json(document.install("nftbridge", rows_of(h))) for h in (MANY, OTHERS[0]))
    assert_holds(loaded(suite, first, second), OTHERS[0])


def test_it_loads_changes(suite: str) -> None:
    """Rows exchanged under the same keys, prefixes that overlap the old ones, and back again."""
    first = as_json(document.install("nftbridge", rows_of(MANY)))
    steps = [as_json(document.change("nftbridge", rows_of(MANY), rows_of(moved(MANY))))]
    assert_holds(loaded(suite, first, *steps), moved(MANY))
    steps.append(as_json(document.change("nftbridge", rows_of(moved(MANY)), rows_of(MANY))))
    assert_holds(loaded(suite, first, *steps), MANY)


def test_it_loads_a_document_over_the_boot_baseline(suite: str) -> None:
    """As JSON and as text; then the document takes it out."""
    bridges = ["br-a", "br-b", "docker*"]
    as_text = baseline.script("nftbridge", bridges)
    for form in (as_text, as_json(baseline.commands("nftbridge", bridges))):
        objects = loaded(suite, form, form)
        listing = read.parse(objects)
        assert len(listing.rules[read.BASELINE_CHAIN]) == 4
        outdated = read.outdated("nftbridge", listing)
        whole = as_json(document.install("nftbridge", rows_of(MANY), outdated))
        assert_holds(loaded(suite, form, whole), MANY)


def moved(host: Host) -> Host:
    """The same networks with subnets half as large and another container behind each port."""
    return replace(host, networks=tuple(map(_moved, host.networks)))


def _moved(network: Network) -> Network:
    halves = tuple(ip_network(f"{s[0]}/{s.prefixlen + 1}") for s in network.subnets)
    containers = tuple(
        replace(c, ipv4=c.ipv4 and c.ipv4 + 100, ipv6=c.ipv6 and c.ipv6 + 100)
        for c in network.containers
    )
    return replace(network, subnets=halves, containers=containers)


def test_a_refused_document_is_seen(suite: str) -> None:
    missing = {"delete": {"table": {"family": "inet", "name": "missing"}}}
    with pytest.raises(AssertionError, match="No such file or directory"):
        loaded(suite, as_json([missing]))


def test_a_missing_rule_is_seen(suite: str) -> None:
    commands = list(document.install("nftbridge", rows_of(MANY)))
    last = max(i for i, command in enumerate(commands) if "rule" in command.get("add", {}))
    objects = loaded(suite, as_json(commands[:last] + commands[last + 1 :]))
    assert list(read.skeleton_differences(read.parse(objects)))
