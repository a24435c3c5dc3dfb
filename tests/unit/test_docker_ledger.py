"""What is known of an Engine after what it tells, in whatever order."""

from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest

from nftbridge.docker.events import Action, Event, Kind, event_of, path
from nftbridge.docker.host import Inspected, clashes, joined
from nftbridge.docker.item import Item
from nftbridge.docker.ledger import Ledger, Question
from nftbridge.errors import InputError
from nftbridge.model import Host
from tests.unit.docker_inspect import bound, container, endpoint, network, read_container
from tests.unit.docker_inspect import read_network as read

FRONT = "front-id-0123456789abcdef"
OTHER = "other-id-0123456789abcdef"
PORT = {"80/tcp": bound("0.0.0.0 8080")}
WEB: dict[str, Any] = container(ports=PORT)
MEMBER = {"Name": "web", "IPv4Address": "172.20.0.2/16"}


def answer(ledger: Ledger, **about: object) -> list[bool]:
    """Answer all open questions with what there is, null for what there is not."""
    return [
        ledger.answered(question, Item(about.get(question.identity.partition("-")[0]), "test"))
        for question in ledger.to_ask(100)
    ]


def filled() -> Ledger:
    """One network with one container in it, both inspected."""
    ledger = Ledger()
    ledger.listed(Kind.CONTAINER, ["web-id"])
    ledger.listed(Kind.NETWORK, [FRONT])
    answer(ledger, web=WEB, front=network(Containers={"web-id": MEMBER}))
    assert ledger.complete
    return ledger


def host(ledger: Ledger) -> Host:
    return joined(Host(), ledger.inspected()).host


def ports(ledger: Ledger) -> list[str]:
    """What is published, and by whom."""
    found = [c for n in host(ledger).networks for c in n.containers]
    return [f"{c.name} {p}" for c in found for p in c.publish]


def test_it_is_complete_when_all_that_was_listed_is_inspected() -> None:
    ledger = Ledger()
    assert not ledger.complete
    ledger.listed(Kind.CONTAINER, [])
    ledger.listed(Kind.NETWORK, [FRONT])
    assert not ledger.complete
    assert answer(ledger, front=network()) == [True]
    assert ledger.complete
    assert [n.name for n in host(ledger).networks] == ["front"]


@pytest.mark.parametrize(
    "event",
    [
        Event(Kind.CONTAINER, Action.DIE, "web-id"),
        Event(Kind.CONTAINER, Action.DESTROY, "web-id"),
        Event(Kind.NETWORK, Action.DISCONNECT, FRONT, "web-id"),
    ],
    ids=lambda event: event.action.value,
)
def test_what_is_gone_goes_without_a_question(event: Event) -> None:
    ledger = filled()
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]
    assert ledger.happened(event)
    assert ports(ledger) == []
    assert host(ledger).networks[0].containers == (), "nor does its network tell of it"


def test_a_network_that_is_gone_takes_its_containers_along() -> None:
    ledger = filled()
    assert ledger.happened(Event(Kind.NETWORK, Action.DESTROY, FRONT))
    assert host(ledger).networks == ()


def test_a_network_that_is_inspected_while_a_container_starts_in_it() -> None:
    """Docker lists its end point then by an ID of that, until the container runs."""
    ledger = Ledger()
    ledger.listed(Kind.CONTAINER, ["web-id"])
    ledger.listed(Kind.NETWORK, [FRONT])
    answer(ledger, web=WEB, front=network(Containers={"ep-0123": MEMBER}))
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]
    assert joined(Host(), ledger.inspected()).remarks == ()


def test_what_is_not_inspected_yet_is_no_reason_to_complain() -> None:
    """Docker's own networks have other IDs after a restart, and containers may come first."""
    ledger = Ledger()
    ledger.listed(Kind.CONTAINER, ["web-id"])
    ledger.listed(Kind.NETWORK, [FRONT])
    container, front = ledger.to_ask(2)
    ledger.answered(container, Item(WEB, "test"))
    assert not joined(Host(), ledger.inspected()).remarks
    ledger.answered(front, Item(None, "test"))
    (remark,) = joined(Host(), ledger.inspected()).remarks
    assert "which was not inspected" in remark.message


