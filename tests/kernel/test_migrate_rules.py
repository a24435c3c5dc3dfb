"""`nftbridge migrate docker` where Docker's rules are not alone: layouts, others' rules, errors.

No daemon runs: the rules are put in as Docker writes them, and what it tells of is in files.
"""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from nftbridge import config, netns
from nftbridge.cli import main
from nftbridge.compat.tables import Site, Table
from nftbridge.errors import KernelRefusedError
from nftbridge.migrate.kernel import Rules
from tests.kernel.migrate_layouts import CONTAINERS, HOST, LAYOUTS, NEW, OLD, TABLES, tell
from tests.kernel.migrate_site import KILLED, steady
from tests.kernel.watching import command, watching
from tests.namespaces import network_namespace, nft
from tests.unit import docker_inspect as inspect

pytestmark = pytest.mark.kernel

MIDDLE, LATEST = "17.12 to 27", "28.2 to 28.5"
"""The layouts of most hosts."""


class Place:
    """A network namespace with Docker's rules, and what the command is to be told."""

    def __init__(self, namespace: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.namespace = namespace
        self.folder = folder
        self._capsys = capsys
        self.daemon_json = folder / "daemon.json"
        self.tell()

    def tell(self, containers: Iterable[object] = CONTAINERS) -> None:
        """What Docker says of its networks and containers."""
        tell(self.folder, containers)

    def run(self, *words: str, given: str = "") -> str:
        """What a program says in the namespace."""
        command = ["nsenter", f"--net=/run/netns/{self.namespace}", *words]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make_set(self, name: str) -> None:
        """A set for iptables' ``-m set``."""
        pyroute2: Any = importlib.import_module("pyroute2")  # has no types
        with netns.inside(self.namespace), pyroute2.IPSet() as sets:
            sets.create(name, stype="hash:net")

    def load(self, rules: str, program: str = "iptables-legacy") -> None:
        """Put rules in beside those that are there."""
        self.run(f"{program}-restore", "--noflush", given=rules)

    def saved(self, program: str = "iptables-legacy") -> str:
        """All tables in which there is anything; legacy lists that first which came last."""
        both = (self.run(f"{p}-save") for p in (program, program.replace("ip", "ip6", 1)))
        sections = "".join(f"{steady(text)}\n" for text in both).split("COMMIT")
        return "".join(sorted(s.strip("\n") for s in sections if "\n-A " in s or "DROP" in s))

    def forward(self) -> list[str]:
        return self.run("iptables-legacy", "-S", "FORWARD").splitlines()

    def migrate(self, *words: str, status: int = 0) -> str:
        """What the command says, on either stream."""
        self._capsys.readouterr()
        found = main(self._words(*words))
        said = "".join(self._capsys.readouterr())
        assert found == status, said
        return said

    def killed(self, step: int, *words: str) -> bool:
        """Run it until it is killed before that step, from 0; False if it has fewer steps."""
        command = [sys.executable, "-c", KILLED, str(step), *self._words(*words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode != 0

    def forget(self) -> None:
        """As after a reboot: no migration is on record."""
        for file in self.folder.glob("state/*/*/migration.json"):
            file.unlink()

    def ours(self) -> str:
        """Our own DOCKER-USER."""
        return nft(self.namespace, "list", "chain", "inet", "nftbridge", "DOCKER-USER")

    def delete(self, words: str) -> None:
        """Take a rule with these words out of our table."""
        table = nft(self.namespace, "--handle", "list", "table", "inet", "nftbridge")
        before, _, rest = table.partition(words)
        assert rest, table
        chain = re.findall(r"chain (\S+) {", before)[-1]
        (handle, *_) = re.findall(r"# handle (\d+)", rest)
        nft(self.namespace, "delete", "rule", "inet", "nftbridge", chain, "handle", handle)

    def _words(self, *words: str) -> list[str]:
        return [
            *("migrate", "docker", *words),
            *("--netns", self.namespace, "--state-dir", str(self.folder / "state")),
            *("--daemon-json", str(self.daemon_json), "--wait", "200"),
            *(() if "--undo" in words else ("--from", str(self.folder))),
        ]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Generator[Place]:
    with network_namespace(forwarding=True) as name:
        yield Place(name, tmp_path, capsys)


@pytest.mark.parametrize(
    ("layout", "backend"),
    [*((layout, "nftables") for layout in LAYOUTS), *((li, "iptables") for li in (MIDDLE, LATEST))],
)
def test_there_and_back(place: Place, layout: str, backend: str) -> None:
    if "--match-set" in LAYOUTS[layout]:
        place.make_set("docker-ext-bridges-v4")
    place.load(LAYOUTS[layout])
    before = place.saved()
    assert f"iptables-legacy IPv4: Docker {layout}" in place.migrate(status=2)
    place.migrate("--apply", "--backend", backend)
    after = place.saved()
    assert ("DOCKER" in after) is (backend == "iptables")
    assert "DOCKER-ISOLATION-STAGE-1 -j RETURN" not in after
    assert "-s 172.20.0.2/32 -d 172.20.0.2/32" not in after
    place.migrate("--apply", "--backend", backend)
    assert place.saved() == after, "a second run changes nothing"
    place.migrate("--undo")
    assert place.saved() == before
    assert "nftbridge" not in nft(place.namespace, "list", "tables")
    assert "no migration is on record" in place.migrate("--undo", status=1)


def test_dockers_tables_of_nftables(place: Place) -> None:
    nft(place.namespace, "-f", "-", stdin=TABLES)
    before = nft(place.namespace, "list", "ruleset")
    assert "table ip docker-bridges\n  table ip6 docker-bridges\n" in place.migrate(status=2)
    place.migrate("--apply")
    assert "docker-bridges" not in nft(place.namespace, "list", "tables")
    assert "nftbridge" in nft(place.namespace, "list", "tables")
    place.migrate("--undo")
    assert nft(place.namespace, "list", "ruleset") == before


OTHERS = """\
*filter
:INPUT DROP [0:0]
:mine - [0:0]
-I FORWARD 1 -s 198.51.100.9/32 -j DROP
-A FORWARD -i wg0 -j mine
-A FORWARD -j REJECT --reject-with icmp-host-prohibited
-A mine -o eth7 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.8.0.0/24 ! -o wg0 -j MASQUERADE
-A PREROUTING -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 2222
COMMIT
*raw
-A PREROUTING -d 10.8.0.2/32 ! -i wg0 -j DROP
COMMIT
"""
ACCEPTS = "-A FORWARD -j NFTBRIDGE"


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("rules", [OLD, NEW], ids=[MIDDLE, LATEST])
def test_rules_of_others_stay_where_they_are(place: Place, rules: str, variant: str) -> None:
    """Those that stop what is forwarded came after Docker's accepts, and come after ours."""
    program = f"iptables-{variant}"
    place.load(rules, program)
    place.load(OTHERS, program)
    before = place.saved(program)
    place.migrate("--apply")
    after = place.saved(program)
    assert "DOCKER" not in after
    assert ":INPUT DROP" in after
    assert ":FORWARD DROP" in after, "it may not be Docker's"
    assert [line for line in after.splitlines() if "-A FORWARD" in line] == [
        "-A FORWARD -s 198.51.100.9/32 -j DROP",
        ACCEPTS,
        "-A FORWARD -i wg0 -j mine",
        "-A FORWARD -j REJECT --reject-with icmp-host-prohibited",
    ]
    for line in ("-s 10.8.0.0/24 ! -o wg0 -j MASQUERADE", "-d 10.8.0.2/32 ! -i wg0 -j DROP"):
        assert line in after
    place.run(program, "-I", "FORWARD", "-s", "198.51.100.10", "-j", "DROP")
    place.migrate("--undo")
    later = "-A FORWARD -s 198.51.100.10/32 -j DROP\n"
    assert later in place.saved(program)
    assert place.saved(program).replace(later, "") == before


@pytest.mark.parametrize("rules", [OLD, NEW], ids=[MIDDLE, LATEST])
def test_what_others_have_between_docker_s_rules_comes_before_the_accepts(
    place: Place, rules: str
) -> None:
    """Docker puts what it makes later in front of it, as in front of a ban of fail2ban."""
    place.load(rules)
    ban = "-A FORWARD -s 198.51.100.9/32 -j DROP"
    place.load(f"*filter\n{ban.replace('-A FORWARD', '-I FORWARD 2')}\nCOMMIT\n")
    before = place.saved()
    place.migrate("--apply")
    assert place.forward() == ["-P FORWARD DROP", ban, ACCEPTS]
    place.migrate("--undo")
    assert place.saved() == before


def test_an_accept_that_a_drop_outweighs_is_said(place: Place) -> None:
    """In iptables' DOCKER-USER it ended FORWARD; in nftables it ends nothing but our chain."""
    place.load(NEW)
    vpn, known = "-i tun0 -o eth0 -j ACCEPT", "-s 10.8.0.2/32 -i br-front -j ACCEPT"
    place.load(f"*filter\n-A DOCKER-USER {vpn}\n-A DOCKER-USER {known}\nCOMMIT\n")
    said = place.migrate("--apply", "--forward-policy", "keep")
    assert f"'{vpn}' will not outweigh the drop that stays in FORWARD" in said
    assert f"iptables-legacy -A FORWARD {vpn}" in said
    assert f"'{known}'" not in said, "that bridge is accepted"
    assert "next: 2 rules of yours in DOCKER-USER, as all rules, end with the boot" in said
    place.migrate("--undo")
    assert "outweigh" not in place.migrate("--apply", "--forward-policy", "accept")


def test_what_is_refused_when_ours_are_in_already_is_half_done(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.load(NEW)
    real = Rules.change

    def refused(self: Rules, site: Site, name: str, script: Callable[[Table], str]) -> bool:
        if name == "nat":
            raise KernelRefusedError("no")
        return real(self, site, name, script)

    monkeypatch.setattr(Rules, "change", refused)
    said = place.migrate("--apply", status=4)
    assert "ours are in, but Docker's rules stay in nat of iptables-legacy IPv4: no" in said
    monkeypatch.undo()
    place.migrate("--apply")
    assert "DOCKER" not in place.saved()


def test_a_plan_for_programs_with_errors_is_one_document(place: Place) -> None:
    place.load(NEW)
    place.load("*filter\n-A DOCKER-USER -m recent --name x --set -j DROP\nCOMMIT\n")
    document, _, _ = place.migrate("--json", status=1).partition("nftbridge: ")
    (problem,) = json.loads(document)["problems"]
    assert "cannot be carried over" in problem["message"]


def test_no_comment_is_taken_for_a_jump(place: Place) -> None:
    place.load(NEW)
    place.load(
        "*filter\n-A INPUT -m comment --comment 'not -j DOCKER here' -j ACCEPT\n"
        "-A FORWARD -m comment --comment 'no -j ACCEPT here' -j REJECT\nCOMMIT\n".replace("'", '"')
    )
    before = place.saved()
    place.migrate("--apply")
    assert place.forward()[1] == ACCEPTS, "what rejects comes after Docker's rules"
    place.migrate("--undo")
    assert place.saved() == before


@pytest.mark.parametrize(
    ("wanted", "forward"),
    [
        ("auto", ["-P FORWARD ACCEPT"]),
        ("accept", ["-P FORWARD ACCEPT"]),
        ("keep", ["-P FORWARD DROP", ACCEPTS]),
    ],
)
def test_the_policy_of_forward(place: Place, wanted: str, forward: list[str]) -> None:
    place.load(NEW)
    place.migrate("--apply", "--forward-policy", wanted)
    assert place.forward() == forward
    place.migrate("--undo")
    jumps = ["-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD"]
    assert place.forward() == ["-P FORWARD DROP", *jumps]


def test_a_policy_of_accept_is_nobodys_business(place: Place) -> None:
    place.load(NEW.replace(":FORWARD DROP [0:0]\n", ""))
    assert "policy of FORWARD" not in place.migrate(status=2)
    place.migrate("--apply")
    place.migrate("--undo")
    assert "-P FORWARD ACCEPT" in place.forward()


REFUSED = {
    "a rule of the user's that nft has no words for": (
        "*filter\n-A DOCKER-USER -m recent --name x --set -j DROP\nCOMMIT\n",
        "cannot be carried over to nftables",
    ),
    "a rule of the user's in a chain of Docker's": (
        "*filter\n-I DOCKER 1 -s 198.51.100.9/32 -j DROP\nCOMMIT\n",
        "rule 1 of DOCKER in filter (-s 198.51.100.9/32 -j DROP) is not one of Docker's",
    ),
    "a rule that leads to a chain of Docker's": (
        "*filter\n-A INPUT -i eth9 -j DOCKER\nCOMMIT\n",
        "rule 1 of INPUT in filter (-i eth9 -j DOCKER) jumps to a chain of Docker's",
    ),
    "swarm": (
        "*filter\n:DOCKER-INGRESS - [0:0]\n-A DOCKER-INGRESS -p tcp --dport 80 -j ACCEPT\nCOMMIT\n",
        "swarm's routing mesh publishes ports there",
    ),
    "a bridge that Docker does not tell of": (
        "*filter\n-A DOCKER-BRIDGE -o lo -j DOCKER\nCOMMIT\n",
        "bridge lo: is guarded by Docker's rules",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_lose_something_is_refused(place: Place, what: str) -> None:
    rules, reason = REFUSED[what]
    place.load(NEW)
    place.load(rules)
    before = place.saved()
    for words in ((), ("--apply", "--write")):
        said = place.migrate(*words, status=1)
        assert reason in said
        assert "--apply does it" not in said
    assert place.saved() == before
    assert nft(place.namespace, "list", "tables") == ""
    assert not place.daemon_json.exists()


def test_a_host_with_which_docker_would_not_start_again_is_refused(place: Place) -> None:
    options = {"default_bridge": "true", "enable_icc": "false", "name": "br-front"}
    network = inspect.network(Options={f"{inspect.BRIDGE}{key}": options[key] for key in options})
    tell(place.folder, networks=[network])
    place.load(NEW)
    before = place.saved()
    said = place.migrate("--apply", "--write", status=1)
    assert "Docker does not start when both icc and iptables are false" in said
    assert "take icc out" in said
    assert place.saved() == before
    assert not place.daemon_json.exists()


def test_two_docker_users_that_differ_are_refused(place: Place) -> None:
    for program, address in (("iptables-legacy", "198.51.100.1"), ("iptables-nft", "198.51.100.2")):
        place.load(NEW, program)
        place.run(program, "-A", "DOCKER-USER", "-s", address, "-j", "DROP")
    assert "have different rules" in place.migrate("--apply", status=1)
    place.run("iptables-nft", "-F", "DOCKER-USER")
    place.migrate("--apply")
    assert "DOCKER" not in place.saved() + place.saved("iptables-nft")


# --- DOCKER-USER ----------------------------------------------------------------------------------

USERS = """\
*filter
:blocked - [0:0]
-A DOCKER-USER -p tcp -m conntrack --ctorigdstport 8080 -j blocked
-A blocked -s 198.51.100.9/32 -j DROP
COMMIT
"""


def test_chains_below_docker_user_are_copied(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    before = place.saved()
    said = place.migrate("--apply")
    assert "chain blocked: of iptables-legacy IPv4 is copied" in said
    assert "-A blocked -s 198.51.100.9/32 -j DROP" in place.saved(), "it is the user's"
    ours = nft(place.namespace, "list", "table", "inet", "nftbridge")
    assert "ip saddr 198.51.100.9 counter packets 0 bytes 0 drop" in ours
    place.migrate("--undo")
    assert place.saved() == before


WORDS = {
    "-p tcp -m tcp --dport 25 -j REJECT --reject-with tcp-reset": "reject with tcp reset",
    "-j REJECT --reject-with icmp-host-prohibited": "reject with icmp host-prohibited",
    '-j LOG --log-prefix "seen: " --log-level 6': 'log prefix "seen: " level info',
    "-m limit --limit 3/min --limit-burst 9": "limit rate 3/minute burst 9 packets",
    "-m mark --mark 0x10/0xf0 -j ACCEPT": "meta mark & 0x000000f0 == 0x00000010",
    "-j MARK --set-xmark 0x1/0x1": "meta mark set meta mark",
    "-p tcp -m tcp --tcp-flags SYN,RST SYN -j DROP": "tcp flags",
    "-m addrtype --src-type LOCAL -j DROP": "fib saddr type local",
    '-m comment --comment "no -j blocked" -j RETURN': 'return comment "no -j blocked"',
}
"""The user's rules, and some of nft's words for each."""

USERS_IPV6 = """\
*filter
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -s 2001:db8::9/128 -j DROP
COMMIT
"""


def test_what_it_will_be_is_said_in_nft_s_own_words(place: Place) -> None:
    lines = [f"-A DOCKER-USER {line}" for line in WORDS]
    lines += ["-A blocked -p tcp -m multiport --ports 80 -j DROP"]
    place.load(NEW)
    place.load("\n".join(["*filter", ":blocked - [0:0]", *lines, "COMMIT", ""]))
    broken = ("-m", "comment", "--comment", "line\nbreak", "-j", "blocked")
    place.run("iptables-legacy", "-A", "DOCKER-USER", *broken)
    place.load(USERS_IPV6, "ip6tables-legacy")
    shown = [line.strip() for line in place.migrate(status=2).splitlines()]
    planned = [line.removeprefix("-> ") for line in shown if line.startswith("-> ")]
    for words, text in zip(WORDS.values(), planned, strict=False):
        assert words in text
        assert '{"' not in text
    assert planned[-1] == "ip6 saddr 2001:db8::9 counter drop"
    data, _ = json.JSONDecoder().raw_decode(place.migrate("--json", status=2))
    assert [rule["nftables"] for rule in data["docker_user"]] == planned
    place.migrate("--apply")
    held = nft(place.namespace, "--stateless", "list", "table", "inet", "nftbridge").splitlines()
    assert set(planned) <= {line.strip() for line in held}


@pytest.mark.parametrize("name", ["accept", "table", "tcp", "1st", "a+b"])
def test_a_chain_that_nft_would_list_but_not_read(place: Place, name: str) -> None:
    place.load(NEW)
    place.load(USERS.replace("blocked", name))
    before = place.saved()
    for words in ((), ("--apply",)):
        said = place.migrate(*words, status=1)
        assert f"chain {name}: cannot be carried over" in said
        assert f"iptables -E {name} my-{name}" in said
    assert place.saved() == before
    assert nft(place.namespace, "list", "tables") == ""


def test_with_iptables_docker_user_stays_as_it_is(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    place.load("*filter\n-A DOCKER-USER -m recent --name x --set -j DROP\nCOMMIT\n")
    before = steady(place.run("iptables-legacy-save"))
    place.migrate("--apply", "--backend", "iptables")
    assert steady(place.run("iptables-legacy-save")) == before, "Docker's layout is ours"


def test_undo_loses_no_rule_that_came_later(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    place.migrate("--apply")
    after = place.saved()
    added = ("rule", "inet", "nftbridge", "DOCKER-USER")
    nft(place.namespace, "add", *added, "ip", "saddr", "198.51.100.1", "drop")
    assert "other rules than were carried over" in place.migrate("--undo", status=1)
    assert place.saved() == after
    nft(place.namespace, "flush", "chain", *added[1:])
    place.migrate("--undo")
    assert "-A blocked" in place.saved()


UNWANTED = "-A DOCKER-USER -s 198.51.100.7/32 -j DROP"


def test_what_was_deleted_does_not_come_back_silently(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    place.load("*filter\n-A DOCKER-USER -p udp -m multiport --ports 9 -j DROP\nCOMMIT\n")
    before = place.saved()
    place.load(f"*filter\n{UNWANTED}\nCOMMIT\n")
    place.migrate("--apply")
    for words in ("saddr 198.51.100.7", "saddr 198.51.100.9", "udp sport 9"):
        place.delete(words)
    said = place.migrate("--undo")
    assert place.saved() == before
    out, again = (
        f"{how} deleted from our table: iptables-legacy IPv4" for how in ("it was", "but")
    )
    assert f"left out, as {out}, {_shown(UNWANTED)}\n" in said
    assert f"in force again, {again}, blocked: -s 198.51.100.9/32 -j DROP\n" in said
    assert f"in force again, {again}, DOCKER-USER: -p udp -m multiport --ports 9" in said


def test_killed_at_any_step_what_was_deleted_stays_out(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    before = place.saved()
    step = 0
    while _delete_one(place) and place.killed(step, "--undo"):
        place.migrate("--undo")
        assert place.saved() == before, f"killed before step {step}"
        step += 1
    assert step > KINDS_OF_STEPS
    assert place.saved() == before


def _delete_one(place: Place) -> bool:
    """Migrate with a rule that is not wanted any more afterwards; always true."""
    place.load(f"*filter\n{UNWANTED}\nCOMMIT\n")
    place.migrate("--apply")
    place.delete("saddr 198.51.100.7")
    return True


def _shown(line: str) -> str:
    return line.removeprefix("-A ").replace(" ", ": ", 1)


def test_undo_waits_for_the_end_of_the_service(place: Place) -> None:
    """It would put back at Docker's next event what an undo takes out."""
    place.load(NEW)
    place.migrate("--apply", "--write")
    after, written = place.saved(), place.daemon_json.read_text()
    file = place.folder / "host.json"
    file.write_text(json.dumps(config.host_to_data(HOST)))
    with watching(command(file, place.namespace, place.folder / "state")) as watch:
        said = place.migrate("--undo", status=1)
        assert f"`nftbridge watch` is running as process {watch.process.pid}" in said
        assert "`systemctl stop nftbridge-watch`" in said
        assert (place.saved(), place.daemon_json.read_text()) == (after, written)
        watch.end(signal.SIGKILL)
    place.migrate("--undo")
    assert "DOCKER-FORWARD" in place.saved()


LATER = "-A DOCKER-USER -s 198.51.100.10/32 -j DROP"


def test_an_idle_docker_user_stays(place: Place) -> None:
    place.load(NEW.replace("-A FORWARD -j DOCKER-USER\n", ""))
    place.load(USERS)
    assert "DOCKER-USER of iptables-legacy IPv4: nothing leads there" in place.migrate(status=2)
    place.migrate("--apply")
    kept = [line for line in place.saved().splitlines() if line.startswith("-A DOCKER")]
    assert kept == ["-A DOCKER-USER -p tcp -m conntrack --ctorigdstport 8080 -j blocked"]
    assert "blocked" not in place.ours()


def test_a_rule_that_comes_meanwhile_is_not_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a program that bans addresses, right before Docker's filter rules go out."""
    place.load(NEW)
    place.load(USERS)
    real, coming = Rules.change, [LATER]

    def change(rules: Rules, site: Site, name: str, script_of: Callable[[Table], str]) -> bool:
        if coming:
            place.run("iptables-legacy", "-I", *coming.pop().split()[1:])
        return real(rules, site, name, script_of)

    monkeypatch.setattr(Rules, "change", change)
    assert "was changed meanwhile" in place.migrate("--apply", status=4)
    assert LATER in place.saved()
    place.migrate("--undo")
    place.migrate("--apply")
    assert "ip saddr 198.51.100.10 counter packets 0 bytes 0 drop" in place.ours()


def test_killed_at_any_step_no_rule_is_lost(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    before = place.saved()
    step = 0
    while place.killed(step, "--apply", "--write"):
        if step % 2:
            place.migrate("--apply", "--write")
            assert "blocked" in place.ours(), f"killed before step {step}"
        if step:  # nothing is on record before the first one
            place.migrate("--undo")
        assert place.saved() == before, f"killed before step {step}"
        assert "nftbridge" not in nft(place.namespace, "list", "tables")
        step += 1
    assert step > KINDS_OF_STEPS
    step = 0
    while place.killed(step, "--undo"):
        place.migrate("--apply", "--write")
        assert "blocked" in place.ours(), f"killed before step {step}"
        assert "DOCKER" not in place.saved()
        step += 1
    assert step > KINDS_OF_STEPS
    assert place.saved() == before


KINDS_OF_STEPS = 5
CARRIED = 3
"""The step of a migration before which the user's rules are in our table, and on record."""


def test_a_rule_that_comes_while_a_migration_is_cut_off(place: Place) -> None:
    place.load(NEW)
    place.load(USERS)
    before = place.saved()
    assert place.killed(CARRIED, "--apply")
    assert "blocked" in place.ours()
    place.run("iptables-legacy", "-I", *LATER.split()[1:])
    assert "was changed since a migration" in place.migrate("--apply", status=1)
    assert LATER in place.saved()
    place.migrate("--undo")
    assert place.saved().replace(f"{LATER}\n", "") == before
    assert place.saved().index(LATER) < place.saved().index("-j blocked"), "it came first"


# --- what has changed since -----------------------------------------------------------------------


def test_rules_of_then_are_not_put_back_for_the_containers_of_now(place: Place) -> None:
    """The address of a container that is gone may be another one's by now."""
    place.load(NEW)
    place.migrate("--apply")
    after = place.saved()
    place.tell([inspect.container("other", {"99/tcp": inspect.bound("0.0.0.0 9999")})])
    place.migrate("--apply")
    said = place.migrate("--undo", status=1)
    assert "restart Docker, which makes its rules anew" in said
    assert "was put back" not in said
    assert place.saved() == after
    place.load(NEW.replace("8080", "9999"))  # as Docker does
    now = place.saved()
    place.migrate("--undo")
    assert place.saved() == now
    assert "nftbridge" not in nft(place.namespace, "list", "tables")


def test_a_refused_undo_says_that_daemon_json_is_back(place: Place) -> None:
    """So that the restart of Docker that it asks for makes rules."""
    place.load(NEW)
    place.daemon_json.write_text(OPTIONS)
    place.migrate("--apply", "--write")
    place.tell([inspect.container("other", {"99/tcp": inspect.bound("0.0.0.0 9999")})])
    place.migrate("--apply")
    said = place.migrate("--undo", status=1)
    assert f"{place.daemon_json} was put back, and nothing else" in said
    assert place.daemon_json.read_text() == OPTIONS
    assert "was put back" not in place.migrate("--undo", status=1)


def test_dockers_rules_that_come_back_go_again(place: Place) -> None:
    place.load(NEW)
    before = place.saved()
    place.migrate("--apply")
    place.load(NEW)
    place.migrate("--apply")
    assert "DOCKER" not in place.saved()
    place.migrate("--undo")
    assert place.saved() == before


# --- daemon.json ----------------------------------------------------------------------------------

OFF = '{"iptables": false, "ip6tables": false}'
OPTIONS = '{\n  "live-restore": true,\n  "log-opts": {"max-size": "10m"}\n}\n'


def test_daemon_json_is_changed_on_request_only(place: Place) -> None:
    place.load(NEW)
    place.daemon_json.write_text(OPTIONS)
    place.daemon_json.chmod(0o640)
    assert '+  "ip6tables": false' in place.migrate("--apply")
    assert place.daemon_json.read_text() == OPTIONS
    place.migrate("--apply", "--write")
    written = json.loads(place.daemon_json.read_text())
    assert written == json.loads(OPTIONS) | {"iptables": False, "ip6tables": False}
    assert place.daemon_json.stat().st_mode & 0o777 == 0o640
    assert "nothing to do" in place.migrate()
    place.migrate("--undo")
    assert place.daemon_json.read_text() == OPTIONS
    assert [path.name for path in place.folder.glob("daemon*")] == ["daemon.json"]


def test_what_others_changed_in_daemon_json_since_stays(place: Place) -> None:
    place.load(NEW)
    place.daemon_json.write_text(OPTIONS)
    place.migrate("--apply", "--write")
    place.daemon_json.write_text(place.daemon_json.read_text().replace("10m", "20m"))
    place.migrate("--undo")
    assert place.daemon_json.read_text() == OPTIONS.replace("10m", "20m")


def test_undo_knows_which_daemon_json_was_written(place: Place) -> None:
    """Docker, whose command line had named it, may be gone by then."""
    place.load(NEW)
    place.daemon_json.write_text(OPTIONS)
    place.migrate("--apply", "--write")
    where = ("--netns", place.namespace, "--state-dir", str(place.folder / "state"))
    nobody = ("--docker", str(place.folder / "docker.sock"))
    assert main(["migrate", "docker", "--undo", *where, *nobody]) == 5
    assert place.daemon_json.read_text() != OPTIONS
    told = ("--from", str(place.folder))
    assert main(["migrate", "docker", "--undo", *where, *told]) == 0
    assert place.daemon_json.read_text() == OPTIONS


def test_a_daemon_json_that_was_not_there_goes(place: Place) -> None:
    place.load(NEW)
    place.migrate("--apply", "--write")
    assert place.daemon_json.exists()
    place.migrate("--undo")
    assert not place.daemon_json.exists()


@pytest.mark.parametrize("held", [OPTIONS, None], ids=["one", "none"])
def test_after_a_reboot_daemon_json_is_all_there_is_to_put_back(
    place: Place, held: str | None
) -> None:
    place.load(NEW)
    if held is not None:
        place.daemon_json.write_text(held)
    place.migrate("--apply", "--write")
    place.forget()
    assert "no rules were on record" in place.migrate("--undo")
    assert [path.read_text() for path in place.folder.glob("daemon*")] == ([held] if held else [])


def test_after_a_reboot_a_file_of_the_user_s_stays(place: Place) -> None:
    place.daemon_json.write_text(OFF)
    said = place.migrate("--undo", status=1)
    assert f"take iptables and ip6tables out of {place.daemon_json}" in said
    assert place.daemon_json.read_text() == OFF


@pytest.mark.parametrize(
    ("held", "words", "then", "back"),
    [
        (
            "{}",
            ("--write",),
            "next: restart Docker, which ends",
            "next: restart Docker, which makes",
        ),
        ("{}", (), "next: switch Docker's firewall off (--write)", ""),
        (OFF, (), "next: restart Docker if it still runs", "next: take iptables and ip6tables out"),
        (OFF, ("--write",), "next: restart Docker if", "next: take iptables and ip6tables out"),
    ],
)
def test_what_is_next(
    place: Place, held: str, words: tuple[str, ...], then: str, back: str
) -> None:
    place.load(NEW)
    place.daemon_json.write_text(held)
    assert ("--write changes" in place.migrate(status=2)) is (held != OFF)
    assert then in place.migrate("--apply", *words)
    said = place.migrate("--undo")
    assert back in said
    assert ("next:" in said) is bool(back)


@pytest.mark.parametrize(
    ("proxied", "words", "then"),
    [
        (True, (), "`nftbridge watch --docker` running"),
        (False, (), "with userland_proxy = false under [host] in FILE"),
        (
            False,
            ("--allow-direct-routing",),
            "with userland_proxy = false and allow_direct_routing = true under [host] in FILE",
        ),
    ],
)
def test_what_only_dockers_rules_tell_is_kept_and_said(
    place: Place, words: tuple[str, ...], then: str, *, proxied: bool
) -> None:
    """Else the next run, or the service, would take the host's ways to published ports out."""
    place.load(NEW if proxied else NEW.replace("! -d 127.0.0.0/8 ", ""))
    place.daemon_json.write_text(OFF)
    assert f"{then}\n" in place.migrate("--apply", *words)
    assert "nothing to do" in place.migrate()


def test_a_daemon_whose_firewall_is_off_without_the_file(place: Place) -> None:
    """With the option in the file as well dockerd does not start."""
    assert "on its command line" in place.migrate(status=2)
    place.load(NEW)
    assert "on its command line" not in place.migrate(status=2)
    place.migrate("--apply")
    assert "on its command line" not in place.migrate(status=2)


def test_an_undo_for_programs(place: Place) -> None:
    place.load(NEW)
    place.daemon_json.write_text("{}")
    place.migrate("--apply", "--write")
    data, _ = json.JSONDecoder().raw_decode(place.migrate("--undo", "--json"))
    assert data == {
        "sites": ["iptables-legacy IPv4"],
        "daemon_json": True,
        "kept": [],
        "left_out": [],
        "again": [],
        "on_record": True,
        "still_off": False,
    }
    place.migrate("--apply", "--write")
    place.forget()
    data, _ = json.JSONDecoder().raw_decode(place.migrate("--undo", "--json"))
    assert data["on_record"] is False


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}}', "\xff"])
def test_a_daemon_json_that_is_none_is_named(place: Place, content: str) -> None:
    place.load(NEW)
    place.daemon_json.write_text(content, encoding="latin-1")
    assert "daemon.json: is no" in place.migrate("--apply", status=1)
    assert "DOCKER-FORWARD" in place.saved()


def test_options_that_make_no_sense_together(place: Place) -> None:
    assert "give --apply, too" in place.migrate("--write", status=1)
    assert "leave --apply and --write out" in place.migrate("--undo", "--apply", status=1)
