"""`nftbridge migrate docker` under real daemons' rules, with traffic through it all the time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from nftbridge.lab.namespaces import DIRECTORY
from nftbridge.model import Family
from tests.kernel import docker_site
from tests.kernel.debian import NotAvailable
from tests.kernel.docker_daemon import HOST, Daemon
from tests.kernel.migrate_site import BLOCKED, RULE, TABLES, Site, Traffic, expected, site, steady

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]

Tell: TypeAlias = Callable[[Site, Traffic], None]

KINDS = [("28.5", "legacy"), ("28.5", "nft"), ("20.10", "legacy"), ("20.10", "nft")]


def started(stack: ExitStack, folder: Path, *kind: str) -> Site:
    """A site that ends with `stack`, or the test is skipped."""
    release, variant, *options = kind
    try:
        return stack.enter_context(site(folder, release, variant, *options))
    except NotAvailable as reason:
        pytest.skip(f"Docker {release}: {reason}")


@pytest.fixture(params=KINDS, ids=" ".join)
def docker(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Site]:
    """Each release under each kind of iptables."""
    with ExitStack() as stack:
        yield started(stack, tmp_path, *request.param)


@pytest.fixture
def newest(tmp_path: Path) -> Generator[Site]:
    """Docker 28.5 on iptables-legacy."""
    with ExitStack() as stack:
        yield started(stack, tmp_path, "28.5", "legacy")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Say at the end of all tests what was counted."""

    def told(place: Site, traffic: Traffic) -> None:
        record_property("storm", f"{place}, {traffic.account()}")

    return told


def test_no_rules_come_back_for_who_is_gone(newest: Site) -> None:
    """The address may be somebody else's by now, who has published nothing."""
    newest.migrate("--apply")
    ours = newest.run("nft", "--stateless", "list", "ruleset")
    newest.engine.remove("web")
    said = newest.migrate("--undo", status=1)
    assert "networks or containers are others than when Docker's rules went out" in said
    assert newest.run("nft", "--stateless", "list", "ruleset") == ours
    assert not any("DOCKER" in text for text in newest.saved().values())


def test_what_a_host_file_has_brought_is_not_lost_silently(newest: Site) -> None:
    place = ("--netns", newest.engine.netns, "--state-dir", str(newest.folder / "state"))
    file = newest.folder / "host.toml"
    file.write_text(
        'version = 1\n[[network]]\nname = "own"\nbridge = "br-own"\nsubnets = ["172.29.0.0/16"]\n'
    )
    subprocess.run([sys.executable, "-m", "nftbridge", "apply", str(file), *place], check=True)
    command = [sys.executable, "-m", "nftbridge", *newest.words()]
    planned = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "not Docker's goes out: networks and ports of a host file" in planned.stderr


def test_there_and_back_in_a_storm(docker: Site, tell: Tell) -> None:
    before = docker.saved()
    shown = docker.migrate(status=2)
    assert docker.saved() == before, "a plan changes nothing"
    assert re.search(rf"{RULE}\n    -> .*udp ct original proto-dst {BLOCKED} .*drop\n", shown)
    with docker.storm() as storm:
        traffic = Traffic(storm)
        traffic.change(lambda: docker.migrate("--apply"))
        assert traffic.ends[-1] == expected(docker.release)
        assert not any("DOCKER" in text for text in docker.saved().values())
        traffic.change(lambda: docker.migrate("--undo"))
    tell(docker, traffic)
    assert traffic.leaks == []
    assert traffic.broken() == []
    assert traffic.lost(docker, before) == []
    assert traffic.ends[0] == traffic.ends[-1]
    assert docker.saved() == before
    assert "nftbridge" not in docker.run("nft", "list", "tables")