def test_a_start_is_asked_about_and_a_second_time_if_it_dies_meanwhile() -> None:
    ledger = filled()
    start = Event(Kind.CONTAINER, Action.START, "web-id")
    die = Event(Kind.CONTAINER, Action.DIE, "web-id")
    ledger.happened(die)
    ledger.happened(start)
    (first,) = ledger.to_ask(9)
    ledger.happened(die)
    assert not ledger.answered(first, Item(WEB, "old")), "it ran when that was asked"
    assert ports(ledger) == []
    ledger.happened(start)
    (second,) = ledger.to_ask(9)
    assert not ledger.answered(first, Item(WEB, "old"))
    assert ledger.answered(second, Item(WEB, "new"))
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]


def test_a_connection_before_the_start_asks_nothing() -> None:
    """Docker would not answer before the container runs."""
    ledger = filled()
    ledger.happened(Event(Kind.NETWORK, Action.CONNECT, FRONT, "late-id"))
    assert ledger.to_ask(9) == []
    ledger.happened(Event(Kind.NETWORK, Action.CONNECT, OTHER, "web-id"))
    assert [q.path for q in ledger.to_ask(9)] == ["/containers/web-id/json"]


@pytest.mark.parametrize("action", [Action.CREATE, Action.CONNECT])
def test_a_network_that_nobody_has_told_of(action: Action) -> None:
    """Where there is one there may be others: swarm makes docker_gwbridge without a word."""
    ledger = filled()
    ledger.happened(Event(Kind.NETWORK, action, OTHER, "web-id"))
    assert ledger.surprised()
    assert not ledger.surprised(), "once is enough"
    ledger.seen([FRONT, OTHER, "third-id"])
    asked = {q.path for q in ledger.to_ask(9) if q.kind is Kind.NETWORK}
    assert asked == {f"/networks/{OTHER}", "/networks/third-id"}
    ledger.happened(Event(Kind.NETWORK, action, FRONT, "web-id"))
    assert not ledger.surprised(), "it is known"
    ledger.again()
    ledger.happened(Event(Kind.NETWORK, action, "fourth-id", "web-id"))
    assert not ledger.surprised(), "all are listed anyway"


GATEWAY = "gwbridge-id-0123456789abcdef"
BOX = {"ingress-sbox": {"Name": "gateway_ingress-sbox", "IPv4Address": "172.18.0.2/16"}}


def gateway(**members: Any) -> dict[str, Any]:
    """Swarm's bridge with these end points."""
    subnet = {"Config": [{"Subnet": "172.18.0.0/16"}]}
    return network("docker_gwbridge", Id=GATEWAY, IPAM=subnet, Containers=members)


def in_swarm(state: str = "active", **numbers: int) -> Item:
    return Item({"Swarm": {"LocalNodeState": state}} | numbers, "info")


def asked_again(ledger: Ledger) -> set[str]:
    """The networks that are asked about when one has doubts."""
    ledger.doubt()
    return {question.identity for question in ledger.to_ask(9)}


def test_swarm_s_end_points_are_asked_about_as_long_as_there_are_any() -> None:
    ledger = filled()
    assert not ledger.untold()
    assert asked_again(ledger) == set(), "it costs nothing without a swarm"
    ledger.seen([FRONT, GATEWAY])
    assert answer(ledger, gwbridge=gateway(**BOX)) == [True]
    assert ledger.untold(), "nobody tells of it"
    assert joined(Host(), ledger.inspected()).host.networks[0].containers != ()
    ledger.doubt()
    assert answer(ledger, gwbridge=gateway(**BOX)) == [False], "no news"
    ledger.doubt()
    assert answer(ledger, gwbridge=gateway()) == [True]
    assert not ledger.untold()
    assert joined(Host(), ledger.inspected()).host.networks[0].containers == ()
    assert asked_again(ledger) == {GATEWAY}, "it may have one again"
    assert asked_again(ledger) == set(), "it has not answered yet"


def test_an_end_point_of_a_container_that_is_asked_about_is_no_reason_to_doubt() -> None:
    ledger = Ledger()
    ledger.listed(Kind.NETWORK, [FRONT])
    answer(ledger, front=network(Containers={"web-id": MEMBER}))
    assert not ledger.untold(), "the containers are not listed yet"
    ledger.listed(Kind.CONTAINER, ["web-id"])
    assert not ledger.untold()
    (question,) = ledger.to_ask(9)
    assert not ledger.untold()
    assert ledger.refused(question, "it sleeps")
    assert ledger.untold(), "nobody has told whose it is"
    assert asked_again(ledger) == {FRONT}


