"""Where host files come from: files, folders and standard input, whatever their bytes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from nftbridge import config
from nftbridge.errors import InputError
from nftbridge.model import Host
from tests.unit.hostfiles import CONTAINER, NETWORK, OTHER, of_json, problems_of, publishing

UNREADABLE: list[tuple[str, str, bytes, str, str]] = [
    ("toml syntax", ".toml", b"version = 1\n[host\n", "is not TOML: .* line 2, column 6", "check"),
    ("toml end", ".toml", b"version = 1\nhost = [", "is not TOML: .* line 2, column 9", "check"),
    ("toml twice", ".toml", b"version = 1\nversion = 1\n", "is not TOML: .* line 2", "check"),
    ("toml utf-8", ".toml", b"version = 1\nx = '\xff'", "0xff .at line 2, column 6", "UTF-8"),
    ("toml utf-16", ".toml", "version = 1".encode("utf-16"), "0xff .at line 1, column 1", "UTF-8"),
    ("toml digits", ".toml", b"version = " + b"1" * 5000, "too many digits", "no key"),
    ("toml nested", ".toml", b"a = " + b"[" * 100_000, "nested too deeply", "levels"),
    ("toml date", ".toml", b"version = 2020-13-01", "is not TOML: .* line 1", "check"),
    ("toml nul", ".toml", b"version = 1\0", "is not TOML: .* line 1, column 12", "check"),
    ("json syntax", ".json", b'{"version":\n"a" 5}', "is not JSON: .* line 2, column 5", "commas"),
    ("json empty", ".json", b"", "is not JSON: .* line 1, column 1", "commas"),
    ("json extra", ".json", b"{} {}", "is not JSON: .* line 1, column 4", "commas"),
    ("json utf-8", ".json", b'{"\xc3": 1}', "0xc3 .at line 1, column 3", "UTF-8"),
    ("json digits", ".json", b'{"version": ' + b"1" * 5000 + b"}", "too many digits", "no key"),
    ("json nested", ".json", b"[" * 100_000, "nested too deeply", "levels"),
    ("json objects", ".json", b'{"a":' * 100_000, "nested too deeply", "levels"),
    ("json list", ".json", b"[]", "must be a table, not a list", "keys and values"),
    ("json null", ".json", b"null", "must be a table, not null", "keys and values"),
    ("json nan", ".json", b"NaN", "must be a table, not the number nan", "keys and values"),
    ("json text", ".json", b'"x"', "must be a table, not 'x'", "keys and values"),
]


@pytest.mark.parametrize(
    ("suffix", "data", "message", "hint"),
    [row[1:] for row in UNREADABLE],
    ids=[row[0] for row in UNREADABLE],
)
def test_unreadable_file(tmp_path: Path, suffix: str, data: bytes, message: str, hint: str) -> None:
    path = tmp_path / f"host{suffix}"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        config.load(str(path))
    (problem,) = problems_of(caught)
    assert problem.where == str(path)
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ('{"version": 1, "version": 1}', "version", "more than once"),
        ('{"version": 1, "host": {"ipv4": true, "ipv4": true}}', "host.ipv4", "more than once"),
        ('{"version": 1, "network": [], "network": []}', "network", "more than once"),
        ('{"version": NaN}', "version", "not the number nan"),
        ('{"version": 1e999}', "version", "not the number inf"),
        ('{"version": 1, "host": {"ipv4": -Infinity}}', "host.ipv4", "not the number -inf"),
        ('{"version": 1, "\\ud800": 1}', "'\\ud800'", "unknown key '\\ud800'"),
        ('{"version": 1, "": 1}', "''", "unknown key ''"),
        ('{"version": 1, "' + "x" * 10_000 + '": 1}', "'" + "x" * 60 + "'...", "unknown key"),
        ('{"version": 1, "network": [null]}', "network[0]", "must be a table, not null"),
        ('{"version": 1, "host": ' + "[" * 500 + "]" * 500 + "}", "host", "not a list"),
    ],
)
def test_json_oddities(text: str, where: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        of_json(text)
    (problem,) = problems_of(caught)
    assert problem.where == where
    assert message in problem.message


def test_a_repeated_key_has_no_consequences() -> None:
    text = '"name": "a", "subnets": ["10.0.0.0/8"], "bridge": "br-a", "bridge": "br/a"'
    with pytest.raises(InputError) as caught:
        of_json(f'{{"version": 1, "network": [{{{text}}}]}}')
    (problem,) = problems_of(caught)
    assert problem.where == "network[0].bridge"
    assert "more than once" in problem.message


def test_half_surrogates_stay_printable() -> None:
    network = {"name": "\ud800", "bridge": "\udfff", "subnets": ["\ud800"], "internal": True}
    container = {"name": "\ud800", "ipv4": "\ud800", "publish": ["\ud800.:80", "[\ud800]:1", "1:1"]}
    text = json.dumps({"version": 1, "network": [network | {"container": [container]}] * 2})
    with pytest.raises(InputError) as caught:
        of_json(text)
    problems_of(caught)
    str(caught.value).encode()


class ClosedStream(io.StringIO):
    """A standard input that fails when it is read."""

    def read(self, size: int | None = -1, /) -> str:
        raise OSError(5, f"Input/output error after {size}")


def test_standard_input_without_bytes() -> None:
    assert config.load("-", io.StringIO('{"version": 1}')).host == Host()
    with pytest.raises(InputError, match="standard input: cannot be read") as caught:
        config.load("-", ClosedStream())
    problems_of(caught)


def test_standard_input_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"version": 1}')))
    assert config.load("-").host == Host()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input: cannot be read"):
        config.load("-")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.toml", "there is no such file"),
        ("missing.json", "there is no such file"),
        ("missing", "there is no such file or folder"),
        ("", "there is no such file or folder"),
        ("nul\0.toml", "cannot be read"),
        ("nul\0", "there is no such file or folder"),
        ("half\ud800.json", "cannot be read"),
        ("x" * 300 + ".toml", "cannot be read: File name too long"),
        ("file.toml/x.toml", "cannot be read: Not a directory"),
        ("notes.txt", "is neither .toml nor .json"),
    ],
)
def test_unusable_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("notes.txt", "file.toml"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as caught:
        config.load(source)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.hint
    assert str(caught.value).isprintable() or "\n    hint: " in str(caught.value)
    str(caught.value).encode()


def write(folder: Path, **files: str) -> str:
    """Files in a folder; ``a__toml`` stands for ``a.toml``."""
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_folder_is_merged_in_name_order(tmp_path: Path) -> None:
    both = json.dumps({"version": 1, "host": {"ipv6": False}})
    source = write(
        tmp_path,
        b__toml=f"version = 1\n{NETWORK}",
        a__toml=f"version = 1\n[host]\nipv4 = false\n{OTHER}",
        c__JSON=both,
        _hidden__toml="",
        README="not for us",
        d__toml__bak="nor this",
    )
    (tmp_path / "_hidden.toml").rename(tmp_path / ".hidden.toml")
    host = config.load(source).host
    assert [network.name for network in host.networks] == ["b", "a"]
    assert (host.ipv4, host.ipv6) == (False, False)


def test_folder_problems_name_file_and_local_index(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        **{
            "10-base__toml": f"version = 1\nhost = {{ ipv4 = true, icc = 1 }}\n{NETWORK}{OTHER}",
            "15-none__toml": "version = 1\nnetwork = [1]\nhost = { ipv4 = true }",
            "20-shop__toml": "version = 1\nnetwork = [1]\n[host]\nipv4 = false",
            "30-web__toml": f"{OTHER}{CONTAINER}".replace('"b"', '"c"'),
            "40-bad__json": "{",
        },
    )
    (tmp_path / "50-lost.toml").symlink_to("nowhere")
    (tmp_path / "60-folder.toml").mkdir()
    with pytest.raises(InputError) as caught:
        config.load(source)
    problems = problems_of(caught)
    assert [(problem.where, problem.message.partition(" (")[0]) for problem in problems] == [
        ("10-base.toml: host.icc", "unknown key 'icc'"),
        ("15-none.toml: host.ipv4", "is set in 10-base.toml already"),
        ("15-none.toml: network[0]", "must be a table, not the number 1"),
        ("20-shop.toml: host.ipv4", "is set in 10-base.toml already"),
        ("20-shop.toml: network[0]", "must be a table, not the number 1"),
        ("30-web.toml: version", "the required key 'version' is missing"),
        (
            "30-web.toml: network[0].bridge",
            "bridge 'br-b' is taken already by 10-base.toml: network[1].bridge",
        ),
        (
            "30-web.toml: network[0].subnets[0]",
            "10.1.0.0/24 overlaps 10.1.0.0/24 of 10-base.toml: network[1].subnets[0]",
        ),
        ("30-web.toml: network[0].container[0].ipv4", "10.0.0.2 lies outside 10.1.0.0/24"),
        (
            "40-bad.json",
            "is not JSON: Expecting property name enclosed in double quotes",
        ),
        ("50-lost.toml", "there is no such file"),
        ("60-folder.toml", "is a folder, not a file"),
    ]


def test_indices_of_a_file_count_what_could_not_be_read() -> None:
    good = {"name": "a", "bridge": "br-a", "subnets": ["10.0.0.0/24"]}
    box = {"name": "web", "ipv4": "10.0.0.2", "publish": ["1:1", "x", "1:2"]}
    also = good | {"name": "b", "container": [5, box, {}, box]}
    with pytest.raises(InputError) as caught:
        of_json(json.dumps({"version": 1, "network": [0, good, "x", also]}))
    found = {problem.where: problem.message for problem in problems_of(caught)}
    assert "at network[3].container[1].publish[0]" in found["network[3].container[1].publish[2]"]
    assert found["network[3].bridge"].endswith("taken already by network[1].bridge")
    assert found["network[3].container[3].name"].endswith("by network[3].container[1].name")


@pytest.mark.parametrize("names", [[], [".a.toml"], ["a.yaml", "b.txt"]])
def test_folder_without_host_files(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"holds no \.toml or \.json file") as caught:
        config.load(str(tmp_path))
    problems_of(caught)


def test_missing_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run as root, whom no permission stops."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.toml"
    path.touch()
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        for source, where in ((path, str(path)), (tmp_path, "a.toml")):
            with pytest.raises(InputError, match="cannot be read: Permission denied") as caught:
                config.load(str(source))
            assert caught.value.problems[0].where == where
    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(InputError, match="cannot be listed: Permission denied"):
        config.load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "shown"), [(b"a\xff.toml", "a?.toml"), (b"a\nb.toml", "a?b.toml")]
)
def test_file_names_stay_printable(tmp_path: Path, name: bytes, shown: str) -> None:
    (tmp_path / name.decode(errors="surrogateescape")).touch()
    with pytest.raises(InputError) as caught:
        config.load(str(tmp_path))
    assert [problem.where for problem in problems_of(caught)] == [f"{shown}: version"]


def test_warnings_of_a_folder_name_the_file(tmp_path: Path) -> None:
    source = write(tmp_path, a__toml=f"version = 1\n{OTHER}", b__toml=publishing('"[::1]:1:80"'))
    (warning,) = config.load(source).warnings
    assert warning.where == "b.toml: network[0].container[0].publish[0]"
