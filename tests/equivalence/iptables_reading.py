"""Text of iptables-save, read as iptables(8) and iptables-extensions(8) define it.

A parser and an evaluator of their own: nothing here comes from nftbridge.compat. One family each.
Whatever is not known here is an error, never ignored.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from nftbridge.policy.evaluate import Packet
from tests.equivalence.meaning import ACCEPTED, DROPPED, MASQUERADED, UNDECIDED, Fate, Hook, Outcome

Test: TypeAlias = Callable[[Packet], bool]
Change: TypeAlias = Callable[[Packet], Packet]

_PLACES = {
    Hook.RAW: ("raw", "PREROUTING"),
    Hook.INBOUND: ("nat", "PREROUTING"),
    Hook.OUTPUT: ("nat", "OUTPUT"),
    Hook.FORWARD: ("filter", "FORWARD"),
    Hook.POSTROUTING: ("nat", "POSTROUTING"),
}
_BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_SAME_PROTOCOL = {"icmpv6": "ipv6-icmp"}
_WITH_PORTS = ("tcp", "udp", "sctp")
_MODULES = (*_WITH_PORTS, "addrtype", "conntrack", "mark")
_FINAL = {"ACCEPT": ACCEPTED, "DROP": DROPPED, "MASQUERADE": MASQUERADED}
_TRANSLATIONS = {"DNAT": (Fate.DNAT, "--to-destination"), "SNAT": (Fate.SNAT, "--to-source")}


@dataclass(frozen=True, slots=True)
class _Rule:
    """All tests must hold. `target` is an outcome, or a chain's name; "RETURN" goes back.

    A target that is a function changes the packet, and the next rule is looked at.
    """

    tests: tuple[Test, ...]
    target: Outcome | str | Change


class IptablesReading:
    """All tables of one family, as iptables-save prints them; `version` is 4 or 6."""

    def __init__(self, text: str, version: int) -> None:
        self._version = version
        self._chains: dict[tuple[str, str], list[_Rule]] = {}
        self._policies: dict[tuple[str, str], str] = {}
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                chain, policy, *_ = line[1:].split()
                self._chains.setdefault((table, chain), [])
                self._policies[table, chain] = policy
            elif line.startswith("-A "):
                self._append(table, shlex.split(line)[1:])
            elif line and line != "COMMIT" and not line.startswith("#"):
                raise ValueError(f"unknown line {line}")

    def outcome(self, hook: Hook, packet: Packet) -> Outcome:
        """What the built-in chain of that hook does; packets of the other family never get here."""
        if packet.daddr.version != self._version:
            raise ValueError(f"{packet} is not of IP version {self._version}")
        place = _PLACES[hook]
        decided, packet = self._run(*place, packet)
        if decided is None:
            decided = DROPPED if self._policies.get(place) == "DROP" else UNDECIDED
        return decided.marked(packet.mark)

    def plant(self, chain: str, outcome: Outcome) -> None:
        """Put a rule for every packet into a chain of filter, as somebody may into DOCKER-USER."""
        self._chains["filter", chain].append(_Rule((), outcome))

    def _append(self, table: str, words: Sequence[str]) -> None:
        chain, *rest = words
        if chain in _BUILTIN:
            self._chains.setdefault((table, chain), [])
        self._chains[table, chain].append(_Parser(rest).rule())

    def _run(self, table: str, chain: str, packet: Packet) -> tuple[Outcome | None, Packet]:
        """What the chain decides, if it does, and the packet as it has become."""
        rules = self._chains[table, chain] if chain not in _BUILTIN else self._builtin(table, chain)
        for rule in rules:
            if not all(test(packet) for test in rule.tests):
                continue
            if isinstance(rule.target, Outcome):
                return rule.target, packet
            if rule.target == "RETURN":
                break
            if not isinstance(rule.target, str):
                packet = rule.target(packet)
                continue
            decided, packet = self._run(table, rule.target, packet)
            if decided is not None:
                return decided, packet
        return None, packet

    def _builtin(self, table: str, chain: str) -> list[_Rule]:
        """A built-in chain is always there, if only empty."""
        return self._chains.get((table, chain), [])


class _Parser:
    """One rule's words: options with values, each perhaps after an exclamation mark."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = iter(words)
        self._line = " ".join(words)
        self._protocol = ""

    def rule(self) -> _Rule:
        tests: list[Test] = []
        negated = False
        for word in self._words:
            if word == "!":
                negated = True
            elif word == "-j":
                return _Rule(tuple(tests), self._target(next(self._words), list(self._words)))
            else:
                tests += self._option(word, next(self._words), negated=negated)
                negated = False
        raise ValueError(f"{self._line} has no target")

    def _option(self, option: str, value: str, *, negated: bool) -> Iterator[Test]:
        if option == "-m":
            if value not in _MODULES or (value in _WITH_PORTS and value != self._protocol):
                raise ValueError(f"{self._line}: module {value}")
            return
        if option == "-p":
            self._protocol = value
        if option == "--dport" and (self._protocol not in _WITH_PORTS):
            raise ValueError(f"{self._line}: a port without protocol")
        test = _TESTS[option](value)
        yield (lambda packet: not test(packet)) if negated else test

    def _target(self, name: str, options: list[str]) -> Outcome | str | Change:
        if name == "MARK":
            return _marking(*options)
        if name in _TRANSLATIONS:
            fate, wanted = _TRANSLATIONS[name]
            option, value = options
            if option != wanted:
                raise ValueError(f"{self._line}: {option}")
            return _translation(fate, value)
        if options:
            raise ValueError(f"{self._line}: {options}")
        return _FINAL.get(name, name)