@pytest.mark.parametrize("option", [None, "--live-restore"])
@pytest.mark.parametrize("release", ["28.5", "20.10"])
def test_docker_restarts_as_its_daemon_json_says(
    tmp_path: Path, release: str, option: str | None
) -> None:
    """There and back as README says it. Without a proxy only rules lead to a published port."""
    options = ("--userland-proxy=false", *filter(None, [option]))
    with docker_site.engine(release, *options, firewall=True) as docker:
        here = docker_site.Site(docker, tmp_path)
        here.file.write_text(docker_site.WITHOUT_PROXY)
        written = docker.socket.with_name("daemon.json")
        written.write_text('{"debug": true}')
        docker.network("front", "172.20.0.0/16")
        docker.run("web", "front", {"80/tcp": ["18351"]}, policy="always")
        docker.run("once", "front", {"80/tcp": ["18352"]})
        place = (*here.place(), "--daemon-json", str(written), "--docker", str(docker.socket))
        migrate = partial(docker_site.run, "migrate", "docker", *place)
        said = migrate("--apply", "--write")
        assert "next: restart Docker" in said
        assert here.answers("once", 18352)
        with here.watching() as watch:
            docker.halt()
            docker.start("--config-file=/daemon/daemon.json")
            watch.wait_for(lambda: here.publishes(18352) is (option is not None))
            assert here.answers("web", 18351)
            assert here.silent(18352) is (option is None)
            docker.run("new", "front", {"80/tcp": ["18353"]})
            assert here.answers("new", 18353)
            assert not any("DOCKER" in docker.rules(family) for family in Family)
            assert "`nftbridge watch` is running" in migrate("--undo")
        assert "restart Docker, which makes its rules anew" in migrate("--undo")
        assert written.read_text() == '{"debug": true}'
        docker.halt()
        docker.start("--config-file=/daemon/daemon.json")
        migrate("--undo")
        assert "inet nftbridge" not in here.rows()
        assert "DOCKER" in docker.rules(Family.IPV4)
        assert here.answers("web", 18351)


@pytest.mark.parametrize(("release", "variant"), [("28.5", "legacy"), ("20.10", "nft")])
def test_a_network_made_later_where_forward_goes_on_dropping(
    tmp_path: Path, release: str, variant: str
) -> None:
    with docker_site.engine(release, variant=variant, firewall=True) as docker:
        here = docker_site.Site(docker, tmp_path, proxy=True)
        written = docker.socket.with_name("daemon.json")
        migrate = partial(
            docker_site.run,
            *("migrate", "docker", "--docker", str(docker.socket), "--daemon-json", str(written)),
            *here.place(),
        )

        def kept() -> str:
            inside = ["nsenter", f"--net={DIRECTORY / docker.netns}"]
            command = [*inside, f"iptables-{variant}-save", "-t", "filter"]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        docker.network("front", "172.20.0.0/16", options={"bridge.name": "br-front"})
        migrate("--apply", "--write", "--forward-policy", "keep")
        with here.watching(beside=False) as watch:
            docker.halt()
            docker.start("--config-file=/daemon/daemon.json")
            docker.network("late", "172.21.0.0/16", options={"bridge.name": "br-late"})
            docker.run("web", "late", {"80/tcp": ["18361"]})
            # the port alone tells nothing: Docker's proxy answers it, too
            watch.wait_for(lambda: "-A NFTBRIDGE -o br-late -j ACCEPT" in kept())
            assert ":FORWARD DROP" in kept()
            assert docker_site.source_of(docker, "web") == HOST[Family.IPV4], "by the accepts alone"
            assert here.answers("web", 18361)
            docker.remove("web")
            docker.remove_network("late")
            watch.wait_for(lambda: "br-late" not in kept())
            assert "-A NFTBRIDGE -o br-front -j ACCEPT" in kept()
        assert "Docker's rules are back" in migrate("--undo")
        assert "NFTBRIDGE" not in kept()


OURS = {"legacy": ("--backend", "iptables"), "nft": ("--backend", "iptables", "--iptables", "nft")}
"""By kind of iptables: what makes Docker's tables ours."""


