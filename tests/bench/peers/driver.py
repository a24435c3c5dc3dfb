"""What every contender of the part `peers-changes` can be told to do."""

from __future__ import annotations

from typing import Protocol

from tests.bench.hosts import Hosting


class Driver(Protocol):
    """One program under test, in network namespaces of its own. The times are seconds."""

    @property
    def name(self) -> str:
        """In tables and plots."""
        ...

    @property
    def runs(self) -> int:
        """How often in a round; the median of them is the round's value."""
        ...

    def publish(self, hosting: Hosting) -> float:
        """Publish the ports of one container that does not publish anything yet, in one change."""
        ...

    def recreate(self, hosting: Hosting) -> float:
        """Take the container with its published ports away, and put it back."""
        ...

    def withdraw(self, hosting: Hosting) -> None:
        """Undo `publish`."""
        ...

    def make_networks(self, count: int) -> float:
        """Make the networks with the numbers 1 to `count`."""
        ...

    def remove_networks(self, count: int) -> None:
        """Undo `make_networks`."""
        ...
