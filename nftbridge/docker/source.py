"""Where an import gets what Docker said: as the options name it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nftbridge.docker import api, files, process
from nftbridge.docker.host import Inspected
from nftbridge.docker.process import Started
from nftbridge.errors import InputError, Problem

_SAVE = "docker {0} inspect $(docker {0} ls -q) prints it"


@dataclass(frozen=True, slots=True)
class Named:
    """The options of that sort, None where one is not given: a socket, a folder, two files."""

    docker: str | None = None
    folder: str | None = None
    networks: str | None = None
    containers: str | None = None


def gathered(named: Named, environment: Mapping[str, str]) -> tuple[Inspected, str]:
    """What Docker said, and who told it. Raises `InputError` and `UnavailableError`."""
    saved = {"--networks": named.networks, "--containers": named.containers}
    ways = [named.docker, named.folder, named.networks or named.containers]
    if sum(way is not None for way in ways) > 1:
        message = "--docker, --from, and --networks with --containers exclude one another"
        raise InputError((Problem("", message, "choose one of the three"),))
    if named.folder is not None:
        return files.from_folder(named.folder), named.folder
    if named.networks is not None and named.containers is not None:
        told = files.from_files(named.networks, named.containers)
        return told, f"{named.networks} and {named.containers}"
    for option in saved if any(saved.values()) else ():
        if saved[option] is None:
            hint = _SAVE.format(option.strip("-").removesuffix("s"))
            raise InputError((Problem(option, "is missing beside the other file", hint),))
    return api.ask(api.socket_path(named.docker, environment))


def started(named: Named, environment: Mapping[str, str]) -> Started:
    """What the Engine that is asked was started with; nothing is known of one that is not there."""
    if named.folder or named.networks or named.containers:
        return Started()
    return process.started(api.socket_path(named.docker, environment))
