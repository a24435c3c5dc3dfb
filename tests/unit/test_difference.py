"""What two documents have in common, and when they are not compared at all."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nftbridge import config
from nftbridge.conntrack.revoked import departed
from nftbridge.difference import difference, stands_apart
from nftbridge.errors import InputError
from nftbridge.model import Host
from nftbridge.nft.generation import parse
from nftbridge.plan import compare
from nftbridge.policy.flat import flat_rows

FRONT = {"name": "front", "bridge": "br-front"}
BACK = {"name": "back", "bridge": "br-back"}
OTHER_BACK = {"name": "back", "bridge": "br-other"}


def test_networks_that_are_the_same_in_both_are_left_out() -> None:
    found = difference(
        {"version": 1, "network": [FRONT, BACK]}, {"version": 1, "network": [OTHER_BACK, FRONT]}
    )
    assert found is not None
    assert (found.held, found.wanted, found.same) == ([BACK], [OTHER_BACK], [FRONT])
    assert found.document(found.wanted) == {"version": 1, "network": [OTHER_BACK]}


@pytest.mark.parametrize(
    "other",
    [
        *(None, [], 5, {}, {"version": 2, "network": [FRONT]}),
        {"version": 1, "host": {"ipv6": False}, "network": [FRONT]},
        {"version": 1, "network": {"front": FRONT}},
        {"version": 1, "network": [FRONT, "back"]},
        {"version": 1, "network": [FRONT, FRONT]},
        {"version": 1, "network": [FRONT, {"name": 5}]},
        {"version": 1, "network": [FRONT, {"bridge": "br-back"}]},
    ],
)
def test_what_is_not_comparable_is_not_compared(other: object) -> None:
    document = {"version": 1, "network": [FRONT]}
    assert difference(document, other) is None
    assert difference(other, document) is None


def network(*containers: dict[str, Any], **traits: Any) -> dict[str, Any]:
    own = {"name": "front", "bridge": "br-front", "subnets": ["172.20.0.0/16"]}
    return {**own, **traits, "container": list(containers)}


def box(last: int, *publish: object, **traits: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"name": f"c{last}", "ipv4": f"172.20.0.{last}"}
    return {**own, **traits, "publish": list(publish)}


CASES: list[tuple[list[Any], list[Any], tuple[list[Any], list[Any], list[Any]]]] = [
    # containers
    ([box(2), box(3)], [box(2), box(4)], ([box(3)], [box(4)], [box(2)])),
    ([box(2)], [box(2), box(3)], ([], [box(3)], [box(2)])),
    # publications, however they are written
    (
        [box(2, "1:1", "2:2")],
        [box(2, "3:3", "2:2")],
        ([box(2, "1:1")], [box(2, "3:3")], [box(2, "2:2")]),
    ),
    (
        [box(2, "1:1", "2:2")],
        [box(2, {"host_port": 2, "container_port": 2})],
        ([box(2, "1:1")], [box(2)], [box(2, {"host_port": 2, "container_port": 2})]),
    ),
    # a port that is opened by something that stays: the container as a whole
    (
        [box(2, "1:80", "2:80")],
        [box(2, "2:80")],
        ([box(2, "1:80", "2:80")], [box(2, "2:80")], []),
    ),
    (
        [box(2, "1-9:1-9")],
        [box(2, "1-9:1-9", "20:5")],
        ([box(2, "1-9:1-9")], [box(2, "1-9:1-9", "20:5")], []),
    ),
    # more than publications, what cannot be read, what stands there twice
    (
        [box(2, "1:1")],
        [box(2, "1:1", ipv4="172.20.0.9")],
        ([box(2, "1:1")], [box(2, "1:1", ipv4="172.20.0.9")], []),
    ),
    ([box(2, "1:1")], [box(2, "1:1", "x")], ([box(2, "1:1")], [box(2, "1:1", "x")], [])),
    ([box(2, "1:1")], [box(2, "1:1", "1:1")], ([box(2, "1:1")], [box(2, "1:1", "1:1")], [])),
]


@pytest.mark.parametrize(("held", "wanted", "apart"), CASES)
def test_what_containers_have_in_common_is_left_out(
    held: list[dict[str, Any]], wanted: list[dict[str, Any]], apart: tuple[Any, Any, Any]
) -> None:
    documents = ({"version": 1, "network": [network(*boxes)]} for boxes in (held, wanted))
    found = difference(*documents)
    assert found is not None
    assert (found.held, found.wanted, found.same) == tuple([network(*part)] for part in apart)


def test_other_traits_of_a_network_concern_all_that_is_on_it() -> None:
    before, after = network(box(2)), network(box(2), icc=False)
    found = difference({"network": [before]}, {"network": [after]})
    assert found is not None
    assert (found.held, found.wanted, found.same) == ([before], [after], [])


def test_a_port_that_is_bound_otherwise_may_collide() -> None:
    """What one address of the host leaves free may be taken on another one."""
    other = network(
        box(2, "192.0.2.1:80:80"), name="back", bridge="br-1", subnets=["172.21.0.0/16"]
    )
    other["container"][0]["ipv4"] = "172.21.0.2"
    before, after = (network(box(2, item)) for item in ("127.0.0.1:80:80", "80:80"))
    held, wanted = ({"version": 1, "network": [own, other]} for own in (before, after))
    found = difference(held, wanted)
    ours, theirs = (
        _host({"version": 1, "network": [before]}),
        _host({"version": 1, "network": [after]}),
    )
    assert found is not None
    assert ours is not None
    assert theirs is not None
    assert _host(held) is not None
    assert _host(wanted) is None
    assert not stands_apart(found, ours, theirs)


PUBLICATIONS = st.lists(
    st.sampled_from(
        [
            *("80:80", "81:81", "82:80", "80:80/udp", "80-81:80-81/udp", "127.0.0.1:83:83"),
            *("127.0.0.1:80:80", "[::1]:80:80", "81", {"host_port": 80, "container_port": 80}),
        ]
    ),
    max_size=2,
)


def _ends(network: int, last: int) -> dict[str, str]:
    return {"ipv4": f"172.2{network}.0.{last}", "ipv6": f"fd00:2{network}::{last}"}


@st.composite
def _boxes(draw: st.DrawFn, network: int, names: list[int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in names:
        ends = _ends(network, draw(st.sampled_from([name, name, 2])))
        kept = draw(st.sampled_from([("ipv4",), ("ipv6",), ("ipv4", "ipv6")]))
        addresses = {key: ends[key] for key in kept}
        found.append({"name": f"c{name}", **addresses, "publish": draw(PUBLICATIONS)})
    return found


@st.composite
def _networks(draw: st.DrawFn, numbers: list[int]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in numbers:
        bridge = f"br-{draw(st.sampled_from([number, number, 0]))}"
        subnets = [f"172.2{number}.0.0/16", f"fd00:2{number}::/64"]
        mode = draw(st.sampled_from(["nat", "nat", "routed"]))
        modes = {"gateway_mode_ipv4": mode, "gateway_mode_ipv6": mode}
        boxes = draw(_boxes(number, draw(st.lists(st.sampled_from([2, 3, 4]), max_size=2))))
        traits = {"name": f"net{number}", "bridge": bridge, "subnets": subnets}
        found.append({**traits, **modes, "container": boxes})
    return found


@st.composite
def two_documents(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A consistent one, and what becomes of it by a change or two."""
    held = draw(
        _networks([0, 1]).filter(lambda networks: _host({"version": 1, "network": networks}))
    )
    wanted: list[dict[str, Any]] = deepcopy(held)
    for _ in range(draw(st.integers(1, 2))):
        number = draw(st.sampled_from([0, 1]))
        boxes = wanted[number]["container"]
        match draw(st.sampled_from(["box", "publish", "publish", "network"])):
            case "network":
                wanted[number] = draw(_networks([number]))[0]
            case "publish" if boxes:
                box = draw(st.sampled_from(boxes))
                box["publish"] = box["publish"][draw(st.integers(0, 1)) :] + draw(PUBLICATIONS)
            case _:
                boxes += draw(_boxes(number, [draw(st.sampled_from([2, 3, 4]))]))
                del boxes[: draw(st.integers(0, 1))]
    return {"version": 1, "network": held}, {"version": 1, "network": wanted}


