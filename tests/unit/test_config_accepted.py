"""Host files that are accepted: every key of the schema, and what is only warned of."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, schema
from nftbridge.model import Container, GatewayMode, Host, Network, Protocol, Publication
from tests.unit.hostfiles import AT, DESIGN, of_json, of_toml, publishing


def test_reads_every_key_of_the_schema(tmp_path: Path) -> None:
    publish = (
        Publication(80, 8080),
        Publication(80, 9090, ip_address("127.0.0.1")),
        Publication(80, 9091, ip_address("::1")),
        Publication(9000, 8000, None, Protocol.UDP, 10),
        Publication(1, 700, ip_address("192.0.2.1"), Protocol.SCTP, 2),
    )
    web = Container("web", IPv4Address("172.20.0.2"), IPv6Address("fd00:20::2"), publish)
    frontend = Network(
        name="frontend",
        bridge="br-front",
        subnets=(ip_network("172.20.0.0/16"), ip_network("fd00:20::/64")),
        gateway_mode_ipv6=GatewayMode.ROUTED,
        host_ipv4=IPv4Address("203.0.113.7"),
        trusted_host_interfaces=("eth1",),
        containers=(web,),
    )
    expected = Host((frontend,), wsl2_mirrored=None)
    assert of_toml(tmp_path, DESIGN) == config.HostFile(expected)


@pytest.mark.parametrize(
    ("kind", "keys", "renamed"),
    [
        (Host, schema.HOST_KEYS, {"networks"}),
        (Network, (set(schema.NETWORK_KEYS) - {"container"}) | {"containers"}, set[str]()),
        (Container, schema.CONTAINER_KEYS, set[str]()),
        (Publication, schema.PUBLICATION_KEYS, {"count"}),
    ],
)
def test_schema_has_a_key_for_every_field(kind: Any, keys: set[str], renamed: set[str]) -> None:
    assert {field.name for field in dataclasses.fields(kind)} == set(keys) | renamed


@pytest.mark.parametrize(
    "text",
    [
        "version = 1",
        "\ufeffversion = 1\r\n",
        "version = 1\nhost = {}\nnetwork = []\n",
    ],
)
def test_an_empty_host_is_a_host(tmp_path: Path, text: str) -> None:
    assert of_toml(tmp_path, text) == config.HostFile(Host())


def test_null_counts_as_absent() -> None:
    everywhere = {
        "version": 1,
        "host": dict.fromkeys(schema.HOST_KEYS),
        "network": [
            dict.fromkeys(schema.NETWORK_KEYS)
            | {"name": "a", "bridge": "br-a", "subnets": ["10.0.0.0/8"], "none": None}
        ],
    }
    network = Network("a", "br-a", (ip_network("10.0.0.0/8"),))
    assert of_json(json.dumps(everywhere)).host == Host((network,))
    assert of_json('{"version": 1, "host": null, "network": null}').host == Host()


WARNED: list[tuple[str, str, list[tuple[str, str]]]] = [
    (
        "IPv6 address, IPv4 container",
        publishing('"[::1]:9091:80"', '"8080:80"'),
        [(f"{AT}.publish[0]", "container 'web' has no IPv6 address")],
    ),
    (
        "unspecified IPv6, IPv4 container",
        publishing('"[::]:9091:80"'),
        [(f"{AT}.publish[0]", "[::]:9091:80/tcp has no effect: container 'web' has no IPv6")],
    ),
    (
        "family switched off",
        publishing('"8080:80"', '"127.0.0.1:81:80"').replace("[[", "host.ipv4 = false\n[[", 1),
        [
            (f"{AT}.ipv4", "10.0.0.2 has no effect: IPv4 is switched off"),
            (f"{AT}.publish[0]", "IPv4 is switched off in [host] and container 'web' has no IPv6"),
            (f"{AT}.publish[1]", "127.0.0.1:81:80/tcp has no effect: IPv4 is switched off"),
        ],
    ),
    (
        "no address at all",
        publishing('"80"', '"81:81"').replace('ipv4 = "10.0.0.2"\n', ""),
        [
            (f"{AT}.publish[0]", "has no IPv4 address and container 'web' has no IPv6 address"),
            (f"{AT}.publish[1]", "has no IPv4 address and container 'web' has no IPv6 address"),
        ],
    ),
    (
        "both families",
        publishing('"[::1]:9091:80"', '"8080:80"').replace("publish", "ipv6='fd00::2'\npublish"),
        [],
    ),
]


@pytest.mark.parametrize(
    ("text", "expected"), [row[1:] for row in WARNED], ids=[row[0] for row in WARNED]
)
def test_warns_of_what_has_no_effect(
    tmp_path: Path, text: str, expected: list[tuple[str, str]]
) -> None:
    warnings = of_toml(tmp_path, text).warnings
    assert [warning.where for warning in warnings] == [where for where, _ in expected]
    for warning, (_, message) in zip(warnings, expected, strict=True):
        assert message in warning.message
        assert warning.hint
