"""What one inspected network, one container and all of them amount to."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import pytest

from nftbridge.docker.host import DaemonOptions
from nftbridge.errors import InputError
from nftbridge.model import Container, GatewayMode, Host, Network
from tests.unit.docker_inspect import (
    BRIDGE,
    KNOWN,
    bound,
    container,
    endpoint,
    imported,
    network,
    read_container,
    read_network,
)

PLAIN = Network(
    "front", "br-front-id-012", (ip_network("172.20.0.0/16"), ip_network("fd00:20::/64"))
)


def published(*containers: dict[str, Any]) -> list[str]:
    """The publications of everything that is in network front."""
    host = imported([network()], list(containers)).host
    return [str(p) for c in host.networks[0].containers for p in c.publish]


# --- networks ------------------------------------------------------------------------------------


def test_a_network_without_options_has_dockers_defaults() -> None:
    assert read_network(network()).network == PLAIN


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({f"{BRIDGE}name": "br-front"}, {"bridge": "br-front"}),
        ({f"{BRIDGE}enable_icc": "false"}, {"icc": False}),
        ({f"{BRIDGE}enable_icc": "F"}, {"icc": False}),
        ({f"{BRIDGE}enable_icc": "1"}, {}),
        ({f"{BRIDGE}enable_ip_masquerade": "0"}, {"masquerade": False}),
        ({f"{BRIDGE}gateway_mode_ipv4": "routed"}, {"gateway_mode_ipv4": GatewayMode.ROUTED}),
        (
            {f"{BRIDGE}gateway_mode_ipv6": "nat-unprotected"},
            {"gateway_mode_ipv6": GatewayMode.NAT_UNPROTECTED},
        ),
        (
            {"com.docker.network.host_ipv4": "203.0.113.7"},
            {"host_ipv4": IPv4Address("203.0.113.7")},
        ),
        (
            {"com.docker.network.host_ipv6": "2001:db8::7"},
            {"host_ipv6": IPv6Address("2001:db8::7")},
        ),
        (
            {f"{BRIDGE}trusted_host_interfaces": "vxlan.1:eth3"},
            {"trusted_host_interfaces": ("vxlan.1", "eth3")},
        ),
        ({f"{BRIDGE}inhibit_ipv4": "true", f"{BRIDGE}host_binding_ipv4": "192.0.2.1"}, {}),
        ({"com.docker.network.driver.mtu": "1400"}, {}),
    ],
)
def test_each_option(options: dict[str, str], changes: dict[str, Any]) -> None:
    found = read_network(network(Options=options))
    expected = {slot: getattr(PLAIN, slot) for slot in Network.__slots__} | changes
    assert found.network == Network(**expected)
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("keys", "subnets"),
    [
        ({}, ["172.20.0.0/16", "fd00:20::/64"]),
        ({"EnableIPv6": False}, ["172.20.0.0/16"]),
        ({"EnableIPv4": False}, ["fd00:20::/64"]),
    ],
)
def test_a_family_that_is_off_has_no_subnet(keys: dict[str, Any], subnets: list[str]) -> None:
    found = read_network(network(**keys)).network
    assert found is not None
    assert list(map(str, found.subnets)) == subnets


def test_an_unknown_option_of_the_bridge_is_remarked() -> None:
    (remark,) = read_network(network(Options={f"{BRIDGE}new_thing": "1"})).remarks
    assert f"{BRIDGE}new_thing" in remark.message


@pytest.mark.parametrize("driver", ["overlay", "macvlan", "ipvlan", "weave"])
def test_other_drivers_are_left_out_with_a_reason(driver: str) -> None:
    found = imported([network(Driver=driver)], [container()])
    assert found.host.networks == ()
    (remark,) = found.remarks
    assert remark.where == "network 'front'"
    assert remark.message.startswith("is left out: ")
    assert remark.message.endswith("; containers: 'web'")


@pytest.mark.parametrize("driver", ["host", "null"])
def test_networks_of_every_engine_are_named_where_they_are_used(driver: str) -> None:
    assert imported([network(Driver=driver)], []).remarks == ()
    assert len(imported([network(Driver=driver)], [container()]).remarks) == 1


def test_networks_of_one_name_are_told_apart() -> None:
    other = network(Id="another-id-0123", IPAM={"Config": [{"Subnet": "10.1.0.0/16"}]})
    names = [n.name for n in imported([network(), other], []).host.networks]
    assert names == ["front-another-id-0", "front-front-id-012"]


# --- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ({"80/tcp": bound("0.0.0.0 8080", ":: 8080")}, ["8080:80/tcp"]),
        ({"80/tcp": bound("0.0.0.0 8080")}, ["0.0.0.0:8080:80/tcp"]),
        ({"80/tcp": bound(":: 8080")}, ["[::]:8080:80/tcp"]),
        ({"80/tcp": bound(" 8080")}, ["8080:80/tcp"]),
        ({"80/tcp": bound("0.0.0.0 8080", ":: 8081")}, ["0.0.0.0:8080:80/tcp", "[::]:8081:80/tcp"]),
        (
            {"80/tcp": bound("127.0.0.1 8080", "::1 8080")},
            ["127.0.0.1:8080:80/tcp", "[::1]:8080:80/tcp"],
        ),
        ({"53/udp": bound("192.0.2.1 53"), "53/tcp": None}, ["192.0.2.1:53:53/udp"]),
        ({"80/sctp": bound("0.0.0.0 32768", ":: 32768")}, ["32768:80/sctp"]),
        ({"80/tcp": bound("0.0.0.0 1", ":: 1", "0.0.0.0 2", ":: 2")}, ["1:80/tcp", "2:80/tcp"]),
        (
            {f"{90 + n}/tcp": bound(f"0.0.0.0 {8020 + n}", f":: {8020 + n}") for n in (2, 0, 1, 4)},
            ["8020-8022:90-92/tcp", "8024:94/tcp"],
        ),
        (
            {f"{90 + n}/tcp": bound(f"0.0.0.0 {80 + n}", f"0.0.0.0 {70 + n}") for n in (0, 1)},
            ["0.0.0.0:70-71:90-91/tcp", "0.0.0.0:80-81:90-91/tcp"],
        ),
        (None, []),
    ],
)
def test_ports_as_they_are_bound(ports: dict[str, Any], expected: list[str]) -> None:
    assert published(container(ports=ports)) == expected


def test_addresses() -> None:
    (found,) = read_container(container()).endpoints
    expected = Container("web", IPv4Address("172.20.0.2"), IPv6Address("fd00:20::2"))
    assert found.container == expected


def test_a_routed_network_has_no_host_ports() -> None:
    routed = {f"{BRIDGE}gateway_mode_{family}": "routed" for family in ("ipv4", "ipv6")}
    ports = {f"{n}/tcp": bound("0.0.0.0 ", ":: ") for n in (80, 81)}
    host = imported([network(Options=routed)], [container(ports=ports)]).host
    (publication,) = host.networks[0].containers[0].publish
    assert str(publication) == "80-81/tcp"


def test_a_container_of_ipv4_alone_publishes_everywhere_as_it_was_asked_to() -> None:
    alone = {"front": endpoint(GlobalIPv6Address="", IPv6Gateway="")}
    ports = {"80/tcp": bound("0.0.0.0 8080", ":: 8080")}
    found = imported([network(EnableIPv6=False)], [container(ports=ports, networks=alone)])
    assert found.remarks == ()
    assert str(found.host.networks[0].containers[0].publish[0]) == "8080:80/tcp"


def test_what_only_a_proxy_can_serve_is_remarked() -> None:
    alone = {"front": endpoint(GlobalIPv6Address="", IPv6Gateway="")}
    ports = {"80/tcp": bound("::1 8080")}
    found = imported([network(EnableIPv6=False)], [container(ports=ports, networks=alone)])
    assert found.host.networks[0].containers[0].publish == ()
    assert "[::1]:8080:80/tcp is left out" in found.remarks[0].message


@pytest.mark.parametrize(
    ("networks", "serving"),
    [
        # each case was seen with Docker 28.5.2: tests.kernel.test_docker_daemon
        ({"a": "46", "b": "46"}, {"a": "46"}),
        ({"a": "46", "b": "46 10"}, {"b": "46"}),
        ({"a": "4", "b": "46"}, {"b": "46"}),
        ({"a": "4 10", "b": "46"}, {"b": "46"}),
        ({"a": "4", "b": "6"}, {"a": "4", "b": "6"}),
        ({"a": "4", "b": "4 10"}, {"b": "4"}),
        ({"a": "", "b": "46"}, {"b": "46"}),
    ],
)
def test_which_network_serves_the_ports(networks: dict[str, str], serving: dict[str, str]) -> None:
    ends = {name: gateways(name, *text.split(" ")) for name, text in networks.items()}
    ports = {"80/tcp": bound("192.0.2.1 81", "2001:db8::1 82")}
    found: dict[str, str] = {}
    for end in read_container(container(ports=ports, networks=ends)).endpoints:
        families = [str(p.host_address.version) for p in end.container.publish if p.host_address]
        if families:
            found[end.network_name] = "".join(families)
    assert found == serving


def gateways(name: str, families: str, priority: str = "0") -> dict[str, Any]:
    keys = {"Gateway": "4", "IPv6Gateway": "6"}
    missing: dict[str, Any] = {key: "" for key, family in keys.items() if family not in families}
    if families in ("4", "6"):
        missing["GlobalIPv6Address" if families == "4" else "IPAddress"] = ""
    return endpoint(name, GwPriority=int(priority)) | missing


def test_ports_without_a_gateway_are_remarked() -> None:
    ends = {"front": endpoint(Gateway="", IPv6Gateway="")}
    found = read_container(container(ports={"80/tcp": bound("0.0.0.0 8080")}, networks=ends))
    assert "8080:80/tcp is left out" in found.remarks[0].message


def test_who_does_not_run_has_no_place() -> None:
    stopped = container() | {"State": {"Running": False}}
    waiting = container("waiting", networks={"front": endpoint(EndpointID="", NetworkID="")})
    assert imported([network()], [stopped, waiting]).host.networks == (PLAIN,)


def test_who_shares_a_namespace_is_remarked() -> None:
    found = read_container(container(networks={}, NetworkMode="container:0123456789abcdef"))
    assert found.endpoints == ()
    assert "container 0123456789ab" in found.remarks[0].message


# --- together ------------------------------------------------------------------------------------


def test_the_order_is_by_name() -> None:
    networks = [
        network("z", IPAM=subnets("10.2.0.0/16")),
        network("a", IPAM=subnets("10.1.0.0/16")),
    ]
    containers = [
        container(
            name, networks={"z": endpoint("z", IPAddress=f"10.2.0.{last}", GlobalIPv6Address="")}
        )
        for name, last in (("late", 2), ("early", 3))
    ]
    once, again = imported(networks, containers), imported(networks[::-1], containers[::-1])
    assert once == again
    assert [n.name for n in once.host.networks] == ["a", "z"]
    assert [c.name for c in once.host.networks[1].containers] == ["early", "late"]


def subnets(*texts: str) -> dict[str, Any]:
    return {"Config": [{"Subnet": text} for text in texts]}


@pytest.mark.parametrize("option", ["userland_proxy", "allow_direct_routing"])
def test_what_the_api_does_not_tell_is_said(option: str) -> None:
    unknown = imported([], [], options=DaemonOptions())
    (remark,) = (r for r in unknown.remarks if r.where == f"host.{option}")
    assert f"--no-{option.replace('_', '-')}" in remark.hint
    assert getattr(unknown.host, option) == getattr(Host(), option)


def test_what_a_network_cannot_have_leaves_it_closed_and_not_without_rules() -> None:
    options = {
        f"{BRIDGE}gateway_mode_ipv4": "bridge",
        f"{BRIDGE}trusted_host_interfaces": "eth+:eth1",
    }
    told = imported([network("tab\there", Id="0123456789abcdef", Options=options)], [])
    (found,) = told.host.networks
    assert (found.name, found.gateway_mode_ipv4) == ("0123456789ab", GatewayMode.NAT)
    assert found.trusted_host_interfaces == ("eth1",)
    unknown, trusted = told.remarks
    assert "gateway mode 'bridge' for IPv4 is not known" in unknown.message
    assert "'eth+'" in trusted.message


DENIED = {f"{BRIDGE}default_bridge": "true", f"{BRIDGE}enable_ip_masquerade": "false"}


@pytest.mark.parametrize(("told", "masqueraded"), [(None, True), (True, True), (False, False)])
def test_the_default_bridge_is_masqueraded_whatever_docker_says_of_it(
    *, told: bool | None, masqueraded: bool
) -> None:
    """It says so as soon as its firewall is off; of other networks it says the truth."""
    options = {f"{BRIDGE}enable_ip_masquerade": "false"}
    plain = network("plain", Options=options, IPAM=subnets("172.21.0.0/16"))
    found = imported([network(Options=DENIED), plain], [], options=replace(KNOWN, ip_masq=told))
    assert [n.masquerade for n in found.host.networks] == [masqueraded, False]
    assert [r.where for r in found.remarks] == (["network 'front'"] if told is None else [])
    true = network(Options=DENIED | {f"{BRIDGE}enable_ip_masquerade": "true"})
    (one,) = imported([true], [], options=replace(KNOWN, ip_masq=told)).host.networks
    assert one.masquerade, "that is never denied wrongly"


def test_what_the_user_tells_is_taken() -> None:
    host = imported(
        [], [], options=DaemonOptions(userland_proxy=False, allow_direct_routing=True)
    ).host
    assert (host.userland_proxy, host.allow_direct_routing) == (False, True)


@pytest.mark.parametrize(
    ("info", "where"),
    [
        ({"FirewallBackend": {"Driver": "nftables"}}, "Docker's own firewall"),
        ({"Swarm": {"LocalNodeState": "active"}}, "swarm"),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "rootless mode"),
    ],
)
def test_what_the_engine_tells_of_itself(info: dict[str, Any], where: str) -> None:
    assert [remark.where for remark in imported([], [], info).remarks] == [where]


def test_whether_dockers_own_firewall_is_off_is_not_told() -> None:
    """28.5.2 names its driver with ``--iptables=false``, too."""
    (remark,) = imported([], [], {"FirewallBackend": {"Driver": "iptables"}}).remarks
    assert remark.message.startswith("may be on (iptables)")
    assert "API does not tell" in remark.hint


def test_only_its_network_knows_it() -> None:
    """Such as the end points of swarm's gateways: guarded, and nothing is open."""
    known = {"some-id": {"Name": "gateway", "IPv4Address": "172.20.0.9/16", "IPv6Address": ""}}
    found = imported([network(Containers=known)], [])
    assert found.host.networks[0].containers == (Container("gateway", IPv4Address("172.20.0.9")),)
    assert found.remarks[0].where == "container 'gateway'"


