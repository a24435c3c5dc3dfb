"""The tables and keys of a host file: from plain data to the parts of the model.

Nothing here raises on bad input. What is wrong is noted on the `Sheet` of its file, what depends on
it gets a default, and reading goes on, so that one run finds every problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeAlias, TypeVar, cast

from nftbridge.model import (
    Address,
    Container,
    GatewayMode,
    Host,
    Mark,
    Network,
    Prefix,
    Priorities,
    Publication,
)
from nftbridge.model.checks import dotted, quoted
from nftbridge.model.host import LAYOUTS
from nftbridge.model.parts import IpForward, Protection, Protocol
from nftbridge.notation import (
    Report,
    publication,
    read_address,
    read_mark,
    read_ports,
    read_prefix,
    read_protocol,
    read_publication,
    shown,
)

VERSION = 1
"""The version of the format that this code reads and writes."""

FILE_KEYS = ("version", "host", "network")
FLAGS = ("ipv4", "ipv6", "userland_proxy", "allow_direct_routing", "cut_revoked")
MARKS = ("accept_mark", "trust_mark")
HOST_KEYS = (
    *(*FLAGS, "wsl2_mirrored", "layout", "accept_missing", "ip_forward"),
    *(*MARKS, "priorities"),
)
PRIORITY_KEYS = ("raw", "dstnat", "forward", "srcnat")
NETWORK_KEYS = (
    "name", "bridge", "subnets", "internal", "icc", "masquerade", "gateway_mode_ipv4",
    "gateway_mode_ipv6", "host_ipv4", "host_ipv6", "trusted_host_interfaces", "container",
)  # fmt: skip
CONTAINER_KEYS = ("name", "ipv4", "ipv6", "publish")
PUBLICATION_KEYS = ("host_address", "host_port", "container_port", "protocol")

_RANKS = {
    key: rank
    for rank, key in enumerate(
        dict.fromkeys(
            (
                *FILE_KEYS,
                *CONTAINER_KEYS,
                *PUBLICATION_KEYS,
                *NETWORK_KEYS,
                *HOST_KEYS,
                *PRIORITY_KEYS,
            )
        )
    )
}

_DEFAULTS = Host()
Path: TypeAlias = tuple[str | int, ...]
_T = TypeVar("_T")
_A = TypeVar("_A", IPv4Address, IPv6Address)
_E = TypeVar("_E", bound=Enum)


class RepeatedKeys(dict[str, object]):
    """A table in which keys stood more than once, as JSON allows; `repeated` lists them."""

    repeated: tuple[str, ...] = ()


@dataclass(slots=True)
class Sheet:
    """What reading one file brought to light. Paths are local to the file."""

    name: str
    in_folder: bool = False
    notes: list[tuple[Path, str, str]] = field(default_factory=list[tuple[Path, str, str]])
    _failed: set[Path] = field(default_factory=set[Path])
    _above: set[Path] = field(default_factory=set[Path])
    _kept: dict[Path, tuple[int, ...]] = field(default_factory=dict[Path, tuple[int, ...]])

    def note(self, path: Path, message: str, hint: str) -> None:
        """Record a problem that leaves nothing unread."""
        self.notes.append((path, message, hint))

    def refuse(self, path: Path, message: str, hint: str) -> None:
        """Record a problem because of which the value at `path` is missing from the model."""
        self.note(path, message, hint)
        self.mark(path)

    def mark(self, path: Path) -> None:
        """Record that the value at `path` is missing or a mere default."""
        self._failed.add(path)
        self._above.update(path[:end] for end in range(len(path) + 1))

    def refuser(self, path: Path) -> Report:
        """`refuse` for one place, for the readers of single values."""
        return lambda message, hint: self.refuse(path, message, hint)

    def has_failed(self, path: Path, *, or_below: bool = False) -> bool:
        """Whether `path` or what holds it, or with `or_below` a part of it, could not be read."""
        if or_below and path in self._above:
            return True
        return any(path[:end] in self._failed for end in range(len(path) + 1))

    def keep(self, path: Path, kept: tuple[int, ...]) -> None:
        """Record which items of the list at `path` made it into the model."""
        self._kept[path] = kept

    def local(self, path: Path) -> Path:
        """A path of the model as it stands in the file, where unreadable list items count, too."""
        found: Path = ()
        for part in path:
            kept = self._kept.get(found) if isinstance(part, int) else None
            found = (*found, kept[part] if kept and isinstance(part, int) else part)
        return found

    def where(self, path: Path) -> str:
        """A place in this file as people write it."""
        if not path:
            return self.name
        return f"{self.name}: {dotted(path)}" if self.in_folder else dotted(path)


class Table:
    """One table of a file and the keys that it may hold. A key that is null counts as absent."""

    def __init__(
        self, sheet: Sheet, path: Path, data: Mapping[str, object], keys: tuple[str, ...]
    ) -> None:
        self.sheet = sheet
        self.path = path
        self._data = data
        if not data.keys() <= set(keys):
            self._refuse_unknown(keys)
        for key in data.repeated if isinstance(data, RepeatedKeys) else ():
            sheet.refuse((*path, key), "the key stands here more than once", "keep one of them")

    def value(self, key: str) -> object:
        """What stands under `key`; None if nothing does."""
        return self._data.get(key)

    def at(self, key: str) -> Path:
        """The path of `key`."""
        return (*self.path, key)

    def require(self, key: str, example: str) -> None:
        """Note it if `key` is absent, unless a misspelt key that must be it has been noted."""
        if self.value(key) is None and not self.sheet.has_failed(self.at(key)):
            self.sheet.refuse(
                self.at(key), f"the required key '{key}' is missing", f"write {example}"
            )

    def text(self, key: str) -> str | None:
        """A string; None if there is none."""
        value = self.value(key)
        if value is None or isinstance(value, str):
            return value
        self.mistyped(key, "a string", "put it in quotes")
        return None

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.value(key)
        if isinstance(value, bool):
            return value
        if value is not None:
            self.mistyped(key, "true or false", "write true or false, without quotes")
        return default

    def choice(self, key: str, default: _E) -> _E:
        """A member of the default's enumeration, by its value."""
        text = self.text(key)
        found = default if text is None else _member(type(default), text)
        if found is None:
            known = ", ".join(member.value for member in type(default))
            hint = f'write e.g. {key} = "{default.value}", the default'
            self.sheet.refuse(self.at(key), f"{shown(text)} is not one of {known}", hint)
        return found or default

    def address(self, key: str, kind: type[_A]) -> _A | None:
        """An address of the family that `kind` belongs to."""
        text = self.text(key)
        found = None if text is None else read_address(text, self.sheet.refuser(self.at(key)))
        if found is None or isinstance(found, kind):
            return found
        other = f"{key[:-1]}{found.version}"
        message = f"{found} is an IPv{found.version} address"
        self.sheet.refuse(self.at(key), message, f"write it as {other} = ..., or correct it")
        return None

    def each(
        self, key: str, read: Callable[[Sheet, Path, object], _T | None], example: str
    ) -> tuple[_T, ...]:
        """The readable items of a list; the sheet remembers which those are."""
        value, path = self.value(key), self.at(key)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            self.mistyped(key, "a list", f"write {example}")
            return ()
        items = cast("list[object]", value)
        read_items = [(i, read(self.sheet, (*path, i), item)) for i, item in enumerate(items)]
        found = [(i, item) for i, item in read_items if item is not None]
        if len(found) < len(items):
            self.sheet.keep(path, tuple(i for i, _ in found))
        return tuple(item for _, item in found)

    def mistyped(self, key: str, wanted: str, hint: str) -> None:
        """Note that the value of `key` is of another type."""
        message = f"must be {wanted}, not {shown(self.value(key))}"
        self.sheet.refuse(self.at(key), message, hint)

    def _refuse_unknown(self, keys: tuple[str, ...]) -> None:
        from difflib import get_close_matches  # noqa: PLC0415 - 3 ms, only for a faulty file

        for key, value in self._data.items():
            if key in keys or value is None:
                continue
            near = get_close_matches(str(key)[:40].lower(), keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(keys)}"
            self.sheet.note((*self.path, str(key)), f"unknown key {quoted(str(key))}", hint)
            if near and self.value(near[0]) is None:
                self.sheet.mark(self.at(near[0]))


