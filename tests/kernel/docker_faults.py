"""Faults to plant in Docker's text, each with a probe that a comparison which is not blind notices.

What no probe can notice is not among them: the policy is to accept, so that an accept is missed
only where a drop stands behind it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from nftbridge.lab import HOST, OUTSIDE, Probe, ProbeProtocol
from nftbridge.model import Family
from tests.kernel.docker_states import State

LOOPBACK0, ATTACKER = "outside-loopback0", "outside-attack0"
"""Both send 127.0.0.1 to the host; the first one's link is WSL2's, if the host is mirrored."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A passage of Docker's text, what it becomes, and a probe that must fare differently then."""

    edit: tuple[str, str]
    probe: Probe

    def planted_in(self, state: State) -> State:
        return state.edited(Family.of(self.probe.destination), *self.edit)


def asks(source: str, destination: str, port: int = 0, protocol: ProbeProtocol = "tcp") -> Probe:
    return Probe(source, ip_address(destination), protocol, port)


def without(line: str) -> tuple[str, str]:
    """A line is dropped."""
    return f"{line}\n", ""


def unnegated(line: str, part: str) -> tuple[str, str]:
    """A negation is lost."""
    return line, line.replace(f"! {part}", part)


def swapped(first: str, second: str) -> tuple[str, str]:
    """The order of two lines is lost."""
    return f"{first}\n{second}\n", f"{second}\n{first}\n"


CAPTURE_FAULTS = (
    Fault(
        without("-A PREROUTING -d 172.20.0.10/32 ! -i br-front -j DROP"),
        asks(OUTSIDE, "172.20.0.10", 80),
    ),
    Fault(
        unnegated("-A PREROUTING -d fd00:20::10/128 ! -i br-front -j DROP", "-i"),
        asks("fr2", "fd00:20::10", 82),
    ),
    Fault(
        without("-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8001 -j DROP"),
        asks(ATTACKER, "127.0.0.1", 8001),
    ),
    Fault(
        without("-A DOCKER-ISOLATION-STAGE-2 -o br-unprot -j DROP"), asks("def1", "172.24.0.10", 82)
    ),
    Fault(
        without("-A DOCKER-ISOLATION-STAGE-1 -o br-routed -j RETURN"),
        asks("def1", "fd00:23::10", 80),
    ),
    Fault(
        without(
            "-A DOCKER-ISOLATION-STAGE-1 ! -s 172.22.0.0/16 -o br-int -j DROP\n"
            "-A DOCKER-ISOLATION-STAGE-1 ! -d 172.22.0.0/16 -i br-int -j DROP"
        ),
        asks(OUTSIDE, "172.22.0.10", 82, "udp"),
    ),
    Fault(
        unnegated("-A DOCKER-ISOLATION-STAGE-1 ! -s 172.22.0.0/16 -o br-int -j DROP", "-s"),
        asks("in2", "172.22.0.10", 82, "sctp"),
    ),
    Fault(
        without("-A DOCKER-FORWARD -i br-noicc -o br-noicc -j DROP"),
        asks("ni2", "172.21.0.10", 0, "icmp"),
    ),
    Fault(
        without("-A DOCKER ! -i br-routed -o br-routed -j DROP"),
        asks(OUTSIDE, "172.23.0.10", 82),
    ),
    Fault(
        swapped(
            "-A DOCKER -o br-routed -p ipv6-icmp -j ACCEPT",
            "-A DOCKER ! -i br-routed -o br-routed -j DROP",
        ),
        asks(OUTSIDE, "fd00:23::10", 0, "icmp"),
    ),
    Fault(without("-A DOCKER -i br-front -j RETURN"), asks("fr1", "172.20.0.1", 8030)),
    Fault(
        (
            "-d 10.99.0.1/32 ! -i br-snat -p tcp -m tcp --dport 8070",
            "-d 10.99.0.1/32 ! -i br-snat -p tcp -m tcp --dport 8071",
        ),
        asks(OUTSIDE, "10.99.0.1", 8070),
    ),
    # it is answered either way: by another port, by another container, to another address
    Fault(
        (
            "--dport 8020 -j DNAT --to-destination 172.20.0.10:90",
            "--dport 8020 -j DNAT --to-destination 172.20.0.10:80",
        ),
        asks(OUTSIDE, "198.51.100.1", 8020),
    ),
    Fault(
        (
            "--dport 8000 -j DNAT --to-destination 172.17.0.2:80",
            "--dport 8000 -j DNAT --to-destination 172.17.0.3:80",
        ),
        asks(OUTSIDE, "198.51.100.1", 8000),
    ),
    Fault(
        (
            "! -o br-snat -j SNAT --to-source 10.99.0.1",
            "! -o br-snat -j MASQUERADE",
        ),
        asks("sn1", "198.51.100.9", 80),
    ),
)

