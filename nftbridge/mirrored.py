"""``wsl2_mirrored = "auto"``, decided as Docker does: by looking at this machine."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.model import Host
from nftbridge.policy.derive import MIRRORED_INTERFACE

_WSL_TOOL = Path("/usr/bin/wslinfo")


def settled(host: Host, netns: str | None = None) -> Host:
    """`host` with ``wsl2_mirrored = "auto"`` decided, by the interfaces of `netns`."""
    if host.wsl2_mirrored is not None:
        return host
    with namespaces.inside(netns):
        try:
            socket.if_nametoindex(MIRRORED_INTERFACE)
        except OSError:
            return replace(host, wsl2_mirrored=False)
    return replace(host, wsl2_mirrored=_is_program(_WSL_TOOL))


def _is_program(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode) and os.access(path, os.X_OK)
    except OSError:
        return False
