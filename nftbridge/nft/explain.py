"""What a refused command was about, and what a kernel may lack if it says no."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nftbridge.nft.document import Command, relation_of
from nftbridge.nft.syntax import is_list, is_object

_ABSENT = ("No such file or directory", "Operation not supported", "Not supported")

_OPTIONS = {
    "fib": "CONFIG_NFT_FIB_INET, CONFIG_NFT_FIB_IPV4, CONFIG_NFT_FIB_IPV6",
    "ct": "CONFIG_NFT_CT",
    "dnat": "CONFIG_NFT_NAT",
    "snat": "CONFIG_NFT_NAT",
    "masquerade": "CONFIG_NFT_MASQ",
    "nat": "CONFIG_NFT_NAT, and Linux 5.2 for nat chains in inet tables",
    "interval": "CONFIG_NF_TABLES and Linux 5.6 for concatenations with prefixes",
}
"""By the word that stands in the command: what has to be in the kernel's configuration."""


def culprit(command: Command) -> str:
    """The object that a command is about, in words: ``rule publish in chain DOCKER-NAT``."""
    ((verb, body),) = command.items()
    ((kind, target),) = body.items()
    if kind == "rule":
        return f"rule '{target.get('comment', '?')}' in chain {target['chain']}"
    if kind == "element":
        relation = relation_of(target["name"])
        named = target["name"] if relation is None else relation.name
        return f"row {_row(target['elem'][0])} of {named} ({verb})"
    return f"{kind} {target['name']}" + (" (delete)" if verb == "delete" else "")


def missing_option(command: Command, reason: str) -> str:
    """What to look for in the kernel's configuration or in DOCKER-USER; "" if nothing."""
    ((verb, body),) = command.items()
    ((kind, target),) = body.items()
    if verb == "delete" and "busy" in reason:
        return "a rule of yours, perhaps in DOCKER-USER, refers to it: take that rule out first"
    if kind == "rule" and target.get("comment") == "user" and "not supported" in reason:
        return "DOCKER-USER is attached to a hook but must be a regular chain: delete it and apply"
    if "Too many open files" in reason:
        return "the set has a size and is full; delete the set, apply makes it anew"
    if any(absent in reason for absent in _ABSENT):
        wanted = [option for word, option in _OPTIONS.items() if word in set(_words(body))]
        if wanted:
            return f"the kernel may lack {'; '.join(wanted)}"
    return ""


def _words(node: Any) -> Iterator[str]:
    if is_object(node):
        for key, value in node.items():
            yield key
            yield from _words(value)
    elif is_list(node):
        for item in node:
            yield from _words(item)
    elif isinstance(node, str):
        yield node


def _row(item: Any) -> str:
    if is_list(item):
        return f"{_row(item[0])} -> {_row(item[1])}"
    if is_object(item) and "concat" in item:
        return ", ".join(map(_row, item["concat"]))
    if is_object(item) and "prefix" in item:
        return f"{item['prefix']['addr']}/{item['prefix']['len']}"
    return str(item)
