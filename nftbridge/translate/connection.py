"""What iptables asks about a packet's connection, in nft."""

from __future__ import annotations

from collections.abc import Iterator

from nftbridge.nft.syntax import Json
from nftbridge.translate.line import Option, Part, RefusedError
from nftbridge.translate.nodes import any_flag, conntrack, interval, match, no_flag
from nftbridge.translate.values import (
    PORTED,
    Alternatives,
    Context,
    bounds,
    in_network,
    protocol_named,
)

_UNTRACKED = ("invalid", "untracked")
_STATES = ("new", "established", "related", *_UNTRACKED)
_NAT = ("snat", "dnat")
_STATUS = ("expected", "seen_reply", "assured", "confirmed")


def connection(part: Part, context: Context) -> Alternatives:
    """What is known of the connection.

    A packet without one is INVALID or UNTRACKED. If the states let it pass, iptables does not ask
    the rest, while for nft the rest does not hold: such packets get an alternative of their own.
    """
    names = [option.name for option in part.options]
    if len(set(names)) < len(names):
        raise RefusedError(str(part), "an option comes twice")
    asked = next((o for o in part.options if o.name in ("--ctstate", "--state")), None)
    others = tuple(_ct_field(o, context) for o in part.options if o is not asked)
    if asked is None:
        return (others,)
    listed = asked.value.lower().split(",")
    if not set(listed) <= {*_STATES, *_NAT}:
        raise RefusedError(str(asked), "the state has no equal here")
    states = [state for state in _STATES if state in listed]
    virtual = [status for status in _NAT if status in listed]
    if not virtual and not others:
        return ((_state(states, negated=asked.negated),),)
    return tuple(_with_connection(states, virtual, others, negated=asked.negated))


def _with_connection(
    states: list[str], virtual: list[str], others: tuple[Json, ...], *, negated: bool
) -> Iterator[tuple[Json, ...]]:
    without = [state for state in _UNTRACKED if (state in states) is not negated]
    tracked = [state for state in states if state not in _UNTRACKED]
    if without:
        yield (_state(without),)
    status = conntrack("status")
    if negated:
        # only a packet with a connection gets past what is asked behind its state
        before = [_state(tracked, negated=True)] if tracked else []
        if virtual:
            before.append(no_flag(status, virtual))
        yield (*before, *others)
        return
    if tracked:
        yield (_state(tracked), *others)
    if virtual:
        before = [_state(tracked, negated=True)] if tracked else []
        yield (*before, any_flag(status, virtual), *others)


def _state(states: list[str], *, negated: bool = False) -> Json:
    left = conntrack("state")
    if not negated:
        return any_flag(left, states)
    return match(left, states[0] if len(states) == 1 else {"set": states}, negated=True)


def _ct_field(option: Option, context: Context) -> Json:
    if option.name in _CT_ADDRESSES:
        direction, field = _CT_ADDRESSES[option.name]
        return in_network(conntrack(f"{context.header} {field}", direction), option, context)
    if option.name in _CT_PORTS:
        if context.protocol not in PORTED:
            raise RefusedError(str(option), "nft asks for the protocol first, and -p does not say")
        direction, field = _CT_PORTS[option.name]
        right = interval(*bounds(option, option.value))
        return match(conntrack(field, direction), right, negated=option.negated)
    if option.name == "--ctproto":
        return match(conntrack("protocol"), protocol_named(option), negated=option.negated)
    if option.name == "--ctdir" and option.value in ("ORIGINAL", "REPLY"):
        return match(conntrack("direction"), option.value.lower(), negated=option.negated)
    if option.name == "--ctstatus":
        flags = option.value.lower().split(",")
        if set(flags) <= set(_STATUS):
            named = [flag.replace("_", "-") for flag in flags]
            return (no_flag if option.negated else any_flag)(conntrack("status"), named)
    raise RefusedError(str(option), "the option has no equal here")


_CT_ADDRESSES = {
    "--ctorigsrc": ("original", "saddr"),
    "--ctorigdst": ("original", "daddr"),
    "--ctreplsrc": ("reply", "saddr"),
    "--ctrepldst": ("reply", "daddr"),
}
_CT_PORTS = {
    "--ctorigsrcport": ("original", "proto-src"),
    "--ctorigdstport": ("original", "proto-dst"),
    "--ctreplsrcport": ("reply", "proto-src"),
    "--ctrepldstport": ("reply", "proto-dst"),
}
