"""Brings a host file and the facts of its host together."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace

from nftbridge import defaults
from nftbridge.choice import Choice, Target
from nftbridge.doctor.asking import complete
from nftbridge.doctor.case import Case
from nftbridge.doctor.diagnoses import examine
from nftbridge.doctor.facts import Facts
from nftbridge.doctor.finding import Finding
from nftbridge.doctor.gather import gather
from nftbridge.doctor.passage import Met, meetings
from nftbridge.doctor.traffic import Traffic, asked, traffic, translated_ports
from nftbridge.engine import Engine
from nftbridge.errors import InputError, Problem
from nftbridge.explain.question import Typed
from nftbridge.mirrored import settled
from nftbridge.model import Host
from nftbridge.nft.read import BASELINE_CHAIN
from nftbridge.plan import Plan
from nftbridge.report import summary


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found; `asked` and `met` are there if somebody asked about a packet.

    `assumed` are the words of the question that were left out.
    """

    facts: Facts
    findings: tuple[Finding, ...]
    asked: Traffic | None = None
    met: tuple[Met, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        """Whether something has to be mended."""
        return any(finding.severity.wrong for finding in self.findings)


def run(
    target: Target,
    at: tuple[Engine, Choice],
    declared: tuple[Host, str] | None,
    question: Typed | None,
) -> Examined:
    """Examine the host in `target`. `declared` is the host file with its name (None: as applied).

    Of a question, source and protocol may be "". Raises `UnavailableError` if not enough is
    permitted, `InputError` if there is no host to go by or the question is wrong.
    """
    engine, choice = at
    host, file = declared or (engine.status().applied, engine.last_path())
    if host is None:
        hint = "give the host file: nftbridge doctor FILE"
        raise InputError((Problem("FILE", "no apply is on record", hint),))
    host = settled(host, target.netns)
    drift = engine.plan(host) if declared else engine.verify()
    facts = replace(
        gather(host, target.netns, target.table),
        backend=choice.backend.name,
        drift=_difference(drift.of_rules()),
        again=_again(target, choice, file) if os.path.exists(file) else "",
    )
    if question is None:
        found = tuple(traffic(host, facts, translated_ports(facts.tables)))
        return Examined(facts, examine(Case(host, facts, found)))
    complete_question, assumed = complete(question, host, facts)
    about = asked(host, facts, complete_question)
    case = Case(host, facts, (about,))
    met = (*case.closed, *meetings((about,), facts.tables, case.marking, facts.ports))
    return Examined(facts, examine(case), about, met, assumed)


def _difference(plan: Plan) -> str:
    """How the kernel differs from the host file; the boot baseline is a finding of its own."""
    reasons = [reason for reason in plan.install if BASELINE_CHAIN not in reason]
    if reasons:
        return reasons[0]
    return summary(plan) if plan.added or plan.removed else ""


def _again(target: Target, choice: Choice, file: str) -> str:
    words = ["nftbridge", "apply", file]
    if target.netns is not None:
        words += ["--netns", target.netns]
    if target.table != defaults.TABLE:
        words += ["--table", target.table]
    if target.state_directory != defaults.STATE_DIRECTORY:
        words += ["--state-dir", str(target.state_directory)]
    if choice.backend.name != "nftables":
        words += ["--backend", "iptables"]
    if choice.backend.name == "iptables-nft":
        words += ["--iptables", "nft"]
    return shlex.join(words)
