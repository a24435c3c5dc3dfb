"""`nftbridge watch --docker` while Docker is ended, killed and started again, and without iptables.

With Docker 20.10; `./run test-docker` does the same with 28.5.
"""

from __future__ import annotations

import re
import statistics
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge.docker import events
from nftbridge.docker.wire import Exchange
from nftbridge.model import Family
from nftbridge.netns import inside
from tests.kernel.docker_daemon import HOST, Daemon, http
from tests.kernel.docker_site import (
    WITHOUT_PROXY,
    WITHOUT_RULES,
    Site,
    engine,
    finds,
    gets,
    run,
    source_of,
)
from tests.kernel.watching import Watch

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]


@pytest.fixture
def release(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--docker"))


def beside(docker: Daemon, folder: Path) -> Site:
    site = Site(docker, folder)
    site.file.write_text(WITHOUT_PROXY)
    docker.network("front", "172.20.0.0/16")
    return site


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_containers_end_with_the_daemon_and_some_come_back(
    release: str, tmp_path: Path, signal: str
) -> None:
    with engine(release, "--userland-proxy=false") as docker:
        site = beside(docker, tmp_path)
        docker.run("gone", "front", {"80/tcp": ["18301"]})
        docker.run("back", "front", {"80/tcp": ["18302"]}, policy="always")
        with site.watching() as watch:
            assert site.answers("gone", 18301)
            docker.restart(signal)
            watch.wait_for(lambda: watch.count("docker") > 2)
            watch.wait_for(lambda: not site.publishes(18301))
            assert site.answers("back", 18302)
            assert finds(site, "back", "back")
            docker.run("new", "front", {"80/tcp": ["18303"]})
            assert site.answers("new", 18303)
            assert site.silent(18301)


def test_what_ends_with_the_daemon_is_closed_before_that_comes_back(
    release: str, tmp_path: Path
) -> None:
    with engine(release, "--userland-proxy=false") as docker:
        site = beside(docker, tmp_path)
        ports = range(18331, 18335)
        for port in ports:
            docker.run(f"c{port}", "front", {"80/tcp": [str(port)]})
        with site.watching() as watch:
            assert site.answers("c18331", 18331)
            docker.halt()
            watch.wait_for(lambda: not any(map(site.publishes, ports)))
            docker.start()
            docker.post("/containers/c18332/start")
            assert site.answers("c18332", 18332)
            assert all(map(site.silent, (18331, 18333, 18334)))


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_containers_that_outlive_the_daemon_or_end_meanwhile(
    release: str, tmp_path: Path, signal: str
) -> None:
    with engine(release, "--userland-proxy=false", "--live-restore") as docker:
        site = beside(docker, tmp_path)
        docker.run("stays", "front", {"80/tcp": ["18311"]})
        docker.run("ends", "front", {"80/tcp": ["18312"]})
        pid = docker.inside_pid("ends")
        with site.watching() as watch:
            assert site.answers("stays", 18311)
            docker.restart(signal, meanwhile=pid)
            watch.wait_for(lambda: not site.publishes(18312))
            assert site.answers("stays", 18311)
            docker.run("new", "front")
            assert finds(site, "stays", "new")
            assert finds(site, "new", "stays")
            docker.remove("stays")
            watch.wait_for(lambda: not site.publishes(18311))


def test_names_where_docker_finds_no_iptables(release: str, tmp_path: Path) -> None:
    """20.10 serves names then, and only the way to them is missing; 28.5 does not even start to."""
    with engine(release, "--userland-proxy=false", "--live-restore", variant="none") as docker:
        site = beside(docker, tmp_path)
        docker.run("early", "front")
        with site.watching() as watch:
            docker.run("web", "bridge")
            docker.connect("web", "front")
            if release != "20.10":
                watch.wait_for(lambda: "iptables programs" in str(watch.lines))
                return
            for _ in range(2):
                assert finds(site, "web", "early")
                assert finds(site, "early", "web")
                docker.restart()  # the name server comes back at other ports
            docker.post("/containers/web/restart?t=0")
            assert finds(site, "web", "early")
            assert watch.count("named") > 1


def test_there_and_back(release: str, tmp_path: Path) -> None:
    """By hand, as README says it, less what systemd does; a flush stands for booting."""
    with engine(release, firewall=True) as docker:
        site = Site(docker, tmp_path, proxy=True)
        docker.run("web", "bridge", {"80/tcp": ["18341"]}, policy="always")
        assert site.answers("web", 18341)
        docker.halt()
        site.flush()
        run("baseline", "--bridge", "docker0", "--bridge", "br-*", *site.place())
        with site.waiting(site.command(beside=False)) as watch:
            watch.until("docker", state="away")
            docker.start(*WITHOUT_RULES)
            watch.until("ready")
            assert site.answers("web", 18341)
            assert re.findall(r"^table (.*) {", site.rows(), re.MULTILINE) == ["inet nftbridge"]
            site.check_settled()
        docker.restart()
        assert "removed" in run("remove", "--all", *site.place())
        assert site.answers("web", 18341)
        assert "inet nftbridge" not in site.rows()


def test_with_docker_s_proxy_and_without_a_file(release: str, tmp_path: Path) -> None:
    with engine(release) as docker:
        site = Site(docker, tmp_path, proxy=True)
        docker.network("front", "172.20.0.0/16")
        with site.watching(beside=False) as watch:
            docker.run("web", "bridge", {"80/tcp": ["18321"]})
            docker.run("stranger", "front")
            assert site.answers("web", 18321)
            assert source_of(docker, "web") == HOST[Family.IPV4], (
                "masqueraded, though Docker denies"
            )
            assert http(docker.netns, "127.0.0.1", 18321) == "web"
            inside = site.address("web", "bridge")
            assert http(docker.namespace("stranger"), inside, 80) is None
            docker.remove("web")
            watch.wait_for(lambda: not site.publishes(18321))
            assert site.silent(18321)


def test_what_docker_was_started_with_is_kept(release: str, tmp_path: Path) -> None:
    """By its command line and its file, since its API tells nothing of it, or wrongly."""
    with engine(release) as docker:
        site = Site(docker, tmp_path, proxy=True)
        with site.watching(beside=False) as watch:
            docker.run("web", "bridge", policy="always")
            watch.wait_for(lambda: source_of(docker, "web") == HOST[Family.IPV4])
            docker.halt()
            docker.socket.with_name("daemon.json").write_text('{"ip-masq": false}')
            docker.start("--config-file=/daemon/daemon.json")
            watch.wait_for(lambda: source_of(docker, "web") == site.address("web", "bridge"))
    with engine(release, "--ip-masq=false") as docker:
        site = Site(docker, tmp_path / "flag", proxy=True)
        docker.run("web", "bridge")
        with site.watching(beside=False):
            assert source_of(docker, "web") == site.address("web", "bridge")


def test_without_docker_s_proxy_and_without_a_file(release: str, tmp_path: Path) -> None:
    """Its bridges tell, which may come and go, and Docker with its other options."""
    with engine(release, "--userland-proxy=false") as docker:
        site = Site(docker, tmp_path)
        with site.watching(beside=False) as watch:
            docker.network("front", "172.20.0.0/16")
            docker.run("web", "bridge", {"80/tcp": ["18322", "127.0.0.1:18323"]})
            docker.run("stranger", "front")
            assert site.answers("web", 18322)
            assert gets("web", docker.netns, "127.0.0.1", 18323), "from the host itself"
            assert gets("web", docker.namespace("web"), HOST[Family.IPV4], 18322), "and back"
            assert http(docker.namespace("stranger"), HOST[Family.IPV4], 18322) is None
            site.check_settled()
            docker.remove("stranger")
            docker.remove_network("front")
            docker.restart()
            docker.network("late", "172.21.0.0/16", "fd00:21::/64", internal=True)
            watch.wait_for(lambda: "172.21.0.0" in site.rows())
        assert not any("userland_proxy" in line.get("text", "") for line in watch.lines)


def test_a_file_that_says_otherwise_than_docker_s_bridges(release: str, tmp_path: Path) -> None:
    with engine(release, "--userland-proxy=false") as docker:
        site = Site(docker, tmp_path, proxy=True)
        site.file.write_text("version = 1\n")
        with site.watching() as watch:
            (said,) = contradictions(watch)
            assert said.startswith(f"{site.file}: ")
            assert "userland_proxy = false" in said
            docker.network("front", "172.20.0.0/16")
            site.check_settled()
            site.file.write_text(WITHOUT_PROXY)
            replace(site, proxy=False).check_settled()
            site.file.write_text("version = 1\n")
            watch.wait_for(lambda: len(contradictions(watch)) > 1)
            site.check_settled()


def contradictions(watch: Watch) -> list[str]:
    return [text for line in watch.lines if "userland_proxy" in (text := line.get("text", ""))]


def test_bridges_that_route_loopback_addresses_though_there_is_a_proxy(
    release: str, tmp_path: Path
) -> None:
    """One of before, and all of those where the user has asked for it."""
    with engine(release) as docker:
        site = Site(docker, tmp_path, proxy=True)
        docker.network("front", "172.20.0.0/16")
        docker.run("web", "bridge", {"80/tcp": ["18324"]})
        docker.run("stranger", "front")
        route_loopback(docker, "docker0")
        with site.watching(beside=False):
            assert gets("web", docker.namespace("stranger"), HOST[Family.IPV4], 18324)
            site.check_settled()
            docker.remove("stranger")
            docker.remove_network("front")
            route_loopback(docker, "default")
            docker.network("front", "172.20.0.0/16")
            docker.run("stranger", "front")
            assert gets("web", docker.namespace("stranger"), HOST[Family.IPV4], 18324)


def route_loopback(docker: Daemon, interface: str) -> None:
    with inside(docker.netns):
        Path(f"/proc/sys/net/ipv4/conf/{interface}/route_localnet").write_text("1")


def test_a_migration_and_a_service_agree_without_a_file(release: str, tmp_path: Path) -> None:
    """That Docker has no proxy, its rules told, and its bridges afterwards."""
    with engine(release, "--userland-proxy=false", firewall=True) as docker:
        site = Site(docker, tmp_path)
        written = docker.socket.with_name("daemon.json")
        written.write_text("{}")
        place = (*site.place(), "--daemon-json", str(written), "--docker", str(docker.socket))
        docker.network("front", "172.20.0.0/16")
        docker.run("web", "front", {"80/tcp": ["18325"]}, policy="always")
        said = run("migrate", "docker", *place, "--apply", "--write")
        assert "keep `nftbridge watch --docker` running" in said
        with site.watching(beside=False):
            docker.halt()
            docker.start("--config-file=/daemon/daemon.json")
            assert site.answers("web", 18325)
            site.check_settled()
            assert "nothing to do" in run("migrate", "docker", *place)
        assert "nothing to do" in run("migrate", "docker", *place)


def test_how_long_a_start_takes_to_answer(release: str, tmp_path: Path) -> None:
    """From Docker's word of the start to the first answer, and what of that is ours."""
    totals: list[float] = []
    ours: list[float] = []
    with engine(release, "--userland-proxy=false") as docker:
        site = beside(docker, tmp_path)
        with site.watching() as watch:
            for port in range(18401, 18407):
                totals.append(1000 * answered_after(docker, port))
                ours.append(watch.until("applied", reason="docker")["ms"])
                time.sleep(1)  # one at a time, not a burst
    shares = [own / total for own, total in zip(ours, totals, strict=True)]
    print(
        f"Docker {release}: answers {statistics.median(totals):.0f} ms after the start event "
        f"({min(totals):.0f} - {max(totals):.0f}); rules in after {statistics.median(ours):.0f} ms "
        f"({min(ours):.0f} - {max(ours):.0f}), a share of {statistics.median(shares):.0%}"
    )


def answered_after(docker: Daemon, port: int) -> float:
    """Seconds from the start event of a new container to its port's first answer."""
    docker.create(f"c{port}", "front", {"80/tcp": [str(port)]})
    seen: list[float] = []
    listener = threading.Thread(target=listen, args=(docker, seen))
    listener.start()
    docker.post(f"/containers/c{port}/start")
    listener.join()
    while http(docker.outside, HOST[Family.IPV4], port, 0.05) is None:
        pass
    return time.monotonic() - seen[0]


def listen(docker: Daemon, seen: list[float]) -> None:
    """Notes when the next start is told."""
    stream = Exchange(str(docker.socket), f"/v1.41{events.path(time.time())}")
    while not seen:
        time.sleep(0.001)
        stream.read()
        found = [events.event_of(line) for line in stream.lines()] if stream.status else []
        if any(event and event.action is events.Action.START for event in found):
            seen.append(time.monotonic())
    stream.close()
