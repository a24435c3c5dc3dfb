"""Docker's daemon.json with single options changed: every other character stays as it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from json import JSONDecoder

from nftbridge.docker.process import BYTE_ORDER_MARK, FIREWALL, options_in

_NEW = "{\n}\n"
_BLANK = " \t\r\n"


def switched_off(text: str, which: Collection[str] = FIREWALL) -> str:
    """The text with Docker's firewall off, given that `process.options_in` takes it.

    `which` are the options that are to be in it; those that are not stay as they are.
    """
    if not which:
        return text
    return edited(_object(text), dict.fromkeys((o for o in FIREWALL if o in which), False))


def edited(text: str, values: Mapping[str, object | None]) -> str:
    """The text with these options; None takes one out."""
    for key, value in values.items():
        text = _without(text, key) if value is None else _with(text, key, json.dumps(value))
    return text


def put_back(text: str, before: str) -> str:
    """The text with Docker's firewall as it was in `before`, whatever else has changed since.

    Where nothing else is left of it, and there was nothing before, it is as it was.
    """
    old = options_in(before, "")
    found = edited(_object(text), {key: old.get(key) for key in FIREWALL})
    if not old and not options_in(found, ""):
        return before
    return found if options_in(found, "") or options_in(text, "") else text


def _object(text: str) -> str:
    """A text that has an object in it: an empty one says as much."""
    return text if text.removeprefix(BYTE_ORDER_MARK).strip() else _NEW


def difference(before: str, after: str, name: str) -> list[str]:
    """A unified difference, without ends of lines."""
    old, new = before.splitlines(), after.splitlines()
    return list(unified_diff(old, new, name, name, lineterm=""))


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of the outermost object: where its key begins and its value begins and ends."""

    key: str
    start: int
    value: int
    end: int


def _with(text: str, key: str, value: str) -> str:
    members = list(_members(text))
    held = next((m for m in reversed(members) if m.key == key), None)  # the last one counts
    if held is not None:
        same = json.loads(text[held.value : held.end]) == json.loads(value)
        return text if same else text[: held.value] + value + text[held.end :]
    added = f'"{key}": {value}'
    if members:
        last = members[-1]
        before = text[: last.start].rstrip(_BLANK)
        return f"{text[: last.end]},{text[len(before) : last.start]}{added}{text[last.end :]}"
    place = text.index("{") + 1
    return f"{text[:place]}\n    {added}\n{text[place:].lstrip(_BLANK)}"


def _without(text: str, key: str) -> str:
    members = list(_members(text))
    for number, member in enumerate(members):
        if member.key != key:
            continue
        if number + 1 < len(members):
            cut = text[: member.start] + text[members[number + 1].start :]
        elif number:
            cut = text[: members[number - 1].end] + text[member.end :]
        else:
            cut = text[: member.start].rstrip(_BLANK) + text[member.end :].lstrip(_BLANK)
        return _without(cut, key)
    return text


def _members(text: str) -> Iterator[_Member]:
    """The members of the object that the text is, in their order."""
    decode = JSONDecoder().raw_decode
    place = _after_blank(text, text.index("{") + 1)
    while text[place] != "}":
        key, end = decode(text, place)
        value = _after_blank(text, _after_blank(text, end) + 1)  # behind the colon
        _, end = decode(text, value)
        yield _Member(str(key), place, value, end)
        place = _after_blank(text, end)
        if text[place] == ",":
            place = _after_blank(text, place + 1)


def _after_blank(text: str, place: int) -> int:
    while text[place] in _BLANK:
        place += 1
    return place
