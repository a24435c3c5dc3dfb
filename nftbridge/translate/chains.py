"""DOCKER-USER and the user's chains below it, translated line by line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product, repeat
from typing import TypeAlias

from nftbridge.compat.lower import chain_name
from nftbridge.compat.tree import is_subchain
from nftbridge.model import Family
from nftbridge.nft.syntax import Json
from nftbridge.policy.rules import CHAINS, DOCKER_USER, NAMES
from nftbridge.translate.line import Line, Part, RefusedError, jump_of, parse
from nftbridge.translate.matches import comment_of, counts, translate_match
from nftbridge.translate.nodes import match, meta
from nftbridge.translate.targets import translate_target
from nftbridge.translate.values import Context

Lines: TypeAlias = Mapping[str, Sequence[str]]
"""The chains of one table in one family, each with its lines, as text behind ``-A CHAIN``."""

COMMENT_BYTES = 127
"""How long nft's comments may be; those of iptables can be twice that."""

_CUT = "…"
_ETHERNET = "ether"
_GOES_ON = frozenset({"", "LOG", "MARK", "NFLOG", "CONNMARK", "CLASSIFY", "TCPMSS", "TRACE"})
"""Targets after which a packet goes on to the next rule (XT_CONTINUE), translated or not."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of nft's, and the words that it was made of ("" for what we add)."""

    json: Json
    words: str


@dataclass(frozen=True, slots=True)
class TranslatedRule:
    """A rule of nft's. `line` counts from 1; a line may have become several rules in a row."""

    line: int
    text: str
    statements: tuple[Statement, ...]
    comment: str

    def json(self, table: str, chain: str) -> Json:
        """As libnftables adds it to a chain of ``table inet``."""
        expressions = [statement.json for statement in self.statements]
        body: Json = {"family": "inet", "table": table, "chain": chain, "expr": expressions}
        return {"rule": body | ({"comment": self.comment} if self.comment else {})}


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be translated, with the offending words and why.

    `understood` are its matches that can be; `decides` is False if its target, whatever it is for,
    lets every packet go on.
    """

    chain: str
    line: int
    text: str
    words: str
    reason: str
    understood: tuple[Statement, ...] = ()
    decides: bool = True

    def __str__(self) -> str:
        return f"rule {self.line} of {self.chain} ({self.text}): {self.words}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Translated:
    """The chains that DOCKER-USER reaches, itself included, and what was refused of them."""

    family: Family
    rules: Mapping[str, tuple[TranslatedRule, ...]]
    refused: tuple[Refused, ...]


def translate(chains: Lines, family: Family) -> Translated:
    """The user's rules in nft: DOCKER-USER among `chains`, and whatever of theirs it jumps to."""
    rules: dict[str, tuple[TranslatedRule, ...]] = {}
    refused: list[Refused] = []
    known = frozenset(filter(is_users, chains))
    waiting = [DOCKER_USER] if DOCKER_USER in chains else []
    while waiting:
        name = waiting.pop(0)
        made = [
            _translated(_Place(name, number, text), family, known)
            for number, text in enumerate(chains[name], start=1)
        ]
        rules[name] = tuple(r for one in made if not isinstance(one, Refused) for r in one)
        refused += [one for one in made if isinstance(one, Refused)]
        below = filter(known.__contains__, map(jump_of, chains[name]))
        waiting += [n for n in dict.fromkeys(below) if n not in (*rules, *waiting)]
    return Translated(family, rules, tuple(refused))


def is_users(chain: str) -> bool:
    """Whether a chain of that name can be the user's: it has no name of ours, on any backend."""
    ours = NAMES.union(map(chain_name, CHAINS)) - {DOCKER_USER}
    return chain not in ours and not is_subchain(chain)


@dataclass(frozen=True, slots=True)
class _Place:
    """A line as it is listed, and where it stands."""

    chain: str
    number: int
    text: str

    def refused(self, problem: RefusedError) -> Refused:
        """Say that the line cannot be translated."""
        return Refused(self.chain, self.number, self.text, problem.words, problem.reason)


