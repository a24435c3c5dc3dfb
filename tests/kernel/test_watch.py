"""`nftbridge watch` beside people who edit, flush and kill; all real."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nftbridge import netns
from nftbridge.watch.ruleset import INET, Transactions
from tests.kernel.watching import PATIENCE, Watch, command, watching
from tests.namespaces import network_namespace

pytestmark = pytest.mark.kernel

EXAMPLE = Path("rulesets/02-published-port/host.toml")


WAITS = "waits for Docker; what was applied last is in force"


class Place:
    """A network namespace, a host file and a state directory."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace = namespace
        self.state = folder / "state"
        self.file = folder / "etc" / "host.toml"
        self.file.parent.mkdir()
        shutil.copy(EXAMPLE, self.file)

    def watch(self, *more: str) -> list[str]:
        return command(self.file, self.namespace, self.state, *more)

    def nft(self, *words: str) -> str:
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}", "nft", *words]
        return subprocess.run(inside, capture_output=True, text=True, check=True).stdout

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = self.watch()
        own = [*words[:3], *arguments, *words[6:]]
        return subprocess.run(own, capture_output=True, text=True, check=False)

    def holds(self, text: str) -> bool:
        return text in self.nft("list", "table", "inet", "nftbridge")

    def edit(self, old: str, new: str) -> None:
        """As most editors save: a new file takes the place of the old one."""
        beside = self.file.with_suffix(".swp")
        beside.write_text(self.file.read_text().replace(old, new))
        beside.rename(self.file)


@pytest.fixture
def place(tmp_path: Path) -> Generator[Place]:
    with network_namespace(forwarding=True) as name:
        yield Place(name, tmp_path)


TAMPERING: tuple[tuple[str, ...], ...] = (
    ("flush", "ruleset"),
    ("delete", "table", "inet", "nftbridge"),
    ("flush", "chain", "inet", "nftbridge", "DOCKER"),
    ("insert", "rule", "inet", "nftbridge", "DOCKER-FORWARD", "accept"),
    ("flush", "set", "inet", "nftbridge", "bridges"),
)


@pytest.mark.parametrize("words", TAMPERING, ids=" ".join)
def test_what_somebody_does_to_the_table_is_put_right(place: Place, words: tuple[str, ...]) -> None:
    with watching(place.watch()) as watch:
        before = place.nft("--stateless", "list", "ruleset")
        place.nft(*words)
        assert watch.until("restored")["reason"] == "rules"
        assert place.nft("--stateless", "list", "ruleset") == before
        assert place.run("verify").returncode == 0


def test_how_long_a_flushed_table_is_away(place: Place) -> None:
    """From the kernel's word of the flush to its word of our transaction, with flows to look at."""
    gaps: dict[str, list[float]] = {"at rest": [], "again at once": []}
    with watching(place.watch()) as watch:
        make_flows(place)
        own = {(INET, "nftbridge")}
        with Transactions(own, place.namespace) as seen:
            for _ in range(8):
                time.sleep(1.1)  # longer than a burst
                for found in gaps.values():
                    seen.touched()
                    place.nft("flush", "ruleset")
                    wait_for(lambda: seen.touched() is not None, 0.0005)
                    start = time.monotonic()
                    wait_for(lambda: seen.touched() is not None, 0.0005)
                    found.append(1000 * (time.monotonic() - start))
                    watch.until("restored")
    for when, found in gaps.items():
        median = statistics.median(found)
        print(f"{when} repaired after {median:.0f} ms, {max(found):.0f} ms at most")
        assert median < 2000


