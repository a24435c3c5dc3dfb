"""The iptables backend on the real kernel, with the legacy programs and with iptables-nft's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.compat.backend import IptablesBackend
from nftbridge.compat.restore import Commit, TableState, TableText, commits
from nftbridge.compat.tools import LOCK, Tools, Variant
from nftbridge.compat.tree import DOCKER, Layout, subchain
from nftbridge.engine import Engine
from nftbridge.errors import KernelRefusedError, PartlyAppliedError, UnavailableError
from nftbridge.lab import Laboratory, Probe
from nftbridge.model import Family, Host, Network
from nftbridge.model.parts import Protection
from tests.equivalence.compare import FINEST
from tests.kernel.hosts import Site, every_probe
from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

VARIANTS = list(Variant)


def scenario(name: str) -> Host:
    return config.load(f"rulesets/{name}/host.toml").host


MANY = scenario("17-many-networks")
SMALL = scenario("02-published-port")
ALL = [config.load(str(path)).host for path in sorted(Path("rulesets").glob("*/host.toml"))]


@pytest.fixture
def namespace() -> Generator[str]:
    with network_namespace(forwarding=True) as name:
        yield name


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> Variant:
    return Variant(request.param)


@pytest.fixture(params=(DOCKER, FINEST), ids=lambda layout: layout.name)
def layout(request: pytest.FixtureRequest) -> Layout:
    chosen = request.param
    assert isinstance(chosen, Layout)
    return chosen


def engine_with(tools: Tools, target: Target, layout: Layout = DOCKER) -> Engine:
    return Engine(target, IptablesBackend(tools, layout))


def run(namespace: str, *command: str, script: str | None = None) -> str:
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"]
    if command[0] in ("iptables-legacy", "ip6tables-legacy"):
        command = (command[0], "-w", *command[1:])
    done = subprocess.run(
        [*prefix, *command], input=script, capture_output=True, text=True, check=True
    )
    return done.stdout


def saved(namespace: str, variant: Variant) -> str:
    """Everything in both families, without counters and comments."""
    texts = (
        run(namespace, f"{program}-{variant.value}-save", "-t", table)
        for program in ("iptables", "ip6tables")
        for table in ("raw", "mangle", "filter", "nat")
    )
    lines = (line for text in texts for line in text.splitlines())
    return "\n".join(line.split(" [")[0] for line in lines if not line.startswith("#"))


def test_every_scenario_follows_every_other(
    variant: Variant, target: Target, layout: Layout
) -> None:
    engine = engine_with(Tools(variant, target.netns), target, layout)
    for host in (*ALL, *reversed(ALL)):
        engine.apply(host)
        assert not engine.verify()
        assert not engine.plan(host)
        assert not engine.apply(host)


def test_it_says_the_same_as_when_loaded_at_once(
    target: Target, namespace: str, layout: Layout
) -> None:
    """However many steps led there, the chains are what one load of the text gives."""
    tools = Tools(netns=namespace)
    engine = engine_with(tools, target, layout)
    for host in (SMALL, scenario("04-no-proxy"), MANY):
        engine.apply(host)
    stepwise = saved(namespace, Variant.LEGACY)
    engine.remove(everything=True)
    engine.apply(MANY)
    assert saved(namespace, Variant.LEGACY) == stepwise


def test_remove_leaves_no_trace(
    variant: Variant, target: Target, namespace: str, layout: Layout
) -> None:
    before = saved(namespace, variant)
    engine = engine_with(Tools(variant, namespace), target, layout)
    engine.apply(MANY)
    assert engine.remove(everything=False).kept == ()
    assert saved(namespace, variant) == before
    assert not engine.remove(everything=False).present


def test_what_is_not_ours_stays(
    variant: Variant, target: Target, namespace: str, layout: Layout
) -> None:
    """Policies, other people's lines before and behind ours, their chains, and DOCKER-USER."""
    programs = [f"{program}-{variant.value}" for program in ("iptables", "ip6tables")]
    engine = engine_with(Tools(variant, namespace), target, layout)
    engine.apply(SMALL)
    for program in programs:
        for words in (
            "-P FORWARD DROP",
            "-N MINE",
            "-A MINE -j ACCEPT",
            "-A FORWARD -i wg0 -j MINE",
            "-I DOCKER-USER -p tcp -m tcp --dport 81 -j DROP",
            "-t raw -I PREROUTING -i wg0 -j ACCEPT",
            "-t raw -A PREROUTING -i wg1 -j ACCEPT",
            "-t nat -A POSTROUTING -o wg0 -j MASQUERADE",
            "-t nat -A PREROUTING -p tcp -m tcp --dport 9 -j ACCEPT",
        ):
            run(namespace, program, *words.split())
    theirs = [line for line in saved(namespace, variant).splitlines() if foreign(line)]
    assert len(theirs) == 2 * 9
    for host in (MANY, scenario("04-no-proxy"), SMALL):
        engine.apply(host)
        assert not engine.verify()
        lines = saved(namespace, variant).splitlines()
        assert [line for line in lines if foreign(line)] == theirs
        assert not engine.apply(host)
    kept = engine.remove(everything=False).kept
    assert kept == ("1 IPv4 rule in DOCKER-USER", "1 IPv6 rule in DOCKER-USER")
    assert [line for line in saved(namespace, variant).splitlines() if foreign(line)] == theirs