def table(sheet: Sheet, path: Path, data: object, keys: tuple[str, ...]) -> Table | None:
    """`data` as a table with these keys; None, and a note, if it is anything else."""
    if isinstance(data, Mapping):
        return Table(sheet, path, cast("Mapping[str, object]", data), keys)
    sheet.refuse(path, f"must be a table, not {shown(data)}", "write keys and values: name = ...")
    return None


def order(path: Path) -> tuple[int, ...]:
    """Sorts places as the schema lists their keys; unknown keys come first."""
    return tuple(p if isinstance(p, int) else _RANKS.get(p, -1) for p in path)


def read_version(top: Table) -> None:
    """Check the version; each file states its own."""
    top.require("version", f"version = {VERSION} at the top of the file")
    version = top.value("version")
    if version is None:
        return
    if isinstance(version, bool) or not isinstance(version, int):
        top.mistyped("version", "a whole number", f"write version = {VERSION}")
    elif version != VERSION:
        message = f"this nftbridge reads version {VERSION} only, not {shown(version)}"
        top.sheet.refuse(top.at("version"), message, f"write version = {VERSION}")


def read_options(top: Table, options: dict[str, Any], owners: dict[str, Sheet]) -> None:
    """Add what this file sets to `options` of a `Host`; `owners`: who set which key."""
    if top.value("host") is None:
        return
    host = table(top.sheet, top.at("host"), top.value("host"), HOST_KEYS)
    for key in HOST_KEYS if host is not None else ():
        if host is None or host.value(key) is None:
            continue
        owner = owners.setdefault(key, top.sheet)
        if owner is top.sheet:
            options[key] = _option(host, key)
        else:
            message = f"is set in {owner.name} already"
            top.sheet.refuse(host.at(key), message, "keep one of the two")


