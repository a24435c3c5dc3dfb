"""The scripts for iptables-restore that take Docker's rules out of a table, and put them back.

Rules of others stay where they are. In built-in chains Docker's lines go by their numbers, which
hold while the xtables lock is held. iptables-nft has no lock; there they go by their words, and if
somebody was faster the whole script is refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from nftbridge.accepts import CHAIN, FORWARD, JUMP, declared
from nftbridge.compat.tables import Table
from nftbridge.compat.tools import Variant
from nftbridge.migrate.forward import Forward
from nftbridge.migrate.theirs import Theirs, is_own, own_chains
from nftbridge.policy.rules import DOCKER_USER
from nftbridge.translate.line import jump_of

_LAST = "-j RETURN"
_TRANSLATING = "DOCKER"
_TRANSLATION = re.compile(r"(?:-d (\S+) )?.*?(-p .* -j DNAT .*)")

_Numbered: TypeAlias = tuple[str, int, str]
"""A chain, the number of a line of it, from 1, and the line."""


@dataclass(frozen=True, slots=True)
class Staying:
    """What of one table in Docker's layout is ours, where both are in it: chains and lines.

    `lines` are those of built-in chains.
    """

    chains: frozenset[str] = frozenset()
    lines: Mapping[str, frozenset[str]] = field(default_factory=dict[str, "frozenset[str]"])

    def has(self, chain: str, line: str) -> bool:
        """Whether that line of a built-in chain stays."""
        return line in self.lines.get(chain, ())


@dataclass(frozen=True, slots=True)
class Removal:
    """What goes out of one table: lines of built-in chains with their numbers, and chains."""

    lines: tuple[_Numbered, ...] = ()
    chains: tuple[str, ...] = ()
    forward: Forward = field(default_factory=Forward)

    def __bool__(self) -> bool:
        return bool(self.lines or self.chains or self.forward.take_back)


def removal(
    name: str, table: Table, theirs: Theirs, forward: Forward, staying: Staying | None = None
) -> Removal:
    """What of Docker's is in a table.

    DOCKER-USER goes with it, unless somebody else jumps there or it has rules that were never in
    force, so that nobody carries them over.
    """
    ours = staying or Staying()
    lines = tuple(
        (chain, number, line)
        for chain, number, line in _all_numbered(table)
        if theirs.owns(name, chain, line) and not ours.has(chain, line)
    )
    own = (*own_chains(name), *((DOCKER_USER,) if name == "filter" else ()))
    chains = tuple(c for c in own if c in table.chains and c not in ours.chains)
    idle = bool(rules_of(table)) and not leads_to_users(table)
    if DOCKER_USER in chains and (idle or _is_wanted_elsewhere(table)):
        chains = tuple(c for c in chains if c != DOCKER_USER)
    return Removal(lines, chains, forward if name == "filter" else Forward())


def removal_script(name: str, table: Table, found: Removal, variant: Variant) -> str:
    """One commit that takes it out; "" if there is nothing."""
    if not found:
        return ""
    script = [":FORWARD ACCEPT [0:0]"] if found.forward.take_back else []
    script += _deletions(found.lines, variant)
    if found.forward.accepts is not None:
        script += declared(found.forward.accepts)
        script += _leading_there(table.lines(FORWARD), found)
    for chain in found.chains:
        if chain == DOCKER_USER:  # one that came this moment stays, and all is refused
            script += _deletions([*_numbered(chain, table)], variant)
        else:
            script.append(f"-F {chain}")
    script += [f"-X {chain}" for chain in found.chains]
    return _whole(name, script)


def _leading_there(held: Sequence[str], found: Removal) -> Iterator[str]:
    """A jump to the accepts in the place of Docker's lines in FORWARD.

    What others have between these comes first: with Docker, too, not all was accepted before it.
    """
    if JUMP not in held:
        gone = {number for chain, number, _ in found.lines if chain == FORWARD}
        before = set(range(1, max(gone, default=0))) - gone
        yield from _insertions(FORWARD, len(before), (JUMP,), len(held) - len(gone))


def translation_of(line: str) -> tuple[str, str] | None:
    """The host's address of a DNAT ("" for any), and the rest of it, be it for whomever."""
    found = _TRANSLATION.fullmatch(line)
    return (found[1] or "", found[2]) if found is not None else None


