"""A table that another program holds (flag owner): it stays as it is, and the error says so."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from nftbridge import config
from nftbridge.choice import Target, choose
from nftbridge.engine import Engine
from nftbridge.errors import KernelRefusedError, UnavailableError
from tests.kernel.debian import NotAvailable
from tests.kernel.nft_versions import nft_command
from tests.namespaces import nft

pytestmark = pytest.mark.kernel

HOST = config.load("rulesets/02-published-port/host.toml").host
TABLE = "table inet nftbridge"


@contextmanager
def held(namespace: str, flags: str, *program: str) -> Generator[None]:
    """An nft that waits for more commands, and meanwhile owns the table."""
    command = ["nsenter", f"--net=/run/netns/{namespace}", *program, "-i"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(f"add {TABLE} {{ flags {flags}; }}\n")
        process.stdin.flush()
        end = time.monotonic() + 20
        while TABLE not in nft(namespace, "list", "tables"):
            assert time.monotonic() < end
            time.sleep(0.02)
        try:
            yield
        finally:
            process.stdin.close()


def test_a_held_table_is_named_as_such(namespace: str, target: Target) -> None:
    engine = Engine(target, choose("nftables", target).backend)
    with held(namespace, "owner", "nft"):
        with pytest.raises((KernelRefusedError, UnavailableError)) as refused:
            engine.apply(HOST)
        assert "flags owner" in str(refused.value)
        nft(namespace, "flush", "ruleset")
        assert TABLE in nft(namespace, "list", "tables")
    assert TABLE not in nft(namespace, "list", "tables")  # it goes with who has held it
    assert engine.apply(HOST)


def test_held_to_persist(namespace: str, target: Target) -> None:
    """By an nft that can: no change comes through, and it is not for want of a capability."""
    try:
        newer = nft_command("sid")
    except NotAvailable as reason:
        pytest.skip(str(reason))
    engine = Engine(target, choose("nftables", target).backend)
    with held(namespace, "owner,persist", *newer):
        with pytest.raises((KernelRefusedError, UnavailableError)) as refused:
            engine.apply(HOST)
        assert "flags owner" in str(refused.value)
    assert TABLE in nft(namespace, "list", "tables")
