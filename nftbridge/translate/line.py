"""One line as iptables-save lists it, taken apart: iptables' own matches, modules, the target."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_WORD = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^\s"]+))(?=\s|$)')
_ESCAPED = re.compile(r"\\(.)")
_FREE_TEXT = frozenset({"--comment", "--log-prefix"})
"""Options whose value may look like an option."""

_JUMPS = ("-j", "-g")


class RefusedError(Exception):
    """Words of a line that cannot be translated, and why."""

    def __init__(self, words: str, reason: str) -> None:
        super().__init__(f"{words}: {reason}")
        self.words = words
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Option:
    """An option with its values; `! ` before it negates it."""

    name: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        return " ".join((*(["!"] if self.negated else []), self.name, *self.values))

    @property
    def value(self) -> str:
        """Its one value."""
        if len(self.values) != 1:
            raise RefusedError(str(self), "takes one value")
        return self.values[0]

    def flag(self) -> None:
        """Make sure that it has no value and is not negated."""
        if self.values or self.negated:
            raise RefusedError(str(self), "takes no value")


@dataclass(frozen=True, slots=True)
class Part:
    """A module or a target with its options; iptables' own matches have the name ""."""

    name: str
    options: tuple[Option, ...] = ()
    switch: str = "-m"

    def __str__(self) -> str:
        head = (self.switch, self.name) if self.name else ()
        return " ".join((*head, *map(str, self.options)))


@dataclass(frozen=True, slots=True)
class Line:
    """A rule: its matches in their order, and where the packet goes (None: nowhere)."""

    matches: tuple[Part, ...]
    target: Part | None

    @property
    def jump(self) -> str:
        """The target's name, "" if there is none."""
        return self.target.name if self.target else ""


class _Word(NamedTuple):
    text: str
    quoted: bool

    @property
    def is_option(self) -> bool:
        return not self.quoted and self.text.startswith("-")


def parse(text: str) -> Line:
    """Take apart what stands behind ``-A CHAIN``; raises `RefusedError` for what is no rule."""
    words = list(_words(text))
    starts = [i for i in range(len(words)) if _starts(words, i)]
    ends = [*starts, len(words)][1:]
    own = words[: starts[0]] if starts else words
    parts = [Part("", _options(own))] if own else []
    parts += [_part(words[start:end]) for start, end in zip(starts, ends, strict=True)]
    last = parts[-1] if parts else None
    target = last if last and last.switch != "-m" else None
    matches = tuple(parts[:-1] if target else parts)
    for part in matches:
        if part.switch != "-m":
            raise RefusedError(str(part), "a target stands at the end of a line")
    return Line(matches, target)


def jump_of(text: str) -> str:
    """The chain or target that a line leads to; "" if none, or if the line cannot be read.

    Whatever else the line has may be unknown here.
    """
    try:
        words = list(_words(text))
    except RefusedError:
        return ""
    jumps = (i for i in range(len(words) - 1) if _starts(words, i) and words[i].text in _JUMPS)
    return next((words[i + 1].text for i in jumps), "")


def _words(text: str) -> Iterator[_Word]:
    place = 0
    while text[place:].strip():
        found = _WORD.match(text, place)
        if found is None:
            raise RefusedError(text[place:].strip(), "a quotation mark is left open")
        quoted, plain = found.groups()
        if plain is None:
            yield _Word(_ESCAPED.sub(r"\1", quoted), quoted=True)
        else:
            yield _Word(plain, quoted=False)
        place = found.end()


def _starts(words: Sequence[_Word], place: int) -> bool:
    """Whether a module or a target begins there, and not the value of a free-text option."""
    before = words[place - 1] if place else None
    is_value = before is not None and before.is_option and before.text in _FREE_TEXT
    word = words[place]
    return word.is_option and word.text in ("-m", *_JUMPS) and not is_value


def _part(words: Sequence[_Word]) -> Part:
    if len(words) < 2:
        raise RefusedError(words[0].text, "takes a name")
    return Part(words[1].text, _options(words[2:]), words[0].text)


def _options(words: Sequence[_Word]) -> tuple[Option, ...]:
    found: list[Option] = []
    negated = False
    for word in words:
        last = found[-1] if found else None
        is_value = last is not None and last.name in _FREE_TEXT and not last.values
        if word == ("!", False) and not is_value:
            negated = True
        elif word.is_option and not is_value:
            found.append(Option(word.text, (), negated))
            negated = False
        elif last is None or negated:
            raise RefusedError(word.text, "belongs to no option")
        else:
            found[-1] = Option(last.name, (*last.values, word.text), last.negated)
    if negated:
        raise RefusedError("!", "negates nothing")
    return tuple(found)
