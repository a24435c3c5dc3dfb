"""The probe on this kernel, and on poorer ones that wrapped programs and bindings make of it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nftbridge.probe.catalogue import BY_NAME, FEATURES
from nftbridge.probe.feature import Group, NftTrial
from nftbridge.probe.run import auto

pytestmark = pytest.mark.kernel

CONFIG = Path("/proc/config.gz")
PROBE = [sys.executable, "-m", "nftbridge", "probe"]
NO_TABLE = "can't initialize {} table `{}': Table does not exist (do you need to insmod?)"
TABLE_NAMES = ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")


def probe(*prefix: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*prefix, *PROBE, "--json"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def answer(**environment: str) -> dict[str, Any]:
    done = probe(**environment)
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    shown["features"] = {feature["feature"]: feature for feature in shown["features"]}
    assert list(shown["features"]) == list(BY_NAME)
    return shown


def absent(shown: dict[str, Any], presence: str = "missing") -> set[str]:
    features = shown["features"].items()
    return {name for name, feature in features if feature["presence"] == presence}


def program(folder: Path, name: str, refused: str, reason: str) -> str:
    """A path on which `name` refuses input with `refused` in it; else it is the real one."""
    real = shutil.which(name)
    if real is None:
        pytest.skip(f"{name} is not installed")
    script = folder / name
    script.write_text(
        f"#!/bin/sh\ninput=$(cat)\ncase $input in\n"
        f"*'{refused}'*) echo \"{reason.replace('`', chr(92) + '`')}\" >&2; exit 3 ;;\nesac\n"
        f'printf \'%s\\n\' "$input" | {real} "$@"\n'
    )
    script.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def binding(folder: Path, body: str) -> str:
    """An import path on which `body` stands where libnftables' binding is looked for."""
    (folder / "nftables.py").write_text(body)
    return str(folder)


def refusing_binding(folder: Path, word: str) -> str:
    """The real binding behind one that refuses documents with `word` in them."""
    real = importlib.util.find_spec("nftables")
    if real is None or real.origin is None:
        pytest.skip("libnftables' binding is not installed")
    return binding(
        folder,
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('nftables_', {real.origin!r},\n"
        f"    submodule_search_locations={list(real.submodule_search_locations or ())!r})\n"
        "import sys\n"
        "real = sys.modules['nftables_'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(real)\n"
        "class Nftables(real.Nftables):\n"
        "    def cmd(self, text):\n"
        f"        if {word!r} in text:\n"
        "            return -1, '', ('internal:0:0-0: Error: Could not process rule: '\n"
        "                            'No such file or directory\\n')\n"
        "        return super().cmd(text)\n",
    )


# This kernel


def test_it_finds_what_the_kernel_was_configured_with() -> None:
    if not CONFIG.is_file():
        pytest.skip("this kernel does not show its configuration")
    lines = gzip.decompress(CONFIG.read_bytes()).decode().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line.startswith("CONFIG_"))
    shown = answer()["features"]
    compared = 0
    for feature in FEATURES:
        values = {settings.get(option, "n") for option in feature.options}
        presence = shown[feature.name]["presence"]
        if not values or presence == "unknown" or "m" in values:
            continue  # a module may be installed or not
        # 6.17 and later: the option alone does not bring a legacy table
        legacy = feature.group in (Group.IPTABLES, Group.IP6TABLES)
        if legacy and settings.get("CONFIG_NETFILTER_XTABLES_LEGACY", "y") == "n":
            continue
        assert presence == ("present" if values == {"y"} else "missing"), shown[feature.name]
        compared += 1
    assert compared or "m" in settings.values()


LOOK = (
    "nft list ruleset; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; "
    "ip -o link; stat -c %Y /run/xtables.lock"
)


