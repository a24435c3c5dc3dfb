"""Going through the table of features; and ``--backend auto``, which seldom has to."""

from __future__ import annotations

from nftbridge.errors import KernelRefusedError, UnavailableError
from nftbridge.nft import document
from nftbridge.nft.kernel import Kernel
from nftbridge.probe.catalogue import FEATURES
from nftbridge.probe.feature import Feature
from nftbridge.probe.found import Decision, Finding, Found, Obstacle, Presence, decide
from nftbridge.probe.helper import Helper, helper
from nftbridge.probe.trial import needs_privilege

_TABLE = "nftbridge-probe"
"""Never made: it stands in a dry run, where a table in use would meet its own content."""


def probe() -> Found:
    """Try every feature in a network namespace of its own, and leave nothing behind."""
    findings: dict[str, Finding] = {}
    obstacle: Obstacle | None = None
    waiting = list(FEATURES)
    while waiting:
        with helper() as made:
            obstacle = made.obstacle
            waiting = _go_through(waiting, made, findings)
    return Found(tuple(findings.values()), obstacle)


def auto(netns: str | None = None) -> Decision:
    """The backend for `netns`: nftables if it takes our whole ruleset, else as a probe decides.

    The former is a dry run of one document, a matter of 20 ms, and changes nothing. Raises
    `UnavailableError` if no backend can work, or if not enough is permitted to find out.
    """
    try:
        Kernel(_TABLE, netns).check(document.install(_TABLE, {}))
    except (KernelRefusedError, UnavailableError):
        return decide(probe())
    return Decision("nftables", "the kernel has all that nftables needs")


def _go_through(
    features: list[Feature], made: Helper, findings: dict[str, Finding]
) -> list[Feature]:
    """Put findings on `features` in; returns those that are left when the helper has ended."""
    for number, feature in enumerate(features):
        reason = _untriable(feature, made.obstacle, findings)
        finding = Finding(feature, Presence.UNKNOWN, reason) if reason else made.attempt(feature)
        if finding is None:
            reason = f"trying it ended the process with {made.end}"
            findings[feature.name] = Finding(feature, Presence.UNKNOWN, reason)
            return features[number + 1 :]
        findings[feature.name] = finding
    return []


def _untriable(feature: Feature, obstacle: Obstacle | None, findings: dict[str, Finding]) -> str:
    """Why it makes no sense to try a feature, "" if it does."""
    if obstacle is not None and needs_privilege(feature):
        return obstacle.message
    absent = [n for n in feature.needs if findings[n].presence is not Presence.PRESENT]
    return f"cannot be tried without {', '.join(absent)}" if absent else ""
