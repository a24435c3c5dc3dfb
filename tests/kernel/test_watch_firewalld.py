"""`nftbridge watch` beside a real firewalld; and packets while the table is flushed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nftbridge.lab import HOST, OUTSIDE
from nftbridge.model import Family
from tests.kernel.firewalld_site import ALLOWED, BRIDGES, EGRESS, FORBIDDEN, ROUTED, Site, site
from tests.kernel.watching import Watch, command, watching

pytestmark = [pytest.mark.kernel, pytest.mark.daemons]


def of(place: Site, *more: str) -> list[str]:
    return command(place.file, place.lab.netns, place.state, *more)


def assert_as_declared(place: Site) -> None:
    assert place.members() == BRIDGES
    assert place.passed(ALLOWED) == place.all_of(ALLOWED)
    assert not place.passed(FORBIDDEN)


def wait_for_firewalld(watch: Watch, what: str) -> None:
    while what not in watch.until("restored")["done"]:
        pass


@pytest.mark.parametrize("suite", ["bookworm", "sid"])
def test_reload_restart_and_a_start_after_us(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(suite, tmp_path, monkeypatch) as place, watching(of(place)) as watch:
        place.daemon.start()
        wait_for_firewalld(watch, "br-open joins zone docker")
        assert_as_declared(place)
        kept = [
            place.lab.connect(source, place.address(destination, family), port)
            for source, destination, port in ((OUTSIDE, HOST, 8080), *EGRESS, *ROUTED)
            for family in Family
        ]
        place.daemon.reload()
        wait_for_firewalld(watch, "br-open joins zone docker")
        assert_as_declared(place)
        place.daemon.stop()
        assert place.passed(ALLOWED) == place.all_of(ALLOWED)
        assert not place.passed(FORBIDDEN)
        place.daemon.start()
        wait_for_firewalld(watch, "br-open joins zone docker")
        assert_as_declared(place)
        assert all(connection.alive(5) for connection in kept)
        assert watch.count("failed") == 0


def test_a_bus_that_comes_after_us_and_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site("bookworm", tmp_path, monkeypatch) as place:
        place.daemon.stop_all()
        with watching(of(place)) as watch:
            for _ in range(2):
                place.daemon.start_bus()
                place.daemon.start()
                wait_for_firewalld(watch, "br-open joins zone docker")
                assert_as_declared(place)
                place.daemon.stop_all()


def test_with_firewalld_on_iptables_stop_start_and_reload_flush_our_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site(
        "bookworm", tmp_path, monkeypatch, backend="iptables", FirewallBackend="iptables"
    ) as place:
        place.daemon.start()
        with watching(of(place, "--backend", "iptables")) as watch:
            assert_as_declared(place)
            place.daemon.reload()
            wait_for_firewalld(watch, "br-open joins zone docker")
            assert_as_declared(place)
            place.daemon.stop()
            watch.until("restored")
            assert place.passed(ALLOWED) == place.all_of(ALLOWED)
            assert not place.passed(FORBIDDEN)
            place.daemon.start()
            wait_for_firewalld(watch, "br-open joins zone docker")
            assert_as_declared(place)
            assert not place.engine.verify()


def test_what_passes_while_the_table_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush opens the host; once the repair is told, nothing forbidden passes, and flows live."""
    with site("bookworm", tmp_path, monkeypatch) as place, watching(of(place)) as watch:
        inside = ["nsenter", f"--net=/run/netns/{place.lab.netns}", "nft", "flush", "ruleset"]
        kept = place.lab.connect("web", place.address(OUTSIDE, Family.IPV4), 443)
        for _ in range(10):
            subprocess.run(inside, check=True)
            watch.until("restored")
            assert not place.passed(FORBIDDEN, 0.1)
        assert place.passed(ALLOWED) == place.all_of(ALLOWED)
        assert kept.alive(5)
        spans = sorted(line["ms"] for line in watch.lines if line["event"] == "restored")
        print(f"put back within {spans[len(spans) // 2]} ms (median), {spans[-1]} ms at most")
