"""What the targets of iptables are in nft."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from nftbridge.model import Family
from nftbridge.nft.syntax import Json
from nftbridge.translate.line import Option, Part, RefusedError
from nftbridge.translate.nodes import masked, meta
from nftbridge.translate.values import Context

_Target: TypeAlias = Callable[[Part, Context], Json]

_VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "RETURN": "return"}
_ALL = 0xFFFFFFFF
_XMARK = re.compile(r"0x([0-9a-f]{1,8})/0x([0-9a-f]{1,8})", re.ASCII | re.IGNORECASE)

_REJECTIONS = {
    Family.IPV4: {
        "icmp-net-unreachable": "net-unreachable",
        "icmp-host-unreachable": "host-unreachable",
        "icmp-proto-unreachable": "prot-unreachable",
        "icmp-port-unreachable": "port-unreachable",
        "icmp-net-prohibited": "net-prohibited",
        "icmp-host-prohibited": "host-prohibited",
        "icmp-admin-prohibited": "admin-prohibited",
    },
    Family.IPV6: {
        "icmp6-no-route": "no-route",
        "icmp6-adm-prohibited": "admin-prohibited",
        "icmp6-addr-unreachable": "addr-unreachable",
        "icmp6-port-unreachable": "port-unreachable",
        "icmp6-policy-fail": "policy-fail",
        "icmp6-reject-route": "reject-route",
    },
}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}

_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")
_LOG_FLAGS = {
    "--log-tcp-sequence": "tcp sequence",
    "--log-tcp-options": "tcp options",
    "--log-ip-options": "ip options",
    "--log-uid": "skuid",
    "--log-macdecode": "ether",
}


def translate_target(part: Part, context: Context, chains: Collection[str]) -> Json:
    """A statement of nft's; `chains` are those that may be jumped to. Raises `RefusedError`."""
    target = _TARGETS.get(part.name)
    if part.name in chains:
        if target is not None or part.options:
            raise RefusedError(str(part), "a chain has the name of a target")
        return {"goto" if part.switch == "-g" else "jump": {"target": part.name}}
    if target is None or part.switch != "-j":
        raise RefusedError(str(part), "neither a chain of yours nor a known target")
    return target(part, context)


def _verdict(part: Part, _: Context) -> Json:
    if part.options:
        raise RefusedError(str(part), "takes no options")
    return {_VERDICTS[part.name]: None}


def _reject(part: Part, context: Context) -> Json:
    option = _only(part, "--reject-with")
    if option.value == "tcp-reset" and context.protocol == "tcp":
        return {"reject": {"type": "tcp reset"}}
    reason = _REJECTIONS[context.family].get(option.value)
    if reason is None:
        raise RefusedError(str(part), "the answer has no equal here")
    return {"reject": {"type": _ICMP[context.family], "expr": reason}}


def _log(part: Part, _: Context) -> Json:
    body: dict[str, Any] = {}
    flags: list[str] = []
    for option in part.options:
        if option.name in _LOG_FLAGS:
            option.flag()
            flags.append(_LOG_FLAGS[option.name])
        elif option.name == "--log-prefix":
            if '"' in option.value:
                reason = "nft could not read what it lists, with a quotation mark in the prefix"
                raise RefusedError(str(option), reason)
            body["prefix"] = option.value
        elif option.name == "--log-level" and option.value in map(str, range(len(_LEVELS))):
            body["level"] = _LEVELS[int(option.value)]
        else:
            raise RefusedError(str(option), "the option has no equal here")
    if flags:
        body["flags"] = flags
    return {"log": body or None}


def _mark(part: Part, _: Context) -> Json:
    """``mark = mark & ~mask ^ value``, as iptables-save lists every way of setting it."""
    option = _only(part, "--set-xmark")
    found = _XMARK.fullmatch(option.value)
    if found is None:
        raise RefusedError(str(part), "the mark cannot be understood")
    value, mask = (int(text, 16) for text in found.groups())
    mark = meta("mark")
    kept: Any = mark if mask == 0 else masked(mark, _ALL & ~mask)
    if mask == _ALL:
        new: Any = value
    else:
        new = {"^": [kept, value]} if value else kept
    return {"mangle": {"key": mark, "value": new}}


def _only(part: Part, name: str) -> Option:
    if [option.name for option in part.options] != [name] or part.options[0].negated:
        raise RefusedError(str(part), f"takes {name}")
    return part.options[0]


_TARGETS: dict[str, _Target] = {
    **dict.fromkeys(_VERDICTS, _verdict),
    "REJECT": _reject,
    "LOG": _log,
    "MARK": _mark,
}
