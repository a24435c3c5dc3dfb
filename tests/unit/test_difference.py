"""What two documents have in common, and when they are not compared at all."""

from __future__ import annotations

import pytest

from nftbridge.difference import difference
from nftbridge.nft.generation import parse

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