@pytest.mark.parametrize(
    ("variant", "words"),
    [("legacy", ("--forward-policy", "keep")), *OURS.items()],
    ids=["policy of drop", "legacy", "nft"],
)
def test_where_docker_leaves_something(
    tmp_path: Path, tell: Tell, variant: str, words: tuple[str, ...]
) -> None:
    """A policy of DROP that stays, and Docker's tables as ours."""
    with ExitStack() as stack:
        newest = started(stack, tmp_path, "28.5", variant)
        before = newest.saved()
        with newest.storm() as storm:
            traffic = Traffic(storm)
            traffic.change(lambda: newest.migrate("--apply", *words))
            assert ":FORWARD DROP" in newest.saved()[f"iptables-{variant}-save"]
            traffic.change(lambda: newest.migrate("--undo"))
        tell(newest, traffic)
        assert traffic.leaks == []
        assert traffic.broken() == []
        assert traffic.lost(newest, before) == []
        assert set(traffic.ends) == {expected(newest.release)}
        assert newest.saved() == before


@pytest.mark.parametrize("variant", OURS)
def test_adopting_an_older_layout(tmp_path: Path, tell: Tell, variant: str) -> None:
    """Docker 20.10's chains become ours, table by table; its translations are not quite ours."""
    with ExitStack() as stack:
        oldest = started(stack, tmp_path, "20.10", variant)
        before = oldest.saved()
        with oldest.storm() as storm:
            traffic = Traffic(storm)
            traffic.change(lambda: oldest.migrate("--apply", *OURS[variant]))
            assert traffic.ends[-1] == expected(oldest.release)
            traffic.change(lambda: oldest.migrate("--undo"))
        tell(oldest, traffic)
        assert traffic.leaks == []
        assert traffic.broken() == []
        assert traffic.lost(oldest, before) == []
        assert traffic.ends[0] == traffic.ends[-1]
        program = f"iptables-{variant}-save"
        assert oldest.saved()[program].replace(_EMPTY_RAW, "") == before[program]


_EMPTY_RAW = "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_dockers_tables_of_nftables(tmp_path: Path, tell: Tell, backend: str) -> None:
    with ExitStack() as stack:
        place = started(stack, tmp_path, TABLES, "legacy")
        before = place.run("nft", "--stateless", "list", "ruleset")
        with place.storm() as storm:
            traffic = Traffic(storm)
            traffic.change(lambda: place.migrate("--apply", "--backend", backend))
            assert "docker-bridges" not in place.run("nft", "list", "tables")
            traffic.change(lambda: place.migrate("--undo"))
        tell(place, traffic)
        assert traffic.leaks == []
        assert traffic.broken() == []
        assert traffic.lost(place, {}) == []
        assert set(traffic.ends) == {expected(place.release)}
        assert place.run("nft", "--stateless", "list", "ruleset") == before


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("--backend", "iptables")], ids=["nftables", "iptables"])
def test_killed_at_any_step_it_goes_on_or_back(
    newest: Site, tell: Tell, words: tuple[str, ...]
) -> None:
    before = newest.saved()
    newest.daemon_json.write_text(_OPTIONS)
    forward = ("--apply", "--write", *words)
    with newest.storm() as storm:
        traffic = Traffic(storm)
        step = 0
        while traffic.change(partial(newest.killed, step, *forward)):
            if step % 2:
                traffic.change(lambda: newest.migrate(*forward))
            assert newest.daemon_json.read_text() == _OPTIONS or step % 2
            _undo(newest, traffic)
            assert newest.saved() == before, f"killed before step {step}"
            assert "nftbridge" not in newest.run("nft", "list", "tables")
            assert newest.daemon_json.read_text() == _OPTIONS
            step += 1
        assert step > 4
        done = newest.saved()
        step = 0
        while traffic.change(partial(newest.killed, step, "--undo")):
            if step % 2:
                traffic.change(lambda: newest.migrate(*forward))
                assert newest.saved() == done, f"killed before step {step}"
                assert traffic.ends[-1] == expected(newest.release)
            else:
                _undo(newest, traffic)
                assert newest.saved() == before, f"killed before step {step}"
                traffic.change(lambda: newest.migrate(*forward))
            step += 1
        assert step > 4
    tell(newest, traffic)
    assert traffic.leaks == []
    assert traffic.broken() == []
    assert traffic.lost(newest, before) == []
    assert newest.saved() == before
    assert newest.daemon_json.read_text() == _OPTIONS


_OPTIONS = '{"live-restore": true}'


