"""The parts `start` and `apply`: whole commands of nftbridge without any peer."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.figures import Series, Size
from tests.bench.hosts import dual_stack
from tests.bench.layouts import NFTABLES
from tests.bench.packets import ONE
from tests.bench.running import (
    NFTBRIDGE,
    PREFIX,
    PYTHON,
    Run,
    interleaved,
    namespace,
    output,
    timed,
)

LARGE = Size(1000, 10000)
_SMALL = Size(2, 8)
_HOST = f"{PREFIX}-h"
_MORE = 4  # rounds: these commands are short, and most of their time is other people's noise


def run_start(rounds: int) -> list[Series]:
    """A bare `check` beside the interpreter's own start."""
    with TemporaryDirectory() as folder:
        host = Path(folder, "small.toml")
        host.write_text(dual_stack(_SMALL.networks, _SMALL.ports))
        check = partial(timed, [*NFTBRIDGE, "check", str(host)])
        start = partial(timed, [PYTHON, "-c", "pass"])
        checks, starts = interleaved(rounds * _MORE, [check, start])
    beyond = [(a.seconds - b.seconds) * 1000 for a, b in zip(checks, starts, strict=True)]
    return [
        Series("check", "nftbridge", _SMALL, tuple(beyond)),
        Series("python", "python3", ONE, tuple(run.seconds * 1000 for run in starts)),
    ]


def run_apply(rounds: int, size: Size = LARGE) -> list[Series]:
    """`apply` on an empty kernel beside `nft -j -f` of the same document."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        host, document = folder / "host.toml", folder / "document.json"
        host.write_text(dual_stack(size.networks, size.ports))
        document.write_text(output([*NFTBRIDGE, "render", str(host)]))
        theirs = partial(_nft, document)
        ours, others = interleaved(rounds, [partial(_apply, host, folder / "state"), theirs])
    return [
        Series("apply", NFTABLES.name, size, _seconds(ours)),
        Series("apply", "nft", size, _seconds(others)),
        Series("peak", NFTABLES.name, size, tuple(run.peak for run in ours)),
        Series("peak", "nft", size, tuple(run.peak for run in others)),
    ]


def _nft(document: Path) -> Run:
    with namespace(_HOST):
        return timed(["nsenter", f"--net=/run/netns/{_HOST}", "nft", "-j", "-f", str(document)])


def _apply(host: Path, state: Path) -> Run:
    shutil.rmtree(state, ignore_errors=True)
    target = ("--netns", _HOST, "--state-dir", str(state))
    with namespace(_HOST):
        return timed([*NFTBRIDGE, "apply", str(host), *NFTABLES.options, *target])


def _seconds(runs: Sequence[Run]) -> tuple[float, ...]:
    return tuple(run.seconds for run in runs)
