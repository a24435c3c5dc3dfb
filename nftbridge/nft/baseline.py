"""The boot baseline: until the first apply, nothing is forwarded into or out of the bridges.

A chain of its own in our table. Every apply that lists the table finds it, and takes it out in the
transaction that brings the rules in, so that there is no moment without either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nftbridge.nft.document import Command
from nftbridge.nft.kernel import Kernel
from nftbridge.nft.read import BASELINE_CHAIN, parse
from nftbridge.nft.syntax import BaseHook, ChainDeclaration, Counter, Match, Meta, RuleLine, Verdict
from nftbridge.policy.rules import FILTER_FORWARD

_CHAIN = ChainDeclaration(BASELINE_CHAIN, BaseHook("filter", "forward", -10))
"""Where it stands does not matter: a drop is final in whatever chain it happens."""


def script(table: str, bridges: Sequence[str]) -> str:
    """Text for ``nft -f``. `bridges` are interface names, or beginnings of some with a final ``*``.

    Over an earlier baseline it takes its place. Over the rules of an apply it closes everything
    until the next one.
    """
    lines = [f"add table inet {table}"]
    lines.append(f"add chain inet {table} {_CHAIN.name} {{ {_CHAIN.text()} }}")
    lines.append(f"flush chain inet {table} {_CHAIN.name}")
    lines += [f"add rule inet {table} {rule.chain} {rule.text()}" for rule in _rules(bridges)]
    return "\n".join([*lines, ""])


def load(table: str, netns: str | None, bridges: Sequence[str]) -> bool:
    """Load it in one transaction; False, and nothing was done, if the rules of an apply are there.

    To be called with the lock of the state held.
    """
    kernel = Kernel(table, netns)
    objects = kernel.objects()
    if objects is not None and FILTER_FORWARD.name in parse(objects).chains:
        return False
    kernel.commit(commands(table, bridges))
    return True


def commands(table: str, bridges: Sequence[str]) -> list[Command]:
    """The same as `script`."""
    spot = {"family": "inet", "table": table, "name": _CHAIN.name}
    return [
        {"add": {"table": {"family": "inet", "name": table}}},
        {"add": _CHAIN.json(table)},
        {"flush": {"chain": spot}},
        *({"add": rule.json(table)} for rule in _rules(bridges)),
    ]


def _rules(bridges: Sequence[str]) -> Iterator[RuleLine]:
    """Two rules for all names, two for each beginning: a set of both takes nft 1.0.3."""
    names = tuple(name for name in bridges if not name.endswith("*"))
    for matched in (*([names] if names else []), *((b,) for b in bridges if b not in names)):
        for key in ("iifname", "oifname"):
            statements = (Match(Meta(key), matched), Counter(), Verdict("drop"))
            yield RuleLine(_CHAIN.name, statements, "baseline")
