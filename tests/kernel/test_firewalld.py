"""Packets past a real firewalld: before, while and after it reloads and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.firewalld.watcher import Event
from nftbridge.lab import HOST, OUTSIDE
from nftbridge.model import Family
from tests.kernel.firewalld_daemon import SUITES
from tests.kernel.firewalld_site import (
    ALLOWED,
    BRIDGES,
    EGRESS,
    FORBIDDEN,
    OWN,
    PUBLISHED,
    ROUTED,
    Service,
    Site,
    site,
)

pytestmark = [pytest.mark.kernel, pytest.mark.daemons]

STRICT = (("trixie", "nftables"), ("sid", "nftables"), ("sid", "iptables"))


@pytest.fixture(params=("bookworm", "sid"))
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_as_declared(place: Site) -> None:
    assert place.members() == BRIDGES
    assert place.passed(ALLOWED) == place.all_of(ALLOWED)
    assert not place.passed(FORBIDDEN)


@pytest.mark.parametrize("release", SUITES)
def test_before_and_after_reload_and_restart(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(release, tmp_path, monkeypatch) as place:
        place.engine.apply(place.host)
        place.daemon.start()
        found, expected = place.daemon.cmd("--version"), SUITES[release]
        assert found >= expected if release == "sid" else found == expected
        assert place.passed(ALLOWED) == place.all_of((*PUBLISHED, *OWN)), "firewalld lets dnat pass"
        place.apply()
        assert_as_declared(place)
        place.daemon.reload()
        assert not place.passed((*EGRESS, *ROUTED, *FORBIDDEN))
        place.apply()
        assert_as_declared(place)
        place.daemon.stop()
        assert place.passed(ALLOWED) == place.all_of(ALLOWED)
        place.daemon.start()
        assert not place.passed((*EGRESS, *ROUTED, *FORBIDDEN))
        place.apply()
        assert_as_declared(place)


def test_zone_and_policy_are_made_once_and_for_good(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(suite, tmp_path, monkeypatch) as place:
        place.daemon.start()
        first = place.apply()
        assert first.make_zone
        assert first.reload
        assert [policy.name for policy in first.make_policies] == ["docker-forwarding"]
        assert not place.apply()
        assert place.daemon.cmd("--permanent", "--zone=docker", "--get-target") == "ACCEPT"
        policy = place.daemon.cmd("--permanent", "--info-policy=docker-forwarding")
        assert {"target: ACCEPT", "ingress-zones: ANY", "egress-zones: docker"} <= {
            line.strip() for line in policy.splitlines()
        }
        assert place.daemon.cmd("--permanent", "--zone=docker", "--list-interfaces") == ""
        place.daemon.stop()
        place.daemon.start()
        again = place.apply()
        assert set(again.join) == BRIDGES
        assert not again.reload


def test_while_it_reloads(suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site(suite, tmp_path, monkeypatch) as place:
        place.daemon.start()
        place.apply()
        open_before = [
            place.lab.connect(source, place.address(destination, family), port)
            for source, destination, port in ((OUTSIDE, HOST, 8080), *EGRESS, *ROUTED)
            for family in Family
        ]
        rounds = 0
        with Service(place) as service:
            for count in range(1, 6):
                reload = place.daemon.begin_reload()
                while reload.poll() is None:
                    assert not place.passed(FORBIDDEN, 0.1)
                    rounds += 1
                assert reload.wait() == 0
                service.wait_for(Event.RELOADED, count)
                assert_as_declared(place)
                assert all(connection.alive(5) for connection in open_before)
        assert rounds >= 5
        assert all(set(steps.join) == BRIDGES for steps in service.put_back)


def test_a_service_puts_back_after_start_restart_and_reload(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """firewalld starts after us."""
    with site(suite, tmp_path, monkeypatch) as place, Service(place) as service:
        place.apply()
        place.daemon.launch()
        service.wait_for(Event.STARTED)
        assert_as_declared(place)
        service.wait_for(Event.RELOADED)  # ours: the zone was made
        connection = place.lab.connect(OUTSIDE, place.address("api", Family.IPV4), 90)
        place.daemon.stop()
        service.wait_for(Event.STOPPED)
        place.daemon.launch()
        service.wait_for(Event.STARTED, 2)
        assert_as_declared(place)
        assert connection.alive(5)
        place.daemon.reload()
        service.wait_for(Event.RELOADED, 2)
        assert_as_declared(place)


def test_with_firewalld_on_iptables_what_it_flushes_is_back(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reload, its stop and its start each empty every iptables table."""
    with site(
        suite, tmp_path, monkeypatch, backend="iptables", FirewallBackend="iptables"
    ) as place:
        place.daemon.start()
        place.apply()
        assert_as_declared(place)
        assert not place.engine.verify()
        place.daemon.reload()
        assert place.engine.verify(), "nothing was flushed"
        assert not place.passed(FORBIDDEN)
        place.apply()
        assert_as_declared(place)
        with Service(place) as service:
            place.daemon.stop()
            service.wait_for(Event.STOPPED)
            assert place.passed(ALLOWED) == place.all_of(ALLOWED)
            assert not place.passed(FORBIDDEN)
            place.daemon.launch()
            service.wait_for(Event.STARTED)
            assert_as_declared(place)
        assert not place.engine.verify()


