"""What is asked and what came of it: probes, outcomes, and the answer a node puts on the wire."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Literal, TypeAlias

from nftbridge.model import Address

ProbeProtocol: TypeAlias = Literal["tcp", "udp", "sctp", "icmp"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One question: whether `destination` answers `source`, a node of the laboratory.

    ``icmp`` is an echo request of the destination's family and has no port.
    """

    source: str
    destination: Address
    protocol: ProbeProtocol
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.destination}]" if self.destination.version == 6 else str(self.destination)
        where = str(self.destination) if self.protocol == "icmp" else f"{host}:{self.port}"
        return f"{self.source} -> {where}/{self.protocol}"


class Reply(Enum):
    """What came back for a probe."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """A TCP reset or ICMP port unreachable, from the destination or from a reject rule."""
    UNREACHABLE = "unreachable"
    """No route, another ICMP error, or the source's own firewall did not let it go."""
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the answering node knew: its name, the peer address it saw, the port it was asked on."""

    node: str
    source: Address
    port: int

    def encode(self) -> bytes:
        """The answer as one line."""
        fields = {"node": self.node, "source": str(self.source), "port": self.port}
        return json.dumps(fields).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Answer:
        """Read what `encode` wrote."""
        fields = json.loads(line)
        return cls(fields["node"], ip_address(fields["source"]), fields["port"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a probe; `answer` is None for ICMP echoes, which the kernel answers unnamed."""

    probe: Probe
    reply: Reply
    answer: Answer | None = None
    error: str = ""

    @property
    def reached(self) -> bool:
        """Whether the probe was answered; a refusal is no answer."""
        return self.reply is Reply.ANSWERED

    @property
    def answered_by(self) -> str | None:
        """The name of the node that answered."""
        return self.answer.node if self.answer else None

    @property
    def answered_port(self) -> int | None:
        """The port that the probe arrived at, after any DNAT."""
        return self.answer.port if self.answer else None

    @property
    def seen_source(self) -> Address | None:
        """The source address that the answering node saw, after any masquerading or SNAT."""
        return self.answer.source if self.answer else None

    @classmethod
    def of_error(cls, probe: Probe, error: OSError) -> Outcome:
        """The outcome of a socket that reported `error`."""
        refused = error.errno in (errno.ECONNREFUSED, errno.ECONNRESET)
        text = os.strerror(error.errno) if error.errno else str(error)
        return cls(probe, Reply.REFUSED if refused else Reply.UNREACHABLE, error=text)
