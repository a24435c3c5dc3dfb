"""A listing of nft, read as nft(8) defines it; knows nothing of the program that it came from.

Statements of a rule run in order; one that does not match, or whose expression has no value for the
packet (a header of the other family, no element in a map), ends the rule. Whatever is not known
here is an error, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

from nftbridge.model import Address, Prefix
from nftbridge.nft.syntax import is_list, is_object
from nftbridge.policy.evaluate import Packet
from tests.equivalence.meaning import ACCEPTED, DROPPED, MASQUERADED, UNDECIDED, Fate, Hook, Outcome

Value: TypeAlias = str | int | Address
Columns: TypeAlias = tuple[Value, ...]
Expression: TypeAlias = Callable[[Packet], Columns | None]
Statement: TypeAlias = Callable[[Packet], Outcome | Packet | str | None]
"""None: go on with the rule, or with this packet; `_NO_MATCH`, `_RETURN` or a chain's name; or the
end of it all."""

_NO_MATCH, _RETURN, _JUMP, _GOTO = "no match", "return", "jump ", "goto "

_PLACES = {
    Hook.RAW: ("prerouting", -300),
    Hook.INBOUND: ("prerouting", -100),
    Hook.OUTPUT: ("output", -100),
    Hook.FORWARD: ("forward", 0),
    Hook.POSTROUTING: ("postrouting", 100),
}
_SAME_PROTOCOL = {"icmpv6": "ipv6-icmp"}
_META: dict[str, tuple[str, Callable[[Packet], Value]]] = {
    "iifname": ("ifname", lambda p: p.iif),
    "oifname": ("ifname", lambda p: p.oif),
    "l4proto": ("inet_proto", lambda p: p.protocol),
    "mark": ("mark", lambda p: p.mark),
    "nfproto": ("nf_proto", lambda p: p.family.value),
}
_BITWISE: dict[str, Callable[[int, int], int]] = {
    "&": lambda one, other: one & other,
    "|": lambda one, other: one | other,
    "^": lambda one, other: one ^ other,
}
_IP_VERSIONS = {"ip": 4, "ip6": 6}
_VERSIONS = {"ipv4_addr": 4, "ipv6_addr": 6}


class _Set:
    """The elements of a set or map; those with prefixes or ranges are searched one by one."""

    def __init__(self, declaration: Mapping[str, Any]) -> None:
        kinds = declaration["type"]
        self.kinds: list[str] = [kinds] if isinstance(kinds, str) else list(kinds)
        value = declaration.get("map")
        self.values = _several(value or [])
        self._exact: dict[Columns, Columns] = {}
        self._spans: list[tuple[tuple[_Span, ...], Columns]] = []
        for element in _several(declaration.get("elem", [])):
            key, held = element if self.values else (element, None)
            mapped = _span(held, self.values[0]).only() if self.values else ()
            self._take(tuple(_spans(_bare(key), self.kinds)), mapped)

    def _take(self, key: tuple[_Span, ...], mapped: Columns) -> None:
        if all(span.single for span in key):
            self._exact[tuple(value for span in key for value in span.only())] = mapped
        else:
            self._spans.append((key, mapped))

    def find(self, columns: Columns) -> Columns | None:
        """What is mapped to these columns, () in a set, None if there is no such element."""
        found = self._exact.get(columns)
        if found is not None:
            return found
        for key, mapped in self._spans:
            if all(span.holds(value) for span, value in zip(key, columns, strict=True)):
                return mapped
        return None


class _Span:
    """A constant: one value, or all from `first` to `last`."""

    def __init__(self, first: Value, last: Value) -> None:
        self._first, self._last = first, last
        self.single = first == last

    def only(self) -> Columns:
        """Its value, if it is one."""
        if not self.single:
            raise ValueError(f"{self._first} to {self._last} is no single value")
        return (self._first,)

    def holds(self, value: Value) -> bool:
        """Whether `value` is in it; values of the other family are not."""
        if self.single or isinstance(value, str) or isinstance(self._first, str):
            return value == self._first
        return _order(self._first) <= _order(value) <= _order(self._last)


def _order(value: Value) -> tuple[int, int]:
    if isinstance(value, str):
        raise TypeError(f"names like {value} have no order")
    return (0, value) if isinstance(value, int) else (value.version, int(value))


class NftReading:
    """A table as nft's JSON lists it."""

    def __init__(self, objects: Iterable[Mapping[str, Any]]) -> None:
        self._sets: dict[str, _Set] = {}
        self._base: dict[tuple[str, int], str] = {}
        self._policies: dict[str, str] = {}
        self._rules: dict[str, list[list[Statement]]] = {}
        listed = [(kind, body) for item in objects for kind, body in item.items()]
        for kind, body in listed:
            if kind in ("set", "map"):
                self._sets[body["name"]] = _Set(body)
        for kind, body in listed:
            if kind == "chain":
                self._chain(body)
            elif kind == "rule":
                self._rules[body["chain"]].append([self._statement(s) for s in body["expr"]])
            elif kind not in ("set", "map", "table", "metainfo"):
                raise ValueError(f"unknown object {kind}")

    def outcome(self, hook: Hook, packet: Packet) -> Outcome:
        """What the base chain at that hook does to the packet."""
        name = self._base[_PLACES[hook]]
        decided, packet = self._run(name, packet)
        if decided is None:
            decided = UNDECIDED if self._policies[name] == "accept" else DROPPED
        return decided.marked(packet.mark)

    def plant(self, chain: str, outcome: Outcome) -> None:
        """Put a rule for every packet into a chain, as somebody may into DOCKER-USER."""
        self._rules[chain].append([lambda _: outcome])

    def _chain(self, body: Mapping[str, Any]) -> None:
        self._rules[body["name"]] = []
        if "hook" in body:
            self._base[body["hook"], body["prio"]] = body["name"]
            self._policies[body["name"]] = body["policy"]

    def _run(self, chain: str, packet: Packet) -> tuple[Outcome | None, Packet]:
        """What the chain decides, if it does, and the packet as it has become."""
        for rule in self._rules[chain]:
            said, packet = _last(rule, packet)
            if isinstance(said, Outcome):
                return said, packet
            if said == _RETURN:
                break
            if said and said.startswith(_GOTO):  # its end is this chain's end as well
                return self._run(said.removeprefix(_GOTO), packet)
            if said and said.startswith(_JUMP):
                decided, packet = self._run(said.removeprefix(_JUMP), packet)
                if decided is not None:
                    return decided, packet
        return None, packet

    def _statement(self, node: Mapping[str, Any]) -> Statement:
        ((kind, body),) = node.items()
        fixed: dict[str, Outcome | str | None] = {
            "accept": ACCEPTED,
            "drop": DROPPED,
            "masquerade": MASQUERADED,
            "return": _RETURN,
            "counter": None,
        }
        if kind in fixed:
            result = fixed[kind]
            return lambda _: result
        if kind in ("jump", "goto"):
            target = f"{kind} {body['target']}"
            return lambda _: target
        if kind == "match":
            return self._match(body["op"], body["left"], body["right"])
        if kind == "mangle":
            return self._marking(body["key"], body["value"])
        if kind in ("dnat", "snat"):
            return self._translation(Fate(kind), body)
        raise ValueError(f"unknown statement {kind}")

    def _marking(self, key: Any, value: Any) -> Statement:
        kinds, changed = self._expression(value)
        if key != {"meta": {"key": "mark"}} or kinds != ["mark"]:
            raise ValueError(f"{kinds} is put on {key}")

        def mark(packet: Packet) -> Packet:
            return replace(packet, mark=_number(changed(packet)))

        return mark

    def _match(self, op: str, left: Any, right: Any) -> Statement:
        kinds, value = self._expression(left)
        if op not in ("==", "!=", "in"):
            raise ValueError(f"unknown comparison {op}")
        holds = self._comparison(kinds, right)
        wanted = op != "!="

        def match(packet: Packet) -> str | None:
            columns = value(packet)
            if columns is None:
                return _NO_MATCH
            return None if holds(columns) is wanted else _NO_MATCH

        return match

    def _comparison(self, kinds: Sequence[str], right: Any) -> Callable[[Columns], bool]:
        if isinstance(right, str) and right.startswith("@"):
            named = self._sets[right[1:]]
            if named.kinds != kinds:
                raise ValueError(f"{kinds} looked up in {right}, which holds {named.kinds}")
            return lambda columns: named.find(columns) is not None
        values = right["set"] if is_object(right) and "set" in right else _several(right)
        keys = [tuple(_spans(_bare(value), kinds)) for value in values]
        return lambda columns: any(
            all(span.holds(c) for span, c in zip(key, columns, strict=True)) for key in keys
        )

    def _translation(self, fate: Fate, body: Mapping[str, Any]) -> Statement:
        version = _IP_VERSIONS[body["family"]]
        kinds, address = self._expression(body["addr"])
        ports, port = self._expression(body["port"]) if "port" in body else ([], _nothing)
        if kinds != [f"ipv{version}_addr"] or ports not in ([], ["inet_service"]):
            raise ValueError(f"{fate.value} to {kinds}, {ports}")

        def translate(packet: Packet) -> Outcome | str | None:
            to, at = address(packet), port(packet)
            if to is None or at is None:
                return _NO_MATCH
            # nft_nat_inet_eval: a translation of the other family does nothing, the rule goes on
            if packet.daddr.version != version:
                return None
            assert isinstance(to[0], Address)
            number = at[0] if at else None
            assert number is None or isinstance(number, int)
            return Outcome(fate, to[0], number)

        return translate

    def _expression(self, node: Any) -> tuple[list[str], Expression]:
        """The types of its columns, and how a packet gets its value."""
        if not is_object(node):
            raise ValueError(f"unknown expression {node}")
        ((kind, body),) = node.items()
        if kind == "concat":
            return _concatenation([self._expression(part) for part in body])
        if kind == "map":
            return self._lookup(body)
        if kind in _BITWISE:
            return self._bitwise(kind, *body)
        return _leaf(kind, body)

    def _bitwise(self, operation: str, left: Any, right: Any) -> tuple[list[str], Expression]:
        kinds, value = self._expression(left)
        if kinds != ["mark"] or not isinstance(right, int):
            raise ValueError(f"{operation} of {kinds} and {right}")

        def combine(packet: Packet) -> Columns:
            return (_BITWISE[operation](_number(value(packet)), right),)

        return kinds, combine

    def _lookup(self, body: Mapping[str, Any]) -> tuple[list[str], Expression]:
        kinds, key = self._expression(body["key"])
        named = self._sets[body["data"].removeprefix("@")]
        if named.kinds != kinds:
            raise ValueError(f"{kinds} looked up in {body['data']}, which holds {named.kinds}")

        def look_up(packet: Packet) -> Columns | None:
            columns = key(packet)
            return None if columns is None else named.find(columns)

        return named.values, look_up


