"""What the user has in the table, above all rules in DOCKER-USER, when others flush everything."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config
from nftbridge.backend import KnownHosts, Observation
from nftbridge.choice import choose
from nftbridge.engine import Engine
from nftbridge.lab import HOST, OUTSIDE, Laboratory
from nftbridge.model import Host
from nftbridge.nft.backend import NftablesBackend
from tests.kernel.deployed import NEW, OLD, Site, wait_until
from tests.kernel.watching import command, watching
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

OWN = "inet nftbridge DOCKER-USER"

EVERYTHING = """
table inet nftbridge {
    counter named { }
    quota much { over 25 mbytes; }
    limit slow { rate 5/second; }
    chain theirs {
        log prefix "x" drop
    }
    set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.4 }; }
    set held { type ipv4_addr; flags dynamic,timeout; timeout 1h; }
    map verdicts { type ipv4_addr : verdict; elements = { 192.0.2.1 : jump theirs }; }
    chain DOCKER-USER {
        ip saddr @blocked counter drop comment "hi"
        ip saddr vmap @verdicts
        counter name "named"
        limit rate 10/second accept
        ct state new limit name "slow" accept
        ip saddr { 192.0.2.1, 198.51.100.0/24 } jump theirs
        tcp dport 1-3 reject with tcp reset
        add @held { ip saddr timeout 1h }
        quota name "much" drop
        meta mark set 0x00000001
        meta l4proto tcp ct original proto-dst 8080 ip saddr != 203.0.113.0/24 drop
        ip daddr @guarded4 counter
    }
}
"""
RULES = 13
DROP = "meta l4proto udp ct original proto-dst 8080 drop"


def test_all_of_it_comes_back_in_one_transaction(here: Site) -> None:
    here.run("apply", OLD)
    nft(here.namespace, "-f", "-", stdin=EVERYTHING)
    here.run("apply", OLD)
    before = here.nft("--stateless", "list", "table", "inet", "nftbridge")
    here.nft("flush", "ruleset")
    told = f"{RULES} rules of yours put back"
    assert told in here.run("plan", OLD, status=2).stdout
    assert told in here.run("verify", status=2).stdout
    assert here.nft("list", "ruleset") == ""
    assert told in here.run("apply", OLD).stdout
    assert here.nft("--stateless", "list", "table", "inet", "nftbridge") == before
    assert here.run("apply", OLD).stdout.startswith("nothing to do")


@pytest.mark.parametrize("repaired_by", ["watch", "apply"])
def test_no_packet_passes_a_drop_when_the_table_is_made_anew(
    tmp_path: Path, repaired_by: str
) -> None:
    file, state = tmp_path / "host.json", tmp_path / "state"
    with storm(file) as lab:
        site = Site(lab.netns, state)
        site.run("apply", str(file))
        wait_until(lambda: passed(lab)[80] > 0)
        site.nft("add", "rule", *OWN.split(), *DROP.split())
        # what was translated before goes on while there are no rules at all, and ports come again
        subprocess.run([*site.inside, "conntrack", "-F"], check=True, capture_output=True)
        site.run("apply", str(file))
        before = passed(lab)
        if repaired_by == "apply":
            for _ in range(8):
                site.nft("flush", "ruleset")
                assert "1 rule of yours put back" in site.run("apply", str(file)).stdout
        else:
            with watching(command(file, lab.netns, state)) as watch:
                for _ in range(8):
                    site.nft("flush", "ruleset")
                    assert "1 rule of yours put back" in watch.until("restored")["done"]
        after = passed(lab)
        wait_until(lambda: passed(lab)[81] > after[81])  # they are still sent
        assert passed(lab)[80] == before[80]
        assert after[81] > before[81]


def test_watch_keeps_what_is_added_while_it_runs(here: Site) -> None:
    with watching(command(Path(OLD), here.namespace, here.state)) as watch:
        here.nft("add", "rule", *OWN.split(), "counter")
        wait_until(lambda: len(copies(here)) == 1)
        here.nft("flush", "ruleset")
        assert "1 rule of yours put back" in watch.until("restored")["done"]
        here.nft("flush", "chain", *OWN.split())
        wait_until(lambda: not copies(here))
        here.nft("flush", "ruleset")
        assert "put back" not in watch.until("restored")["done"]


def test_what_its_user_has_emptied_stays_empty(here: Site) -> None:
    with_a_rule(here)
    here.nft("flush", "chain", *OWN.split())
    here.run("apply", OLD)
    here.nft("flush", "ruleset")
    assert "put back" not in here.run("apply", OLD).stdout


@pytest.mark.parametrize("repaired_by", ["watch", "apply"])
def test_what_cannot_be_loaded_stops_no_repair(here: Site, repaired_by: str) -> None:
    with_a_rule(here)
    (copy,) = copies(here)
    body = json.loads(copy.read_text())
    gone = {"vmap": {"key": {"payload": {"protocol": "ip", "field": "saddr"}}, "data": "@gone"}}
    body["nftables"][0]["add"]["rule"]["expr"] = [gone]
    if repaired_by == "apply":
        here.nft("flush", "ruleset")
        copy.write_text(json.dumps(body))
        done = here.run("apply", OLD)
        said = done.stderr
        assert "put back" not in done.stdout
    else:
        with watching(command(Path(OLD), here.namespace, here.state)) as watch:
            copy.write_text(json.dumps(body))
            here.nft("flush", "ruleset")
            said = watch.until("warning")["text"]
            watch.until("restored")
    (lost,) = here.state.rglob("docker-user.lost.json")
    assert "1 rule of yours could not be put back: rule '?' in chain DOCKER-USER" in said
    assert str(lost) in said
    assert here.holds(OLD)
    assert not copies(here)


def test_what_is_lost_is_a_document_for_nft(here: Site) -> None:
    with_a_rule(here)
    (copy,) = copies(here)
    here.nft("flush", "chain", *OWN.split())
    here.nft("-j", "-f", str(copy))
    assert "counter" in here.nft("list", "chain", *OWN.split())


def test_nobody_else_may_read_it(here: Site) -> None:
    with_a_rule(here)
    (copy,) = copies(here)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600


def test_another_boot_begins_with_nothing(here: Site) -> None:
    with_a_rule(here)
    (copy,) = copies(here)
    copy.write_text(json.dumps(json.loads(copy.read_text()) | {"boot": "before"}))
    here.nft("flush", "ruleset")
    assert "put back" not in here.run("apply", OLD).stdout


@pytest.mark.parametrize("all_of_it", [True, False])
def test_what_was_removed_on_purpose_does_not_come_back(here: Site, *, all_of_it: bool) -> None:
    with_a_rule(here)
    if all_of_it:
        here.run("remove", "--all")
    else:
        assert "kept 1 rule in DOCKER-USER" in here.run("remove").stdout
        here.nft("delete", "table", "inet", "nftbridge")
    assert "put back" not in here.run("apply", OLD).stdout
    assert "counter" not in here.nft("list", "chain", *OWN.split())


HELPER = """
table inet nftbridge {
    set blocked { type ipv4_addr; flags interval; elements = { BLOCKED }; }
    chain helper { ip saddr @blocked drop; }
}
"""


def test_what_others_have_loaded_already_is_not_put_back_beside_it(here: Site) -> None:
    """As an /etc/nftables.conf without DOCKER-USER does, whose sets may say something else now."""
    here.run("apply", OLD)
    nft(here.namespace, "-f", "-", stdin=HELPER.replace("BLOCKED", "192.0.2.0/24"))
    here.nft("add", "rule", *OWN.split(), "jump", "helper")
    here.run("apply", OLD)
    for blocked in ("192.0.2.0/24", "192.0.0.0/16"):
        anew = HELPER.replace("BLOCKED", blocked)
        nft(here.namespace, "-f", "-", stdin=f"flush ruleset\n{anew}")
        done = here.run("apply", OLD)
        assert "1 rule of yours put back" in done.stdout
        assert done.stderr == ""
        assert "jump helper" in here.nft("list", "chain", *OWN.split())
        assert here.nft("list", "chain", "inet", "nftbridge", "helper").count("drop") == 1
        assert blocked in here.nft("list", "set", "inet", "nftbridge", "blocked")


def test_beside_the_baseline(here: Site) -> None:
    """Its table has no DOCKER-USER; nftables.service may load it after a flush."""
    with_a_rule(here)
    here.nft("flush", "ruleset")
    here.run("baseline", OLD)
    assert "1 rule of yours put back" in here.run("apply", OLD).stdout


def test_flushed_under_our_hands(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the kernel and the transaction."""
    with_a_rule(here)
    here.nft("add", "element", "inet", "nftbridge", "guarded4", "{ 192.0.2.1 }")
    true_to_it = NftablesBackend.bring_to

    def too_late(
        backend: NftablesBackend, host: Host, observed: Observation, known: KnownHosts
    ) -> str:
        here.nft("flush", "ruleset")
        return true_to_it(backend, host, observed, known)

    monkeypatch.setattr(NftablesBackend, "bring_to", too_late)
    Engine(here.target, choose("nftables", here.target).backend).apply(config.load(NEW).host)
    assert "counter" in here.nft("list", "chain", *OWN.split())
    assert here.holds(NEW)


