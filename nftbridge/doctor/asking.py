"""The packet that somebody asks about, and what is likely of what was left out of it."""

from __future__ import annotations

from dataclasses import replace

from nftbridge.doctor.facts import Facts
from nftbridge.doctor.traffic import sender
from nftbridge.errors import InputError, Problem
from nftbridge.explain.question import Question, Typed, read
from nftbridge.model import Host

_ANYBODY = {4: "192.0.2.1", 6: "2001:db8::1"}


def complete(typed: Typed, host: Host, facts: Facts) -> tuple[Question, tuple[str, ...]]:
    """The question, and what of it was assumed; the protocol or the source may be "".

    Raises `InputError` with everything that is wrong with it.
    """
    assumed: list[str] = []
    if not typed.protocol:
        if typed.port is None:
            hint = "give --dport PORT for tcp, or --proto icmp"
            raise InputError((Problem("--proto", "there is no protocol and no port", hint),))
        typed = replace(typed, protocol="tcp")
        assumed.append("--proto tcp")
    if typed.source:
        question = read(typed)
    else:
        question = read(replace(typed, source=_ANYBODY[6 if ":" in typed.destination else 4]))
        question = replace(question, source=sender(question, host, facts))
        assumed.append(f"--src {question.source}")
    own = question.host_addresses or frozenset(facts.addresses)
    way_out = question.oif or facts.route_to(question.destination)
    return replace(question, host_addresses=own, oif=way_out), tuple(assumed)
