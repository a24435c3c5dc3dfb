"""The service's parts that need no kernel beyond inotify: times, paths, lines, forked work."""

from __future__ import annotations

import io
import os
import select
import signal
from pathlib import Path

import pytest

from nftbridge.watch import lane as lanes
from nftbridge.watch.child import Child
from nftbridge.watch.files import Paths
from nftbridge.watch.lane import MOST, QUIET, Gathering, Lane, Reason
from nftbridge.watch.log import Level, Log
from nftbridge.watch.work import Outcome


def test_things_that_happen_together_are_one() -> None:
    gathering = Gathering()
    assert gathering.due() is None
    for moment in range(100):
        gathering.add(Reason.FILE, 1 + moment / 100)
    assert gathering.due() == 1 + MOST, "not put off for ever"
    assert gathering.take() == {Reason.FILE}
    assert gathering.due() is None
    gathering.add(Reason.FILE, 5.0)
    assert gathering.due() == 5.0 + QUIET[Reason.FILE]


@pytest.mark.parametrize("first", [Reason.FILE, Reason.RULES])
def test_what_needs_no_quiet_is_not_put_off(first: Reason) -> None:
    gathering = Gathering()
    gathering.add(first, 1.0)
    gathering.add(Reason.FIREWALLD, 1.001)
    gathering.add(first, 1.002)
    assert gathering.due() == 1.001


def test_in_a_burst_it_rests_for_as_long_as_it_worked() -> None:
    gathering = Gathering()
    gathering.rest(1.0, 3.0)
    gathering.add(Reason.RULES, 3.1)
    assert gathering.due() == 3.1 + QUIET[Reason.RULES], "the second time is no fight yet"
    gathering.take()
    gathering.rest(3.2, 5.2)
    gathering.add(Reason.RULES, 5.3)
    assert gathering.due() == 7.2


def test_a_failure_is_tried_again_ever_later_and_at_once_if_something_happens() -> None:
    gathering = Gathering()
    waits: list[float] = []
    for _ in range(8):
        waits.append(gathering.failed(frozenset({Reason.START}), 1.0))
        assert gathering.due() == 1.0 + waits[-1]
        assert gathering.take() == {Reason.START}
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    gathering.failed(frozenset({Reason.START}), 1.0)
    gathering.add(Reason.FILE, 2.0)
    assert gathering.due() == 2.0 + QUIET[Reason.FILE]
    assert gathering.take() == {Reason.START, Reason.FILE}
    gathering.succeeded()
    assert gathering.failed(frozenset({Reason.FILE}), 1.0) == 1


def test_only_what_concerns_the_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "a" / "host.toml"
    with Paths(str(file)) as paths:
        (tmp_path / "b").mkdir()
        assert not paths.changed()
        file.parent.mkdir()
        assert paths.changed()
        with file.open("w") as writing:
            writing.write("half")
            writing.flush()
            assert not paths.changed(), "somebody is still writing"
        assert paths.changed()
        file.with_name("other.toml").write_text("")
        assert not paths.changed()
        file.unlink()
        assert paths.changed()


def test_a_folder_counts_with_its_host_files_and_where_they_lead(tmp_path: Path) -> None:
    folder, target = tmp_path / "etc", tmp_path / "elsewhere.toml"
    folder.mkdir()
    target.write_text("")
    with Paths(str(folder)) as paths:
        for name in (".hidden.toml", "notes.txt", "x.toml~"):
            (folder / name).write_text("")
        assert not paths.changed()
        (folder / "x.toml").symlink_to(target)
        assert paths.changed()
        target.write_text("new")
        assert paths.changed()
        (folder / "x.toml").unlink()
        assert paths.changed()
        target.write_text("newer")
        assert not paths.changed(), "nothing leads there any more"


def test_links_in_a_ring_do_not_hold_it_up(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with Paths(str(tmp_path / "a" / "host.toml")) as paths:
        assert not paths.changed()


def test_lines() -> None:
    stream = io.StringIO()
    Log(stream, levels=True).say(
        Level.ERROR, "failed", reason="file,rules", text='a "b"\nc', ms=1.5
    )
    assert stream.getvalue() == (
        r'<3>level=error event=failed reason=file,rules text="a \"b\"\nc" ms=1.5' + "\n"
    )


def outcome_of(child: Child) -> Outcome:
    while (found := child.outcome()) is None:
        pass
    child.close()
    return found


def test_what_a_forked_process_says_and_how_it_ends() -> None:
    said = Outcome(done="x" * 300_000, warnings=("a", "b"))
    assert outcome_of(Child(lambda: said)) == said

    def crash() -> Outcome:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    assert "SIGKILL" in outcome_of(Child(crash)).error

    def fail() -> Outcome:
        raise KeyError(1)

    assert outcome_of(Child(fail)).error.startswith("internal error: KeyError(1)")


def test_work_that_hangs_is_ended_and_what_came_of_it_is_said() -> None:
    def hang(_: frozenset[Reason]) -> Outcome:
        signal.pause()
        return Outcome()

    lane = Lane(hang)
    assert lane.deadline() is None
    lane.ask(Reason.START, 0.0)
    child = lane.start(0.0)
    late = lanes.LONGEST
    assert lane.deadline() == late
    lane.interrupt(late - 1)
    assert not select.select([child], [], [], 0.1)[0]
    lane.interrupt(late)
    while (finished := lane.finished(late)) is None:
        pass
    child.close()
    assert "SIGKILL" in finished.outcome.error
    assert lane.deadline() is None
