"""The user's own rules, as the kernel holds them: what they do to a packet in DOCKER-USER.

A rule that cannot be understood is a doubt: it is taken not to match, and the answer is uncertain
from there on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from nftbridge.explain.matching import Seen, Sets, holds
from nftbridge.nft.syntax import Json, is_list, is_object
from nftbridge.policy.evaluate import Step
from nftbridge.policy.program import Final, Jump, Rule
from nftbridge.translate.chains import Statement, Translated

_SILENT = frozenset({"counter", "log", "mangle", "notrack"})
"""Statements after which the packet goes on as if they were not there."""

_GATES = frozenset({"match", "limit", "quota", "ct count", "set", "map", "unknown match"})
"""Statements that can only keep a rule from being carried out, never decide by themselves."""

_FINAL = {
    "accept": Final.ACCEPT,
    "drop": Final.DROP,
    "reject": Final.DROP,
    "return": Final.RETURN,
}
_BARE = ("iifname", "oifname", "iif", "oif")  # nft prints these without "meta"
_JUMPS = ("jump", "goto")


@dataclass(frozen=True, slots=True)
class UserRule:
    """A rule in the user's words: `statements` are nft's, each with the words for it.

    `position` counts from 1; `problem` is why it cannot be understood as a whole, if so.
    """

    position: int
    text: str
    statements: tuple[tuple[Json, str], ...]
    problem: str = ""


def nft_rules(listed: Mapping[str, Sequence[Json]]) -> dict[str, tuple[UserRule, ...]]:
    """The rules of a table by chain, as libnftables lists them."""
    return {
        chain: tuple(_nft_rule(number, rule) for number, rule in enumerate(rules, start=1))
        for chain, rules in listed.items()
    }


def iptables_rules(translated: Translated) -> dict[str, tuple[UserRule, ...]]:
    """The rules that iptables lists, in their own words, and with what could not be translated."""
    found: dict[str, list[UserRule]] = {name: [] for name in translated.rules}
    for name, rules in translated.rules.items():
        found[name] += (UserRule(r.line, r.text, _pairs(r.statements)) for r in rules)
    for refused in translated.refused:
        unknown: Json = {"unknown verdict" if refused.decides else "unknown match": None}
        statements = (*_pairs(refused.understood), (unknown, refused.words))
        problem = f"{refused.words}: {refused.reason}"
        rule = UserRule(refused.line, refused.text, statements, problem)
        found[refused.chain].append(rule)
    return {name: tuple(sorted(rules, key=_position)) for name, rules in found.items()}


@dataclass(slots=True)
class UserRules:
    """The rules and sets of a table, and what was not understood of them so far."""

    rules: Mapping[str, Sequence[UserRule]]
    sets: Sets
    doubts: list[str] = field(default_factory=list[str])

    def run(self, chain: str, seen: Seen, steps: list[Step]) -> Final:
        """Accept, drop, or return if neither; adds the rules that matched to `steps`."""
        for rule in self.rules.get(chain, ()):
            statement = self._carried_out(chain, rule, seen)
            if statement is None:
                continue
            ((kind, body),) = statement.items()
            verdict = Jump(body["target"]) if kind in _JUMPS else _FINAL[kind]
            said = Rule(f"rule {rule.position}", (), verdict, rule.text)
            steps.append(Step(chain, said))
            if isinstance(verdict, Final):
                return verdict
            decided = self.run(verdict.chain, seen, steps)
            if decided is not Final.RETURN or kind == "goto":
                return decided
        return Final.RETURN

    def _carried_out(self, chain: str, rule: UserRule, seen: Seen) -> Json | None:
        """The verdict statement of a rule that matches; None if it does not match or has none."""
        odd: tuple[Json, str] | None = None
        for statement, words in rule.statements:
            kind = next(iter(statement))
            if kind == "match":
                truth = holds(statement["match"], seen, self.sets)
                if truth is False:
                    return None
                odd = odd if truth else (statement, words)
            elif kind in _FINAL or kind in _JUMPS:
                if odd is None:
                    return statement
                break
            elif kind not in _SILENT:
                odd = (statement, words)
        else:
            if odd is None or next(iter(odd[0])) in _GATES:
                return None
        self._doubt(chain, rule, odd[1])
        return None

    def _doubt(self, chain: str, rule: UserRule, words: str) -> None:
        told = (
            f"rule {rule.position} of {chain} ({rule.text}) cannot be understood:"
            f" {rule.problem or words}"
        )
        if told not in self.doubts:
            self.doubts.append(told)


def _nft_rule(position: int, rule: Json) -> UserRule:
    statements = cast("list[Json]", rule["expr"])
    return UserRule(position, rule_text(rule), tuple((s, statement_text(s)) for s in statements))


def _pairs(statements: Iterable[Statement]) -> tuple[tuple[Json, str], ...]:
    return tuple((s.json, s.words or statement_text(s.json)) for s in statements)


def _position(rule: UserRule) -> int:
    return rule.position


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
    "&": lambda body: " & ".join(map(_text, body)),
    "numgen": lambda body: f"numgen {body['mode']} mod {body['mod']}",
    "concat": lambda body: " . ".join(map(_text, body)),
    "set": lambda body: f"{{ {', '.join(map(_text, body if is_list(body) else [body]))} }}",
}
