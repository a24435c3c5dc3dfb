"""What ``docker network inspect`` and ``docker container inspect`` printed, from files."""

from __future__ import annotations

import os

from nftbridge import config
from nftbridge.docker.containers import container_of
from nftbridge.docker.host import Inspected
from nftbridge.docker.item import Item
from nftbridge.docker.networks import network_of

NETWORKS, CONTAINERS, INFO = "networks.json", "containers.json", "info.json"
"""The files of a folder; the last, which ``docker info --format json`` prints, may be missing."""

_FAILED = "the command that was to fill it has failed: save it again, and see what that says"
_NONE = f"if no container is running, write [] into it; else {_FAILED}"
"""``docker container inspect $(docker container ls -q)`` prints nothing where none is running."""


def from_folder(folder: str) -> Inspected:
    """The files of a folder. Raises `InputError`."""
    info = os.path.join(folder, INFO)
    return from_files(
        os.path.join(folder, NETWORKS),
        os.path.join(folder, CONTAINERS),
        info if os.path.exists(info) else None,
    )


def from_files(networks: str, containers: str, info: str | None = None) -> Inspected:
    """The files at these paths. Raises `InputError`."""
    return Inspected(
        tuple(map(network_of, _document(networks).elements())),
        tuple(map(container_of, _document(containers, _NONE).elements())),
        Item(None, "info") if info is None else _document(info),
    )


def _document(path: str, if_empty: str = _FAILED) -> Item:
    return Item(config.read_json(path, if_empty), path)
