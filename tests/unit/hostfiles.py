"""Host files for the tests of `config`, and ways to read them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.errors import InputError, Problem

DESIGN = """\
version = 1

[host]
ipv4 = true
ipv6 = true
userland_proxy = true
allow_direct_routing = false
wsl2_mirrored = "auto"
layout = "docker-28"

[[network]]
name = "frontend"
bridge = "br-front"
subnets = ["172.20.0.0/16", "fd00:20::/64"]
internal = false
icc = true
masquerade = true
gateway_mode_ipv4 = "nat"
gateway_mode_ipv6 = "routed"
host_ipv4 = "203.0.113.7"
trusted_host_interfaces = ["eth1"]

[[network.container]]
name = "web"
ipv4 = "172.20.0.2"
ipv6 = "fd00:20::2"
publish = [
  "8080:80", "127.0.0.1:9090:80/tcp", "[::1]:9091:80", "8000-8009:9000-9009/udp",
  { host_address = "192.0.2.1", host_port = "700-701", container_port = "1-2", protocol = "SCTP" },
]
"""

AT = "network[0].container[0]"
NETWORK = '[[network]]\nname = "a"\nbridge = "br-a"\nsubnets = ["10.0.0.0/24", "fd00::/64"]\n'
CONTAINER = '[[network.container]]\nname = "web"\nipv4 = "10.0.0.2"\n'
OTHER = '[[network]]\nname = "b"\nbridge = "br-b"\nsubnets = ["10.1.0.0/24"]\n'


def of_toml(tmp_path: Path, text: str | bytes) -> config.HostFile:
    """What `load` makes of a TOML file."""
    path = tmp_path / "host.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return config.load(str(path))


def of_json(text: str | bytes) -> config.HostFile:
    """What `load` makes of JSON on standard input."""
    data = text.encode() if isinstance(text, str) else text
    return config.load("-", io.TextIOWrapper(io.BytesIO(data)))


def problems_of(error: pytest.ExceptionInfo[InputError]) -> list[Problem]:
    """The problems, each of which must be fit to be shown."""
    for problem in error.value.problems:
        assert problem.where
        assert problem.message
        assert problem.hint
        for text in (problem.where, problem.message, problem.hint):
            assert text.isprintable()
            assert len(text) < 600
    return list(error.value.problems)


def publishing(*items: str) -> str:
    """A host file whose only container publishes these items."""
    return f"version = 1\n{NETWORK}{CONTAINER}publish = [{', '.join(items)}]\n"
