"""The door to conntrack: the end of the flows that an apply has revoked, and how that went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nftbridge import netns as namespaces
from nftbridge.conntrack.revoked import Revoked
from nftbridge.errors import NftbridgeError

_FOLLOWED = Path("/proc/sys/net/netfilter/nf_conntrack_count")


@dataclass(frozen=True, slots=True)
class Ended:
    """How many flows were ended, and what went wrong with the rest ("": nothing)."""

    count: int = 0
    problem: str = ""


def end(revoked: Revoked, netns: str | None) -> Ended:
    """End the flows in `netns` that `revoked` concerns; raises nothing, since the rules are in."""
    if not revoked:
        return Ended()
    try:
        with namespaces.inside(netns):
            return Ended(_end(revoked))
    except ImportError:
        return Ended(problem="pyroute2 is missing")
    except OSError as error:
        return Ended(problem=error.strerror or str(error))
    except NftbridgeError as error:
        return Ended(problem=str(error))


def _end(revoked: Revoked) -> int:
    if not _any_followed():
        return 0
    from nftbridge.conntrack import flows  # pyroute2 takes 0.1 s to import

    return flows.end(revoked)


def _any_followed() -> bool:
    """Whether the kernel follows any flow here, as far as it says."""
    try:
        return int(_FOLLOWED.read_text()) > 0
    except (OSError, ValueError):
        return True