def _translation(fate: Fate, value: str) -> Outcome:
    """``address``, ``address:port`` or ``[address]:port``."""
    host, port = value, ""
    if value.startswith("["):
        host, _, port = value[1:].partition("]:")
        host = host.rstrip("]")
    elif value.count(":") == 1:
        host, port = value.split(":")
    return Outcome(fate, ip_address(host), int(port) if port else None)


def _marking(option: str, value: str) -> Change:
    """``--set-xmark VALUE/MASK`` zeroes the bits of the mask, then toggles those of the value."""
    if option != "--set-xmark":
        raise ValueError(f"MARK {option}")
    bits, mask = _bits(value)
    return lambda packet: replace(packet, mark=packet.mark & ~mask ^ bits)


def _marked(value: str) -> Test:
    bits, mask = _bits(value)
    return lambda packet: packet.mark & mask == bits


def _bits(value: str) -> tuple[int, int]:
    bits, _, mask = value.partition("/")
    return int(bits, 0), int(mask or "0xffffffff", 0)


def _source(value: str) -> Test:
    first, last = _bounds(value)
    return lambda packet: first <= int(packet.saddr) <= last


def _destination(value: str) -> Test:
    first, last = _bounds(value)
    return lambda packet: first <= int(packet.daddr) <= last


def _bounds(value: str) -> tuple[int, int]:
    network = ip_network(value)
    return int(network[0]), int(network[-1])


def _interface(held: str, value: str) -> bool:
    """A name; with a plus sign behind it, everything that starts like it."""
    return held.startswith(value[:-1]) if value.endswith("+") else held == value


def _port(value: str) -> Test:
    first, _, last = value.partition(":")
    return lambda packet: int(first) <= packet.dport <= int(last or first)


def _protocol(value: str) -> Test:
    name = _SAME_PROTOCOL.get(value, value)
    return lambda packet: packet.protocol == name


def _states(value: str) -> Test:
    states = value.lower().split(",")
    return lambda packet: packet.state in states


def _local(held: bool, value: str) -> bool:
    if value not in ("LOCAL", "UNICAST"):
        raise ValueError(f"unknown address type {value}")
    return held == (value == "LOCAL")


_TESTS: dict[str, Callable[[str], Test]] = {
    "-s": _source,
    "-d": _destination,
    "-i": lambda value: lambda packet: _interface(packet.iif, value),
    "-o": lambda value: lambda packet: _interface(packet.oif, value),
    "-p": _protocol,
    "--dport": _port,
    "--ctstate": _states,
    "--mark": _marked,
    "--src-type": lambda value: lambda packet: _local(packet.from_host, value),
    "--dst-type": lambda value: lambda packet: _local(packet.to_host, value),
}