def _option(host: Table, key: str) -> object:
    """What stands under `key`; where that makes no sense, the default."""
    if key in FLAGS:
        return host.flag(key, default=getattr(_DEFAULTS, key))
    return _OPTIONS[key](host, key)


def _layout(host: Table, key: str) -> str:
    layout = host.text(key)
    if layout is not None and layout not in LAYOUTS:
        hint = f"write one of {', '.join(LAYOUTS)}"
        host.sheet.refuse(host.at(key), f"{quoted(layout)} is not a layout", hint)
    return _DEFAULTS.layout


def _mirrored(host: Table, key: str) -> bool | None:
    mirrored = host.value(key)
    if isinstance(mirrored, bool):
        return mirrored
    if mirrored != "auto":
        host.mistyped(key, 'true, false or "auto"', 'write true, false or "auto"')
    return None


def _mark(host: Table, key: str) -> Mark | None:
    value = host.value(key)
    if isinstance(value, str):
        return read_mark(value, host.sheet.refuser(host.at(key)))
    host.mistyped(key, "a string", f'write {key} = "0x1000/0x1000"')
    return None


def _priorities(host: Table, key: str) -> Priorities:
    found = table(host.sheet, host.at(key), host.value(key), PRIORITY_KEYS)
    wanted: dict[str, int] = {}
    for name in PRIORITY_KEYS if found is not None else ():
        value = None if found is None else found.value(name)
        if isinstance(value, int) and not isinstance(value, bool):
            wanted[name] = value
        elif value is not None and found is not None:
            found.mistyped(name, "a whole number", "write e.g. -5; smaller is earlier")
    return Priorities(**wanted)


def _protection(sheet: Sheet, path: Path, data: object) -> Protection | None:
    text = _string(sheet, path, data)
    found = None if text is None else _member(Protection, text)
    if text is not None and found is None:
        known = ", ".join(Protection)
        sheet.refuse(path, f"{shown(text)} is not a protection", f"write one of {known}")
    return found


_OPTIONS: dict[str, Callable[[Table, str], object]] = {
    "wsl2_mirrored": _mirrored,
    "layout": _layout,
    "accept_missing": lambda host, key: host.each(key, _protection, f'{key} = ["icc"]'),
    "ip_forward": lambda host, key: host.choice(key, IpForward.CHECK),
    "accept_mark": _mark,
    "trust_mark": _mark,
    "priorities": _priorities,
}
"""How each key of [host] that is no flag is read."""