def _translated(
    place: _Place, family: Family, chains: Collection[str]
) -> tuple[TranslatedRule, ...] | Refused:
    """The rules that a line becomes; `chains` are those that it may jump to."""
    try:
        line = parse(place.text)
    except RefusedError as error:
        return place.refused(error)
    context = Context.of(line, family)
    problems: list[RefusedError] = []
    choices = [_alternatives(part, context, problems) for part in line.matches]
    ways = [_matches(choice, context) for choice in product(*choices)]
    target = _target(line, context, chains, problems)
    problems += _miscounting(line, choices)
    if problems:
        understood = ways[0] if len(ways) == 1 else ()
        decides = line.jump in chains or line.jump not in _GOES_ON
        return replace(place.refused(problems[0]), understood=understood, decides=decides)
    comment, end = _comment(line), (Statement({"counter": None}, ""), *target)
    return tuple(TranslatedRule(place.number, place.text, (*w, *end), comment) for w in ways)


def _alternatives(
    part: Part, context: Context, problems: list[RefusedError]
) -> list[list[Statement]]:
    try:
        found = translate_match(part, context)
    except RefusedError as error:
        problems.append(error)
        return [[]]
    # iptables' own matches are asked one by one, and a node is one of them
    words = [str(option) for option in part.options] if not part.name else repeat(str(part))
    return [[Statement(*pair) for pair in zip(nodes, words, strict=False)] for nodes in found]


def _miscounting(line: Line, choices: Sequence[list[list[Statement]]]) -> Iterator[RefusedError]:
    """Why what counts the packets that come to it would count others in nft.

    nft moves questions about headers that follow each other to the first of them, across what
    stands in between; and it lists none about the protocol that a later one implies.
    """
    counting: Part | None = None
    for part, choice in zip(line.matches, choices, strict=True):
        if counting is not None and any(_header_of(s) for way in choice for s in way):
            reason = f"nft may ask what stands behind it before it: put {part} first"
            yield RefusedError(str(counting), reason)
        counting = part if counts(part) else counting
    if counting is not None and any(len(choice) > 1 for choice in choices):
        yield RefusedError(str(counting), "nft needs two rules, each of which counts by itself")


def _header_of(statement: Statement) -> str:
    """The header that a match looks into, "" if none."""
    left = statement.json.get("match", {}).get("left", {})
    (field,) = left.get("&", [left])[:1]
    return str(field.get("payload", {}).get("protocol", ""))


def _target(
    line: Line, context: Context, chains: Collection[str], problems: list[RefusedError]
) -> tuple[Statement, ...]:
    if line.target is None:
        return ()
    try:
        found = translate_target(line.target, context, chains)
    except RefusedError as error:
        problems.append(error)
        return ()
    return (Statement(found, str(line.target)),)


def _matches(choice: Iterable[Sequence[Statement]], context: Context) -> tuple[Statement, ...]:
    """The matches of a rule; where no header's field does, one says for which family it is.

    The Ethernet header is the last one: nft would take the family of others from there.
    """
    matches = list(chain.from_iterable(choice))
    headers = list(map(_header_of, matches))
    if _ETHERNET in headers:
        last = max(number for number, header in enumerate(headers) if header)
        moved = [s for s in matches if _header_of(s) == _ETHERNET]
        before = [s for s in matches[: last + 1] if s not in moved]
        matches = [*before, *moved, *matches[last + 1 :]]
    if context.header in headers:
        return tuple(matches)
    return (Statement(match(meta("nfproto"), context.family.value), ""), *matches)


def _comment(line: Line) -> str:
    """The line's comment as nft can have it: shorter, and without what ends a string or a line."""
    text = comment_of(line).replace('"', "'").replace("\n", " ")
    if len(text.encode()) <= COMMENT_BYTES:
        return text
    cut = text.encode()[: COMMENT_BYTES - len(_CUT.encode())]
    return cut.decode(errors="ignore") + _CUT