def test_of_what_the_engine_says_of_itself_only_a_swarm_is_news() -> None:
    ledger = filled()
    assert not ledger.set_info(Item({"Containers": 1}, "info"))
    assert not ledger.set_info(in_swarm("inactive", Containers=2))
    assert not ledger.untold()
    assert ledger.set_info(in_swarm(Containers=2))
    assert ledger.untold()
    assert "swarm" in str(joined(Host(), ledger.inspected()).remarks)
    assert not ledger.set_info(in_swarm(Containers=3))
    assert not ledger.set_info(in_swarm("error"))
    assert ledger.set_info(in_swarm("inactive"))
    assert not ledger.untold()
    with pytest.raises(InputError):
        ledger.set_info(Item({"Swarm": 7}, "info"))
    assert not ledger.untold(), "what was known stays"


def test_a_node_of_a_swarm_is_a_surprise() -> None:
    ledger = filled()
    ledger.happened(Event(None, Action.UPDATE, "node-id"))
    assert ledger.surprised()
    ledger.happened(Event(Kind.CONTAINER, Action.UPDATE, "web-id"))
    assert not ledger.surprised()


def test_a_network_that_is_listed_no_more_is_asked_about() -> None:
    """It may be newer than the list, or have gone with its swarm, of which nobody tells."""
    ledger = filled()
    ledger.seen([])
    assert host(ledger).networks != ()
    assert answer(ledger) == [True], "null: it is gone"
    assert host(ledger).networks == ()


def test_what_only_a_network_knows_of_a_container_that_runs_no_more_is_news() -> None:
    ledger = Ledger()
    ledger.listed(Kind.CONTAINER, ["web-id"])
    ledger.listed(Kind.NETWORK, [FRONT])
    ended = WEB | {"State": {"Running": False}}
    answer(ledger, web=ended, front=network(Containers={"web-id": MEMBER}))
    ledger.happened(Event(Kind.CONTAINER, Action.RENAME, "web-id"))
    assert answer(ledger, web=ended) == [True]
    assert ledger.inspected().networks[0].members == {}


def test_a_new_listing_drops_what_is_not_in_it_and_keeps_the_rest_until_told() -> None:
    ledger = filled()
    ledger.happened(Event(Kind.CONTAINER, Action.START, "late-id"))
    (old,) = ledger.to_ask(9)
    ledger.again()
    assert not ledger.complete
    assert not ledger.answered(old, Item(container("late"), "before"))
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]
    assert not ledger.listed(Kind.NETWORK, [FRONT])
    assert ledger.listed(Kind.CONTAINER, ["new-id"])
    assert ports(ledger) == []
    new = container("new", {"80/tcp": bound("0.0.0.0 8081")}, {"front": endpoint(last=3)})
    answer(ledger, new=new, front=network())
    assert ports(ledger) == ["new 0.0.0.0:8081:80/tcp"]


def test_one_that_has_ended_when_it_is_inspected() -> None:
    ledger = filled()
    ledger.happened(Event(Kind.CONTAINER, Action.RENAME, "web-id"))
    (question,) = ledger.to_ask(9)
    assert ledger.answered(question, Item(WEB | {"State": {"Running": False}}, "test"))
    assert host(ledger).networks[0].containers == ()
    ledger.happened(Event(Kind.CONTAINER, Action.START, "web-id"))
    assert answer(ledger) == [True], "null: it does not exist"


def test_what_cannot_be_read_is_left_out_and_the_rest_stays() -> None:
    ledger = filled()
    ledger.happened(Event(Kind.CONTAINER, Action.START, "odd-id"))
    ledger.happened(Event(Kind.NETWORK, Action.CREATE, OTHER))
    odd = network("other", IPAM={"Config": [{"Subnet": "nonsense"}]})
    assert answer(ledger, odd={"Id": 7}, other=odd) == [True, True]
    assert {problem.where for problem in ledger.unread()} == {
        "container odd-id",
        "network other-id-012",
    }
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]
    ledger.happened(Event(Kind.CONTAINER, Action.START, "odd-id"))
    assert answer(ledger, odd={"Id": 7}) == [False], "no news"
    ledger.happened(Event(Kind.CONTAINER, Action.DIE, "odd-id"))
    ledger.happened(Event(Kind.NETWORK, Action.DESTROY, OTHER))
    assert ledger.unread() == ()


