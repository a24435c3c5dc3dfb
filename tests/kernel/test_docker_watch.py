"""`nftbridge watch --docker` beside a real Docker: what comes answers, what goes does not.

With Docker 20.10; `./run test-docker` does the same with 28.5.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge.model import Family
from nftbridge.watch.units import made_for_docker
from tests.kernel.docker_daemon import HOST, OUTSIDE, Daemon, http, udp, udp_server
from tests.kernel.docker_site import WITHOUT_PROXY, Site, engine, finds, gets, run
from tests.kernel.watching import Watch

pytestmark = [pytest.mark.kernel, pytest.mark.slow, pytest.mark.daemons]

V4, V6 = Family.IPV4, Family.IPV6


@pytest.fixture(scope="module")
def docker(request: pytest.FixtureRequest) -> Generator[Daemon]:
    """Without its firewall and without its proxy; two networks."""
    with engine(str(request.config.getoption("--docker")), "--userland-proxy=false") as found:
        found.network("front", "172.20.0.0/16", "fd00:20::/64")
        found.network("other", "172.21.0.0/16")
        yield found


@pytest.fixture
def site(docker: Daemon, tmp_path: Path) -> Generator[Site]:
    """No container, and nothing of ours yet."""
    here = Site(docker, tmp_path)
    here.file.write_text(WITHOUT_PROXY)
    try:
        yield here
    finally:
        here.clear()


def test_who_reaches_whom(site: Site) -> None:
    docker, outside = site.docker, site.docker.outside
    docker.run("early", "front", {"80/tcp": ["18080"]})
    with site.watching():
        docker.run("web", "front", {"80/tcp": ["18081", "127.0.0.1:18082"], "81/udp": ["18083"]})
        docker.run("neighbour", "front")
        docker.run("stranger", "other", {"80/tcp": ["18090"]})
        web, stranger = docker.namespace("web"), docker.namespace("stranger")
        inside = site.address("web", "front")
        assert site.answers("early", 18080), "it ran before"
        with udp_server(web, 81, "web"), udp_server(outside, 5000, "outside"):
            for family in Family:
                assert site.answers("web", 18081, family)
                assert asked(site, family) == f"web {OUTSIDE[family]}"
                masqueraded = f"outside {HOST[family]}"
                assert udp(web, OUTSIDE[family], 5000) == masqueraded
        assert gets("web", docker.netns, "127.0.0.1", 18082), "from the host itself"
        assert gets("web", web, HOST[V4], 18081), "from itself, there and back"
        assert gets("web", docker.namespace("neighbour"), inside, 80)
        assert site.answers("stranger", 18090)
        assert site.silent(18082), "published on loopback only"
        assert http(outside, inside, 80) is None, "addressed directly"
        assert http(outside, site.address("neighbour", "front"), 80) is None
        assert http(stranger, inside, 80) is None, "networks are apart"
        assert http(stranger, HOST[V4], 18081) is None, "without a proxy also by the host's port"


def asked(site: Site, family: Family) -> str | None:
    """What web says to a datagram from outside, at once or at the second attempt."""
    attempts = (udp(site.docker.outside, HOST[family], 18083) for _ in range(2))
    return next(filter(None, attempts), None)


def test_stop_start_rename_restart(site: Site) -> None:
    docker = site.docker
    with site.watching() as watch:
        docker.run("web", "front", {"80/tcp": ["18101"]})
        assert site.answers("web", 18101)
        docker.stop("web")
        watch.wait_for(lambda: not site.publishes(18101))
        docker.run("next", "front")  # it gets the address
        assert site.silent(18101)
        docker.post("/containers/web/start")
        assert site.answers("web", 18101)
        docker.post("/containers/web/rename?name=renamed")
        watch.wait_for(lambda: "renamed" in site.status())
        docker.post("/containers/renamed/restart?t=0")
        assert site.answers("web", 18101)
        docker.remove("renamed")
        watch.wait_for(lambda: not site.publishes(18101))
        docker.run("third", "front", {"80/tcp": ["18102"]})
        assert site.answers("third", 18102)
        assert site.silent(18101)


def test_network_connect_and_disconnect(site: Site) -> None:
    docker = site.docker
    with site.watching() as watch:
        docker.run("web", "front", {"80/tcp": ["18111"]})
        docker.run("stranger", "other")
        stranger = docker.namespace("stranger")
        assert site.answers("web", 18111)
        docker.connect("web", "other")
        assert gets("web", stranger, site.address("web", "other"), 80)
        site.check_settled()
        docker.disconnect("web", "front")
        site.check_settled()
        docker.connect("web", "front")
        docker.disconnect("web", "other")
        watch.wait_for(lambda: "172.21.0.3" not in site.rows())
        assert site.answers("web", 18111)
        assert http(stranger, site.address("web", "front"), 80) is None


def test_networks_come_and_go(site: Site) -> None:
    docker = site.docker
    with site.watching() as watch:
        for _ in range(2):
            docker.network("new", "172.22.0.0/16", options={"bridge.name": "br-new"})
            docker.run("web", "new", {"80/tcp": ["18121"]})
            assert site.answers("web", 18121)
            docker.remove("web")
            docker.remove_network("new")
            watch.wait_for(lambda: "br-new" not in site.rows())


def test_swarm_s_bridge_of_which_docker_does_not_tell(site: Site) -> None:
    """docker_gwbridge is made without an event, and so is its end point; the end is not told."""
    docker = site.docker
    with site.watching() as watch:
        assert "docker_gwbridge" not in site.rows()
        try:
            for times in (1, 2):
                docker.post(
                    "/swarm/init", {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": HOST[V4]}
                )
                watch.wait_for(lambda: "gateway_ingress-sbox" in site.status())
                assert "docker_gwbridge" in site.rows()
                watch.wait_for(lambda: swarms(watch) == times)  # noqa: B023 - called here
                site.check_settled()
                docker.post("/swarm/leave?force=1")
                watch.wait_for(lambda: "gateway_ingress-sbox" not in site.status())
                site.check_settled()
        finally:
            with suppress(RuntimeError):
                docker.post("/swarm/leave?force=1")
            docker.remove_network("docker_gwbridge")
        watch.wait_for(lambda: "docker_gwbridge" not in site.rows())


def swarms(watch: Watch) -> int:
    """How often it was said that there is one."""
    return sum("swarm: is in use" in line.get("text", "") for line in watch.lines)


def test_a_network_whose_containers_are_apart(site: Site) -> None:
    docker = site.docker
    docker.network("apart", "172.22.0.0/16", options={"bridge.enable_icc": "false"})
    try:
        with site.watching():
            docker.run("web", "apart", {"80/tcp": ["18125"]})
            docker.run("neighbour", "apart")
            assert site.answers("web", 18125)
            assert http(docker.namespace("neighbour"), site.address("web", "apart"), 80) is None
    finally:
        for name in docker.names():
            docker.remove(name)
        docker.remove_network("apart")


def test_with_iptables(site: Site) -> None:
    docker = site.docker
    site = replace(site, backend="iptables")
    with site.watching() as watch:
        docker.run("web", "front", {"80/tcp": ["18126"]})
        assert site.answers("web", 18126)
        docker.remove("web")
        watch.wait_for(lambda: not site.publishes(18126))
        docker.run("next", "front")
        assert site.silent(18126)


def test_what_has_no_place_is_said_once_and_the_rest_is_done(site: Site) -> None:
    docker = site.docker
    with site.watching() as watch:
        docker.network("vlan", "10.98.0.0/24", driver="macvlan", options={"parent": "eth0"})
        try:
            for name, network in (("on-host", "host"), ("on-none", "none"), ("on-vlan", "vlan")):
                docker.run(name, network)
            docker.run("web", "front", {"80/tcp": ["18131"]})
            docker.run("lodger", "container:web")
            assert site.answers("web", 18131)
            site.check_settled()
            said = [line["text"] for line in watch.lines if line["event"] == "warning"]
            assert any("'vlan'" in text for text in said)
            assert len(said) == len(set(said))
        finally:
            for name in docker.names():
                docker.remove(name)
            docker.remove_network("vlan")


def test_a_killed_watcher_and_the_next_one(site: Site) -> None:
    docker = site.docker
    for name, port in (("goes", 18141), ("stays", 18142)):
        docker.run(name, "front", {"80/tcp": [str(port)]})
    with site.watching() as watch:
        assert site.answers("goes", 18141)
        assert watch.end(signal.SIGKILL) == -signal.SIGKILL
    docker.remove("goes")
    docker.run("heir", "front")
    docker.run("comes", "front", {"80/tcp": ["18143"]})
    with site.watching():
        assert not site.publishes(18141)
        assert site.silent(18141)
        assert site.answers("stays", 18142)
        assert site.answers("comes", 18143)


def test_a_burst_is_a_few_transactions(site: Site) -> None:
    docker, ports = site.docker, range(18200, 18250)
    for port in ports:
        docker.create(f"c{port}", "front", {"80/tcp": [str(port)]})
    with site.watching() as watch:
        docker.each(lambda port: docker.post(f"/containers/c{port}/start"), ports)
        watch.wait_for(lambda: all(map(site.publishes, (ports[0], ports[-1]))))
        site.check_settled()
        applied = watch.count("applied") - 1
        for port in ports:
            assert site.answers(f"c{port}", port)
        docker.each(lambda port: docker.remove(f"c{port}"), ports)
        watch.wait_for(lambda: not any(map(site.publishes, ports)))
        ended = watch.count("applied") - 1 - applied
        print(f"{len(ports)} containers: {applied} transactions, and {ended} when they went")
        assert applied < len(ports)


def test_what_somebody_does_to_the_table_is_put_right(site: Site) -> None:
    docker = site.docker
    docker.run("web", "front", {"80/tcp": ["18151"]})
    with site.watching() as watch:
        site.flush()
        watch.until("restored", reason="rules")
        assert site.answers("web", 18151)
        docker.remove("web")
        watch.wait_for(lambda: not site.publishes(18151))


OWN = """
[[network]]
name = "own"
bridge = "br-own"
subnets = ["10.77.0.0/24"]