def _last(rule: Sequence[Statement], packet: Packet) -> tuple[Outcome | str | None, Packet]:
    """What ends the rule, and the packet as it has become."""
    for statement in rule:
        said = statement(packet)
        if isinstance(said, Packet):
            packet = said
        elif said is not None:
            return said, packet
    return None, packet


def _number(columns: Columns | None) -> int:
    """The one column of what every packet has."""
    assert columns is not None
    (value,) = columns
    assert isinstance(value, int)
    return value


def _nothing(_: Packet) -> Columns:
    return ()


def _concatenation(parts: list[tuple[list[str], Expression]]) -> tuple[list[str], Expression]:
    kinds = [kind for part, _ in parts for kind in part]
    values = [value for _, value in parts]

    def concatenated(packet: Packet) -> Columns | None:
        columns: list[Value] = []
        for value in values:
            found = value(packet)
            if found is None:
                return None
            columns += found
        return tuple(columns)

    return kinds, concatenated


def _leaf(kind: str, body: Mapping[str, Any]) -> tuple[list[str], Expression]:
    if kind == "meta":
        name, get = _META[body["key"]]
        return [name], lambda packet: (get(packet),)
    if kind == "ct" and body == {"key": "state"}:
        return ["ct_state"], lambda packet: (packet.state,)
    if kind == "fib" and body["result"] == "type":
        return ["fib_addrtype"], _address_type(_several(body["flags"]))
    if kind == "payload" and (body["protocol"], body["field"]) == ("th", "dport"):
        return ["inet_service"], lambda packet: (packet.dport,)
    if kind == "payload" and body["protocol"] in _IP_VERSIONS:
        return _header(body["protocol"], body["field"])
    raise ValueError(f"unknown expression {kind} {body}")