def test_a_forked_repair_imports_nothing(place: Place) -> None:
    """All of it is there before: each import would keep the table away, or the next repair."""
    assert place.run("apply", str(place.file)).returncode == 0
    make_flows(place)
    place.nft("flush", "ruleset")
    code = (
        "import sys; from pathlib import Path; from nftbridge.choice import Target;"
        "from nftbridge.watch import service, work; work.warm(); known = set(sys.modules);"
        "done = work.restore(Target(netns=sys.argv[1], state_directory=Path(sys.argv[2])),"
        " with_others=False); print(done.done, set(sys.modules) - known)"
    )
    command = [sys.executable, "-c", code, place.namespace, str(place.state)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("chains and rules installed")
    assert done.stdout.endswith(" set()\n")


def make_flows(place: Place) -> None:
    """Let the kernel follow some connections there."""
    with netns.inside(place.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for port in range(5000, 5100):
            one.sendto(b"x", ("127.0.0.1", port))
        assert int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()) >= 100


def test_foreign_transactions_and_our_own_are_no_reason(place: Place) -> None:
    with watching(place.watch()) as watch:
        place.nft("add", "table", "inet", "elsewhere")
        place.nft("add", "chain", "inet", "elsewhere", "x")
        place.edit("8080:80", "8081:80")
        watch.until("applied", reason="file")
        place.nft("add", "rule", "inet", "nftbridge", "DOCKER-USER", "counter")
        place.nft("flush", "set", "inet", "nftbridge", "bridges")
        watch.until("restored")
        assert place.holds("counter packets 0"), "DOCKER-USER is the user's"
        assert (watch.count("applied"), watch.count("restored")) == (2, 1)


def test_an_apply_by_hand_stays_and_so_does_a_remove(place: Place) -> None:
    other = place.file.parent.parent / "other.toml"
    other.write_text(place.file.read_text().replace("8080:80", "8089:80"))
    with watching(place.watch()) as watch:
        assert place.run("apply", str(other)).returncode == 0
        place.nft("flush", "ruleset")
        watch.until("restored")
        assert place.holds("8089")
        assert place.run("remove").returncode == 0
        place.nft("add", "table", "inet", "nftbridge")
        place.nft("delete", "table", "inet", "nftbridge")
        watch.say(signal.SIGHUP)
        watch.until("applied", reason="reload")
        assert watch.count("restored") == 1
        assert place.holds("8080")


@pytest.fixture
def trial(place: Place) -> Generator[Callable[[str], Path]]:
    """Applies a host with another port on trial; the folder where that is on record."""

    def begin(seconds: str) -> Path:
        other = place.file.parent.parent / "trial.toml"
        other.write_text(EXAMPLE.read_text().replace("8080:80", "8095:80"))
        done = place.run("apply", "--confirm", seconds, str(other))
        assert done.returncode == 0, done.stderr
        (record,) = place.state.rglob("trial.json")
        return record.parent

    yield begin
    for record in place.state.rglob("trial.json"):  # no watchdog outlives its test
        os.kill(json.loads(record.read_text())["watchdog"][0], signal.SIGTERM)
        wait_for(lambda file=record: not file.exists())  # type: ignore[misc]


def test_during_a_trial_the_file_waits_for_its_confirmation(
    place: Place, trial: Callable[[str], Path]
) -> None:
    with watching(place.watch()) as watch:
        trial("60")
        place.edit("8080:80", "8096:80")
        assert "not confirmed, and goes back at" in watch.until("held")["text"]
        watch.say(signal.SIGHUP)
        watch.until("reloaded")
        place.nft("flush", "ruleset")
        watch.until("restored", reason="rules")  # what is on trial is guarded, too
        assert (place.holds("8095"), place.holds("8096")) == (True, False)
        assert place.run("confirm").returncode == 0
        watch.until("applied", reason="trial")
        assert (place.holds("8095"), place.holds("8096")) == (False, True)
        assert (watch.count("held"), watch.count("rejected"), watch.count("failed")) == (1, 0, 0)


def test_after_a_trial_was_undone_the_file_waits_until_it_changes_again(
    place: Place, trial: Callable[[str], Path]
) -> None:
    with watching(place.watch()) as watch:
        folder = trial("2")
        place.edit("8080:80", "8096:80")
        watch.until("held")
        wait_for(lambda: not (folder / "trial.json").exists())
        assert "undone" in watch.until("held")["text"]
        assert (place.holds("8080"), place.holds("8096")) == (True, False)
        place.edit("8096:80", "8097:80")
        watch.until("applied", reason="file")
        assert place.holds("8097")


def test_what_was_undone_is_not_applied_by_a_new_service(
    place: Place, trial: Callable[[str], Path]
) -> None:
    assert place.run("apply", str(place.file)).returncode == 0
    folder = trial("60")
    assert place.run("rollback").returncode == 0
    assert (folder / "undone.json").exists()
    place.edit("8080:80", "8095:80")
    with watching(place.watch(), wait=False) as watch:
        assert "undone" in watch.until("held")["text"]
        watch.until("ready")
        watch.say(signal.SIGHUP)
        watch.until("reloaded")
        assert (place.holds("8080"), place.holds("8095")) == (True, False)
        assert place.run("apply", str(place.file)).returncode == 0  # somebody insists
        assert place.holds("8095")
        watch.say(signal.SIGHUP)
        watch.until("reloaded")
        assert watch.count("held") == 1
        assert place.holds("8095")


def write_in_place(place: Place) -> None:
    place.file.write_text(place.file.read_text().replace("8080:80", "8081:80"))


def replace_folder(place: Place) -> None:
    old = place.file.parent
    shutil.copytree(old, old.with_name("new"))
    (old.with_name("new") / "host.toml").write_text(
        place.file.read_text().replace("8080:80", "8081:80")
    )
    old.rename(old.with_name("old"))
    old.with_name("new").rename(old)


def link_elsewhere(place: Place) -> None:
    target = place.file.parent.parent / "target.toml"
    target.write_text(place.file.read_text().replace("8080:80", "8081:80"))
    link = place.file.with_name("link")
    link.symlink_to(target)
    link.rename(place.file)


def rename_over(place: Place) -> None:
    place.edit("8080:80", "8081:80")


@pytest.mark.parametrize("change", [rename_over, write_in_place, replace_folder, link_elsewhere])
def test_a_changed_file_is_applied_and_changed_back_too(
    place: Place, change: Callable[[Place], None]
) -> None:
    with watching(place.watch()) as watch:
        change(place)
        watch.until("applied", reason="file")
        assert place.holds("8081")
        path = place.file.resolve()
        path.write_text(path.read_text().replace("8081:80", "8080:80"))
        watch.until("applied", reason="file")
        assert place.holds("8080")


def test_a_pipe_in_the_file_s_place_is_not_waited_for(place: Place) -> None:
    with watching(place.watch()) as watch:
        kept = place.file.read_text()
        place.file.unlink()
        os.mkfifo(place.file)
        assert "neither a file nor a folder" in watch.until("rejected")["text"]
        place.file.unlink()
        place.file.write_text(kept.replace("8080:80", "8081:80"))
        watch.until("applied", reason="file")
        assert place.holds("8081")


def test_a_folder(place: Place) -> None:
    folder = place.file.parent
    arguments = command(folder, place.namespace, place.state)
    with watching(arguments) as watch:
        more = place.file.read_text().replace("frontend", "other").replace("br-front", "br-other")
        (folder / "more.toml").write_text(
            more.replace("172.20", "172.30")
            .replace("8080:80", "8090:80")
            .replace("fd00:20", "fd00:30")
        )
        watch.until("applied", reason="file")
        assert place.holds("8090")
        (folder / "notes.txt").write_text("not a host file")
        (folder / "more.toml").unlink()
        watch.until("applied", reason="file")
        assert not place.holds("8090")
        shutil.rmtree(folder)
        assert "there is no such file or folder" in watch.until("rejected")["text"]
        assert place.holds("8080")


def test_a_broken_file_keeps_what_was_and_is_said_once(place: Place) -> None:
    with watching(place.watch()) as watch:
        good = place.file.read_text()
        place.file.write_text(good + "\nnonsense = [")
        rejected = watch.until("rejected")
        assert (rejected["kept"], "is not TOML" in rejected["text"]) == (
            "what was applied last",
            True,
        )
        place.nft("flush", "ruleset")
        watch.until("restored", reason="rules")
        place.file.write_text(good + "\nnonsense = [")  # the same again
        place.file.write_text(good + "\nnonsense = {")
        watch.until("rejected")
        place.file.unlink()
        assert "no such file" in watch.until("rejected")["text"]
        place.file.write_text(good.replace("8080:80", "8082:80"))
        watch.until("applied", reason="file")
        assert place.holds("8082")
        assert watch.count("rejected") == 3


def test_a_burst_of_edits_is_a_few_applies(place: Place) -> None:
    with watching(place.watch()) as watch:
        for port in range(8100, 8150):
            place.file.write_text(EXAMPLE.read_text().replace("8080:80", f"{port}:80"))
        wait_for(lambda: place.holds("8149"))
        watch.end()  # what it does is done and said
        applies = watch.count("applied") - 1
        print(f"50 edits, {applies} applies")
        assert 1 <= applies <= 12


def test_a_kill_leaves_the_rules_and_a_new_one_catches_up(place: Place) -> None:
    with watching(place.watch()) as watch:
        assert watch.end(signal.SIGKILL) == -signal.SIGKILL
    assert place.holds("8080")
    place.nft("flush", "ruleset")
    place.edit("8080:80", "8083:80")
    with watching(place.watch()) as watch:
        assert place.holds("8083")
        assert watch.end() == 0
    assert place.holds("8083"), "a clean stop leaves the rules"
    with watching(place.watch()) as watch:
        assert watch.end(signal.SIGINT) == 0
        assert watch.count("applied") == 0


@contextmanager
def made_to_wait(place: Place) -> Generator[None]:
    """What would apply has to wait."""
    with next(place.state.glob("*/nftbridge/lock")).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def at_work(watch: Watch) -> list[str]:
    """The processes that apply."""
    return Path(f"/proc/{watch.process.pid}/task/{watch.process.pid}/children").read_text().split()


def test_what_was_begun_is_brought_to_its_end_and_said(place: Place) -> None:
    with watching(place.watch()) as watch:
        with made_to_wait(place):
            place.nft("flush", "ruleset")
            wait_for(lambda: bool(at_work(watch)))
            watch.say(signal.SIGTERM)
        assert watch.until("restored")
        assert watch.until("ended")
        assert watch.process.wait(PATIENCE) == 0
    assert place.holds("8080")


def test_what_applies_is_killed_and_it_goes_on(place: Place) -> None:
    """As a crash of libnftables would."""
    with watching(place.watch()) as watch:
        with made_to_wait(place):
            place.nft("flush", "ruleset")
            wait_for(lambda: bool(at_work(watch)))
            os.kill(int(at_work(watch)[0]), signal.SIGSEGV)
            failed = watch.until("failed")
            assert "SIGSEGV" in failed["text"]
            assert failed["retry_in"] == 1.0
        watch.until("restored")
        assert place.holds("DOCKER-FORWARD")


def test_a_start_that_cannot_be(place: Place) -> None:
    place.file.write_text("version = 2")
    with watching(place.watch(), wait=False) as watch:
        assert watch.until("rejected")["kept"] == "nothing"
        assert watch.process.wait(PATIENCE) == 1
    place.file.write_text(EXAMPLE.read_text())
    assert place.run("apply", str(place.file)).returncode == 0
    place.nft("flush", "ruleset")
    place.file.write_text("version = 2")
    with watching(place.watch()) as watch:  # what was applied before the start is good
        assert watch.count("rejected") == 1
        assert place.holds("8080")


def test_it_talks_to_systemd(place: Place, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)

        def told(what: str) -> str:
            while what not in (text := manager.recv(4096).decode()):
                pass
            return text

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        with watching(place.watch(), environment=environment) as watch:
            assert "STATUS=table inet nftbridge is as" in told("READY=1")
            for _ in range(3):
                told("WATCHDOG=1")
            watch.say(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in told("RELOADING=1")
            told("READY=1")
            place.file.write_text("x")
            assert "what was applied last is kept" in told("STATUS=")
            watch.end()
            told("STOPPING=1")


@pytest.mark.parametrize("listening", [False, True], ids=["no socket", "a socket of systemd's"])
def test_systemd_does_not_wait_for_docker(place: Place, tmp_path: Path, listening: bool) -> None:
    """It is ready before Docker is started, and says what it waits for."""
    notify, docker = str(tmp_path / "notify"), str(tmp_path / "docker.sock")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_UNIX) as held,
    ):
        manager.bind(notify)
        manager.settimeout(PATIENCE)
        if listening:
            held.bind(docker)
            held.listen()
        options = place.watch(f"--docker={docker}")
        with watching(options, wait=False, environment={"NOTIFY_SOCKET": notify}) as watch:
            assert manager.recv(4096).decode() == "READY=1\nSTATUS=" + WAITS
            watch.say(signal.SIGHUP)
            watch.end()
            said = iter(lambda: manager.recv(4096).decode().partition("\n")[0], "STOPPING=1")
            assert set(said) <= {"READY=1"}, "no reload without an end"