def alignment_script(table: Table, wanted: Collection[str]) -> str:
    """One commit that puts Docker's translations into our words, where both lead to the same.

    Only then can they stay where they are while nat's other lines are exchanged.
    """
    words = {translation_of(line): line for line in wanted}
    held = table.lines(_TRANSLATING)
    lines = [li if (what := translation_of(li)) is None else words.get(what, li) for li in held]
    if tuple(lines) == held:
        return ""
    added = (f"-A {_TRANSLATING} {line}" for line in lines)
    return _whole("nat", [f"-F {_TRANSLATING}", *added])


@dataclass(frozen=True, slots=True)
class Restoration:
    """The way of one table back to what it was, as far as it was Docker's.

    `saved` is the table as it was, `now` as it is, `take_back` whether FORWARD's policy was taken
    back. Not `whole`: Docker has made its rules anew itself, and only DOCKER-USER and FORWARD are
    ours to put back.
    """

    name: str
    saved: Table
    now: Table
    theirs: Theirs
    take_back: bool
    whole: bool

    def script(self, variant: Variant) -> str:
        """One commit; "" if nothing is to be done."""
        filtering = self.name == "filter"
        back = filtering and self.take_back and self.now.policies.get(FORWARD) == "ACCEPT"
        bodies = dict(self._bodies())
        goes, comes = self._built_in()
        gone = [c for c in self._made(self.now) if c not in self.saved.chains]
        gone += [CHAIN] if filtering and CHAIN in self.now.chains else []
        script = [":FORWARD DROP [0:0]"] if back else []
        script += [f":{chain} - [0:0]" for chain in bodies]
        script += _deletions(goes, variant)
        script += [f"-A {chain} {line}" for chain, lines in bodies.items() for line in lines]
        script += comes
        script += [f"-F {chain}" for chain in gone]
        script += [f"-X {chain}" for chain in gone]
        return _whole(self.name, script)

    def _made(self, table: Table) -> Iterator[str]:
        """The chains of Docker's layout, DOCKER-USER among them if it is empty."""
        yield from self._own(table)
        if self.whole and table.chains.get(DOCKER_USER) == ():
            yield DOCKER_USER

    def _own(self, table: Table) -> Iterator[str]:
        return (c for c in table.chains if self.whole and is_own(self.name, c))

    def _bodies(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Chains that are not as they were, with what belongs there."""
        wanted = {chain: self.saved.lines(chain) for chain in self._own(self.saved)}
        if self.name == "filter":
            wanted |= _users_chains(self.saved, self.now)
        for chain, lines in wanted.items():
            if self.now.chains.get(chain) != lines:
                yield chain, lines

    def _built_in(self) -> tuple[list[_Numbered], list[str]]:
        """What goes out of built-in chains, and what comes; neither where they are as they were."""
        goes: list[_Numbered] = []
        comes: list[str] = []
        for chain in self.now.policies or self.saved.policies:
            places = list(self._places(chain))
            before = [li for li in _numbered(chain, self.now) if self._leaves(chain, li[2])]
            if not places and not before:
                continue
            left = [line for line in self.now.lines(chain) if not self._leaves(chain, line)]
            script: list[str] = []
            for place, line in places:
                script += _insertions(chain, place, (line,), len(left))
                left.insert(place, line)
            if tuple(left) != self.now.lines(chain):
                goes += before
                comes += script
        return goes, comes

    def _is_dockers(self, chain: str, line: str) -> bool:
        return self.whole and self.theirs.owns(self.name, chain, line)

    def _leaves(self, chain: str, line: str) -> bool:
        return self._is_dockers(chain, line) or (chain, line) == (FORWARD, JUMP)

    def _places(self, chain: str) -> Iterator[tuple[int, str]]:
        """Where Docker's lines come, from 0, each in the chain as it is by then.

        Behind the same line of somebody else's as before, if that is still there.
        """
        others = [line for line in self.now.lines(chain) if not self._leaves(chain, line)]
        place = behind = 0  # in the chain, and among the lines of others
        for line in self.saved.lines(chain):
            if self._is_dockers(chain, line):
                yield place, line
                place += 1
            elif line in others[behind:]:
                step = others.index(line, behind) + 1 - behind
                behind, place = behind + step, place + step


def _users_chains(saved: Table, now: Table) -> dict[str, tuple[str, ...]]:
    """DOCKER-USER as it was, and what it reaches that is missing.

    What is in it now comes after that, or stays where it is if all that was is still there.
    """
    if DOCKER_USER not in saved.chains:
        return {}
    was, held = saved.lines(DOCKER_USER), now.lines(DOCKER_USER)
    later = tuple(line for line in held if line not in was)
    found = {DOCKER_USER: held if _in_order(was, held) else (*was, *later)}
    for chain in reached(saved):
        if chain != DOCKER_USER and chain not in now.chains:
            found[chain] = saved.lines(chain)
    return found


def _in_order(lines: Sequence[str], held: Sequence[str]) -> bool:
    """Whether all of `lines` are in `held`, one after the other."""
    rest = iter(held)
    return all(line in rest for line in lines)


def rules_of(table: Table) -> dict[str, tuple[str, ...]]:
    """The user's rules: DOCKER-USER and the chains below it; none if it has no rules.

    Without the RETURN at the end, which Docker up to 27 puts there and which changes nothing.
    """
    lines = table.lines(DOCKER_USER)
    if lines[-1:] == (_LAST,):
        lines = lines[:-1]
    if not lines:
        return {}
    return {chain: table.lines(chain) for chain in reached(table)} | {DOCKER_USER: lines}


def leads_to_users(table: Table) -> bool:
    """Whether DOCKER-USER is in force, as Docker has it."""
    return f"-j {DOCKER_USER}" in table.lines(FORWARD)


def reached(table: Table, start: str = DOCKER_USER) -> tuple[str, ...]:
    """The chains of a table that packets get to from `start`, itself first."""
    found = {start: None} if start in table.chains else {}
    waiting = list(found)
    while waiting:
        for line in table.lines(waiting.pop()):
            name = jump_of(line)
            if name in table.chains and name not in found:
                found[name] = None
                waiting.append(name)
    return tuple(found)


def _all_numbered(table: Table) -> Iterator[_Numbered]:
    """Every line of a built-in chain."""
    for chain in table.policies:
        yield from _numbered(chain, table)


def _numbered(chain: str, table: Table) -> Iterator[_Numbered]:
    for number, line in enumerate(table.lines(chain), start=1):
        yield chain, number, line


def _is_wanted_elsewhere(table: Table) -> bool:
    return any(
        jump_of(line) == DOCKER_USER and (chain, line) != (FORWARD, f"-j {DOCKER_USER}")
        for chain, lines in table.chains.items()
        for line in lines
    )


def _deletions(lines: Collection[_Numbered], variant: Variant) -> list[str]:
    """The highest number first, so that the others hold."""
    if variant is Variant.NFT:
        return [f"-D {chain} {line}" for chain, _, line in lines]
    return [f"-D {c} {number}" for c, number, _ in sorted(lines, key=lambda li: li[1])[::-1]]


def _insertions(chain: str, place: int, lines: Sequence[str], left: int) -> Iterator[str]:
    """Lines that come one behind the other at a place from 0; `left` are there by then."""
    for number, line in enumerate(lines):
        at_end = place + number >= left + number
        yield f"-A {chain} {line}" if at_end else f"-I {chain} {place + number + 1} {line}"


def _whole(name: str, script: Sequence[str]) -> str:
    return "\n".join((f"*{name}", *script, "COMMIT")) + "\n" if script else ""
