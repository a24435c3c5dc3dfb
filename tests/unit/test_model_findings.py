"""How findings of the model name interfaces and places."""

from __future__ import annotations

import pytest

from nftbridge.model import Finding, interface_name_problem
from nftbridge.model.checks import dotted, quoted


@pytest.mark.parametrize("name", ["br0", "br-front", "a" * 15, "eth0.100", "x@y", "br_1", "-"])
def test_interface_name(name: str) -> None:
    assert interface_name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("a" * 16, "is 16 bytes long, an interface name has at most 15"),
        ("b" * 1000, "'... is 1000 bytes long"),
        ("ä" * 8, "is 16 bytes long"),
        ("bär", "holds 'ä'"),
        ("\ud800", "holds '\\ud800'"),
        ("a b", "holds ' '"),
        ("a\tb", "holds '\\t'"),
        ("a\0b", "holds '\\x00'"),
        ("a:1", "holds ':'"),
        ("a/b", "holds '/'"),
        ("br*", "holds '*'"),
        ('a"b', "holds '\"'"),
        ("!a", "holds '!'"),
        ("lo", "cannot be named here"),
        ("..", "cannot be named here"),
        ("br+", "wildcard"),
    ],
)
def test_refused_interface_name(name: str, problem: str) -> None:
    told = interface_name_problem(name)
    assert told is not None
    assert problem in told
    assert told.isprintable()
    assert len(told) < 200


def test_message_names_the_other_place_as_it_is_told() -> None:
    finding = Finding(("a",), "is taken already by", "", (), ("network", 1, "name"))
    assert finding.message == "is taken already by network[1].name"
    assert finding.told(lambda path: f"<{len(path)}>") == "is taken already by <3>"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("network", 2, "subnets", 0), "network[2].subnets[0]"),
        (("gateway_mode-x",), "gateway_mode-x"),
        (("a b", "\n"), "'a b'.'\\n'"),
        (("",), "''"),
        (("\ud800",), "'\\ud800'"),
    ],
)
def test_dotted(path: tuple[str | int, ...], text: str) -> None:
    assert dotted(path) == text


def test_quoted_is_short_and_printable() -> None:
    assert quoted("it's") == '"it\'s"'
    assert len(quoted("\ud800" * 10**6)) < 400
