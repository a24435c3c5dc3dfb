"""The table of features."""

from __future__ import annotations

from nftbridge.probe.feature import Feature
from nftbridge.probe.iptables import IPTABLES
from nftbridge.probe.nftables import NFTABLES

FEATURES: tuple[Feature, ...] = (*NFTABLES, *IPTABLES)
"""All of them; whatever a feature needs stands before it."""

BY_NAME = {feature.name: feature for feature in FEATURES}
