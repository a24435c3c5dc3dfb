"""The host model: bridge networks, their containers and what they publish. Frozen, without effects.

`parts` holds the nouns, `checks` every rule that a consistent host obeys, `host` the `Host` itself,
which cannot be built in violation of them. The written schema is in README.md.
"""

from __future__ import annotations

from nftbridge.model.checks import (
    Finding,
    host_findings,
    interface_name_problem,
    option_findings,
)
from nftbridge.model.host import Host
from nftbridge.model.parts import (
    Address,
    Container,
    Family,
    GatewayMode,
    IpForward,
    Mark,
    Network,
    Prefix,
    Priorities,
    Protocol,
    Publication,
    counted,
)

__all__ = [
    "Address",
    "Container",
    "Family",
    "Finding",
    "GatewayMode",
    "Host",
    "IpForward",
    "Mark",
    "Network",
    "Prefix",
    "Priorities",
    "Protocol",
    "Publication",
    "counted",
    "host_findings",
    "interface_name_problem",
    "option_findings",
]
