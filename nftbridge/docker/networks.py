"""One inspected network (``GET /networks/ID``) as a network of the model.

The keys are those of API 1.41 to 1.51. What a key's absence means is what Docker does without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network

from nftbridge.docker.item import Item
from nftbridge.errors import Problem
from nftbridge.model import Container, Family, GatewayMode, Network, Prefix
from nftbridge.model.checks import interface_name_problem, quoted

ID_SHOWN = 12
"""Characters of an ID that name its object, as in ``br-`` and the first of a network's."""

_BRIDGE = "com.docker.network.bridge."
_SNAT = "com.docker.network.host_"

_READ = frozenset(
    f"{_BRIDGE}{name}"
    for name in (
        *("name", "enable_icc", "enable_ip_masquerade", "trusted_host_interfaces"),
        *("gateway_mode_ipv4", "gateway_mode_ipv6"),
    )
)
_WITHOUT_RULES = frozenset(
    f"{_BRIDGE}{name}"
    for name in (
        "default_bridge",
        "host_binding_ipv4",  # is in the addresses that ports are bound to
        "inhibit_ipv4",  # the bridge gets no address, the rules are the same
    )
)

# strconv.ParseBool of Go, which Docker reads its labels with
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

_NO_BRIDGE = {
    "host": "its containers share the host's own interfaces, so that nothing is forwarded to them",
    "ipvlan": "its containers send and receive through an uplink, not through a bridge",
    "macvlan": "its containers send and receive through an uplink, not through a bridge",
    "null": "its containers have no interface but lo",
    "overlay": "it spans several hosts, and swarm's own rules and tunnels belong to it",
}
"""Docker's drivers without a bridge of their own, and why rules for bridges do not apply."""

_UNUSED = "ep-"
"""What the ID of an end point begins with where else that of its container stands."""

BUILT_IN = frozenset({"host", "null"})
"""Drivers of which every Engine has one network, used or not."""


@dataclass(frozen=True, slots=True)
class InspectedNetwork:
    """A network as Docker told it.

    `network`, without its containers and not checked yet, is None where there is no bridge;
    `left_out` says why then. `members` are the end points that Docker lists with it, by the
    container's ID; what they publish is the container's to say. `links` tells whether ``--link``
    makes rules in it: in Docker's default bridge without icc. `unmasked` is that bridge if Docker
    says that it is not masqueraded, as it says whenever ``iptables`` is off. `remarks` are about
    what of it is not in `network`.
    """

    identity: str
    name: str
    driver: str
    network: Network | None
    members: dict[str, Container]
    left_out: str = ""
    links: bool = False
    unmasked: bool = False
    remarks: tuple[Problem, ...] = ()


def network_of(inspect: Item) -> InspectedNetwork:
    """What one network amounts to. Raises `InputError` if this is no inspected network."""
    name, driver = inspect["Name"].required(), inspect["Driver"].required()
    identity, members = inspect["Id"].required(), _members(inspect["Containers"])
    if driver != "bridge":
        left_out = _NO_BRIDGE.get(driver, f"its driver {quoted(driver)} is not known here")
        return InspectedNetwork(identity, name, driver, None, members, left_out)
    network = _network(inspect)
    default = _switch(inspect["Options"][f"{_BRIDGE}default_bridge"], "false")
    links, unmasked = default and not network.icc, default and not network.masquerade
    remarks = (*_unknown_options(name, inspect["Options"]), *_closed(name, inspect["Options"]))
    return InspectedNetwork(identity, name, driver, network, members, "", links, unmasked, remarks)


def _network(inspect: Item) -> Network:
    options = inspect["Options"]
    trusted = _trusted(options)
    return Network(
        inspect["Name"].required(),
        options[f"{_BRIDGE}name"].text() or f"br-{inspect['Id'].required()[:ID_SHOWN]}",
        tuple(_subnets(inspect)),
        internal=inspect["Internal"].flag(),
        icc=_switch(options[f"{_BRIDGE}enable_icc"]),
        masquerade=_switch(options[f"{_BRIDGE}enable_ip_masquerade"]),
        gateway_mode_ipv4=_gateway_mode(options, Family.IPV4) or GatewayMode.NAT,
        gateway_mode_ipv6=_gateway_mode(options, Family.IPV6) or GatewayMode.NAT,
        host_ipv4=options[f"{_SNAT}ipv4"].address(IPv4Address),
        host_ipv6=options[f"{_SNAT}ipv6"].address(IPv6Address),
        trusted_host_interfaces=tuple(n for n in trusted if not interface_name_problem(n)),
    )


def _trusted(options: Item) -> list[str]:
    names = options[f"{_BRIDGE}trusted_host_interfaces"].text()
    return list(filter(None, names.split(":")))


def _subnets(inspect: Item) -> Iterator[Prefix]:
    """IPv4 first. A family that is switched off has no addresses and no rules.

    Before API 1.47 IPv4 could not be switched off.
    """
    enabled = {
        Family.IPV4: inspect["EnableIPv4"].flag(default=True),
        Family.IPV6: inspect["EnableIPv6"].flag(),
    }
    subnets = [_prefix(config["Subnet"]) for config in inspect["IPAM"]["Config"].elements()]
    for family in Family:
        if enabled[family]:
            yield from (subnet for subnet in subnets if Family.of(subnet) is family)


def _prefix(item: Item) -> Prefix:
    try:
        return ip_network(item.required(), strict=False)
    except ValueError:
        item.refuse("a subnet")


def _switch(option: Item, default: str = "true") -> bool:
    text = option.text(default)
    if text not in _TRUE | _FALSE:
        option.refuse('"true" or "false"')
    return text in _TRUE


def _gateway_mode(options: Item, family: Family) -> GatewayMode | None:
    """None for one that is not known here."""
    try:
        return GatewayMode(_mode_option(options, family).text() or GatewayMode.NAT)
    except ValueError:
        return None


def _mode_option(options: Item, family: Family) -> Item:
    return options[f"{_BRIDGE}gateway_mode_ipv{family.version}"]


def _members(containers: Item) -> dict[str, Container]:
    """An end point that no container uses, or not yet, is listed by its own ID: it is none."""
    return {
        identity: Container(
            end["Name"].required(),
            end["IPv4Address"].address(IPv4Address),
            end["IPv6Address"].address(IPv6Address),
        )
        for identity, end in containers.members().items()
        if not identity.startswith(_UNUSED)
    }


def _closed(name: str, options: Item) -> Iterator[Problem]:
    """Values that cannot be had: without them the network is more closed, and not left out."""
    place = f"network {quoted(name)}"
    for family in Family:
        if _gateway_mode(options, family) is None:
            mode = quoted(_mode_option(options, family).text())
            message = f"its gateway mode {mode} for {family.label} is not known here: nat is taken"
            yield Problem(place, message, "a newer nftbridge may know it")
    for interface in _trusted(options):
        if problem := interface_name_problem(interface):
            yield Problem(place, f"a trusted host interface is left out: {problem}")


def _unknown_options(name: str, options: Item) -> Iterator[Problem]:
    for option in sorted(options.members().keys() - _READ - _WITHOUT_RULES):
        if option.startswith(_BRIDGE):
            message = f"the option {quoted(option)} is not known here"
            hint = "if Docker makes rules of it, they are missing"
            yield Problem(f"network {quoted(name)}", message, hint)
