"""The command line without a kernel: exit statuses, messages, and that no traceback ever shows."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nftbridge import commands
from nftbridge.cli import main
from nftbridge.state import State

HOST = "rulesets/02-published-port/host.toml"


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nftbridge", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_check_says_what_it_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", HOST]) == 0
    assert capsys.readouterr().out == f"{HOST}: 1 network, 2 containers, 1 published port\n"


def test_check_lists_every_problem_with_path_and_hint(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text(
        'version = 1\n[[network]]\nname = "a"\nbridge = "br-much-too-long-name"\n'
        'subnets = ["172.20.0.1/16"]\ncolour = "red"\n'
    )
    done = run("check", str(file))
    assert done.returncode == 1
    for expected in ("network[0].bridge", "network[0].subnets[0]", "network[0].colour", "hint:"):
        assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_problems_as_json(tmp_path: Path) -> None:
    file = tmp_path / "host.json"
    file.write_text('{"version": 2}')
    done = run("check", str(file), "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 1
    assert answer["exit_status"] == 1
    assert answer["problems"][0]["where"].endswith("version")


def test_warnings_are_on_standard_error_and_the_file_is_good(tmp_path: Path) -> None:
    file = tmp_path / "host.toml"
    file.write_text(
        'version = 1\n[[network]]\nname = "a"\nbridge = "br-a"\nsubnets = ["172.20.0.0/16"]\n'
        '[[network.container]]\nname = "c"\nipv4 = "172.20.0.2"\npublish = ["[::1]:8080:80"]\n'
    )
    done = run("check", str(file))
    assert done.returncode == 0
    assert "warning" in done.stderr
    assert "network[0].container[0].publish[0]" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("fly",),
        ("check",),
        ("check", "missing.toml"),
        ("apply", HOST, "--backend", "pf"),
        ("apply", HOST, "--table", "two words"),
        ("apply", HOST, "--table", "../up"),
        ("render", HOST, "--format", "xml"),
        ("check", HOST, "--colour"),
        ("plan", HOST, "--netns", "no-such-namespace"),
        ("plan", HOST, "--netns", "/etc/passwd"),
        ("plan", HOST, "--wait", "soon"),
        ("plan", HOST, "--wait", "nan"),
        ("apply", HOST, "--confirm", "0"),
        ("apply", HOST, "--confirm", "soon"),
        ("baseline",),
        ("baseline", "--bridge", "*"),
        ("baseline", "--bridge", "br-much-too-long*"),
        ("baseline", "--bridge", 'br" drop'),
        ("baseline", "rulesets/missing.toml", "--print"),
        ("check", "-"),
    ],
    ids=" ".join,
)
def test_bad_usage_is_status_1_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("nftbridge: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "word",
    ["table", "chain", "inet", "ip", "add", "flush", "list", "delete", "accept", "map", "counter"],
)
@pytest.mark.parametrize(
    "command",
    # should the word ever be taken, there is no namespace that anything could be done to
    [
        ("render",),
        ("apply", "--netns", "no-such-namespace"),
        ("plan", "--netns", "no-such-namespace"),
    ],
    ids=lambda command: command[0],
)
def test_words_of_nft_are_no_table_names(command: tuple[str, ...], word: str) -> None:
    """``nft list table inet WORD`` would not be understood, nor would what render prints."""
    verb, *options = command
    done = run(verb, HOST, "--table", word, *options)
    assert done.returncode == 1
    assert f"'{word}' is a word of nft's language" in done.stderr
    assert done.stdout == ""


def test_the_baseline_is_printed_without_a_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", HOST, "--bridge", "br-*", "--print", "--table", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rule = "add rule inet mine baseline-FORWARD"
    hook = "{ type filter hook forward priority -10; policy accept; }"
    assert lines[:3] == [
        "add table inet mine",
        f"add chain inet mine baseline-FORWARD {hook}",
        "flush chain inet mine baseline-FORWARD",
    ]
    assert lines[3] == f'{rule} iifname "br-front" counter drop comment "baseline"'
    assert lines[-1] == f'{rule} oifname "br-*" counter drop comment "baseline"'
    assert len(lines) == 7


@pytest.mark.parametrize("name", ["nftbridge", "tabled", "my-table", "Table", "a.b_c-9"])
def test_other_words_are_table_names(name: str) -> None:
    assert run("render", HOST, "--table", name, "--format", "nft").returncode == 0


@pytest.mark.parametrize("depth", [10, 200, 900, 1000, 100_000])
@pytest.mark.parametrize("start", ["", '{"host": ', '{"host": {"version": 1, "network": '])
def test_a_record_that_is_nothing_but_brackets_is_no_record(
    start: str, depth: int, tmp_path: Path
) -> None:
    """However deep: the interpreter's own limit must not show."""
    folder = tmp_path / "namespace" / "nftbridge"
    folder.mkdir(parents=True)
    text = f"{start}{'[' * depth}{']' * depth}{'}' * start.count('{')}"
    for name in ("applied.json", "pending.json"):
        (folder / name).write_text(text)
    state = State(tmp_path, "nftbridge", "namespace")
    assert state.applied() is None
    assert state.pending() == []
    assert state.backend() is None
    assert not state.removed()
    assert not isinstance(state.document(), dict) or state.applied() is None
    assert state.mark() is None


def test_render_for_iptables() -> None:
    for form, line in (("restore", "*raw"), ("restore6", "*raw")):
        lines = run("render", HOST, "--format", form).stdout.splitlines()
        assert lines[0].startswith("# for a kernel that holds nothing")
        assert lines[1] == line
        assert lines.count("COMMIT") == 3


def test_render_needs_neither_libnftables_nor_root(public_copy: Path) -> None:
    """With the binding hidden and, where we are root, as nobody."""
    for hidden in ("nftables", "pyroute2"):
        (public_copy / f"{hidden}.py").write_text("raise ImportError('hidden')\n")
    for format_, start in (("json", '{"nftables": ['), ("nft", "add table inet other\n")):
        code = (
            "import os, sys\n"
            "from nftbridge import cli\n"
            "os.setuid(65534) if os.geteuid() == 0 else None\n"
            f"sys.exit(cli.main(['render', '-', '--table', 'other', '--format', '{format_}']))\n"
        )
        host = '{"version": 1}'
        environment = os.environ | {"PYTHONPATH": str(public_copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command,
            input=host,
            env=environment,
            cwd=public_copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(start)


def test_an_internal_error_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nftbridge.commands import files

    def broken(_: object) -> int:
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(files, "check", broken)
    monkeypatch.delenv("NFTBRIDGE_DEBUG", raising=False)
    assert main(["check", HOST]) == 70
    captured = capsys.readouterr()
    assert captured.err.startswith("nftbridge: internal error")
    monkeypatch.setenv("NFTBRIDGE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["check", HOST])


@pytest.mark.parametrize("command", commands.MODULES)
def test_every_command_has_its_function(command: str) -> None:
    assert callable(commands.handler(command))


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m nftbridge render {HOST} | head -n 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.startswith('{"nftables"')


def test_check_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom nftbridge.cli import main\n"
        f"main(['check', '{HOST}'])\n"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    unwanted = {"pyroute2", "nftables", "ctypes", "socket", "subprocess", "nftbridge.nft.lower"}
    assert not loaded & unwanted


def test_the_version() -> None:
    from nftbridge import __version__

    assert run("--version").stdout == f"nftbridge {__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["check", "render", "plan", "apply", "verify", "status", "explain", "remove", "probe", "demo"],
)
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: nftbridge {command}")