def _undo(place: Site, traffic: Traffic) -> None:
    """Go back, if there is anything on record."""
    record = place.folder.glob("state/*/*/migration.json")
    if any(record):
        traffic.change(lambda: place.migrate("--undo"))


# --- what the daemon was started with -------------------------------------------------------------


def asked(docker: Daemon, folder: Path, *words: str, status: int = 0) -> str:
    """What the command says of that daemon, on either stream."""
    place = docker_site.Site(docker, folder).place()
    command = [sys.executable, "-m", "nftbridge", "migrate", "docker", *words, *place]
    command.append(f"--docker={docker.socket}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def is_valid(docker: Daemon, *options: str) -> bool:
    """Whether such a dockerd would start, beside the one that runs."""
    place = ["nsenter", f"--target={docker.pid}", "--mount", "--root"]
    words = [*place, "/usr/sbin/dockerd", "--validate", *options]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


FIREWALL_OFF = ("--iptables=false", "--ip6tables=false")


@pytest.mark.parametrize("release", ["28.5", "20.10"])
def test_a_firewall_that_is_off_on_the_command_line(tmp_path: Path, release: str) -> None:
    with docker_site.engine(release, "--userland-proxy=false") as docker:
        written = docker.socket.with_name("daemon.json")
        docker.network("front", "172.20.0.0/16")
        docker.run("web", "front", {"80/tcp": ["18361"]})
        file = f"--daemon-json={written}"
        assert "daemon.json, not without --write" not in asked(docker, tmp_path, file, status=2)
        said = asked(docker, tmp_path, "--apply", "--write", file)
        assert "next: nobody but nftbridge opens ports now: keep" in said
        assert "restart" not in said
        assert "keep `nftbridge watch --docker` running" in said, "that sees what it needs"
        assert not written.exists()
        assert "nothing to do" in asked(docker, tmp_path, file)
        if release == "20.10":
            return  # it cannot be asked whether it would start
        written.write_text('{"iptables": false, "ip6tables": false}')
        config = "--config-file=/daemon/daemon.json"
        assert is_valid(docker, config)
        assert not is_valid(docker, config, *FIREWALL_OFF)


def test_one_of_both_is_on_the_command_line(tmp_path: Path) -> None:
    """--write leaves that one out, and dockerd starts with what it has written."""
    with docker_site.engine("28.5", "--iptables=false", firewall=True) as docker:
        written = docker.socket.with_name("daemon.json")
        written.write_text('{"debug": true}')
        docker.halt()
        docker.start("--config-file=/daemon/daemon.json")
        said = asked(docker, tmp_path, "--apply", "--write", status=1)
        assert "Docker reads /daemon/daemon.json, where that is in its mount namespace" in said
        file = f"--daemon-json={written}"
        said = asked(docker, tmp_path, "--apply", "--write", file)
        assert "Docker reads" not in said
        assert "next: restart Docker" in said
        assert written.read_text() == '{"debug": true,"ip6tables": false}'
        docker.halt()
        docker.start("--config-file=/daemon/daemon.json")
        asked(docker, tmp_path, "--undo", file)
        assert written.read_text() == '{"debug": true}'


def test_no_file_switches_off_what_is_on_on_the_command_line(tmp_path: Path) -> None:
    with docker_site.engine("28.5", "--iptables", firewall=True) as docker:
        docker.network("front", "172.20.0.0/16")
        before = docker.rules(Family.IPV4)
        written = docker.socket.with_name("daemon.json")
        file = f"--daemon-json={written}"
        said = asked(docker, tmp_path, "--apply", "--write", file, status=1)
        assert "--iptables: is on Docker's command line: it would not start with it in" in said
        assert steady(docker.rules(Family.IPV4)) == steady(before)
        assert not written.exists()
        said = asked(docker, tmp_path, "--apply", file)
        assert "next: start Docker with --iptables=false, e.g. by `systemctl edit docker`" in said
        assert "DOCKER" not in docker.rules(Family.IPV4)
        asked(docker, tmp_path, "--undo", file)
        assert steady(docker.rules(Family.IPV4)) == steady(before)