[[network.container]]
name = "box"
ipv4 = "10.77.0.2"
publish = ["18161:80"]
"""


def test_a_file_beside_it(site: Site) -> None:
    docker, good = site.docker, WITHOUT_PROXY + OWN
    docker.network("pinned", "172.23.0.0/16", options={"bridge.name": "br-pinned"})
    try:
        with site.watching() as watch:
            site.file.write_text(good)
            watch.wait_for(lambda: site.publishes(18161))
            for wrong, reason in (
                (OWN.replace("br-own", "br-pinned"), "br-pinned"),
                (OWN.replace('"own"', '"front"'), "'front' is taken"),
                (OWN.replace("10.77.0", "172.20.0"), "overlaps"),
                ("nonsense = [", "is not TOML"),
            ):
                site.file.write_text(WITHOUT_PROXY + wrong)
                assert reason in watch.until("rejected")["text"]
            docker.run("web", "front", {"80/tcp": ["18162"]})
            assert site.answers("web", 18162), "in spite of the file"
            assert site.publishes(18161), "as it was when it was good"
            docker.run("rival", "front", {"80/tcp": ["18161"]})
            assert "18161:80/tcp" in watch.until("warning")["text"]
            docker.remove("web")
            watch.wait_for(lambda: not site.publishes(18162))
            site.file.write_text(good)
            watch.until("accepted")
            docker.remove("rival")
            site.file.write_text(WITHOUT_PROXY)
            watch.wait_for(lambda: not site.publishes(18161))
    finally:
        with suppress(RuntimeError):
            docker.remove_network("pinned")


def test_docker_waits_while_an_apply_is_on_trial(site: Site) -> None:
    docker = site.docker
    docker.run("goes", "front", {"80/tcp": ["18191"]})
    with site.watching() as watch:
        shown = run("apply", str(site.file), "--confirm", "600", *site.place())
        assert "confirm" in shown
        docker.run("web", "front", {"80/tcp": ["18192"]})
        assert "not confirmed" in watch.until("held")["text"]
        docker.remove("goes")
        run("rollback", *site.place())
        assert site.answers("web", 18192)
        watch.wait_for(lambda: not site.publishes(18191))


def test_a_trial_does_not_keep_the_port_of_a_container_that_is_gone(
    site: Site, tmp_path: Path
) -> None:
    docker = site.docker
    docker.run("goes", "front", {"80/tcp": ["18193"]})
    docker.run("stays", "front", {"80/tcp": ["18194"]})
    with site.watching() as watch:
        tried = tmp_path / "tried.json"
        importing = ("import", "docker", "--docker", str(docker.socket), "--format", "json")
        tried.write_text(run(*importing, "--no-userland-proxy").replace("18194", "18195"))
        assert "confirm" in run("apply", str(tried), "--confirm", "600", *site.place())
        assert site.answers("goes", 18193)
        docker.run("late", "front")
        watch.until("held")
        assert site.answers("stays", 18195), "it is on trial"
        docker.remove("goes")
        watch.wait_for(lambda: not site.publishes(18193))
        assert site.answers("stays", 18194), "as Docker has it"
        assert '"trial": null' in site.status()


def test_a_start_before_docker_s(site: Site, tmp_path: Path) -> None:
    """The socket comes later."""
    link = tmp_path / "docker.sock"
    site.docker.run("web", "front", {"80/tcp": ["18171"]})
    command = [f"--docker={link}" if "--docker=" in word else word for word in site.command()]
    with site.waiting(command) as watch:
        assert "no socket" in watch.until("docker", state="away")["text"]
        link.symlink_to(site.docker.socket)
        watch.until("ready")
        assert site.answers("web", 18171)


def test_the_unit_allows_what_it_takes(site: Site) -> None:
    (unit,) = made_for_docker(str(site.file), str(site.docker.socket)).values()
    (capabilities,) = re.findall(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    allowed = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in capabilities.split())
    few = ["setpriv", f"--bounding-set=-all,{allowed}", "--inh-caps=-all", "--no-new-privs"]
    with site.waiting([*few, *site.command(beside=False)]) as watch:
        watch.until("ready")
        site.check_settled()  # it has read that Docker has no proxy
        site.docker.run("web", "front", {"80/tcp": ["18181"]})
        assert site.answers("web", 18181)
        site.docker.remove("web")
        watch.wait_for(lambda: not site.publishes(18181))


def test_names(site: Site) -> None:
    docker = site.docker
    docker.run("early", "front")
    with site.watching() as watch:
        docker.run("web", "front")
        docker.run("late", "other")
        assert finds(site, "web", "early")
        assert finds(site, "early", "web")
        docker.connect("late", "front")
        assert finds(site, "late", "web")
        docker.post("/containers/web/restart?t=0")
        assert finds(site, "web", "early")
        assert watch.count("named") == 0, "Docker does it, with its firewall off, too"
