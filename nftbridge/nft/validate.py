"""The last look at elements before they go to libnftables, which ignores or crashes on wrong types.

Nothing that a host file says can fail here; what does is a fault of nftbridge, and better an error
than a set that silently lacks an element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from nftbridge.model import Family, interface_name_problem
from nftbridge.model.checks import LAST_PORT
from nftbridge.nft.lower import KernelSet
from nftbridge.policy.flat import FlatKey, Scalar

_PROTOCOLS = frozenset({"tcp", "udp", "sctp", "icmp", "ipv6-icmp"})


def check_values(kernel_set: KernelSet, rows: dict[FlatKey, FlatKey]) -> None:
    """Raise `ValueError` for the first value that the map's type cannot hold; a set has none.

    Values are looked at once each, however many rows they stand in.
    """
    if kernel_set.column is not None:
        values = {value[kernel_set.column] for value in rows.values()}
        _check(kernel_set.name, kernel_set.declaration.value, values)


def check_keys(kernel_set: KernelSet, keys: Iterable[FlatKey]) -> None:
    """The same for the columns of keys."""
    declaration = kernel_set.declaration
    columns = list(zip(*keys, strict=True))
    if not columns:
        return
    if kernel_set.family and set(columns[0]) != {kernel_set.family.value}:
        raise ValueError(f"a row of another family cannot be an element of {kernel_set.name}")
    kinds = dict(zip(kernel_set.order, declaration.key, strict=True))
    for place, column in zip(range(len(kernel_set.relation.key) + 1), columns, strict=True):
        if kind := kinds.get(place):
            prefix = declaration.interval and kind.endswith("_addr")
            _check(kernel_set.name, f"{kind} prefix" if prefix else kind, set(column))


def _check(name: str, kind: str, values: set[Scalar]) -> None:
    if kind == "inet_service" and values and _are_ports(values):
        return
    fits = _FITS[kind]
    for value in values:
        if not fits(value):
            raise ValueError(f"{value!r} is no {kind}, it cannot be an element of {name}")


def _are_ports(values: set[Scalar]) -> bool:
    """Whether all are: there may be ten thousand of them, in each of several maps."""
    numbers = [value for value in values if type(value) is int]  # not bool, an int as well
    if len(numbers) < len(values):
        return False
    return all(1 <= extreme <= LAST_PORT for extreme in (min(numbers), max(numbers)))


def _is_port(value: Scalar) -> bool:
    return _are_ports({value})


def _is_address(family: int, parser: Callable[[str], object]) -> Callable[[Scalar], bool]:
    """Whether a value is an address in canonical form: that of the C library, or of `ipaddress`."""
    of_ipaddress = _parsed_by(parser)

    @cache
    def fits(value: Scalar) -> bool:
        try:
            text = str(value)
            return inet_ntop(family, inet_pton(family, text)) == value or of_ipaddress(value)
        except (OSError, ValueError):  # e.g. a zero byte
            return False

    return fits


def _parsed_by(parser: Callable[[str], object]) -> Callable[[Scalar], bool]:
    """Whether a value is text in the canonical form of what `parser` makes of it.

    One address stands in many sets, and is parsed once.
    """

    @cache
    def fits(value: Scalar) -> bool:
        try:
            return isinstance(value, str) and str(parser(value)) == value
        except ValueError:
            return False

    return fits


@cache
def _is_interface(value: Scalar) -> bool:
    return isinstance(value, str) and interface_name_problem(value) is None


_FITS: dict[str, Callable[[Scalar], bool]] = {
    "nf_proto": lambda value: value in set(Family),
    "ifname": _is_interface,
    "inet_proto": lambda value: value in _PROTOCOLS,
    "inet_service": _is_port,
    "ipv4_addr": _is_address(AF_INET, IPv4Address),
    "ipv6_addr": _is_address(AF_INET6, IPv6Address),
    "ipv4_addr prefix": _parsed_by(IPv4Network),
    "ipv6_addr prefix": _parsed_by(IPv6Network),
}
