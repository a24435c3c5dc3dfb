"""An import as a host file."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import Any

from nftbridge import config
from nftbridge.docker.host import Import
from nftbridge.errors import UnavailableError
from nftbridge.model import Container, Host, Network, Publication
from nftbridge.notation import written


def as_json(found: Import) -> str:
    """The host file, every default spelled out. JSON has no place for remarks."""
    return json.dumps(config.host_to_data(found.host), indent=2) + "\n"


def as_toml(found: Import, source: str) -> str:
    """The host file, a network's defaults left out; comments name `source` and the remarks.

    Raises `UnavailableError` where the library that writes TOML is missing.
    """
    try:
        import tomli_w  # noqa: PLC0415 - JSON can do without
    except ImportError:
        hint = "pip install tomli-w, or --format json"
        raise UnavailableError("the Python library tomli-w is missing", hint=hint) from None
    remarks = (f"{remark.where}: {remark.message}" for remark in found.remarks)
    lines = (f"Made by `nftbridge import docker` from {source}.", *remarks)
    return f"{''.join(map(_comment, lines))}\n{tomli_w.dumps(_data(found.host)).rstrip()}\n"


def _comment(line: str) -> str:
    return f"# {line}\n" if line.isprintable() else f"# {line!r}\n"


def _data(host: Host) -> dict[str, Any]:
    """TOML has no null, so that what is unset has to be left out."""
    data: dict[str, Any] = config.host_to_data(host)
    data["host"] = {key: value for key, value in data["host"].items() if value is not None}
    usual = _usual()
    for network, table in zip(host.networks, data["network"], strict=True):
        for key in usual.keys() & table.keys():
            if table[key] == usual[key]:
                del table[key]
        if network.containers:
            table["container"] = [_container(container) for container in network.containers]
    return data


def _usual() -> dict[str, Any]:
    """What the optional keys of a network hold if nobody sets them."""
    plain = Network("plain", "plain", (IPv4Network("10.0.0.0/8"),))
    data: dict[str, Any] = config.host_to_data(Host((plain,)))
    required = {"name", "bridge", "subnets"}
    return {key: value for key, value in data["network"][0].items() if key not in required}


def _container(container: Container) -> dict[str, Any]:
    addresses = {"ipv4": container.ipv4, "ipv6": container.ipv6}
    table: dict[str, Any] = {"name": container.name}
    table |= {key: str(address) for key, address in addresses.items() if address is not None}
    if container.publish:
        table["publish"] = list(map(_publication, container.publish))
    return table


def _publication(publication: Publication) -> str | dict[str, Any]:
    """Docker's short syntax, which cannot say "this host address and no host port"."""
    if publication.host_port is not None or publication.host_address is None:
        return str(publication)
    first, count = publication.container_port, publication.count
    return {
        "host_address": str(publication.host_address),
        "container_port": first if count == 1 else written(range(first, first + count)),
        "protocol": publication.protocol.value,
    }
