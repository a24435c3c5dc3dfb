# pyright: reportPrivateUsage=false
"""iptables where others write strange rules, and with programs that refuse or lack rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.choice import Target
from nftbridge.compat import read, tools
from nftbridge.compat.tools import Tools, Variant
from nftbridge.errors import KernelRefusedError
from tests.kernel.test_iptables import MANY, SMALL, engine_with, run, saved

pytestmark = pytest.mark.kernel


def wrapped(folder: Path, restore: str) -> str:
    """A PATH on which ``*-legacy-restore`` is this shell text; ``$REAL`` is the program itself."""
    folder.mkdir()
    for family in ("ip", "ip6"):
        for verb in ("restore", "save"):
            name = f"{family}tables-legacy-{verb}"
            real = shutil.which(name)
            assert real is not None
            body = restore if verb == "restore" else 'exec "$REAL" "$@"'
            (folder / name).write_text(f"#!/bin/sh\nREAL={real}\n{body}\n")
            (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def nftbridge(
    place: Target, *words: str, path: str = os.environ["PATH"], user: int = 0
) -> subprocess.CompletedProcess[str]:
    """The command line, on iptables in the namespace of `place`."""
    where = ["--state-dir", str(place.state_directory), "--netns", str(place.netns)]
    command = [sys.executable, "-m", "nftbridge", *words, *where, "--backend", "iptables"]
    drop = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
    return subprocess.run(
        [*drop, *command],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_script_is_tested_before_the_first_commit(
    target: Target, namespace: str, tmp_path: Path
) -> None:
    """The second script for nat has what this kernel's program does not know."""
    file = tmp_path / "host.toml"
    network = 'name = "n"\nbridge = "br-n"\nsubnets = ["172.20.0.0/24"]\n'
    container = '[[network.container]]\nname = "a"\nipv4 = "172.20.0.2"\npublish = ["8080:80"]\n'
    file.write_text(f"version = 1\n[[network]]\n{network}{container}")
    assert nftbridge(target, "apply", str(file)).returncode == 0
    before = saved(namespace, Variant.LEGACY)
    path = wrapped(
        tmp_path / "bin",
        's=$(cat)\ncase "$s" in *"dport 81"*DNAT*|*DNAT*":81"*) echo "unknown option" >&2; '
        'echo "Error occurred at line: 99999" >&2; exit 2;; esac\n'
        'printf "%s\\n" "$s" | "$REAL" "$@"',
    )
    file.write_text(file.read_text().replace("8080:80", "8080:81"))
    done = nftbridge(target, "apply", str(file), path=path)
    assert done.returncode == 3, done.stderr
    assert "IPv4 nat, tried before any commit: iptables refused it: unknown option" in done.stderr
    assert saved(namespace, Variant.LEGACY) == before


def test_other_peoples_bytes_and_lines_do_no_harm(target: Target, namespace: str) -> None:
    engine = engine_with(Tools(netns=namespace), target)
    for comment in (b"caf\xe9", b"two\n-A FORWARD -j DOCKER-USER", b'a "quoted\\" \x0b \x1c one'):
        subprocess.run(
            [
                "nsenter",
                f"--net=/run/netns/{namespace}",
                "iptables-legacy",
                "-w",
                "-A",
                "FORWARD",
                "-m",
                "comment",
                "--comment",
                comment,
                "-j",
                "ACCEPT",
            ],
            check=True,
        )
    listing = ["nsenter", f"--net=/run/netns/{namespace}", "iptables-legacy-save", "-t", "filter"]
    theirs = subprocess.run(listing, capture_output=True, check=True).stdout.count(b"--comment")
    for host in (SMALL, MANY, SMALL):
        engine.apply(host)
        assert not engine.verify()
    listed = subprocess.run(listing, capture_output=True, check=True).stdout
    assert listed.count(b"--comment") == theirs
    assert b"caf\xe9" in listed
    subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{namespace}",
            "iptables-legacy",
            "-w",
            "-A",
            "DOCKER",
            "-m",
            "comment",
            "--comment",
            b"caf\xe9\nx",
            "-j",
            "ACCEPT",
        ],
        check=True,
    )
    done = nftbridge(target, "verify")
    assert done.returncode == 2
    shown = r'"caf\xe9\nx"'
    assert f"is not ours: -m comment --comment {shown} -j ACCEPT" in done.stdout
    engine.remove(everything=True)
    assert b"caf\xe9" in subprocess.run(listing, capture_output=True, check=True).stdout


def test_a_comment_over_two_lines_is_one_line() -> None:
    text = ':A - [0:0]\n-A A -m comment --comment "one\n-A A y \\" z" -j ACCEPT\n-A A -j DROP\n'
    (first, second) = read.listed(text)["A"]
    assert str(first) == '-m comment --comment "one\n-A A y \\" z" -j ACCEPT'
    assert str(second) == "-j DROP"