def foreign(line: str) -> bool:
    words = ("wg", "MINE", "DOCKER-USER -p", "--dport 9 -j ACCEPT", "FORWARD DROP")
    return any(word in line for word in words)


def test_our_jumps_come_first_again(target: Target, namespace: str) -> None:
    engine = engine_with(Tools(netns=namespace), target)
    engine.apply(SMALL)
    run(namespace, "iptables-legacy", "-I", "FORWARD", "-j", "ACCEPT")
    assert "another rule of FORWARD in filter comes before ours" in str(engine.verify().install)
    engine.apply(SMALL)
    assert not engine.verify()


@pytest.mark.parametrize(
    ("table", "chain"), [("nat", "PREROUTING"), ("nat", "OUTPUT"), ("filter", "FORWARD")]
)
def test_a_jump_that_has_to_move_is_announced(
    table: str, chain: str, target: Target, namespace: str
) -> None:
    engine = engine_with(Tools(netns=namespace), target)
    engine.apply(SMALL)
    before = saved(namespace, Variant.LEGACY)
    run(namespace, "iptables-legacy", "-t", table, "-I", chain, "-d", "10.9.9.9", "-j", "ACCEPT")
    (said,) = engine.plan(SMALL).install
    assert said == f"IPv4: another rule of {chain} in {table} comes before ours"
    engine.apply(SMALL)
    assert not engine.verify()
    run(namespace, "iptables-legacy", "-t", table, "-D", chain, str(1 + len(ours_of(chain))))
    assert saved(namespace, Variant.LEGACY) == before


def ours_of(chain: str) -> list[str]:
    return ["DOCKER-USER", "DOCKER-FORWARD"] if chain == "FORWARD" else ["DOCKER"]


PLACED = [("nat", "POSTROUTING"), ("raw", "PREROUTING")]