def test_only_the_container_knows_the_network() -> None:
    found = imported([], [container()])
    assert "network 'front', which was not inspected" in found.remarks[0].message


@pytest.mark.parametrize(
    ("default", "icc", "remarked"),
    [("true", "false", 1), ("true", "true", 0), ("false", "false", 0)],
)
def test_links_make_rules_on_the_default_bridge_alone(
    default: str, icc: str, remarked: int
) -> None:
    options = {f"{BRIDGE}default_bridge": default, f"{BRIDGE}enable_icc": icc}
    found = imported([network(Options=options)], [container(Links=["/db:/web/db"])])
    assert len(found.remarks) == remarked


def test_a_port_that_the_model_refuses_goes_alone() -> None:
    ports = {"53/udp": bound("0.0.0.0 53", "127.0.0.1 53"), "80/tcp": bound("0.0.0.0 80")}
    found = imported([network()], [container(ports=ports)])
    assert [str(p) for p in found.host.networks[0].containers[0].publish] == [
        "0.0.0.0:80:80/tcp",
        "0.0.0.0:53:53/udp",
    ]
    (remark,) = found.remarks
    assert remark.where == "container 'web' of network 'front'"
    assert remark.message.startswith("127.0.0.1:53:53/udp is left out")


def test_a_network_that_the_model_refuses_goes_with_a_reason() -> None:
    long = network("long", Options={f"{BRIDGE}name": "b" * 16}, IPAM=subnets("10.1.0.0/16"))
    over = network("over", IPAM=subnets("172.20.128.0/17"))
    found = imported([network(), long, over], [])
    assert found.host.networks == (PLAIN,)
    assert sorted(remark.where for remark in found.remarks) == ["network 'long'", "network 'over'"]