@settings(max_examples=1000, suppress_health_check=[HealthCheck.filter_too_much])
@given(two_documents())
def test_the_parts_tell_as_much_as_the_whole(
    documents: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    """The same rows go and come; and what is not consistent does not pass for it."""
    found = difference(*documents)
    assert found is not None
    before, after = map(_host, documents)
    ours, theirs = (_host(found.document(part)) for part in (found.held, found.wanted))
    assert before is not None
    assert ours is not None
    if after is None:
        assert theirs is None or not stands_apart(found, ours, theirs)
        return
    assert theirs is not None
    whole = compare(flat_rows(before), flat_rows(after))
    parts = compare(flat_rows(ours), flat_rows(theirs))
    assert (parts.removed, parts.added) == (whole.removed, whole.added)
    left = departed(before, after, whole.removed)
    assert departed(ours, theirs, parts.removed) == left


def _host(document: object) -> Host | None:
    try:
        return config.host_from_data(document)
    except InputError:
        return None


ANSWER = bytes.fromhex(  # of Linux 6.18, asked by python3
    "300000000f0a000000000000f91f000000000001"
    "08000100000000010800020000001ff90c000300707974686f6e3300"
)


def test_the_generation_in_an_answer() -> None:
    assert parse(ANSWER) == 1
    assert parse(ANSWER[:24] + (0xFFFFFFFE).to_bytes(4, "big") + ANSWER[28:]) == 0xFFFFFFFE


@pytest.mark.parametrize("end", range(28))
def test_a_short_answer_says_nothing(end: int) -> None:
    assert parse(ANSWER[:end]) is None


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER[:4] + b"\x02\x00" + ANSWER[6:],  # an error message
        ANSWER[:22] + b"\x09\x00" + ANSWER[24:28],  # another attribute
        ANSWER[:20] + b"\x00\x00\x09\x00" + ANSWER[24:],  # of no length
    ],
)
def test_another_answer_says_nothing(answer: bytes) -> None:
    assert parse(answer) is None