@pytest.mark.parametrize(("table", "chain"), PLACED)
def test_other_peoples_lines_keep_their_place_among_ours(
    table: str, chain: str, variant: Variant, target: Target, namespace: str
) -> None:
    """Each line of ours that is there before and after stands behind the same foreign lines."""
    program = f"iptables-{variant.value}"
    engine = engine_with(Tools(variant, namespace), target)
    engine.apply(MANY)
    number = len(lines_of(table, chain, namespace, variant))
    for place in (number + 1, number // 2, 1):  # behind, between and before ours
        words = f"-t {table} -I {chain} {place} -s 10.99.0.{place} -j ACCEPT"
        run(namespace, program, *words.split())
    before = lines_of(table, chain, namespace, variant)
    for fewer in (replace(MANY, networks=MANY.networks[1:]), MANY, SMALL, MANY):
        engine.apply(fewer)
        after = lines_of(table, chain, namespace, variant)
        staying = [line for line in before if line in after]
        assert [line for line in after if line in before] == staying
        assert sum("10.99.0." in line for line in after) == 3
        before = after
        assert not engine.apply(fewer)


def lines_of(table: str, chain: str, namespace: str, variant: Variant) -> list[str]:
    text = run(namespace, f"iptables-{variant.value}-save", "-t", table)
    return [line for line in text.splitlines() if line.startswith(f"-A {chain} ")]


@pytest.mark.parametrize("first", [True, False])
def test_early_drops_come_behind_the_exceptions_that_were_there(
    first: bool, target: Target, namespace: str
) -> None:
    """In raw; in nat ours come before what was there. Later a new line follows its neighbour."""
    engine = engine_with(Tools(netns=namespace), target)
    exception = ["-d", "172.20.0.2/32", "-i", "wg0", "-j", "ACCEPT"]
    if first:
        engine.apply(scenario("04-no-proxy"))
        run(namespace, "iptables-legacy", "-t", "raw", "-I", "PREROUTING", *exception)
    else:
        run(namespace, "iptables-legacy", "-t", "raw", "-A", "PREROUTING", *exception)
    run(namespace, "iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-o", "wg0", "-j", "ACCEPT")
    engine.apply(MANY)
    raw = lines_of("raw", "PREROUTING", namespace, Variant.LEGACY)
    assert "wg0" in raw[0]
    assert len(raw) > 5
    assert "wg0" in lines_of("nat", "POSTROUTING", namespace, Variant.LEGACY)[-1]


@pytest.mark.parametrize(
    "damage",
    [
        "-F DOCKER",
        "-D DOCKER-USER-JUMP",
        "-A DOCKER -p udp -j ACCEPT",
        "-t raw -F PREROUTING",
        "-t nat -F POSTROUTING",
        "-R DOCKER-BRIDGE 1 -o br-nat -i eth9 -j DOCKER",
        "-t nat -D OUTPUT 1",
        "-I DOCKER-ISOLATION-STAGE-2 -o br-nat -j DROP",
        "-R UNPUBLISHED -o br-quiet -j DROP",
    ],
)
def test_damage_is_seen_and_mended(
    damage: str, target: Target, namespace: str, layout: Layout
) -> None:
    engine = engine_with(Tools(netns=namespace), target, layout)
    engine.apply(MANY)
    before = saved(namespace, Variant.LEGACY)
    words = "-D FORWARD -j DOCKER-USER" if damage == "-D DOCKER-USER-JUMP" else damage
    words = words.replace("UNPUBLISHED", place_of("! -i br-quiet -o br-quiet -j DROP", namespace))
    run(namespace, "iptables-legacy", *words.split())
    assert engine.verify()
    assert engine.apply(MANY)
    assert not engine.verify()
    assert saved(namespace, Variant.LEGACY) == before


def place_of(line: str, namespace: str) -> str:
    """Chain and number of a line of the filter table, whatever the layout."""
    lines = run(namespace, "iptables-legacy-save", "-t", "filter").splitlines()
    chain = next(found.split()[1] for found in lines if found.endswith(f" {line}"))
    own = [found for found in lines if found.startswith(f"-A {chain} ")]
    return f"{chain} {own.index(f'-A {chain} {line}') + 1}"


@pytest.mark.parametrize("damage", ["narrowed", "lost", "emptied", "added", "stray"])
def test_damage_to_a_tree_is_seen_and_mended(damage: str, target: Target, namespace: str) -> None:
    engine = engine_with(Tools(netns=namespace), target, FINEST)
    engine.apply(MANY)
    before = saved(namespace, Variant.LEGACY)
    raw = run(namespace, "iptables-legacy-save", "-t", "raw").splitlines()
    place, jump = next(
        (number, line.split())
        for number, line in enumerate([line for line in raw if "-A PREROUTING" in line], start=1)
        if subchain(line)
    )
    narrow = ["10.255.0.0/16" if word.count(".") == 3 else word for word in jump[2:]]
    words = {
        "narrowed": ["-R", "PREROUTING", str(place), *narrow],
        "lost": ["-D", "PREROUTING", str(place)],
        "emptied": ["-F", jump[-1]],
        "added": ["-A", jump[-1], "-j", "ACCEPT"],
        "stray": ["-N", f"DOCKER-T-{'A' * 16}"],
    }
    run(namespace, "iptables-legacy", "-t", "raw", *words[damage])
    assert engine.verify()
    assert engine.apply(MANY)
    assert not engine.verify()
    assert saved(namespace, Variant.LEGACY) == before


def test_switching_the_layout_is_one_apply(target: Target, namespace: str) -> None:
    tools = Tools(netns=namespace)
    docker, tree = (engine_with(tools, target, layout) for layout in (DOCKER, FINEST))
    docker.apply(MANY)
    lists = saved(namespace, Variant.LEGACY)
    assert "docker layout, not the tree layout" in tree.plan(MANY).install[0]
    assert tree.apply(MANY)
    assert not tree.apply(MANY)
    assert "DOCKER-T-" in saved(namespace, Variant.LEGACY)
    assert "tree layout, not the docker layout" in docker.plan(MANY).install[0]
    assert docker.apply(MANY)
    assert saved(namespace, Variant.LEGACY) == lists


def test_the_lock_is_waited_for(target: Target, namespace: str) -> None:
    holder = subprocess.Popen(["flock", str(LOCK), "sleep", "0.8"])
    time.sleep(0.2)
    try:
        with pytest.raises(KernelRefusedError, match="--wait"):
            engine_with(Tools(netns=namespace, wait=0), target).apply(SMALL)
        start = time.monotonic()
        engine_with(Tools(netns=namespace, wait=20), target).apply(SMALL)
        assert time.monotonic() - start > 0.3
    finally:
        holder.wait()


def test_others_are_kept_out_between_listing_and_commit(target: Target, namespace: str) -> None:
    """A program that takes the lock meanwhile has to wait until we are done."""
    order: list[str] = []
    waiting: list[subprocess.Popen[bytes]] = []

    def intrude() -> None:
        if not waiting:
            rule = ["iptables-legacy", "-w", "-I", "FORWARD", "-i", "wg0", "-j", "DROP"]
            waiting.append(subprocess.Popen(["nsenter", f"--net=/run/netns/{namespace}", *rule]))
            time.sleep(0.3)
        order.append("blocked" if waiting[0].poll() is None else "through")

    engine_with(Watched(netns=namespace, after=intrude), target).apply(MANY)
    assert waiting[0].wait() == 0
    assert set(order) == {"blocked"}


@dataclass(frozen=True)
class Watched(Tools):
    """Tools that call `after` when a script is committed, and refuse the one numbered `fail`."""

    after: Callable[[], None] = lambda: None
    fail: int = -1
    done: list[str] = field(default_factory=list[str])

    def commit(self, family: Family, script: str) -> None:
        if len(self.done) == self.fail:
            raise KernelRefusedError("planted")
        super().commit(family, script)
        self.done.append(script)
        self.after()


def test_a_refused_first_table_changes_nothing(target: Target, namespace: str) -> None:
    before = saved(namespace, Variant.LEGACY)
    with pytest.raises(KernelRefusedError, match="planted"):
        engine_with(Watched(netns=namespace, fail=0), target).apply(MANY)
    assert saved(namespace, Variant.LEGACY) == before


def test_a_refused_later_table_is_accounted_for(target: Target, namespace: str) -> None:
    with pytest.raises(PartlyAppliedError) as error:
        engine_with(Watched(netns=namespace, fail=3), target).apply(SMALL)
    assert error.value.exit_status == 4
    assert "done: IPv4 raw, IPv4 filter, IPv4 nat\n" in str(error.value)
    assert "refused: IPv6 filter\n    not tried: IPv6 nat\n" in str(error.value)
    engine = engine_with(Tools(netns=namespace), target)
    engine.apply(MANY)
    assert not engine.verify()


def test_a_script_that_iptables_does_not_read_is_refused_before_any_commit(
    target: Target, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(
        family: Family,
        held: Mapping[str, TableState],
        wanted: Sequence[TableText],
        layout: Layout,
    ) -> list[Commit]:
        steps = commits(family, held, wanted, layout)
        return [replace(step, script=step.script.replace("-j DNAT", "-j DNOT")) for step in steps]

    before = saved(namespace, Variant.LEGACY)
    monkeypatch.setattr("nftbridge.compat.backend.commits", broken)
    with pytest.raises(KernelRefusedError, match="DNOT"):
        engine_with(Tools(netns=namespace), target).apply(MANY)
    assert saved(namespace, Variant.LEGACY) == before


@dataclass(frozen=True)
class Lacking(Tools):
    """Tools of a kernel without some tables."""

    without: tuple[tuple[Family, str], ...] = ()

    def offers(self, family: Family, table: str) -> bool:
        return (family, table) not in self.without and super().offers(family, table)

    def present(self, family: Family) -> tuple[str, ...]:
        tables = super().present(family)
        return tuple(table for table in tables if (family, table) not in self.without)


@pytest.mark.parametrize("plain", VARIANTS, ids=lambda variant: variant.value)
def test_programs_with_plain_names_are_known_by_their_version(
    plain: Variant, tmp_path: Path, namespace: str
) -> None:
    """Before iptables 1.8, and on many vendors' systems, there are no others."""
    programs = tmp_path / "bin"
    programs.mkdir()
    multi = shutil.which(f"xtables-{plain.value}-multi")
    assert multi is not None
    for family in ("ip", "ip6"):
        for verb in ("restore", "save"):
            (programs / f"{family}tables-{verb}").symlink_to(multi)
    for variant in VARIANTS:
        place = f"--netns {namespace} --state-dir {tmp_path / variant.value}"
        options = f"--backend iptables --iptables {variant.value} {place}"
        file = "rulesets/02-published-port/host.toml"
        done = subprocess.run(
            [sys.executable, "-m", "nftbridge", "apply", file, *options.split()],
            env=os.environ | {"PATH": str(programs)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (0 if variant is plain else 5), done.stderr
        assert ("-A DOCKER " in saved(namespace, variant)) == (variant is plain)
        if variant is not plain:
            assert re.search(f"iptables-{variant.value}-(save|restore) is missing", done.stderr)


def test_without_raw_the_drops_are_in_mangle(target: Target, namespace: str) -> None:
    no_raw = tuple((family, "raw") for family in Family)
    engine = engine_with(Lacking(netns=namespace, without=no_raw), target)
    engine.apply(SMALL)
    mangle = run(namespace, "iptables-legacy-save", "-t", "mangle")
    assert "-A PREROUTING -d 172.20.0.2/32 ! -i br-front -j DROP" in mangle
    assert not engine.verify()
    engine.remove(everything=True)
    assert "-A" not in saved(namespace, Variant.LEGACY)


def test_without_raw_and_mangle_nothing_is_applied(target: Target, namespace: str) -> None:
    neither = tuple((Family.IPV4, table) for table in ("raw", "mangle"))
    engine = engine_with(Lacking(netns=namespace, without=neither), target)
    for attempt in (engine.apply, engine.shortcomings):
        with pytest.raises(UnavailableError, match="CONFIG_IP_NF_RAW"):
            attempt(SMALL)
    before = saved(namespace, Variant.LEGACY)
    accepting = replace(SMALL, accept_missing=(Protection.DIRECT_ACCESS,))
    (said,) = engine.shortcomings(accepting)
    assert "neither raw nor mangle" in said.message
    engine.apply(accepting)
    assert not engine.verify()
    assert "-A DOCKER " in saved(namespace, Variant.LEGACY)
    engine.remove(everything=True)
    assert saved(namespace, Variant.LEGACY) == before


def test_without_ipv6_nat_the_rest_works_and_what_is_off_is_said(
    target: Target, namespace: str
) -> None:
    host = scenario("11-dual-stack")
    lacking = Lacking(netns=namespace, without=((Family.IPV6, "nat"),))
    engine = engine_with(lacking, target)
    engine.apply(host)
    assert not engine.verify()
    assert not engine.apply(host)
    assert "-A DOCKER " in run(namespace, "ip6tables-legacy-save", "-t", "filter")
    (shortcoming,) = engine.shortcomings(host)
    assert "[::1]:8087:80/tcp of both" in shortcoming.message
    assert "six" not in shortcoming.message  # routed in IPv6: nothing of it needs nat


def test_switching_the_backend_takes_the_other_ones_rules_out(
    target: Target, namespace: str
) -> None:
    nothing = saved(namespace, Variant.LEGACY)
    for name in ("iptables", "nftables", "iptables", "nftables"):
        engine = Engine(target, choose(name, target).backend)
        assert engine.plan(MANY)
        engine.apply(MANY)
        assert not engine.verify()
        tables = run(namespace, "nft", "list", "tables")
        assert ("inet nftbridge" in tables) == (name == "nftables")
        assert (saved(namespace, Variant.LEGACY) == nothing) == (name == "nftables")
    found, choice = Engine.of_last_apply(target, "auto")
    assert choice.backend.name == "nftables"
    assert found.remove(everything=False).present


TRANSITIONS = [
    ("02-published-port", None),
    ("04-no-proxy", "02-published-port"),
    ("09-nat-unprotected", "11-dual-stack"),
    ("13-trusted-interface", "02-published-port"),
    ("08-routed", "06-internal"),
    ("14-direct-routing", "03-published-on-loopback"),
]


SOON, LATE = 0.4, 5.0
"""Seconds for answers; on a busy machine some of those that come at an end may miss the first."""


@pytest.mark.parametrize(("one", "other"), TRANSITIONS)
def test_no_moment_is_more_open_than_both_ends(
    one: str, other: str | None, target: Target, tmp_path: Path, layout: Layout
) -> None:
    """After every single commit on the way there and back real packets are sent.

    The other end is in Docker's layout.
    """
    hosts = (scenario(one), Host() if other is None else scenario(other))
    merged = replace(hosts[0], networks=_both(hosts))
    with Laboratory(merged, uplinks=("eth0", "eth1"), loopback_links=("loopback0",)) as lab:
        place = replace(target, netns=lab.netns, state_directory=tmp_path)
        plain = engine_with(Tools(netns=lab.netns), place)
        probes = list(every_probe(Site(merged, lab, place, plain)))

        def ends(timeout: float) -> Iterator[set[Probe]]:
            for host in hosts:
                plain.apply(host)
                yield reached(lab, probes, timeout)

        allowed = set[Probe]().union(*ends(SOON))
        moments: list[set[Probe]] = []
        watched = Watched(netns=lab.netns, after=lambda: moments.append(reached(lab, probes)))
        for host, its_layout in zip(hosts, (layout, DOCKER), strict=True):
            engine_with(watched, place, its_layout).apply(host)
        if set[Probe]().union(*moments) - allowed:
            allowed |= set[Probe]().union(*ends(LATE))
    assert len(moments) > 4
    for script, moment in zip(watched.done, moments, strict=True):
        extra = sorted(map(str, moment - allowed))
        assert not extra, f"open after\n{script}\n{extra[:10]}"


def _both(hosts: tuple[Host, Host]) -> tuple[Network, ...]:
    """Networks of both hosts that can stand side by side in one laboratory."""
    names = {network.bridge for network in hosts[0].networks}
    subnets = {subnet for network in hosts[0].networks for subnet in network.subnets}
    more = [n for n in hosts[1].networks if n.bridge not in names and not subnets & {*n.subnets}]
    return (*hosts[0].networks, *more)


def reached(lab: Laboratory, probes: list[Probe], timeout: float = SOON) -> set[Probe]:
    """The probes that were answered in time; connection tracking starts anew."""
    flush = "nsenter --net=/run/netns/{0} conntrack -F"
    subprocess.run(["sh", "-c", flush.format(lab.netns)], check=False, capture_output=True)
    return {outcome.probe for outcome in lab.probe_all(probes, timeout=timeout) if outcome.reached}
