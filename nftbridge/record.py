"""What an apply writes down of itself: announced before, settled or withdrawn afterwards."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from nftbridge import config
from nftbridge.config import Source
from nftbridge.difference import Document
from nftbridge.effects import forwarded_families, may_lack_effects
from nftbridge.errors import NftbridgeError, PartlyAppliedError
from nftbridge.model import Host
from nftbridge.past import Past

_GENERATIONS = 1 << 32
"""The counter has 32 bits and skips zero: once in that many changes the kernel is listed again."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is recorded of a host: a document, and a digest if files of that digest say all of it.

    `canonical` documents are those of `host_to_data`. The kernel has to forward the families in
    `forwarded`. `path` is where it was read from, if that is known.
    """

    document: Document
    digest: str = ""
    canonical: bool = True
    forwarded: tuple[str, ...] = ()
    path: str = ""

    @classmethod
    def of(cls, host: Host, source: Source | None = None) -> Record:
        """The record of `host`, in the words of `source` if there are any."""
        if source is None:
            return cls(config.host_to_data(host))
        document, digest = source.document(), "" if may_lack_effects(host) else source.digest()
        families = forwarded_families(host)
        if document is None:
            return cls(config.host_to_data(host), digest, forwarded=families, path=source.path)
        return cls(document, digest, canonical=False, forwarded=families, path=source.path)

    @classmethod
    def of_last_apply(cls, state: Past) -> Record:
        """The record that `state` has, which must have one."""
        document = cast("Document", state.document())
        return cls(document, state.source(), state.canonical(), state.forwarded(), state.path())


@dataclass(frozen=True, slots=True)
class Recorder:
    """Keeps the record of the backend called `backend`; `generation` is the kernel's, now."""

    state: Past
    backend: str
    generation: Callable[[], int | None]

    @contextmanager
    def around(
        self, record: Record, start: int | None, *, commits: int, anyway: bool = False
    ) -> Generator[None]:
        """Announce what is done, and then record it, with a mark if nobody cut in.

        `start` is the generation before it. Without a commit, and not `anyway`, a record that says
        the same is left as it is.
        """
        state = self.state
        same = state.document() == record.document and record.path in ("", state.path())
        if not commits and not anyway and same:
            yield
            state.drop_unsettled()  # what somebody announced and did not do
        else:
            if self._leads_elsewhere(record):
                state.step()
            state.announce(
                record.document, self.backend, canonical=record.canonical, path=record.path
            )
            try:
                yield
            except PartlyAppliedError:
                raise  # what was announced is in the kernel, in part
            except NftbridgeError:
                state.withdraw()
                raise
            state.settle()
        now = self.generation()
        if start is not None and now == (start + commits) % _GENERATIONS:
            state.set_mark(now, record.digest, record.forwarded)

    def _leads_elsewhere(self, record: Record) -> bool:
        """Whether it is about another host; on trial the same one in other words is a repair."""
        if self.state.document() == record.document:
            return False
        if not self.state.is_on_trial():
            return True
        return self.state.applied() != config.host_from_data(record.document)
