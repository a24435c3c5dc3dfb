"""firewalld's own methods, with types.

Interface: https://firewalld.org/documentation/man-pages/firewalld.dbus.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, cast

from nftbridge.firewalld.bus import Bus, CallError, Interface
from nftbridge.firewalld.presence import NAME
from nftbridge.firewalld.wanted import Policy

_PATH = "/org/fedoraproject/FirewallD1"
_MAIN = Interface(NAME, _PATH, NAME)
_CONFIG = Interface(NAME, f"{_PATH}/config", f"{NAME}.config")
_PROPERTIES = "org.freedesktop.DBus.Properties"

# version, name, description, unused, target, services, ports, icmp blocks, masquerade, forward
# ports, interfaces, sources, rules, protocols, source ports, icmp block inversion
_ZONE_SETTINGS = "(sssbsasa(ss)asba(ssss)asasasasa(ss)b)"


class Daemon:
    """firewalld as it runs: ``runtime`` is what holds now, ``permanent`` what a reload brings."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def process(self) -> int:
        """Its process, as the bus numbers it."""
        return int(self._bus.ask_bus("GetConnectionUnixProcessID", NAME))

    def version(self) -> tuple[int, ...]:
        """Its version."""
        text = _text(self._properties(_MAIN), "version")
        return tuple(int(part) for part in re.findall(r"\d+", text))

    def settings(self) -> dict[str, str]:
        """What firewalld.conf says, as far as this version knows the setting, in lower case."""
        found: dict[str, tuple[str, Any]] = self._properties(_CONFIG)
        return {name: str(value).lower() for name, (_, value) in found.items()}

    def permanent_zones(self) -> frozenset[str]:
        """The names of all zones in the configuration."""
        return frozenset(self._config("getZoneNames"))

    def permanent_policies(self) -> frozenset[str]:
        """The names of all policies in the configuration."""
        return frozenset(self._config("getPolicyNames"))

    def runtime_zones(self) -> frozenset[str]:
        """The names of the zones that hold now."""
        return frozenset(self._runtime("zone", "getZones"))

    def runtime_policies(self) -> frozenset[str]:
        """The names of the policies that hold now."""
        return frozenset(self._runtime("policy", "getPolicies"))

    def zone_target(self, zone: str) -> str:
        """What a zone that holds now does with what nothing else decides."""
        return _text(self._runtime("zone", "getZoneSettings2", "s", zone), "target")

    def policy_target(self, policy: str) -> str:
        """What a policy that holds now does with what nothing else decides."""
        return _text(self._runtime("policy", "getPolicySettings", "s", policy), "target")

    def interfaces(self, zone: str) -> frozenset[str]:
        """The interfaces that are in a zone now."""
        return frozenset(self._runtime("zone", "getInterfaces", "s", zone))

    def permanent_zone_of(self, interface: str) -> str:
        """The zone that the configuration binds an interface to; empty if none."""
        return str(self._config("getZoneOfInterface", "s", interface))

    def rich_rules(self, policy: str) -> frozenset[str]:
        """The rich rules that a policy has now."""
        settings = self._runtime("policy", "getPolicySettings", "s", policy)
        return frozenset(map(str, _value(settings, "rich_rules") or ()))

    def add_zone(self, name: str, description: str, target: str) -> None:
        """Add a zone to the configuration, unless somebody has done so in the meantime."""
        none: list[str] = []
        empty = (none, none, none, False, *[none] * 6, False)
        settings = ("1.0", name, description, False, target, *empty)
        self._added("addZone", f"s{_ZONE_SETTINGS}", name, settings)

    def add_policy(self, policy: Policy) -> None:
        """Add a policy to the configuration, unless somebody has done so in the meantime."""
        settings = {
            "version": ("s", "1.0"),
            "short": ("s", policy.name),
            "description": ("s", policy.description),
            "ingress_zones": ("as", [policy.ingress]),
            "egress_zones": ("as", [policy.egress]),
            "target": ("s", policy.target),
        }
        self._added("addPolicy", "sa{sv}", policy.name, settings)

    def reload(self) -> None:
        """Make the configuration hold; what was set at runtime only is lost."""
        self._bus.call(_MAIN, "reload")

    def join(self, zone: str, interface: str) -> None:
        """Put an interface into a zone now, from whichever it is in."""
        self._runtime("zone", "changeZoneOfInterface", "ss", zone, interface)

    def leave(self, zone: str, interface: str) -> None:
        """Take an interface out of a zone now, if it is still in it."""
        try:
            self._runtime("zone", "removeInterface", "ss", zone, interface)
        except CallError as error:
            if error.code not in ("UNKNOWN_INTERFACE", "ZONE_CONFLICT"):
                raise

    def set_rich_rules(self, policy: str, rules: Collection[str]) -> None:
        """Give a policy these rich rules now, and no others; firewalld does it one by one."""
        settings = {"rich_rules": ("as", sorted(rules))}
        self._runtime("policy", "setPolicySettings", "sa{sv}", policy, settings)

    def _added(self, member: str, signature: str, *body: object) -> None:
        try:
            self._config(member, signature, *body)
        except CallError as error:
            if error.code != "NAME_CONFLICT":
                raise

    def _properties(self, of: Interface) -> Any:
        return self._bus.call(of._replace(interface=_PROPERTIES), "GetAll", "s", of.interface)

    def _config(self, member: str, signature: str = "", *body: object) -> Any:
        return self._bus.call(_CONFIG, member, signature, *body)

    def _runtime(self, noun: str, member: str, signature: str = "", *body: object) -> Any:
        where = _MAIN._replace(interface=f"{NAME}.{noun}")
        return self._bus.call(where, member, signature, *body)


def _text(settings: Any, key: str) -> str:
    return str(_value(settings, key) or "")


def _value(settings: Any, key: str) -> Any:
    """A value of a dictionary of variants, each a pair of signature and value."""
    _, value = cast("Mapping[str, tuple[str, Any]]", settings).get(key, ("", None))
    return value