def _address_type(flags: list[str]) -> Expression:
    (which,) = flags
    if which == "saddr":
        return lambda packet: ("local" if packet.from_host else "unicast",)
    if which == "daddr":
        return lambda packet: ("local" if packet.to_host else "unicast",)
    raise ValueError(f"unknown fib {which}")


def _header(protocol: str, field: str) -> tuple[list[str], Expression]:
    """A field of the IP header; loading it from a packet of the other family ends the rule."""
    version = _IP_VERSIONS[protocol]
    if field not in ("saddr", "daddr"):
        raise ValueError(f"unknown field {field}")

    def load(packet: Packet) -> Columns | None:
        address = packet.saddr if field == "saddr" else packet.daddr
        return (address,) if address.version == version else None

    return [f"ipv{version}_addr"], load


def _several(node: Any) -> list[Any]:
    """nft since 1.1.4 lists a list of one as its only element."""
    return node if is_list(node) else [node]


def _bare(node: Any) -> Any:
    """An element without its comment or counter."""
    return node["elem"]["val"] if is_object(node) and "elem" in node else node


def _spans(node: Any, kinds: Sequence[str]) -> Iterable[_Span]:
    parts: list[Any] = node["concat"] if is_object(node) and "concat" in node else [node]
    return (_span(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _span(node: Any, kind: str) -> _Span:
    if is_object(node) and "prefix" in node:
        network: Prefix = ip_network(f"{node['prefix']['addr']}/{node['prefix']['len']}")
        return _Span(network[0], network[-1])
    if is_object(node) and "range" in node:
        first, last = node["range"]
        return _Span(_scalar(first, kind), _scalar(last, kind))
    value = _scalar(node, kind)
    return _Span(value, value)


def _scalar(node: Any, kind: str) -> Value:
    if isinstance(node, int) is not (kind in ("inet_service", "mark")):
        raise ValueError(f"{node} is no {kind}")
    if kind in _VERSIONS:
        address = ip_address(node)
        if address.version != _VERSIONS[kind]:
            raise ValueError(f"{node} is no {kind}")
        return address
    assert isinstance(node, str | int)
    return _SAME_PROTOCOL.get(str(node), node) if kind == "inet_proto" else node


def as_listed(commands: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What a kernel that had executed these commands would list; DOCKER-USER being empty."""
    objects: list[dict[str, Any]] = []
    sets: dict[str, dict[str, Any]] = {}
    for verb, operand in ((v, o) for command in commands for v, o in command.items()):
        ((kind, body),) = operand.items()
        if verb == "flush" and kind in ("chain", "set", "map"):
            continue  # nothing has been put in before
        if verb != "add":
            raise ValueError(f"unexpected {verb}")
        if kind == "element":
            sets[body["name"]].setdefault("elem", []).extend(body["elem"])
            continue
        objects.append({kind: dict(body)})
        if kind in ("set", "map"):
            sets[body["name"]] = objects[-1][kind]
    return objects
