"""Docker's publish short syntax and the other single values of a host file."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nftbridge import notation
from nftbridge.model import Protocol, Publication

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
LOCAL4, LOCAL6 = ip_address("127.0.0.1"), ip_address("::1")


class Problems(list[tuple[str, str]]):
    """Collects what is reported."""

    def __call__(self, message: str, hint: str) -> None:
        self.append((message, hint))


def read(text: str) -> tuple[Publication | None, Problems]:
    """What the short syntax gives, and what it complains about."""
    problems = Problems()
    return notation.read_publication(text, problems), problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", Publication(80, 8080)),
        ("8080:80/tcp", Publication(80, 8080)),
        ("53:53/udp", Publication(53, 53, None, UDP)),
        ("53:53/UDP", Publication(53, 53, None, UDP)),
        ("1:65535/Sctp", Publication(65535, 1, None, SCTP)),
        ("80", Publication(80)),
        ("80/udp", Publication(80, None, None, UDP)),
        ("80-89", Publication(80, None, None, TCP, 10)),
        ("8000-8009:9000-9009/udp", Publication(9000, 8000, None, UDP, 10)),
        ("8000-8000:80", Publication(80, 8000)),
        ("1-65535:1-65535", Publication(1, 1, None, TCP, 65535)),
        ("127.0.0.1:9090:80/tcp", Publication(80, 9090, LOCAL4)),
        ("0.0.0.0:9090:80", Publication(80, 9090, ip_address("0.0.0.0"))),
        ("[::1]:9091:80", Publication(80, 9091, LOCAL6)),
        ("[::]:9091-9092:80-81/udp", Publication(80, 9091, ip_address("::"), UDP, 2)),
        ("[FD00:0::7]:1:2", Publication(2, 1, ip_address("fd00::7"))),
    ],
)
def test_accepts(text: str, expected: Publication) -> None:
    assert read(text) == (expected, [])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "there is no port", "HOST_PORT:CONTAINER_PORT"),
        ("/tcp", "there is no port", "HOST_PORT:CONTAINER_PORT"),
        ("8080:", "the container port is empty", "from 1 to 65535"),
        (":80", "the host port is empty", "from 1 to 65535"),
        (":8080:80", "'' is not an IP address", "leave the key out"),
        ("[]:8080:80", "'' is not an IP address", "leave the key out"),
        ("127.0.0.1::80", "the host port is empty", "from 1 to 65535"),
        ("8000-:80", "the end of the host port range is empty", "from 1 to 65535"),
        ("-8000:80", "the start of the host port range is empty", "from 1 to 65535"),
        ("8080:80/", "the protocol is empty", "tcp, udp, sctp"),
        ("8080:80/icmp", "'icmp' is not a protocol", "tcp, udp, sctp"),
        ("8080:80/tcp/udp", "'tcp/udp' is not a protocol", "tcp, udp, sctp"),
        ("8080:80/ tcp", "' tcp' is not a protocol", "tcp, udp, sctp"),
        ("8000-8009:80-85", "different length, 10 and 6", "8000-8005:80-85"),
        ("8000-8009:80", "different length, 10 and 1", "8000:80"),
        ("8080:80-85", "different length, 1 and 6", "8080-8085:80-85"),
        ("65535:80-85", "different length, 1 and 6", "65535:80"),
        ("8009-8000:9000-9009", "the host port range 8009-8000 runs backwards", "8000-8009"),
        ("8000-8009:9009-9000", "container port range 9009-9000 runs backwards", "9000-9009"),
        ("1-2-3:80", "the end of the host port range is not a number: '2-3'", "plain numbers"),
        ("08080:80", "the host port has a leading zero: '08080'", "octal"),
        ("8080:00", "the container port has a leading zero", "octal"),
        ("+8080:80", "not a number: '+8080'", "plain numbers"),
        ("80_80:80", "not a number: '80_80'", "plain numbers"),
        (" 8080:80", "not a number: ' 8080'", "plain numbers"),
        ("8080:80 ", "not a number: '80 '", "plain numbers"),
        ("٨٠:80", "not a number: '٨٠'", "plain numbers"),
        ("²:80", "not a number: '²'", "plain numbers"),
        ("0x50:80", "not a number: '0x50'", "plain numbers"),
        ("http:80", "not a number: 'http'", "plain numbers"),
        ("0:80", "the host port is out of range: '0'", "from 1 to 65535"),
        ("65536:80", "the host port is out of range: '65536'", "from 1 to 65535"),
        ("8080:70000", "the container port is out of range: '70000'", "from 1 to 65535"),
        ("8080:" + "9" * 500, "the container port is out of range", "from 1 to 65535"),
        ("65530-65540:1-11", "the end of the host port range is out of range", "1 to 65535"),
        ("127.0.0.1:80", "the host port is missing", "HOST_ADDRESS:HOST_PORT"),
        ("[::1]:80", "the host port is missing", "[HOST_ADDRESS]:HOST_PORT"),
        ("::1:8080:80", "has 5 parts", "brackets"),
        ("1.2.3.4:1:2:3", "has 4 parts", "brackets"),
        ("[::1:8080:80", "cannot make sense of", "[::1]:8080:80"),
        ("[::1]8080:80", "cannot make sense of", "[::1]:8080:80"),
        ("[::1]:1:2:3", "cannot make sense of", "[::1]:8080:80"),
        ("x[::1]:8080:80", "cannot make sense of", "[::1]:8080:80"),
        ("[127.0.0.1]:8080:80", "'127.0.0.1' is not an IPv6 address", "without brackets"),
        ("localhost:8080:80", "'localhost' is not an IP address", "octets"),
        ("127.0.0.256:8080:80", "'127.0.0.256' is not an IP address", "256"),
        ("127.0.0.01:8080:80", "'127.0.0.01' is not an IP address", "Leading zeros"),
        ("[fe80::1%eth0]:8080:80", "'fe80::1%eth0' is not an IP address", "zone"),
        ("[::ffff:127.0.0.1]:8080:80", "is not an IP address", "write 127.0.0.1"),
        ("[::12345]:8080:80", "'::12345' is not an IP address", "At most 4 characters"),
    ],
)
def test_refuses_with_one_precise_problem(text: str, message: str, hint: str) -> None:
    publication, problems = read(text)
    assert publication is None
    assert len(problems) == 1
    assert message in problems[0][0]
    assert hint in problems[0][1]


def test_more_digits_than_python_converts() -> None:
    publication, problems = read("9" * 5000)
    assert publication is None
    assert [text.partition(": ")[0] for text, _ in problems] == [
        "the container port is out of range"
    ]


def test_every_problem_of_one_text_is_reported() -> None:
    _, problems = read("1.2.3:0:99999/icmp")
    assert [text for text, _ in problems] == [
        "'icmp' is not a protocol",
        "'1.2.3' is not an IP address",
        "the host port is out of range: '0'",
        "the container port is out of range: '99999'",
    ]


@st.composite
def publications(draw: st.DrawFn) -> Publication:
    """Anything that the short syntax can express."""
    count = draw(st.integers(1, 50))
    ports = st.integers(1, 65536 - count)
    host = draw(st.none() | ports)
    address = st.sampled_from(["127.0.0.1", "0.0.0.0", "::", "::1", "fd00::7"]).map(ip_address)
    bound = None if host is None else draw(st.none() | address)
    return Publication(draw(ports), host, bound, draw(st.sampled_from(Protocol)), count)


@settings(deadline=None)  # a busy machine is no fault of the code
@given(publications())
def test_reads_what_a_publication_prints(publication: Publication) -> None:
    assert read(str(publication)) == (publication, [])


@settings(deadline=None)  # a busy machine is no fault of the code
@given(st.text(st.sampled_from("0123456789:-/[]. tcpudx%\ud800٨")) | st.text())
def test_any_text_gives_a_publication_or_problems(text: str) -> None:
    publication, problems = read(text)
    assert (publication is None) == bool(problems)
    assert all(part.isprintable() and len(part) < 300 for problem in problems for part in problem)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, range(1, 2)),
        (65535, range(65535, 65536)),
        ("80", range(80, 81)),
        ("1-3", range(1, 4)),
    ],
)
def test_reads_ports(value: object, expected: range) -> None:
    assert notation.read_ports(value, "port", fail) == expected
    assert notation.read_ports(notation.written(expected), "port", fail) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "the port is out of range: the number 0"),
        (-1, "the port is out of range: the number -1"),
        (65536, "the port is out of range: the number 65536"),
        (10**100, "the port is out of range: a huge number"),
        (True, "the port must be a number, not true"),
        (80.0, "the port must be a number, not the number 80.0"),
        (float("nan"), "the port must be a number, not the number nan"),
        ([80], "the port must be a number, not a list"),
        ({}, "the port must be a number, not a table"),
        (None, "the port must be a number, not null"),
    ],
)
def test_refuses_ports(value: object, message: str) -> None:
    problems = Problems()
    assert notation.read_ports(value, "port", problems) is None
    assert [text for text, _ in problems] == [message]


@pytest.mark.parametrize("text", ["172.20.0.0/16", "10.0.0.4/30", "1.2.3.4/32", "fd00::/64"])
def test_reads_prefixes(text: str) -> None:
    assert notation.read_prefix(text, fail) == ip_network(text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("172.20.0.1/16", "'172.20.0.1/16' has host bits set", "172.20.0.0/16"),
        ("fd00::1/64", "'fd00::1/64' has host bits set", "fd00::/64"),
        ("172.20.0.0", "has no prefix length", "172.20.0.0/16"),
        ("", "has no prefix length", "172.20.0.0/16"),
        ("172.20.0.0/255.255.0.0", "'255.255.0.0' is not a prefix length", "0 to 32"),
        ("172.20.0.0/0.0.255.255", "is not a prefix length", "0 to 32"),
        ("172.20.0.0/33", "'33' is not a prefix length of IPv4", "0 to 32"),
        ("fd00::/129", "'129' is not a prefix length of IPv6", "0 to 128"),
        ("fd00::/" + "1" * 500, "is not a prefix length", "0 to 128"),
        ("172.20.0.0/", "'' is not a prefix length", "0 to 32"),
        ("172.20.0.0/-1", "'-1' is not a prefix length", "0 to 32"),
        ("172.20.0.0/١٦", "is not a prefix length", "0 to 32"),
        ("172.20.0/16", "'172.20.0' is not an IP address", "Expected 4 octets"),
        ("172.20.0.0/16/8", "'16/8' is not a prefix length", "0 to 32"),
        ("fe80::%eth0/64", "'fe80::%eth0' is not an IP address", "zone"),
        ("::ffff:10.0.0.0/104", "is not an IP address", "write 10.0.0.0"),
    ],
)
def test_refuses_prefixes(text: str, message: str, hint: str) -> None:
    problems = Problems()
    assert notation.read_prefix(text, problems) is None
    assert len(problems) == 1
    assert message in problems[0][0]
    assert hint in problems[0][1]


def fail(message: str, hint: str) -> None:
    """A reporter for what must not be reported."""
    raise AssertionError(f"{message} ({hint})")