COUNTING = """
add table inet seen
add chain inet seen in { type filter hook input priority 0; }
add rule inet seen in udp dport 80 counter
add rule inet seen in udp dport 81 counter
"""


def with_a_rule(here: Site) -> None:
    """Applied, with a rule in DOCKER-USER that an apply has seen."""
    here.run("apply", OLD)
    here.nft("add", "rule", *OWN.split(), "counter")
    here.run("apply", OLD)


def copies(here: Site) -> list[Path]:
    return list(here.state.rglob("docker-user.json"))


@contextmanager
def storm(file: Path) -> Generator[Laboratory]:
    """A host whose ports 8080 and 8081 somebody tries all the time, each time as a new flow."""
    web: dict[str, Any] = {"name": "web", "ipv4": "172.20.0.2"}
    web["publish"] = ["8080:80/udp", "8081:81/udp"]
    network = {"name": "front", "bridge": "br-front", "subnets": ["172.20.0.0/24"]}
    data = {"version": 1, "network": [network | {"container": [web]}]}
    file.write_text(json.dumps(data))
    with Laboratory(config.load(str(file)).host) as lab:
        nft(lab.namespace("web"), "-f", "-", stdin=COUNTING)
        code = (
            "import socket, time\n"
            "while True:\n"
            "    for port in (8080, 8081):\n"
            "        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:\n"
            f"            one.sendto(b'x', ('{lab.address(HOST)}', port))\n"
            "    time.sleep(0.0005)\n"
        )
        inside = ["nsenter", f"--net=/run/netns/{lab.namespace(OUTSIDE)}"]
        with subprocess.Popen([*inside, sys.executable, "-c", code]) as sender:
            try:
                yield lab
            finally:
                sender.kill()


def passed(lab: Laboratory) -> dict[int, int]:
    """How many packets have come to these ports of the container."""
    listed = json.loads(nft(lab.namespace("web"), "-j", "list", "ruleset"))["nftables"]
    rules = [item["rule"]["expr"] for item in listed if "rule" in item]
    return {match["match"]["right"]: counter["counter"]["packets"] for match, counter, *_ in rules}
