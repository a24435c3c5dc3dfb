"""The user's own rules, as the table lists them: what they do to a packet in DOCKER-USER.

A rule that cannot be understood is a doubt: it is taken not to match, and the answer is uncertain
from there on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from nftbridge.explain.matching import Seen, Sets, holds
from nftbridge.nft.syntax import Json, is_list, is_object
from nftbridge.policy.evaluate import Step
from nftbridge.policy.program import Final, Jump, Rule

_SILENT = frozenset({"counter", "log", "mangle", "notrack"})
"""Statements after which the packet goes on as if they were not there."""

_GATES = frozenset({"match", "limit", "quota", "ct count", "set", "map"})
"""Statements that can only keep a rule from being carried out, never decide by themselves."""

_FINAL = {
    "accept": Final.ACCEPT,
    "drop": Final.DROP,
    "reject": Final.DROP,
    "return": Final.RETURN,
}
_BARE = ("iifname", "oifname", "iif", "oif")  # nft prints these without "meta"
_JUMPS = ("jump", "goto")


@dataclass(slots=True)
class UserRules:
    """The rules and sets of a table, and what was not understood of them so far."""

    rules: Mapping[str, list[Json]]
    sets: Sets
    doubts: list[str] = field(default_factory=list[str])

    def run(self, chain: str, seen: Seen, steps: list[Step]) -> Final:
        """Accept, drop, or return if neither; adds the rules that matched to `steps`."""
        for position, rule in enumerate(self.rules.get(chain, []), start=1):
            statement = self._carried_out(chain, position, rule, seen)
            if statement is None:
                continue
            ((kind, body),) = statement.items()
            verdict = Jump(body["target"]) if kind in _JUMPS else _FINAL[kind]
            said = Rule(f"rule {position}", (), verdict, rule_text(rule))
            steps.append(Step(chain, said))
            if isinstance(verdict, Final):
                return verdict
            decided = self.run(verdict.chain, seen, steps)
            if decided is not Final.RETURN or kind == "goto":
                return decided
        return Final.RETURN

    def _carried_out(self, chain: str, position: int, rule: Json, seen: Seen) -> Json | None:
        """The verdict statement of a rule that matches; None if it does not match or has none."""
        odd: Json | None = None
        for statement in cast("list[Json]", rule["expr"]):
            kind = next(iter(statement))
            if kind == "match":
                truth = holds(statement["match"], seen, self.sets)
                if truth is False:
                    return None
                odd = odd if truth else statement
            elif kind in _FINAL or kind in _JUMPS:
                if odd is None:
                    return statement
                break
            elif kind not in _SILENT:
                odd = statement
        else:
            if odd is None or next(iter(odd)) in _GATES:
                return None
        self._doubt(chain, position, rule, odd)
        return None

    def _doubt(self, chain: str, position: int, rule: Json, odd: Json) -> None:
        told = (
            f"rule {position} of {chain} ({rule_text(rule)}) cannot be understood:"
            f" {statement_text(odd)}"
        )
        if told not in self.doubts:
            self.doubts.append(told)


def rule_text(rule: Json) -> str:
    """A rule about as nft prints it, with its comment and handle."""
    words = [statement_text(statement) for statement in rule["expr"]]
    comment = [f'comment "{rule["comment"]}"'] if rule.get("comment") else []
    handle = [f"# handle {rule['handle']}"] if "handle" in rule else []
    return " ".join([*words, *comment, *handle])


def statement_text(statement: Json) -> str:
    """A statement about as nft prints it; JSON where this knows no better."""
    ((kind, body),) = statement.items()
    if kind == "match":
        operator = "" if body["op"] in ("==", "in") else f"{body['op']} "
        return f"{_text(body['left'])} {operator}{_text(body['right'])}"
    if kind in _JUMPS:
        return f"{kind} {body['target']}"
    if kind in _FINAL or kind in ("counter", "log", "notrack"):
        return kind
    if kind == "limit" and {"rate", "per"} <= body.keys():
        return f"limit rate {body['rate']}/{body['per']}"
    return json.dumps(statement)


def _text(node: Any) -> str:
    if is_object(node) and len(node) == 1:
        ((kind, body),) = node.items()
        if kind in _WORDINGS:
            return _WORDINGS[kind](body)
    if is_list(node):
        return ",".join(map(_text, node))
    return str(node) if isinstance(node, str | int) else json.dumps(node)


_WORDINGS: dict[str, Callable[[Any], str]] = {
    "payload": lambda body: f"{body.get('protocol')} {body.get('field')}",
    "meta": lambda body: f"{'' if body['key'] in _BARE else 'meta '}{body['key']}",
    "ct": lambda body: " ".join(("ct", *([body["dir"]] if "dir" in body else []), body["key"])),
    "prefix": lambda body: f"{body['addr']}/{body['len']}",
    "range": lambda body: "-".join(map(str, body)),
    "concat": lambda body: " . ".join(map(_text, body)),
    "set": lambda body: f"{{ {', '.join(map(_text, body if is_list(body) else [body]))} }}",
}
