"""The output of iptables-save as a ruleset, its lines in libnftables' words.

What has no such word becomes an ``xt`` statement, as nft itself lists it: a match that cannot be
told. A legacy table hangs at the hooks where nf_tables has the priorities of the same names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from nftbridge.doctor.ruleset import Chain, Maker, Rule, Table
from nftbridge.nft.syntax import Json

_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_NAT = {"PREROUTING": -100, "OUTPUT": -100, "INPUT": 100, "POSTROUTING": 100}
_HEAD = re.compile(r":(\S+) (\S+)(?: .*)?")
_LINE = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) ?(.*)")
_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "reject", "RETURN": "return"}
_SILENT = frozenset({"LOG", "NFLOG", "TCPMSS", "TRACE", "CHECKSUM", "SET", "AUDIT"})
_MARKS = frozenset({"MARK", "CONNMARK"})
_TRANSLATIONS = {
    "DNAT": "dnat",
    "SNAT": "snat",
    "MASQUERADE": "masquerade",
    "REDIRECT": "redirect",
    "NETMAP": "dnat",
}
_SOCKET = re.compile(r"\[?([^\[\]]*?)\]?(?::(\d+)(?:-\d+)?)?")


def tables(saved: str, maker: Maker, family: str) -> Iterator[Table]:
    """All tables in the output of iptables-save; `family` is ip or ip6."""
    for section in re.split(r"^(?=\*)", saved, flags=re.MULTILINE):
        if section.startswith("*"):
            head, *lines = section.splitlines()
            yield _table(head[1:].strip(), lines, maker, family)


def _table(name: str, lines: list[str], maker: Maker, family: str) -> Table:
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in lines:
        if found := _HEAD.fullmatch(line):
            policies[found[1]] = found[2]
        elif found := _LINE.fullmatch(line):
            chain, words = found.groups()
            rules.setdefault(chain, []).append(Rule.of(tuple(_statements(words, family)), words))
    chains = {c: _chain(name, c, p, tuple(rules.get(c, ()))) for c, p in policies.items()}
    return Table(maker, family, name, chains)


def _chain(table: str, name: str, policy: str, rules: tuple[Rule, ...]) -> Chain:
    if policy == "-":
        return Chain(name, rules)
    priority = _NAT.get(name, 0) if table == "nat" else _PRIORITIES.get(table, 0)
    kind = "nat" if table == "nat" else "filter"
    return Chain(name, rules, name.lower(), kind, priority, policy.lower())


# Lines ---------------------------------------------------------------------------------------


def _statements(line: str, family: str) -> Iterator[Json]:
    """The statements of a line, in its order; the target comes last, as it does in the line."""
    for negated, option, values in _options(line):
        if option in ("-j", "--jump") and values:
            yield from _target(values)
        elif option in ("-g", "--goto") and values:
            yield {"goto": {"target": values[0]}}
        elif option not in ("-m", "--match", "--comment"):
            yield _match(option, values, family, negated=negated)


def _options(line: str) -> Iterator[tuple[bool, str, list[str]]]:
    """Each option with its values, and whether ``!`` stands before it; a target takes the rest."""
    words, negated = _words(line), False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        end = next((i for i, w in enumerate(words) if w == "!" or _is_option(w)), len(words))
        if word in ("-j", "--jump"):
            end = len(words)
        values, words = words[:end], words[end:]
        yield negated, word, values
        negated = False


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word.lstrip("-").isdigit() and len(word) > 1


def _match(option: str, values: list[str], family: str, *, negated: bool) -> Json:
    reader = _READERS.get(option)
    try:
        left, right, operator = reader(values, family) if reader else _unknown(option)
    except (IndexError, ValueError):
        return _xt(option, values)
    return {"match": {"op": "!=" if negated else operator, "left": left, "right": right}}


def _unknown(option: str) -> tuple[Any, Any, str]:
    raise ValueError(option)


def _xt(option: str, values: list[str]) -> Json:
    return {"xt": {"type": "match", "name": " ".join((option, *values))}}


def _target(values: list[str]) -> Iterator[Json]:
    name, options = values[0], values[1:]
    if name in _VERDICTS:
        yield {_VERDICTS[name]: None}
    elif name in _MARKS:
        yield {"mangle": {"key": {"meta": {"key": "mark"}}, "value": " ".join(options)}}
    elif name in _TRANSLATIONS:
        yield {_TRANSLATIONS[name]: _translation(options)}
    elif name == "NOTRACK" or (name == "CT" and "--notrack" in options):
        yield {"notrack": None}
    elif name in _SILENT:
        yield {"log": None}
    elif name.isupper() and name in ("TPROXY", "NFQUEUE", "QUEUE", "SYNPROXY", "TEE", "CT"):
        yield {"xt": {"type": "target", "name": " ".join(values)}}
    else:
        yield {"jump": {"target": name}}


def _translation(options: list[str]) -> Json:
    """``--to-destination ADDRESS:PORT`` and its likes; both may be missing."""
    written = next((o for o in options if not o.startswith("-")), "")
    if written.isdigit():
        return {"port": int(written)}
    found = _SOCKET.fullmatch(written)
    address, port = found.groups() if found else (written, None)
    return {"addr": address or None, "port": int(port) if port else None}


# Matches -------------------------------------------------------------------------------------

_Reader = Callable[[list[str], str], tuple[Any, Any, str]]
"""Values and family to the left side, the right side and the operator of a match."""


def _address(field: str) -> _Reader:
    def read(values: list[str], family: str) -> tuple[Any, Any, str]:
        address, slash, length = values[0].partition("/")
        right = {"prefix": {"addr": address, "len": int(length)}} if slash else address
        return {"payload": {"protocol": family, "field": field}}, right, "=="

    return read


def _interface(key: str) -> _Reader:
    def read(values: list[str], _: str) -> tuple[Any, Any, str]:
        name = values[0]
        pattern = f"{name[:-1]}*" if name.endswith("+") else name
        return {"meta": {"key": key}}, pattern, "=="

    return read


def _protocol(values: list[str], _: str) -> tuple[Any, Any, str]:
    name = {"icmpv6": "ipv6-icmp"}.get(values[0], values[0])
    return {"meta": {"key": "l4proto"}}, int(name) if name.isdigit() else name, "=="


def _ports(field: str) -> _Reader:
    def read(values: list[str], _: str) -> tuple[Any, Any, str]:
        found = [_port_range(part) for part in values[0].split(",")]
        return {"payload": {"protocol": "th", "field": field}}, {"set": found}, "=="

    return read


def _port_range(text: str) -> Any:
    first, colon, last = text.partition(":")
    return {"range": [int(first or 0), int(last or 65535)]} if colon else int(first)


def _state(values: list[str], _: str) -> tuple[Any, Any, str]:
    states = values[0].lower().split(",")
    if states in (["dnat"], ["snat"]):
        return {"ct": {"key": "status"}}, states[0], "in"
    return {"ct": {"key": "state"}}, states, "in"


def _original(key: str) -> _Reader:
    def read(values: list[str], family: str) -> tuple[Any, Any, str]:
        left: Json = {"ct": {"key": key, "dir": "original"}}
        if key == "proto-dst":
            return left, _port_range(values[0]), "=="
        return left, _address("daddr")(values, family)[1], "=="

    return read


def _direction(values: list[str], _: str) -> tuple[Any, Any, str]:
    return {"ct": {"key": "direction"}}, values[0].lower(), "=="


def _type(flag: str) -> _Reader:
    def read(values: list[str], _: str) -> tuple[Any, Any, str]:
        return {"fib": {"result": "type", "flags": [flag]}}, values[0].lower(), "=="

    return read


def _mark(values: list[str], _: str) -> tuple[Any, Any, str]:
    value, _, mask = values[0].partition("/")
    left: Json = {"meta": {"key": "mark"}}
    return ({"&": [left, int(mask, 0)]} if mask else left), int(value, 0), "=="


_READERS: dict[str, _Reader] = {
    "-s": _address("saddr"),
    "-d": _address("daddr"),
    "-i": _interface("iifname"),
    "-o": _interface("oifname"),
    "-p": _protocol,
    "--dport": _ports("dport"),
    "--dports": _ports("dport"),
    "--sport": _ports("sport"),
    "--sports": _ports("sport"),
    "--ctstate": _state,
    "--state": _state,
    "--ctorigdstport": _original("proto-dst"),
    "--ctorigdst": _original("daddr"),
    "--ctdir": _direction,
    "--src-type": _type("saddr"),
    "--dst-type": _type("daddr"),
    "--mark": _mark,
}