def looked(*prefix: str) -> str:
    command = [*prefix, "sh", "-c", LOOK]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_nothing_is_touched_where_it_is_started(tmp_path: Path) -> None:
    """In the namespace of this test, and in one where tables of others are in use."""
    before = looked()
    script = (
        "nft add table inet theirs; iptables-legacy -P FORWARD DROP\n"
        f"({LOOK}) > before\nPYTHONPATH={os.getcwd()} {sys.executable} -m nftbridge probe > shown\n"
        f"({LOOK}) > after\n"
    )
    command = ["unshare", "--net", "sh", "-c", script]
    environment = os.environ | {"XTABLES_LOCKFILE": str(tmp_path / "lock")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    told = {name: (tmp_path / name).read_text() for name in ("before", "shown", "after")}
    assert "ip6tables-nat         present" in told["shown"]
    assert {"table inet theirs {", "filter"} <= set(told["before"].splitlines())
    assert told["after"] == told["before"]
    assert looked() == before


def test_no_process_and_no_mount_is_left(tmp_path: Path) -> None:
    """A network namespace lives as long as one of these; in a process namespace all are in view."""
    script = (
        "cat /proc/self/mountinfo > before\n"
        f"PYTHONPATH={os.getcwd()} {sys.executable} -m nftbridge probe > shown\n"
        "cat /proc/self/mountinfo > after; echo /proc/[0-9]* > processes\n"
    )
    command = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", script]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert "nft-tables            present" in (tmp_path / "shown").read_text()
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
    assert (tmp_path / "processes").read_text() == "/proc/1\n"


def test_auto_needs_no_probe_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nftbridge.probe.run.probe", None)
    assert auto().backend == "nftables"


# Poorer kernels


def test_without_raw_and_ipv6_nat(tmp_path: Path) -> None:
    """As on the kernels of many appliances; the reason is what the program said."""
    no_raw, no_nat = (
        NO_TABLE.format("iptables", "raw"),
        NO_TABLE.format("ip6tables", "nat"),
    )
    program(tmp_path, "ip6tables-legacy-restore", "*nat", no_nat)
    shown = answer(PATH=program(tmp_path, "iptables-legacy-restore", "*raw", no_raw))
    assert absent(shown) == {"iptables-raw", "ip6tables-nat"}
    assert no_raw in shown["features"]["iptables-raw"]["detail"]
    assert no_nat in shown["features"]["ip6tables-nat"]["detail"]
    assert shown["features"]["iptables-raw"]["instead"] == "mangle PREROUTING"
    waiting = {"ip6tables-dnat", "ip6tables-snat", "ip6tables-masquerade"}
    assert absent(shown, "unknown") == waiting
    assert shown["auto"] == "nftables"


LEGACY = [f for f in FEATURES if f.group is Group.IPTABLES and f.options]


@pytest.mark.parametrize("name", [feature.name for feature in LEGACY])
def test_each_legacy_feature_is_missed_when_it_alone_fails(tmp_path: Path, name: str) -> None:
    _, _, word = name.partition("-")
    refused = {"dnat": "-j DNAT", "snat": "-j SNAT", "masquerade": "MASQUERADE"}.get(word, word)
    refused = f"*{word}" if word in {"filter", "nat", "raw", "mangle"} else refused
    refused = f"-m {word}" if word in {"addrtype", "conntrack", "tcp", "udp", "sctp"} else refused
    reason = "iptables-restore: line 2 failed"
    shown = answer(PATH=program(tmp_path, "iptables-legacy-restore", refused, reason))
    assert absent(shown) == {name}
    waiting = {f.name for f in LEGACY if name in f.needs}
    assert absent(shown, "unknown") == waiting


WORDS = {
    "nft-tables": '"family":"ip"',
    "nft-inet": '"add":{"table":{"family":"inet"',
    "nft-inet-nat": '"type":"nat"',
    "nft-fib": '"fib"',
    "nft-ct": '"ct"',
    "nft-nat": '"dnat"',
    "nft-masquerade": '"masquerade"',
    "nft-counter": '"counter"',
    "nft-interval": '"type":"ipv4_addr","flags":["interval"]',
    "nft-concat": '"type":["ifname","ifname"]',
    "nft-concat-interval": '"type":["ifname","ipv4_addr"],"flags":["interval"]',
}


def test_there_is_a_word_for_each_feature_of_nftables() -> None:
    assert WORDS.keys() == {f.name for f in FEATURES if isinstance(f.trial, NftTrial)}


@pytest.mark.parametrize("name", WORDS)
def test_each_nftables_feature_is_missed_when_it_alone_fails(tmp_path: Path, name: str) -> None:
    shown = answer(PYTHONPATH=refusing_binding(tmp_path, WORDS[name]))
    assert absent(shown) == {name}
    assert "No such file or directory" in shown["features"][name]["detail"]
    waiting = {name}
    for feature in FEATURES:
        waiting |= {feature.name} if waiting & set(feature.needs) else set()
    assert absent(shown, "unknown") == waiting - {name}
    assert shown["auto"] == "iptables"
    assert shown["auto_reason"].startswith(f"nftables lacks {name} (")


def test_without_libnftables(tmp_path: Path) -> None:
    hidden = binding(tmp_path, "raise ModuleNotFoundError('hidden')\n")
    shown = answer(PYTHONPATH=hidden)
    assert absent(shown) == {"nft-binding"}
    assert absent(shown, "unknown") == {f.name for f in FEATURES if isinstance(f.trial, NftTrial)}
    assert shown["auto"] == "iptables"
    assert "python3-nftables" in shown["auto_reason"]


def test_a_libnftables_that_was_built_without_json(tmp_path: Path) -> None:
    """It takes a document for nft's own language."""
    body = (
        "class Nftables:\n"
        "    def set_json_output(self, on): pass\n"
        "    def set_handle_output(self, on): pass\n"
        "    def cmd(self, text): return -1, '', \"<cmdline>:1:1-1: Error: syntax error, '{'\"\n"
    )
    shown = answer(PYTHONPATH=binding(tmp_path, body))
    assert shown["features"]["nft-binding"]["detail"] == "libnftables was built without JSON"


def test_a_libnftables_that_crashes_costs_its_features_only(tmp_path: Path) -> None:
    hidden = binding(tmp_path, "import os\nos.abort()\n")
    shown = answer(PYTHONPATH=hidden)
    assert "signal 6" in shown["features"]["nft-binding"]["detail"]
    assert absent(shown) == set()
    assert "iptables-raw" not in absent(shown, "unknown")
    assert shown["auto"] == "iptables"


def test_without_programs(tmp_path: Path) -> None:
    shown = answer(PATH=str(tmp_path))
    assert absent(shown) == {
        f"{name}-{variant}" for name in ("iptables", "ip6tables") for variant in ("legacy", "nft")
    }
    assert "iptables-legacy-restore" in shown["features"]["iptables-legacy"]["detail"]
    assert shown["auto"] == "nftables"


def test_with_neither(tmp_path: Path) -> None:
    hidden = binding(tmp_path, "raise ModuleNotFoundError('hidden')\n")
    shown = answer(PATH=str(tmp_path), PYTHONPATH=hidden)
    assert shown["auto"] is None
    for missing in ("nft-binding (package python3-nftables", "iptables-legacy (package iptables"):
        assert missing in shown["auto_reason"]


@pytest.mark.parametrize("dropped", ["all", "net_admin", "net_raw", "sys_admin"])
def test_without_privilege_what_can_be_seen_is_shown(dropped: str) -> None:
    done = probe("setpriv", f"--bounding-set=-{dropped}", "--inh-caps=-all")
    assert done.returncode == 5
    assert "hint: run as root" in done.stderr
    features = json.loads(done.stdout)["features"]
    states = {feature["feature"]: feature["presence"] for feature in features}
    assert states["nft-binding"] == "present"
    assert states["nft-tables"] == states["ip6tables-nat"] == "unknown"
    assert "missing" not in states.values()
