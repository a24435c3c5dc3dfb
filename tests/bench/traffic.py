"""traffic.c, compiled and run: what a packet and a connection cost on the way to a container."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.bench.running import BenchError, output

INWARD = ("established", "new", "connect")
OUTWARD = ("outward",)
"""What is measured on each way; traffic.c explains them. A container's ``new`` is ``outward``."""

_SOURCE = Path(__file__).with_name("traffic.c")
_LOST = 0.001  # of the packets: more means that a rule drops, or that the machine cannot keep up


@dataclass(frozen=True, slots=True)
class Way:
    """From a client to a container: paths of their namespaces, the host's address and port.

    `listen` is the container's port. A way without `server` ends where nobody looks at the packets.
    """

    client: str
    host: str
    server: str | None
    address: str
    port: int
    listen: int


def compiled(folder: Path) -> Path:
    """The program, made in `folder`. Raises `BenchError` where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchError("packets are sent by a C program, and there is no compiler: install gcc")
    program = folder / "traffic"
    output([compiler, "-O2", "-Wall", "-o", str(program), str(_SOURCE)])
    return program


def cost(program: Path, way: Way, kind: str, milliseconds: int) -> float:
    """Nanoseconds that a packet or connection takes, all the way. Raises if they do not arrive."""
    if way.server is None:
        kind = "floor"
    else:
        output(["nsenter", f"--net={way.host}", "conntrack", "--flush"])
    kind = "new" if kind == "outward" else kind
    words = (way.client, way.server or "-", way.address, way.port, way.listen, milliseconds)
    answer = output([str(program), kind, *map(str, words)]).split()
    nanoseconds, sent, received = float(answer[0]), int(answer[1]), int(answer[2])
    if way.server is not None and received < sent * (1 - _LOST):
        raise BenchError(f"{kind}: {received} of {sent} arrived at {way.server}")
    return nanoseconds
