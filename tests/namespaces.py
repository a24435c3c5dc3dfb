"""Network namespaces for tests: made, used by nft, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count

from nftbridge.lab.namespaces import DIRECTORY, remove

_FORWARDING = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
_serial = count()


@contextmanager
def network_namespace(*, forwarding: bool = False) -> Generator[str]:
    """The name of an empty network namespace, while the context lasts."""
    name = f"nftb-test-{os.getpid()}-{next(_serial)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        if forwarding:
            enter = ["ip", "netns", "exec", name]
            subprocess.run([*enter, "sysctl", "-qw", *_FORWARDING], check=True)
        yield name
    finally:
        if (DIRECTORY / name).exists():
            remove(name)


def nft(namespace: str, *words: str, stdin: str | None = None) -> str:
    """What nft prints in that namespace."""
    command = ["nsenter", f"--net={DIRECTORY / namespace}", "nft", *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