def read_networks(top: Table) -> tuple[Network, ...]:
    """All readable networks of a file."""
    return top.each("network", _network, "[[network]] in two pairs of brackets")


def read_item(data: object) -> Publication | None:
    """One item of a list ``publish``; None if anything is wrong with it."""
    return _publication(Sheet(""), (), data)


def _network(sheet: Sheet, path: Path, data: object) -> Network | None:
    net = table(sheet, path, data, NETWORK_KEYS)
    if net is None:
        return None
    net.require("name", 'name = "frontend"')
    net.require("bridge", 'bridge = "br-front", the name of the Linux bridge')
    net.require("subnets", 'subnets = ["172.20.0.0/16"]')
    return Network(
        name=_or_unnamed(net.text("name")),
        bridge=_or_unnamed(net.text("bridge")),
        subnets=net.each("subnets", _subnet, 'subnets = ["172.20.0.0/16"]'),
        internal=net.flag("internal", default=False),
        icc=net.flag("icc", default=True),
        masquerade=net.flag("masquerade", default=True),
        gateway_mode_ipv4=net.choice("gateway_mode_ipv4", GatewayMode.NAT),
        gateway_mode_ipv6=net.choice("gateway_mode_ipv6", GatewayMode.NAT),
        host_ipv4=net.address("host_ipv4", IPv4Address),
        host_ipv6=net.address("host_ipv6", IPv6Address),
        trusted_host_interfaces=net.each(
            "trusted_host_interfaces", _string, 'trusted_host_interfaces = ["eth1"]'
        ),
        containers=net.each("container", _container, "[[network.container]], in two pairs"),
    )


def _container(sheet: Sheet, path: Path, data: object) -> Container | None:
    box = table(sheet, path, data, CONTAINER_KEYS)
    if box is None:
        return None
    box.require("name", 'name = "web"')
    return Container(
        name=_or_unnamed(box.text("name")),
        ipv4=box.address("ipv4", IPv4Address),
        ipv6=box.address("ipv6", IPv6Address),
        publish=box.each("publish", _publication, 'publish = ["8080:80"]'),
    )


def _publication(sheet: Sheet, path: Path, data: object) -> Publication | None:
    if isinstance(data, str):
        return read_publication(data, sheet.refuser(path))
    if isinstance(data, Mapping):
        keyed = Table(sheet, path, cast("Mapping[str, object]", data), PUBLICATION_KEYS)
        return _keyed_publication(keyed)
    hint = 'write e.g. "8080:80", or { host_port = 8080, container_port = 80 }'
    sheet.refuse(path, f"must be a string or a table, not {shown(data)}", hint)
    return None


def _keyed_publication(keyed: Table) -> Publication | None:
    sheet, path = keyed.sheet, keyed.path
    keyed.require("container_port", "container_port = 80")
    container, host = _ports(keyed, "container_port"), _ports(keyed, "host_port")
    text, name = keyed.text("host_address"), keyed.text("protocol")
    address: Address | None = None
    if text is not None:
        address = read_address(text, sheet.refuser(keyed.at("host_address")))
    protocol: Protocol | None = Protocol.TCP
    if name is not None:
        protocol = read_protocol(name, sheet.refuser(keyed.at("protocol")))
    if container is None or protocol is None or sheet.has_failed(path, or_below=True):
        return None
    return publication(container, host, address, protocol, sheet.refuser(path))


def _ports(keyed: Table, key: str) -> range | None:
    value = keyed.value(key)
    if value is None:
        return None
    return read_ports(value, key.replace("_", " "), keyed.sheet.refuser(keyed.at(key)))


def _subnet(sheet: Sheet, path: Path, data: object) -> Prefix | None:
    text = _string(sheet, path, data)
    return None if text is None else read_prefix(text, sheet.refuser(path))


def _string(sheet: Sheet, path: Path, data: object) -> str | None:
    if isinstance(data, str):
        return data
    sheet.refuse(path, f"must be a string, not {shown(data)}", "put it in quotes")
    return None


def _member(kind: type[_E], text: str) -> _E | None:
    return next((member for member in kind if member.value == text), None)


def _or_unnamed(text: str | None) -> str:
    """A name for messages where the file gives none; findings about it itself are dropped."""
    return "?" if text is None else text