def test_what_docker_refuses_keeps_what_was_known_and_is_asked_again() -> None:
    ledger = filled()
    ledger.happened(Event(Kind.CONTAINER, Action.RENAME, "web-id"))
    (question,) = ledger.to_ask(9)
    assert ledger.refused(question, "it sleeps")
    assert ledger.complete
    assert ports(ledger) == ["web 0.0.0.0:8080:80/tcp"]
    assert ledger.to_ask(9) == []
    ledger.retry()
    assert answer(ledger, web=WEB) == [True]
    assert ledger.unread() == ()
    assert not ledger.refused(Question(Kind.CONTAINER, "web-id", 0), "an old one")


def test_the_events_that_are_told() -> None:
    said = {"Type": "network", "Action": "connect"}
    actor = {"ID": "n", "Attributes": {"container": "c", "name": "front"}}
    line = json.dumps(said | {"Actor": actor}).encode()
    assert event_of(line) == Event(Kind.NETWORK, Action.CONNECT, "n", "c")
    assert event_of(b'{"Type": "container", "Action": "exec_start: sh"}') is None
    assert event_of(b'{"Type": "image", "Action": "create"}') is None
    node = b'{"Type": "node", "Action": "update", "Actor": {"ID": "o"}}'
    assert event_of(node) == Event(None, Action.UPDATE, "o")
    assert path(1.5).startswith("/events?since=1.500000000&filters=%7B%22type%22")


@pytest.mark.parametrize(
    "line",
    [b'{"Type": "conta', b"\xff", b"7", b'{"Type": "container", "Action": "die"}', b"[" * 99999],
)
def test_what_is_no_event(line: bytes) -> None:
    with pytest.raises(InputError):
        event_of(line)


# --- beside a host file --------------------------------------------------------------------------

THEIRS = Inspected((read(network()),), (read_container(WEB),), Item(None, "info"))


def own(subnet: str = "10.7.0.0/24", **keys: Any) -> Host:
    """A host file's network with one published port."""
    inspected = network("own", IPAM={"Config": [{"Subnet": subnet}]}, **keys)
    address = str(ip_network(subnet)[2])
    one = endpoint("own", IPAddress=address, GlobalIPv6Address="")
    box = container("box", {"80/tcp": bound("0.0.0.0 9090")}, {"own": one})
    ours = Inspected((read(inspected),), (read_container(box),), Item(None, "info"))
    return joined(Host(userland_proxy=False), ours).host


def test_both_are_there_with_the_file_s_options() -> None:
    found = joined(own(), THEIRS)
    assert [n.name for n in found.host.networks] == ["own", "front"]
    assert not found.host.userland_proxy
    assert found.remarks == ()
    assert clashes(own(), THEIRS) == ()


BRIDGE = {"com.docker.network.bridge.name": "br-front-id-012"}


@pytest.mark.parametrize(
    ("ours", "clash", "left"),
    [
        ({"Name": "front"}, "name 'front' is taken", ["front", "front-front-id-012"]),
        ({"Options": BRIDGE}, "bridge 'br-front-id-012' is taken", ["own"]),
        ({"subnet": "172.20.9.0/24"}, "overlaps", ["own"]),
        ({"subnet": "172.0.0.0/8"}, "overlaps", ["own"]),
    ],
)
def test_what_does_not_go_together(ours: dict[str, Any], clash: str, left: list[str]) -> None:
    """A new file is refused; a new network of Docker's gives way to a file that is in force."""
    file = own(**ours)
    (problem,) = clashes(file, THEIRS)
    assert clash in str(problem)
    assert "'front'" in str(problem)
    found = joined(file, THEIRS)
    assert [n.name for n in found.host.networks] == left
    assert bool(found.remarks) == (len(left) == 1)
    for remark in found.remarks:
        assert remark.where == "network 'front'"
        assert clash in remark.message


def test_of_a_port_that_is_taken_only_that_goes() -> None:
    taken = container(ports={"80/tcp": bound("0.0.0.0 9090", "0.0.0.0 9091")})
    theirs = Inspected(THEIRS.networks, (read_container(taken),), THEIRS.info)
    assert "9090" in str(clashes(own(), theirs)[0])
    found = joined(own(), theirs)
    (web,) = found.host.networks[1].containers
    assert [str(p) for p in web.publish] == ["0.0.0.0:9091:80/tcp"]
    assert "9090" in str(found.remarks[0])