GOLDEN_FAULTS = {
    "hairpin=false,internal=false,icc=false,masq=true,snat=true,gwm=nat,bindlh=true"
    ",wsl2mirrored=true": (
        Fault(
            swapped(
                "-A PREROUTING -d 127.0.0.1/32 -i loopback0 -p tcp -m tcp --dport 8080 -j ACCEPT",
                "-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8080 -j DROP",
            ),
            asks(LOOPBACK0, "127.0.0.1", 8080),
        ),
        Fault(
            without("-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8080 -j DROP"),
            asks(ATTACKER, "127.0.0.1", 8080),
        ),
        Fault(
            without("-A DOCKER -d 127.0.0.0/8 -i loopback0 -j RETURN"),
            asks(LOOPBACK0, "127.0.0.1", 8080),
        ),
        Fault(unnegated("-A OUTPUT ! -d 127.0.0.0/8", "-d"), asks(HOST, "127.0.0.1", 8080)),
        Fault(unnegated("-A OUTPUT ! -d ::1/128", "-d"), asks(HOST, "::1", 8080)),
        Fault(
            without("-A DOCKER-FORWARD -i br-dummy -o br-dummy -j DROP"),
            asks("c", "192.168.0.3", 81, "sctp"),
        ),
        Fault(
            without(
                "-A DOCKER-CT -o br-dummy -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            ),
            asks("c", "2001:db8:100::9", 80, "udp"),
        ),
        Fault(
            unnegated("-A POSTROUTING -s fd49:efd7:54aa::/64 ! -o br-dummy -j SNAT", "-o"),
            asks("c", "2001:db8:100::9", 80),
        ),
    ),
    "hairpin=true,internal=false,icc=true,masq=false,snat=true,gwm=nat,bindlh=false": (
        Fault(
            without("-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER"),
            asks(OUTSIDE, "198.51.100.1", 8080),
        ),
        Fault(unnegated("-A DOCKER ! -s fe80::/10", "-s"), asks(OUTSIDE, "2001:db8:100::1", 8080)),
        Fault(
            without(
                "-A POSTROUTING -s 192.168.0.2/32 -d 192.168.0.2/32"
                " -p tcp -m tcp --dport 80 -j MASQUERADE"
            ),
            asks("c", "198.51.100.1", 8080),
        ),
        Fault(
            (
                "-o br-dummy -m addrtype --src-type LOCAL -j SNAT --to-source 192.168.123.0",
                "-o br-dummy -m addrtype --src-type LOCAL -j MASQUERADE",
            ),
            asks(HOST, "192.168.0.2", 80),
        ),
        Fault(
            without(
                "-A DOCKER -d fd49:efd7:54aa::1/128 ! -i br-dummy -o br-dummy"
                " -p tcp -m tcp --dport 80 -j ACCEPT"
            ),
            asks(OUTSIDE, "2001:db8:100::1", 8080),
        ),
    ),
    "hairpin=false,internal=false,icc=true,masq=true,snat=true,gwm=routed,bindlh=true": (
        Fault(
            without("-A DOCKER -o br-dummy -p icmp -j ACCEPT"),
            asks(OUTSIDE, "192.168.0.2", 0, "icmp"),
        ),
        Fault(
            unnegated("-A DOCKER ! -i br-dummy -o br-dummy -j DROP", "-i"),
            asks("neighbour", "fd49:efd7:54aa::1", 81, "sctp"),
        ),
    ),
}
