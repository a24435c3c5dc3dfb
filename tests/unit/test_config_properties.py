"""Host files: whatever comes in is a host or explained, and every host round-trips."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nftbridge import config, schema
from nftbridge.errors import InputError
from nftbridge.model import (
    Container,
    GatewayMode,
    Host,
    IpForward,
    Mark,
    Network,
    Priorities,
    Protocol,
    Publication,
)
from nftbridge.model.parts import Protection
from tests.unit.hostfiles import DESIGN, of_json, of_toml

# The folder is only overwritten; and a busy machine is no fault of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """Consistent hosts that use every field, ranges and None included."""
    flags: dict[str, Any] = {flag: draw(st.booleans()) for flag in schema.FLAGS}
    networks = tuple(draw(networks_numbered(n)) for n in range(draw(st.integers(0, 3))))
    flags["wsl2_mirrored"] = draw(st.none() | st.booleans())
    flags["accept_missing"] = tuple(draw(st.lists(st.sampled_from(Protection), unique=True)))
    flags["ip_forward"] = draw(st.sampled_from(IpForward))
    flags["accept_mark"] = draw(st.none() | st.sampled_from([Mark(0x1000, 0x1000), Mark(4, 12)]))
    flags["trust_mark"] = draw(st.none() | st.sampled_from([Mark(1 << 31, 3 << 30), Mark(2, 2)]))
    flags["priorities"] = Priorities(
        raw=draw(st.integers(-399, -200)),
        dstnat=draw(st.integers(-199, 1000)),
        forward=draw(st.integers(-(2**31) + 1, 2**31 - 1)),
        srcnat=draw(st.integers(-199, 1000)),
    )
    return Host(networks, **flags)


@st.composite
def networks_numbered(draw: st.DrawFn, number: int) -> Network:
    """A network whose names, prefixes and host ports depend on its number."""
    subnets = [ip_network(f"10.{number}.0.0/16"), ip_network(f"fd00:{number}::/64")]
    chosen = draw(st.permutations(subnets))[: draw(st.integers(1, 2))]
    internal = draw(st.booleans())
    modes = [mode for mode in GatewayMode if internal or mode is not GatewayMode.ISOLATED]
    return Network(
        name=draw(st.text("ab é'\"", max_size=5)) + str(number),
        bridge=f"br-{number}",
        subnets=tuple(chosen),
        internal=internal,
        icc=draw(st.booleans()),
        masquerade=draw(st.booleans()),
        gateway_mode_ipv4=draw(st.sampled_from(modes)),
        gateway_mode_ipv6=draw(st.sampled_from(modes)),
        host_ipv4=draw(st.sampled_from([None, IPv4Address("192.0.2.1")])),
        host_ipv6=draw(st.sampled_from([None, IPv6Address("2001:db8::1")])),
        trusted_host_interfaces=tuple(draw(st.lists(st.sampled_from(["eth0", "eth1"])))),
        containers=draw(containers_of(number, {s.version for s in chosen}, internal=internal)),
    )


@st.composite
def containers_of(
    draw: st.DrawFn, number: int, versions: set[int], *, internal: bool
) -> tuple[Container, ...]:
    """Containers whose host ports cannot collide."""
    found: list[Container] = []
    for index in range(draw(st.integers(0, 3))):
        four = IPv4Address(f"10.{number}.0.{index + 2}") if 4 in versions else None
        six = IPv6Address(f"fd00:{number}::{index + 2}") if 6 in versions else None
        first = 1 + 1000 * (3 * number + index)
        count = draw(st.integers(1, 40))
        address = st.sampled_from([None, "127.0.0.1", "0.0.0.0", "::", "::1"])
        publish = [
            Publication(
                container_port=draw(st.integers(1, 65536 - count)),
                host_port=first + 50 * n,
                host_address=None if (text := draw(address)) is None else ip_address(text),
                protocol=draw(st.sampled_from(Protocol)),
                count=count,
            )
            for n in range(0 if internal else draw(st.integers(0, 3)))
        ]
        found.append(Container(f"c{index}", four, six, tuple(publish)))
    return tuple(found)


@UNHURRIED
@given(hosts())
def test_round_trip(host: Host) -> None:
    data = config.host_to_data(host)
    assert config.host_from_data(data) == host
    text = json.dumps(data)
    assert of_json(text).host == host
    assert config.host_to_data(of_json(text).host) == data


def test_round_trip_of_what_only_the_table_can_say() -> None:
    publish = (
        Publication(80, None, ip_address("::1"), Protocol.SCTP, 10),
        Publication(80, None, None, Protocol.UDP),
    )
    network = Network(
        "a",
        "br-a",
        (ip_network("fd00::/64"),),
        gateway_mode_ipv6=GatewayMode.ROUTED,
        containers=(Container("web", None, IPv6Address("fd00::2"), publish),),
    )
    host = Host((network,), wsl2_mirrored=None)
    assert config.host_from_data(json.loads(json.dumps(config.host_to_data(host)))) == host


def test_bad_data_is_an_input_error() -> None:
    bad: list[object] = [None, [], 1, "x", {}, {"version": 1, 5: 6}, {"version": 1, "network": {1}}]
    for data in bad:
        assert not survive(config.host_from_data, data)


KEYS = sorted({*schema.FILE_KEYS, *schema.HOST_KEYS, *schema.NETWORK_KEYS, *schema.CONTAINER_KEYS})
ODD = ["1", "80:80", "10.0.0.0/8", "fd00::1", "nat", "auto", "tcp", "\ud800", "\0", "9" * 70]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([*ODD, 10**40, -1, 65536, True])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=12,
)


def survive(read: Any, *arguments: Any) -> bool:
    """Whether `read` accepts its input; anything but an `InputError` is a failure of the test."""
    try:
        read(*arguments)
    except InputError as refusal:
        error = refusal
    else:
        return True
    assert error.problems
    str(error).encode()
    json.dumps(error.details())
    for problem in error.problems:
        assert problem.hint
        assert f"{problem.where}{problem.message}{problem.hint}".isprintable()
        assert len(problem.message) < 1000
    return False


@UNHURRIED
@given(VALUES)
def test_any_data_is_accepted_or_explained(data: object) -> None:
    survive(config.host_from_data, data)


@UNHURRIED
@given(data=st.data())
def test_valid_data_with_one_value_changed(data: st.DataObject, tmp_path: Path) -> None:
    document = config.host_to_data(of_toml(tmp_path, DESIGN).host)
    root: Any = {"": document}
    holder, key = root, ""
    while isinstance(holder[key], dict | list) and holder[key] and data.draw(st.integers(0, 5)):
        holder = holder[key]
        keys: list[Any] = sorted(holder) if hasattr(holder, "keys") else [*range(len(holder))]
        key = data.draw(st.sampled_from(keys))
    holder[key] = data.draw(VALUES)
    survive(of_json, json.dumps(root[""]))


@UNHURRIED
@given(data=st.data())
def test_valid_text_with_bytes_changed(data: st.DataObject, tmp_path: Path) -> None:
    text = bytearray(DESIGN.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.sampled_from([0, 0, 1, 2, 30]))
        text[start:end] = data.draw(st.binary(max_size=3) | st.sampled_from([b'"', b"[", b"\n"]))
    survive(of_toml, tmp_path, bytes(text))
    survive(of_json, bytes(text))


@UNHURRIED
@given(data=st.binary(max_size=60))
def test_any_bytes_are_accepted_or_explained(data: bytes, tmp_path: Path) -> None:
    survive(of_json, data)
    survive(of_toml, tmp_path, data)


def test_only_what_is_needed_is_imported(tmp_path: Path) -> None:
    """Start-up time is a promise; these modules would be a third of it."""
    path = tmp_path / "host.toml"
    path.write_text(DESIGN)
    code = (
        "import sys; from nftbridge import config; config.load(sys.argv[1]); "
        "print(*{'json', 'difflib', 'pathlib', 'nftables', 'pyroute2'} & set(sys.modules))"
    )
    command = [sys.executable, "-S", "-c", code, str(path)]
    folders = (Path(file).parents[1] for file in (config.__file__, tomli.__file__))
    environment = {"PYTHONPATH": ":".join(map(str, folders))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == []


def test_ten_thousand_publications(tmp_path: Path) -> None:
    """Not a benchmark: it fails by running for minutes if anything is quadratic."""
    blocks = ["version = 1"]
    for n in range(100):
        ports = ", ".join(f'"{1024 + 100 * n + i}:80"' for i in range(100))
        container = f'[[network.container]]\nname = "c"\nipv4 = "10.{n}.0.2"\npublish = [{ports}]'
        network = f'[[network]]\nname = "n{n}"\nbridge = "br{n}"\nsubnets = ["10.{n}.0.0/16"]'
        blocks += [network, container]
    host = of_toml(tmp_path, "\n".join(blocks)).host
    assert sum(len(c.publish) for n in host.networks for c in n.containers) == 10_000