# --- what is not Docker's ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"Name": None}, "n.json: Name"),
        ({"Driver": 5}, "n.json: Driver"),
        ({"IPAM": []}, "n.json: IPAM"),
        ({"IPAM": {"Config": {}}}, "n.json: IPAM.Config"),
        ({"IPAM": {"Config": [{"Subnet": "x"}]}}, "n.json: IPAM.Config[0].Subnet"),
        ({"Internal": "no"}, "n.json: Internal"),
        ({"Options": {f"{BRIDGE}enable_icc": "perhaps"}}, "enable_icc"),
        ({"Options": {"com.docker.network.host_ipv4": "::1"}}, "host_ipv4"),
        (
            {"Containers": {"x": {"Name": "x", "IPv4Address": "nowhere"}}},
            "Containers.x.IPv4Address",
        ),
    ],
)
def test_the_place_in_a_network_is_named(keys: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as error:
        read_network(network(**keys))
    assert place in error.value.problems[0].where


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ([], "c.json"),
        ("text", "c.json"),
        (container() | {"State": {"Running": "yes"}}, "c.json: State.Running"),
        (container() | {"Id": ""}, "c.json: Id"),
        (container(ports={"eighty": bound("0.0.0.0 80")}), "NetworkSettings.Ports"),
        (container(ports={"80/icmp": bound("0.0.0.0 80")}), "NetworkSettings.Ports"),
        (container(ports={"80/tcp": bound("here 80")}), "[0].HostIp"),
        (container(ports={"80/tcp": bound("0.0.0.0 70000")}), "[0].HostPort"),
        (container(networks={"front": endpoint(GwPriority=True)}), "front.GwPriority"),
        (container(networks={"front": endpoint(NetworkID=None)}), "front.NetworkID"),
    ],
)
def test_the_place_in_a_container_is_named(data: object, place: str) -> None:
    with pytest.raises(InputError) as error:
        read_container(data)
    assert place in error.value.problems[0].where
