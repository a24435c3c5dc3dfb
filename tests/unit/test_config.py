"""Host files: one row per kind of problem, with its exact place, message and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from nftbridge.errors import InputError
from tests.unit.hostfiles import AT, CONTAINER, NETWORK, OTHER, of_toml, problems_of, publishing

# name, TOML text, exact place, part of the message, part of the hint
WRONG: list[tuple[str, str, str, str, str]] = [
    ("no version", NETWORK, "version", "required key 'version'", "version = 1"),
    ("version 2", "version = 2", "version", "reads version 1 only, not the number 2", "= 1"),
    ("version true", "version = true", "version", "a whole number, not true", "version = 1"),
    ("version 1.0", "version = 1.0", "version", "a whole number, not the number 1.0", "= 1"),
    ("version text", 'version = "1"', "version", "a whole number, not '1'", "version = 1"),
    ("version huge", f"version = 0x{'f' * 9000}", "version", "not a huge number", "version = 1"),
    (
        "unknown at top",
        "version = 1\nzzz = 1",
        "zzz",
        "unknown key 'zzz'",
        "known keys are version",
    ),
    ("misspelt at top", "versoin = 1", "versoin", "unknown key 'versoin'", "did you mean version?"),
    ("plural", "version = 1\nnetworks = []", "networks", "unknown key", "did you mean network?"),
    ("odd key", 'version = 1\n"a\\nb" = 1', "'a\\nb'", "unknown key 'a\\nb'", "known keys"),
    (
        "host a number",
        "version = 1\nhost = 1",
        "host",
        "must be a table, not the number 1",
        "name =",
    ),
    ("host in list", "version = 1\n[[host]]", "host", "must be a table, not a list", "name ="),
    ("host unknown", "version = 1\n[host]\nipv5 = true", "host.ipv5", "unknown key", "mean ipv"),
    (
        "host flag",
        "version = 1\n[host]\nipv6 = 0",
        "host.ipv6",
        "not the number 0",
        "without quotes",
    ),
    ("flag text", 'version = 1\n[host]\nipv4 = "no"', "host.ipv4", "not 'no'", "without quotes"),
    ("flag date", "version = 1\n[host]\nipv4 = 2020-01-01", "host.ipv4", "not a date", "true or"),
    (
        "proxy",
        "version = 1\n[host]\nuserland_proxy = []",
        "host.userland_proxy",
        "must be true or false, not a list",
        "without quotes",
    ),
    (
        "wsl2",
        'version = 1\n[host]\nwsl2_mirrored = "Auto"',
        "host.wsl2_mirrored",
        "must be true, false or \"auto\", not 'Auto'",
        '"auto"',
    ),
    ("wsl2 one", "version = 1\n[host]\nwsl2_mirrored = 1", "host.wsl2_mirrored", "not the", "auto"),
    ("layout", 'version = 1\n[host]\nlayout = "x"', "host.layout", "not a layout", "docker-28"),
    ("layout 28", "version = 1\n[host]\nlayout = 28", "host.layout", "must be a string", "quotes"),
    (
        "mark without mask",
        'version = 1\n[host]\naccept_mark = "0x1000"',
        "host.accept_mark",
        "'0x1000' is not a mark with its mask",
        "0x1000/0x1000",
    ),
    (
        "mark as a number",
        "version = 1\n[host]\ntrust_mark = 0x1000",
        "host.trust_mark",
        "must be a string",
        'trust_mark = "0x1000/0x1000"',
    ),
    (
        "mark too wide",
        'version = 1\n[host]\naccept_mark = "0x100000000/0x1ffffffff"',
        "host.accept_mark",
        "a mark has 32 bits",
        "at most 0xffffffff",
    ),
    (
        "mask too narrow",
        'version = 1\n[host]\naccept_mark = "0x3000/0x1000"',
        "host.accept_mark",
        "the mask of 0x3000/0x1000 does not cover its value",
        "write 0x3000/0x3000",
    ),
    (
        "no bit",
        'version = 1\n[host]\ntrust_mark = "0/0x1000"',
        "host.trust_mark",
        "the value of 0x0/0x1000 is zero",
        "set a bit",
    ),
    (
        "shared bits",
        'version = 1\n[host]\naccept_mark = "1/3"\ntrust_mark = "4/6"',
        "host.trust_mark",
        "the mask of 0x4/0x6 shares bits with 0x1/0x3 of host.accept_mark",
        "take other bits",
    ),
    (
        "priorities as a number",
        "version = 1\n[host]\npriorities = -5",
        "host.priorities",
        "must be a table",
        "name = ",
    ),
    (
        "priority in quotes",
        'version = 1\n[host]\npriorities = { forward = "-5" }',
        "host.priorities.forward",
        "must be a whole number",
        "-5",
    ),
    (
        "priority of what",
        "version = 1\n[host]\npriorities = { forwards = -5 }",
        "host.priorities.forwards",
        "unknown key 'forwards'",
        "did you mean forward?",
    ),
    (
        "priority too far",
        "version = 1\n[host]\npriorities = { forward = 2147483648 }",
        "host.priorities.forward",
        "a priority has 32 bits",
        "from -2147483647 to 2147483647",
    ),
    (
        "nat too early",
        "version = 1\n[host]\npriorities = { srcnat = -200 }",
        "host.priorities.srcnat",
        "at -200 there is no connection yet",
        "come later",
    ),
    (
        "raw among fragments",
        "version = 1\n[host]\npriorities = { raw = -400 }",
        "host.priorities.raw",
        "at -400 fragments are not put together",
        "come later",
    ),
    (
        "raw behind nat",
        "version = 1\n[host]\npriorities = { raw = -100 }",
        "host.priorities.raw",
        "at -100 destinations are translated already",
        "before -100",
    ),
    (
        "raw behind our nat",
        "version = 1\n[host]\npriorities = { raw = -150, dstnat = -150 }",
        "host.priorities.raw",
        "at -150 destinations are translated already",
        "before -150",
    ),
    (
        "protection",
        'version = 1\n[host]\naccept_missing = ["icc", "isolation"]',
        "host.accept_missing[1]",
        "'isolation' is not a protection",
        "write one of icc, direct-access",
    ),
    (
        "protections",
        'version = 1\n[host]\naccept_missing = "icc"',
        "host.accept_missing",
        "must be a list",
        '["icc"]',
    ),
    (
        "ip_forward",
        'version = 1\n[host]\nip_forward = "on"',
        "host.ip_forward",
        "'on' is not one of check, enable",
        'ip_forward = "check"',
    ),
    (
        "ip_forward true",
        "version = 1\n[host]\nip_forward = true",
        "host.ip_forward",
        "a string",
        "",
    ),
    ("one bracket", "version = 1\n[network]", "network", "a list, not a table", "[[network]]"),
    ("no table", "version = 1\nnetwork = [1]", "network[0]", "must be a table", "name = "),
    (
        "no name",
        'version = 1\n[[network]]\nbridge = "b"\nsubnets = ["10.0.0.0/8"]',
        "network[0].name",
        "required key 'name' is missing",
        "frontend",
    ),
    (
        "no bridge",
        'version = 1\n[[network]]\nname = "b"\nsubnets = ["10.0.0.0/8"]',
        "network[0].bridge",
        "required key 'bridge' is missing",
        "br-front",
    ),
    (
        "no subnets",
        'version = 1\n[[network]]\nname = "b"\nbridge = "b"',
        "network[0].subnets",
        "required key 'subnets' is missing",
        "172.20.0.0/16",
    ),
    (
        "misspelt required key",
        'version = 1\n[[network]]\nname = "b"\nbrigde = "b"\nsubnets = ["10.0.0.0/8"]',
        "network[0].brigde",
        "unknown key 'brigde'",
        "did you mean bridge?",
    ),
    (
        "misspelt key that other findings hang on",
        f'version = 1\n{NETWORK}gateway_mode_ipv4 = "isolated"\ninternl = true',
        "network[0].internl",
        "unknown key 'internl'",
        "did you mean internal?",
    ),
    (
        "name a number",
        f"version = 1\n{OTHER}".replace('"b"', "5"),
        "network[0].name",
        "must be a string, not the number 5",
        "in quotes",
    ),
    (
        "subnets a string",
        'version = 1\n[[network]]\nname = "b"\nbridge = "b"\nsubnets = "10.0.0.0/8"',
        "network[0].subnets",
        "must be a list, not '10.0.0.0/8'",
        'subnets = ["172.20.0.0/16"]',
    ),
    (
        "no subnet",
        'version = 1\n[[network]]\nname = "b"\nbridge = "b"\nsubnets = []',
        "network[0].subnets",
        "needs a subnet",
        "172.20.0.0/16",
    ),
    (
        "host bits",
        f"version = 1\n{OTHER}".replace("10.1.0.0", "10.1.0.1"),
        "network[0].subnets[0]",
        "'10.1.0.1/24' has host bits set",
        "10.1.0.0/24",
    ),
    (
        "subnet a number",
        f"version = 1\n{OTHER}".replace('"10.1.0.0/24"', "24"),
        "network[0].subnets[0]",
        "must be a string, not the number 24",
        "in quotes",
    ),
    (
        "second unreadable subnet",
        f"version = 1\n{NETWORK}{CONTAINER}ipv6 = 'fd00::2'".replace("fd00::/64", "fd00::/640"),
        "network[0].subnets[1]",
        "'640' is not a prefix length of IPv6",
        "0 to 128",
    ),
    (
        "index after an unreadable item",
        f"version = 1\n{NETWORK}".replace('["10', '[0, "0.0.0.0/0", "10'),
        "network[0].subnets[0]",
        "must be a string, not the number 0",
        "in quotes",
    ),
    (
        "gateway mode",
        f'version = 1\n{NETWORK}gateway_mode_ipv6 = "NAT"',
        "network[0].gateway_mode_ipv6",
        "'NAT' is not one of nat, nat-unprotected, routed, isolated",
        'gateway_mode_ipv6 = "nat"',
    ),
    (
        "source address of the other family",
        f'version = 1\n{NETWORK}host_ipv4 = "fd00::1"',
        "network[0].host_ipv4",
        "fd00::1 is an IPv6 address",
        "host_ipv6 =",
    ),
    (
        "trusted interface",
        f'version = 1\n{NETWORK}trusted_host_interfaces = "eth0"',
        "network[0].trusted_host_interfaces",
        "must be a list, not 'eth0'",
        '["eth1"]',
    ),
    (
        "trusted interface a number",
        f'version = 1\n{NETWORK}trusted_host_interfaces = ["a", 7]',
        "network[0].trusted_host_interfaces[1]",
        "must be a string, not the number 7",
        "in quotes",
    ),
    (
        "container table",
        f"version = 1\n{NETWORK}container = {{ name = 'web' }}",
        "network[0].container",
        "must be a list, not a table",
        "[[network.container]]",
    ),
    (
        "container name",
        f"version = 1\n{NETWORK}[[network.container]]",
        "network[0].container[0].name",
        "required key 'name' is missing",
        'name = "web"',
    ),
    (
        "container unknown",
        f"version = 1\n{NETWORK}{CONTAINER}ports = []",
        f"{AT}.ports",
        "unknown key 'ports'",
        "known keys are name, ipv4, ipv6, publish",
    ),
    (
        "container address",
        f'version = 1\n{NETWORK}{CONTAINER}ipv6 = "fd00::2/64"',
        f"{AT}.ipv6",
        "'fd00::2/64' is not an IP address",
        "without a prefix length",
    ),
    (
        "container address of the other family",
        f'version = 1\n{NETWORK}{CONTAINER}ipv6 = "10.0.0.3"',
        f"{AT}.ipv6",
        "10.0.0.3 is an IPv4 address",
        "ipv4 =",
    ),
    (
        "publish a string",
        f'version = 1\n{NETWORK}{CONTAINER}publish = "8080:80"',
        f"{AT}.publish",
        "must be a list, not '8080:80'",
        'publish = ["8080:80"]',
    ),
    ("publish number", publishing("80"), f"{AT}.publish[0]", "string or a table", '"8080:80"'),
    ("publish text", publishing('"x:80"'), f"{AT}.publish[0]", "not a number: 'x'", "plain"),
    ("bare port", publishing('"80"'), f"{AT}.publish[0]", "host port is missing", "HOST_PORT:80"),
    (
        "publish unknown",
        publishing("{ host_prot = 8080, container_port = 80 }"),
        f"{AT}.publish[0].host_prot",
        "unknown key 'host_prot'",
        "did you mean host_port?",
    ),
    (
        "no container port",
        publishing("{ host_port = 8080 }"),
        f"{AT}.publish[0].container_port",
        "required key 'container_port' is missing",
        "container_port = 80",
    ),
    (
        "port true",
        publishing("{ host_port = true, container_port = 80 }"),
        f"{AT}.publish[0].host_port",
        "the host port must be a number, not true",
        "8000-8009",
    ),
    (
        "port range in a table",
        publishing('{ host_port = 80, container_port = "9-8" }'),
        f"{AT}.publish[0].container_port",
        "the container port range 9-8 runs backwards",
        "8-9",
    ),
    (
        "different length",
        publishing('{ host_port = 80, container_port = "8-9" }'),
        f"{AT}.publish[0]",
        "ranges of different length, 1 and 2",
        "80-81:8-9",
    ),
    (
        "bracketed address in a table",
        publishing('{ host_address = "[::1]", host_port = 80, container_port = 80 }'),
        f"{AT}.publish[0].host_address",
        "'[::1]' is not an IP address",
        "without brackets",
    ),
    (
        "protocol number",
        publishing("{ host_port = 80, container_port = 80, protocol = 6 }"),
        f"{AT}.publish[0].protocol",
        "must be a string, not the number 6",
        "in quotes",
    ),
    (
        "collision",
        publishing('"8080:80"', '"127.0.0.1:8080:80"'),
        f"{AT}.publish[1]",
        f"collides with 8080:80/tcp of container 'web' of network 'a', at {AT}.publish[0]",
        "another host port",
    ),
    (
        "overlap",
        f"version = 1\n{NETWORK}{OTHER}".replace("10.1.0.0/24", "10.0.0.0/16"),
        "network[0].subnets[0]",
        "10.0.0.0/24 overlaps 10.0.0.0/16 of network[1].subnets[0]",
        "prefix of its own",
    ),
]
EXTRA = {"index after an unreadable item": ["network[0].subnets[1]", "network[0].subnets[2]"]}


@pytest.mark.parametrize("row", WRONG, ids=[row[0] for row in WRONG])
def test_one_problem_is_reported_once(tmp_path: Path, row: tuple[str, str, str, str, str]) -> None:
    name, text, where, message, hint = row
    with pytest.raises(InputError) as caught:
        of_toml(tmp_path, text)
    problems = problems_of(caught)
    assert [problem.where for problem in problems] == [where, *EXTRA.get(name, [])]
    assert message in problems[0].message
    assert hint in problems[0].hint


def test_problems_of_reading_and_of_the_model_come_together_in_schema_order(
    tmp_path: Path,
) -> None:
    text = f"""
        host = {{ ipv4 = 1, layot = "x" }}
        {NETWORK}icc = 1
        {CONTAINER}publish = ["1:1", "x", "0:1", "1:2"]
        {OTHER}
        {CONTAINER}
    """
    with pytest.raises(InputError) as caught:
        of_toml(tmp_path, text.replace("br-b", "br-a"))
    assert [problem.where for problem in problems_of(caught)] == [
        "version",
        "host.layot",
        "host.ipv4",
        "network[0].icc",
        "network[0].container[0].publish[1]",
        "network[0].container[0].publish[2]",
        "network[0].container[0].publish[3]",
        "network[1].bridge",
        "network[1].container[0].ipv4",
    ]
    assert "at network[0].container[0].publish[0]" in caught.value.problems[6].message