def test_iptables_nft_flushed_by_hand(place: Place) -> None:
    options = ("--backend", "iptables", "--iptables", "nft")
    with watching(place.watch(*options)) as watch:
        inside = ["nsenter", f"--net=/run/netns/{place.namespace}"]
        save = [*inside, "iptables-nft-save", "-t", "filter"]
        assert "DOCKER-FORWARD" in subprocess.check_output(save, text=True)
        subprocess.run([*inside, "iptables-nft", "-F"], check=True)
        watch.until("restored", reason="rules")
        assert "-j DOCKER-FORWARD" in subprocess.check_output(save, text=True)
        assert place.run("verify").returncode == 0
        time.sleep(1)
        assert watch.count("restored") == 1, "its own changes set it off"


def test_it_stays_small(place: Place) -> None:
    with watching(place.watch()) as watch:
        status = Path(f"/proc/{watch.process.pid}/status")

        def resident() -> int:
            (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
            return int(line.split()[1])

        def flush(times: int) -> None:
            for _ in range(times):
                place.nft("flush", "ruleset")
                watch.until("restored")

        flush(5)
        before = resident()
        flush(30)
        print(f"resident: {before} kB, after 30 repairs {resident()} kB")
        assert resident() < before + 2048
        assert len(os.listdir(f"/proc/{watch.process.pid}/fd")) < 20
        maps = Path(f"/proc/{watch.process.pid}/maps").read_text()
        assert "libnftables" not in maps


def wait_for(condition: Callable[[], bool], pause: float = 0.02) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)
