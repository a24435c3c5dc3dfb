"""What `explain` advises is written into the host file, and then the packet passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.explain.outcome import advice
from tests.unit.test_explain import OUTSIDE, OUTSIDE_6, ask, host_of

V4 = 'subnets = ["172.20.0.0/16"]'
BOTH = 'subnets = ["172.20.0.0/16", "fd00:20::/64"]'

# scenario, packet, words of the advice, how that is written into the host file
ADVICE: tuple[tuple[str, str, str, str, str], ...] = (
    (
        *("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 tcp 80", "trusted_host_interfaces"),
        *(V4, f'{V4}\ntrusted_host_interfaces = ["eth0"]'),
    ),
    (
        *("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 icmp", "gateway_mode_ipv4"),
        *(V4, f'{V4}\ngateway_mode_ipv4 = "routed"'),
    ),
    (
        *("02-published-port", f"eth0 {OUTSIDE} 172.20.0.2 icmp", '"nat-unprotected"'),
        *(V4, f'{V4}\ngateway_mode_ipv4 = "nat-unprotected"'),
    ),
    (
        *("03-published-on-loopback", f"eth0 {OUTSIDE} 127.0.0.1 tcp 9090", '["9090:80"]'),
        *('"127.0.0.1:9090:80"', '"9090:80"'),
    ),
    (
        *("04-no-proxy", "br-jobs 172.21.0.2 172.20.0.2 tcp 80", '"routed" for network frontend'),
        *(BOTH, f'{BOTH}\ngateway_mode_ipv4 = "routed"'),
    ),
    (
        *("05-icc-off", "br-tenants 172.20.0.3 172.20.0.2 tcp 81", "icc = true"),
        *("\nicc = false", "\nicc = true"),
    ),
    (
        *("06-internal", "br-vault fd00:22::2 2606:4700::1 icmp", "internal = false"),
        *("\ninternal = true", "\ninternal = false"),
    ),
    (
        *("08-routed", f"eth0 {OUTSIDE_6} fd00:23::2 udp 81", '["81/udp"]'),
        *('publish = ["80"', 'publish = ["81/udp", "80"'),
    ),
    (
        *("13-trusted-interface", f"eth1 {OUTSIDE} 172.20.0.2 tcp 81", '["8081:81"]'),
        *('["8080:80"]', '["8080:80", "8081:81"]'),
    ),
    (
        *("15-no-masquerade", "br-plain 172.25.0.2 1.1.1.1 icmp", "masquerade = true"),
        *("\nmasquerade = false", "\nmasquerade = true"),
    ),
)


@pytest.mark.parametrize(("scenario", "packet", "words", "old", "new"), ADVICE)
def test_what_is_advised_lets_the_packet_pass(  # noqa: PLR0917  a row of the table
    scenario: str, packet: str, words: str, old: str, new: str, tmp_path: Path
) -> None:
    way = ask(host_of(scenario), packet)
    assert not way.passes
    assert words in advice(way)
    file = tmp_path / "host.toml"
    source = Path(f"rulesets/{scenario}/host.toml").read_text()
    assert old in source
    file.write_text(source.replace(old, new, 1))
    assert ask(config.load(str(file)).host, packet).passes


@pytest.mark.parametrize(
    ("scenario", "packet", "words"),
    [
        ("17-many-networks", "br-inner 172.34.0.2 172.30.0.2 tcp 80", "attach the sender to netwo"),
        ("17-many-networks", "br-nat 172.30.0.2 172.34.0.2 tcp 80", "attach the sender to network"),
        ("04-no-proxy", "br-jobs fd00:21::2 fd00:20::2 tcp 80", "attach both containers to one ne"),
        ("04-no-proxy", f"eth0 {OUTSIDE} 172.20.0.2 tcp 90", 'publish it (publish = ["8090:90"])'),
    ],
)
def test_advice_goes_by_who_asks(scenario: str, packet: str, words: str) -> None:
    assert advice(ask(host_of(scenario), packet)).startswith(words)


def test_a_proposed_host_port_is_free() -> None:
    taken = host_of("17-many-networks")
    way = ask(taken, "eth1 198.51.100.9 172.39.0.2 tcp 39")
    assert 'publish = ["8040:39"]' in advice(way)
