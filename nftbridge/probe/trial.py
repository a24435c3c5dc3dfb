"""Trying one feature for real; `enter_empty_namespace` first, and nothing outside is touched.

A kernel that loads modules on demand keeps those that a trial has asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.compat.tools import Tools, program_for
from nftbridge.errors import NftbridgeError
from nftbridge.nft.kernel import Kernel, check_binding
from nftbridge.probe.feature import BindingTrial, Feature, NftTrial, ProgramsTrial, RestoreTrial
from nftbridge.probe.found import Finding, Obstacle, Presence

_EINVAL = 22
_CAPABILITIES = {12: "CAP_NET_ADMIN", 13: "CAP_NET_RAW", 21: "CAP_SYS_ADMIN"}
"""By number (include/uapi/linux/capability.h): for nft, for iptables-legacy, for the namespace."""


def enter_empty_namespace() -> Obstacle | None:
    """Move this process into a network namespace that ends with it; or say why that cannot be."""
    held = _effective_capabilities()
    missing = [name for bit, name in _CAPABILITIES.items() if not held >> bit & 1]
    if missing:
        hint = f"run as root, or with {', '.join(_CAPABILITIES.values())}"
        return Obstacle(f"the kernel cannot be tried without {', '.join(missing)}", hint)
    number = namespaces.unshare()
    if number == 0:
        return None
    hint = "a kernel with CONFIG_NET_NS" if number == _EINVAL else "run as root, outside a sandbox"
    return Obstacle(f"cannot make a network namespace: {os.strerror(number)}", hint)


def attempt(feature: Feature) -> Finding:
    """Try a feature. Not being permitted is ruled out before, so a refusal is the kernel's lack."""
    try:
        _carry_out(feature)
    except NftbridgeError as error:
        return Finding(feature, Presence.MISSING, str(error).splitlines()[0])
    return Finding(feature, Presence.PRESENT)


def needs_privilege(feature: Feature) -> bool:
    """Whether it can be tried in a namespace of its own only."""
    return isinstance(feature.trial, NftTrial | RestoreTrial)


def _carry_out(feature: Feature) -> None:
    match feature.trial:
        case BindingTrial():
            check_binding()
        case ProgramsTrial(family, variant):
            for verb in ("restore", "save"):
                program_for(family, variant, verb)
        case NftTrial() as trial:
            Kernel(feature.name).commit(trial.commands(feature.name))
        case RestoreTrial(family, script, variant):
            Tools(variant).commit(family, script)


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return 0
