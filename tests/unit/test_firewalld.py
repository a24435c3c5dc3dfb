"""What is asked of firewalld for a host, and what is done about what it holds."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.compat.restore import TableState, TableText, commits
from nftbridge.compat.syntax import ChainText
from nftbridge.errors import UnavailableError
from nftbridge.firewalld import presence
from nftbridge.firewalld.daemon import Daemon
from nftbridge.firewalld.guard import Firewalld
from nftbridge.firewalld.steps import Seen, Steps, steps_to
from nftbridge.firewalld.wanted import (
    FORWARDING,
    OPENING,
    ZONE,
    Opening,
    Wanted,
    bridges,
    openings,
)
from nftbridge.model import Family

PORTS = (Opening(Family.IPV4, "tcp", 80, 80), Opening(Family.IPV6, "udp", 7000, 7009))
RULES = frozenset(port.rich_rule for port in PORTS)
NAMES = frozenset({ZONE, FORWARDING.name})
ALL_NAMES = NAMES | {policy.name for policy in OPENING}
READY = Seen(permanent=NAMES, runtime=NAMES, members=frozenset({"br0", "br1", "docker0"}))
STRICT = replace(
    READY,
    permanent=ALL_NAMES,
    runtime=ALL_NAMES,
    rules={policy.name: RULES for policy in OPENING},
)
BOTH = frozenset({"br0", "br1"})


@pytest.mark.parametrize(
    ("scenario", "expected"),
    [
        ("02-published-port", ["ipv4 tcp 8080"]),
        ("08-routed", []),
        ("06-internal", []),
        ("05-icc-off", ["ipv4 tcp 8080", "ipv6 tcp 8080"]),
    ],
)
def test_openings_are_the_host_ports_that_are_translated(
    scenario: str, expected: list[str]
) -> None:
    host = config.load(f"rulesets/{scenario}/host.toml").host
    assert [str(opening) for opening in openings(host)] == expected


def test_ports_in_a_row_are_one_range(tmp_path: Path) -> None:
    """Whoever publishes them, and on whichever address."""
    file = tmp_path / "host.toml"
    file.write_text(
        'version = 1\n[[network]]\nname="a"\nbridge="br0"\nsubnets=["172.20.0.0/16"]\n'
        '[[network.container]]\nname="x"\nipv4="172.20.0.2"\n'
        'publish=["82:1", "80-81:5-6", "90:2"]\n'
        '[[network.container]]\nname="y"\nipv4="172.20.0.3"\n'
        'publish=["127.0.0.1:83:1", "192.0.2.1:83:2", "83:2/udp"]\n'
    )
    found = openings(config.load(str(file)).host)
    assert [str(opening) for opening in found] == [
        "ipv4 tcp 80-83",
        "ipv4 tcp 90",
        "ipv4 udp 83",
    ]


def test_all_bridges_belong_into_the_zone() -> None:
    host = config.load("rulesets/17-many-networks/host.toml").host
    assert bridges(host) == {network.bridge for network in host.networks}
    assert bridges(None) == frozenset()


def test_a_forward_port_of_ours_translates_nothing() -> None:
    """It is for a destination that no packet has, and that it leaves as it is."""
    assert PORTS[1].rich_rule == (
        'rule family="ipv6" destination address="100::" forward-port port="7000-7009" '
        'protocol="udp" to-port="7000-7009" to-addr="100::"'
    )


CASES: dict[str, tuple[Seen, frozenset[str], Wanted, Steps]] = {
    "all is there": (READY, BOTH, Wanted(BOTH), Steps()),
    "nothing is there": (
        Seen(),
        frozenset(),
        Wanted(BOTH),
        Steps(make_zone=True, make_policies=(FORWARDING,), reload=True, join=("br0", "br1")),
    ),
    "made, but not reloaded yet": (
        Seen(permanent=NAMES),
        frozenset(),
        Wanted(BOTH),
        Steps(reload=True, join=("br0", "br1")),
    ),
    "a reload takes out members, so all join": (
        replace(READY, permanent=frozenset({ZONE}), runtime=frozenset({ZONE})),
        BOTH,
        Wanted(BOTH),
        Steps(make_policies=(FORWARDING,), reload=True, join=("br0", "br1")),
    ),
    "lost in a reload": (
        replace(READY, members=frozenset({"docker0"})),
        BOTH,
        Wanted(BOTH),
        Steps(join=("br0", "br1")),
    ),
    "one comes, one goes": (
        replace(READY, members=frozenset({"br0", "old"})),
        frozenset({"br0", "old", "older"}),
        Wanted(BOTH),
        Steps(leave=("old",), join=("br1",)),
    ),
    "all go": (READY, BOTH, Wanted(), Steps(leave=("br0", "br1"))),
    "nobody ever needed it": (Seen(), frozenset(), Wanted(), Steps()),
    "ports are there": (STRICT, BOTH, Wanted(BOTH, PORTS), Steps()),
    "ports are lost": (
        replace(STRICT, rules={policy.name: frozenset[str]() for policy in OPENING}),
        BOTH,
        Wanted(BOTH, PORTS),
        Steps(opened=PORTS, rules=RULES),
    ),
    "ports are half there": (
        replace(STRICT, rules={OPENING[0].name: RULES, OPENING[1].name: frozenset()}),
        BOTH,
        Wanted(BOTH, PORTS),
        Steps(rules=RULES),
    ),
    "strict for the first time": (
        READY,
        BOTH,
        Wanted(BOTH, PORTS),
        Steps(make_policies=OPENING, reload=True, join=("br0", "br1"), opened=PORTS, rules=RULES),
    ),
    "strict no longer": (STRICT, BOTH, Wanted(BOTH), Steps(closed=2, rules=frozenset())),
    "strict, and all go": (
        STRICT,
        BOTH,
        Wanted(),
        Steps(leave=("br0", "br1"), closed=2, rules=frozenset()),
    ),
}


@pytest.mark.parametrize(("seen", "leaving", "wanted", "expected"), CASES.values(), ids=CASES)
def test_steps(seen: Seen, leaving: frozenset[str], wanted: Wanted, expected: Steps) -> None:
    found = steps_to(seen, leaving, wanted)
    assert found == expected
    assert bool(found) == (expected != Steps())
    assert bool(list(found.lines())) or not found or found.rules is not None


def test_what_others_decided_is_left_and_said() -> None:
    seen = replace(
        READY,
        members=frozenset({"br1"}),
        bound={"br0": "trusted"},
        targets={ZONE: "default", FORWARDING.name: "ACCEPT"},
    )
    found = steps_to(seen, frozenset(), Wanted(BOTH))
    assert not found
    assert [warning.where for warning in found.warnings] == [
        "bridge br0",
        "firewalld's zone docker",
    ]
    assert "--zone=trusted --remove-interface=br0" in found.warnings[0].hint


def test_a_firewalld_without_policies_is_refused_before_anything_changes() -> None:
    """A fake: no Debian release that can be fetched has one as old."""

    class Old(Daemon):
        def __init__(self) -> None:
            pass

        def version(self) -> tuple[int, ...]:
            return (0, 8, 6)

        def settings(self) -> dict[str, str]:
            return {}

    host = config.load("rulesets/02-published-port/host.toml").host
    with (
        pytest.raises(UnavailableError, match=r"firewalld 0\.8\.6 has no policies"),
        Firewalld(Old()).around(list, host),
    ):
        pytest.fail("our rules were changed")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (None, b"/run/dbus/system_bus_socket"),
        ("", b"/run/dbus/system_bus_socket"),
        ("unix:path=/a%20b,guid=12", b"/a b"),
        ("tcp:host=localhost;unix:abstract=/x", b"\0/x"),
        ("tcp:host=localhost", None),
        ("nonsense", None),
    ],
)
def test_the_address_of_the_bus(
    address: str | None, expected: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    assert presence.bus_address() == expected


def _hang_up(_: socket.socket) -> None:
    pass


def _reject(connection: socket.socket) -> None:
    connection.sendall(b"REJECTED EXTERNAL\r\n")


def _babble(connection: socket.socket) -> None:
    connection.sendall(b"OK 1234\r\n" + b"l\x02\x00\x01\x00\x00")


@pytest.mark.parametrize("behave", [_hang_up, _reject, _babble])
def test_what_is_no_bus_has_no_firewalld(
    behave: Callable[[socket.socket], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/bus")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/bus")
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        assert presence.is_running() is False
        thread.join()


def test_where_no_bus_is_nothing_of_d_bus_is_imported() -> None:
    code = (
        "import sys; from nftbridge.firewalld import guard\n"
        "print(guard.steps(None, list, None) == guard.Steps(), 'jeepney' in sys.modules)"
    )
    environment = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


DROP = "-d 172.20.0.2/32 ! -i br0 -j DROP"
DISPATCH = "-j PREROUTING_dispatch"


@pytest.mark.parametrize(
    ("held", "ours", "expected"),
    [
        (("-j PREROUTING_direct", DISPATCH), (), [f"-I PREROUTING 2 {DROP}"]),
        ((DISPATCH, DROP), (DROP,), ["-D PREROUTING 2", f"-I PREROUTING 1 {DROP}"]),
        ((DROP, DISPATCH), (DROP,), []),
        (("-s 192.0.2.1/32 -j ACCEPT", DROP), (DROP,), []),
        (("-s 192.0.2.1/32 -j ACCEPT",), (), [f"-A PREROUTING {DROP}"]),
    ],
)
def test_drops_in_raw_come_before_the_dispatch_of_firewalld(
    held: tuple[str, ...], ours: tuple[str, ...], expected: list[str]
) -> None:
    state = TableState({"PREROUTING": held}, {"PREROUTING": frozenset(ours)})
    wanted = TableText("raw", (ChainText("PREROUTING", (DROP,), builtin=True),))
    scripts = [commit.script for commit in commits(Family.IPV4, {"raw": state}, [wanted])]
    whole = ["*raw\n" + "\n".join(expected) + "\nCOMMIT\n"] if expected else []
    assert scripts == whole
