"""What a laboratory asks its workers, and how they fail. Plain data, pickled over a pipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from nftbridge.lab.probe import Probe
from nftbridge.model import Address


@dataclass(frozen=True, slots=True)
class Prepare:
    """Set up the links of the namespace, then start to listen. Reply: None."""


@dataclass(frozen=True, slots=True)
class RunProbes:
    """Run these probes at the same time. Reply: a list of `Outcome`, in the same order."""

    probes: tuple[Probe, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """Open a TCP connection and hold it as `key`. Reply: the `Answer`, or an error text."""

    key: int
    destination: Address
    port: int
    timeout: float


@dataclass(frozen=True, slots=True)
class CheckConnection:
    """Send a line over a held connection. Reply: whether it came back in time."""

    key: int
    timeout: float


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close a held connection. Reply: None."""

    key: int


Request: TypeAlias = Prepare | RunProbes | OpenConnection | CheckConnection | CloseConnection


@dataclass(frozen=True, slots=True)
class Failure:
    """The reply that says what went wrong instead."""

    message: str
    hint: str = ""