def test_a_users_chain_with_a_name_like_ours_is_the_users(target: Target, namespace: str) -> None:
    engine = engine_with(Tools(netns=namespace), target)
    for words in ("-N DOCKER-T-MINE", "-A DOCKER-T-MINE -j ACCEPT", "-A FORWARD -j DOCKER-T-MINE"):
        run(namespace, "iptables-legacy", "-w", *words.split())
    before = saved(namespace, Variant.LEGACY)
    for host in (SMALL, MANY):
        engine.apply(host)
        assert not engine.verify()
        text = run(namespace, "iptables-legacy-save", "-t", "filter")
        assert "-A FORWARD -j DOCKER-T-MINE" in text
        assert "-A DOCKER-T-MINE -j ACCEPT" in text
    engine.remove(everything=True)
    assert saved(namespace, Variant.LEGACY) == before


def test_subnets_below_0_96_are_written_as_iptables_lists_them(
    target: Target, namespace: str
) -> None:
    container = {"name": "a", "ipv6": "::10.1.0.2", "publish": ["8080:80"]}
    network = {"name": "n", "bridge": "br-n", "subnets": ["::10.1.0.0/112"]}
    document = {"version": 1, "network": [network | {"container": [container]}]}
    host = config.load_data(document).host
    engine = engine_with(Tools(netns=namespace), target)
    engine.apply(host)
    assert not engine.verify()
    assert not engine.apply(host)
    assert "-s ::10.1.0.0/112" in run(namespace, "ip6tables-legacy-save", "-t", "nat")


def test_who_may_not_is_told_so(tmp_path: Path) -> None:
    """And not that the kernel lacks a table, which the host file could accept."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    open_place = Target(netns=None, state_directory=tmp_path / "state")
    command = [sys.executable, "-m", "nftbridge", "apply", "rulesets/02-published-port/host.toml"]
    done = subprocess.run(
        [
            "unshare",
            "-n",
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            *command,
            "--backend",
            "iptables",
            "--state-dir",
            str(open_place.state_directory),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 5
    assert "not permitted" in done.stderr
    assert "run as root" in done.stderr
    assert "accept_missing" not in done.stderr


@pytest.mark.parametrize("number", [0, 3, 99999])
def test_a_line_number_past_the_script_names_no_line(number: int) -> None:
    error = tools.refused(f"iptables-restore: line {number} failed", "*nat\nCOMMIT\n")
    assert isinstance(error, KernelRefusedError)
    assert error.culprit == ""


OLD = 'exec env -u XTABLES_LOCKFILE "$REAL" "$@"'
HOST_FILE = "rulesets/02-published-port/host.toml"


def test_programs_that_know_one_lock_file_only_take_it_themselves(
    target: Target, namespace: str, tmp_path: Path
) -> None:
    """XTABLES_LOCKFILE is not known before iptables 1.8.6 or so."""
    path = wrapped(tmp_path / "bin", OLD)
    before = saved(namespace, Variant.LEGACY)
    with subprocess.Popen(["flock", "--no-fork", str(tools.LOCK), "sleep", "20"]) as holder:
        time.sleep(0.3)
        done = nftbridge(target, "apply", HOST_FILE, "--wait", "1", path=path)
        holder.terminate()
    assert done.returncode == 3
    assert "--wait" in done.stderr
    for words in (["apply", HOST_FILE], ["verify"], ["remove"]):
        done = nftbridge(target, *words, path=path)
        assert done.returncode == 0, done.stderr
    assert saved(namespace, Variant.LEGACY) == before


def test_where_others_cannot_be_kept_out_a_changed_table_is_not_touched(
    target: Target, namespace: str, tmp_path: Path
) -> None:
    """Somebody inserts a rule before ours when we have listed the table."""
    path = wrapped(
        tmp_path / "bin",
        's=$(cat)\ncase "$*$s" in *--test*nat*DNAT*) iptables-legacy -t filter -I FORWARD '
        "-s 10.9.9.9 -j DROP;; esac\n"
        'printf "%s\\n" "$s" | env -u XTABLES_LOCKFILE "$REAL" "$@"',
    )
    done = nftbridge(target, "apply", HOST_FILE, path=path)
    assert done.returncode == 4, done.stderr
    assert "another program has changed the filter table meanwhile" in done.stderr
    done = nftbridge(target, "apply", HOST_FILE, path=wrapped(tmp_path / "old", OLD))
    assert done.returncode == 0, done.stderr
    assert "-A FORWARD -s 10.9.9.9/32 -j DROP" in saved(namespace, Variant.LEGACY)
