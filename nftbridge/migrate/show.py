"""A migration for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from nftbridge.accepts import CHAIN, FORWARD, JUMP
from nftbridge.compat.tools import Variant
from nftbridge.docker.host import empty
from nftbridge.doctor.docker import NFT_TABLE
from nftbridge.migrate.exchange import Removal
from nftbridge.migrate.plan import Out
from nftbridge.migrate.run import Looked
from nftbridge.migrate.undo import Undone
from nftbridge.migrate.users import Carried
from nftbridge.model import counted
from nftbridge.style import Style


def lines(looked: Looked, style: Style, *, done: bool, written: bool) -> Iterator[str]:
    """The steps in their order."""
    plan = looked.plan
    number = 0
    if plan.carried:
        number += 1
        yield style.title(f"{number}. over: DOCKER-USER")
        for one in plan.carried:
            yield from _carried(one, looked.words.get(one.site, ()), style)
    if looked.rows:
        number += 1
        summary = looked.given.host.summary()
        yield style.title(f"{number}. in: {looked.place}, {summary}")
    if plan.adopted:
        number += 1
        yield style.title(f"{number}. ours from now on: what Docker made, as far as it stays")
        yield from (f"  {site}: {layout}" for site, layout in plan.adopted)
    if plan.out or plan.nft:
        number += 1
        yield style.title(f"{number}. out: Docker's rules")
        for out in plan.out:
            yield from _out(out, style)
        yield from (f"  table {family} {NFT_TABLE}" for family in plan.nft)
    if looked.difference:
        number += 1
        what = "" if written else ", not without --write"
        yield style.title(f"{number}. {looked.difference[0][4:]}{what}")
        yield from (f"  {_painted(line, style)}" for line in looked.difference)
    yield from _end(looked, done=done)


def _end(looked: Looked, *, done: bool) -> Iterator[str]:
    if looked.plan.problems:
        yield "nothing was changed, and --apply changes nothing while there are errors"
    elif not looked:
        yield "nothing to do: Docker's firewall is out, and ours is in"
    elif not done:
        write = ", and --write changes daemon.json as well" if looked.difference else ""
        yield f"nothing was changed; --apply does it{write}"


def afterwards(looked: Looked, *, written: bool) -> Iterator[str]:
    """What is left to the user when it is done."""
    accepting = (out.site for out in looked.plan.out if [*_accepts(out.tables.get("filter"))])
    if any(site.variant is Variant.LEGACY for site in accepting):
        yield (
            "write the units again if they were written before: to keep chain"
            f" {CHAIN} of iptables-legacy the service needs more rights"
        )
    if number := sum(1 for one in looked.plan.carried for _ in one.rules()):
        yield (
            f"{counted(number, 'rule')} of yours in DOCKER-USER, as all rules, end with the boot:"
            " write them into /etc/nftables.conf, since scripts for iptables' DOCKER-USER find none"
        )
    if looked.started.off:
        yield f"nobody but nftbridge opens ports now: keep {_watching(looked)}"
        return
    restart = "which ends all containers unless its configuration says live-restore"
    insisting = " and ".join(f"--{option}=false" for option in looked.started.insisting)
    if insisting:
        write = "" if not looked.difference or written else ", and --write to the rest,"
        yield f"start Docker with {insisting}, e.g. by `systemctl edit docker`{write} {restart}"
    elif not looked.difference:
        yield f"restart Docker if it still runs with its firewall on, {restart}"
    elif written:
        yield f"restart Docker, {restart}"
    else:
        yield f"switch Docker's firewall off (--write) and restart it, {restart}"
    yield (
        "until then no container that publishes a port can be started, and a reload of firewalld"
        " brings Docker's rules back beside ours: both decide then, and the stricter one counts"
    )
    yield f"from then on nobody but nftbridge opens ports: keep {_watching(looked)}"


def _watching(looked: Looked) -> str:
    """What has to run, with what it will not see by itself."""
    host, seen = looked.given.host, empty(looked.shown)
    if (host.userland_proxy, host.allow_direct_routing) == (
        seen.userland_proxy,
        seen.allow_direct_routing,
    ):
        return "`nftbridge watch --docker` running"
    unusual = {
        "userland_proxy = false": not host.userland_proxy,
        "allow_direct_routing = true": host.allow_direct_routing,
    }
    keys = " and ".join(key for key, held in unusual.items() if held) or "the defaults"
    return f"`nftbridge watch FILE --docker` running, with {keys} under [host] in FILE"


def _carried(one: Carried, words: Sequence[str], style: Style) -> Iterator[str]:
    for (chain, rule), text in zip_longest(one.rules(), words):
        yield f"  {one.site}, {chain}: {rule.text}"
        if text is not None:
            yield style.added(f"    -> {text}")
    for refused in one.translated.refused:
        yield style.removed(f"  {one.site}, {refused}")


def _out(out: Out, style: Style) -> Iterator[str]:
    yield f"  {out.site}: {out.layout}"
    for name, removal in out.tables.items():
        yield style.removed(f"    - {name}: {_removed(removal)}")
        forward = removal.forward
        if forward.take_back:
            yield f"      policy of FORWARD: DROP -> ACCEPT; {forward.reason}"
        elif forward.reason:
            yield f"      policy of FORWARD: DROP stays; {forward.reason}"
        yield from (style.added(f"      + {line}") for line in _accepts(removal))


def _accepts(removal: Removal | None) -> Iterator[str]:
    """What comes in their place, where something does."""
    if removal is not None and removal.forward.accepts is not None:
        yield f"-A {FORWARD} {JUMP}"
        yield from (f"-A {CHAIN} {line}" for line in removal.forward.accepts)


def _removed(removal: Removal) -> str:
    chains = [f"chain{'' if len(removal.chains) == 1 else 's'} {', '.join(removal.chains)}"]
    built_in = dict.fromkeys(chain for chain, _, _ in removal.lines)
    numbers = {c: [str(n) for chain, n, _ in removal.lines if chain == c] for c in built_in}
    rules = [f"{c} {', '.join(found)}" for c, found in numbers.items()]
    return "; ".join([*(chains if removal.chains else []), *rules])


def _painted(line: str, style: Style) -> str:
    if line.startswith("+") and not line.startswith("+++"):
        return style.added(line)
    if line.startswith("-") and not line.startswith("---"):
        return style.removed(line)
    return line


def data(looked: Looked, *, done: bool, written: bool) -> dict[str, object]:
    """The same for programs."""
    plan = looked.plan
    return {
        "changes": bool(looked),
        "done": done,
        "backend": plan.backend,
        "docker_user": [
            {
                "from": str(one.site),
                "chain": chain,
                "iptables": rule.text,
                "nftables": text,
            }
            for one in plan.carried
            for (chain, rule), text in zip_longest(one.rules(), looked.words.get(one.site, ()))
        ],
        "adopted": [{"in": str(site), "layout": layout} for site, layout in plan.adopted],
        "out": [_out_data(out) for out in plan.out]
        + [{"from": "nftables", "table": f"{family} {NFT_TABLE}"} for family in plan.nft],
        "daemon_json": {"difference": list(looked.difference), "written": written},
        "remarks": [_problem(p.where, p.message, p.hint) for p in plan.remarks],
        "problems": [_problem(p.where, p.message, p.hint) for p in plan.problems],
    }


def _problem(where: str, message: str, hint: str) -> dict[str, str]:
    return {"where": where, "message": message, "hint": hint}


def _out_data(out: Out) -> dict[str, object]:
    return {
        "from": str(out.site),
        "layout": out.layout,
        "tables": {
            name: {
                "chains": list(removal.chains),
                "rules": [{"chain": c, "number": n, "line": li} for c, n, li in removal.lines],
                "forward_policy_taken_back": removal.forward.take_back,
                "accepts": list(_accepts(removal)),
            }
            for name, removal in out.tables.items()
        },
    }


def undone(result: Undone) -> Iterator[str]:
    """What an undo has done."""
    for site in result.sites:
        yield f"Docker's rules are back in {site}"
    for line in result.left_out:
        yield f"left out, as it was deleted from our table: {line}"
    for line in result.again:
        yield f"in force again, but deleted from our table: {line}"
    if result.daemon_json:
        yield "daemon.json is as it was, but for what others changed since"
    if result.kept:
        yield f"left in our table: {', '.join(result.kept)}"
    if not result.on_record:
        yield "no rules were on record (they end with a reboot): `nftbridge remove` takes ours out"
    if result.still_off:
        where = "out of daemon.json, or off Docker's command line"
        yield f"next: take iptables and ip6tables {where}, and restart Docker"
    elif result.daemon_json:
        yield "next: restart Docker, which makes its rules anew"