def test_the_setting_that_opens_all_while_our_iptables_rules_are_flushed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"FirewallBackend": "iptables", "FlushAllOnReload": "no"}
    with site("bookworm", tmp_path, monkeypatch, backend="iptables", **settings) as place:
        place.daemon.start()
        (warning,) = place.apply().warnings
        place.daemon.reload()
        assert place.passed(FORBIDDEN), "the warning is out of date"
        assert place.members() == BRIDGES
        place.apply()
        assert_as_declared(place)
        assert "set FlushAllOnReload=yes" in warning.hint
        place.daemon.configure(FlushAllOnReload="yes")
        place.daemon.stop()
        place.daemon.start()
        assert not place.apply().warnings
        place.daemon.reload()
        assert not place.passed(FORBIDDEN)


@pytest.mark.parametrize(("release", "backend"), STRICT)
def test_strict_forward_ports_are_served(
    release: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without being told, firewalld refuses what is published, also by the host itself."""
    settings = {"StrictForwardPorts": "yes", "FirewallBackend": backend}
    with site(release, tmp_path, monkeypatch, backend=backend, **settings) as place:
        place.daemon.start()
        place.engine.apply(place.host)
        assert not place.passed((*OWN, *FORBIDDEN))
        first = place.apply()
        assert [f"{o.family.value} {o.protocol} {o.first}-{o.last}" for o in first.opened][:5] == [
            "ipv4 sctp 5060-5060",
            "ipv4 tcp 443-443",
            "ipv4 tcp 7000-7004",
            "ipv4 tcp 8080-8080",
            "ipv4 udp 8080-8080",
        ]
        assert_as_declared(place)
        assert not place.apply()
        place.daemon.reload()
        assert not place.passed((*PUBLISHED, *OWN, *FORBIDDEN))
        place.apply()
        assert_as_declared(place)
        steps = place.remove()
        assert steps.closed == len(first.opened)
        assert "forward-port" not in place.daemon.cmd("--list-all-policies").replace(
            "forward-ports:", ""
        )


def test_a_port_withdrawn_is_a_forward_port_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("sid", tmp_path, monkeypatch, StrictForwardPorts="yes") as place:
        place.daemon.start()
        place.apply()
        text = place.file.read_text().replace('"443:80", ', "")
        place.file.write_text(text)
        steps = place.apply(config.load(str(place.file)).host)
        assert (steps.closed, steps.opened) == (2, ())
        rules = place.daemon.cmd("--policy=nftbridge-in", "--list-rich-rules")
        assert 'port="443"' not in rules
        assert rules == place.daemon.cmd("--policy=nftbridge-own", "--list-rich-rules")
        assert place.passed(((OUTSIDE, HOST, 8080),)) == place.all_of(((OUTSIDE, HOST, 8080),))
