"""``./run bench [PART...]``: measures, prints tables, keeps the figures.

Ratios within one run and medians over interleaved rounds; nothing is judged by absolute time, since
machines differ and drift.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import readme
from tests.bench import apply, changes, machine, packets, shown
from tests.bench.figures import Report, Series
from tests.bench.peers import changes as peers_changes
from tests.bench.peers import engine
from tests.bench.peers import packets as peers_packets
from tests.bench.peers.box import Box, box, differing
from tests.bench.running import CACHE, BenchError, say, sweep

KEPT = CACHE / "bench"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    rounds: int
    peer_rounds: int
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Part:
    """Something that can be run by itself."""

    name: str
    about: str
    run: Callable[[Options], list[Series]]


@dataclass(frozen=True, slots=True)
class PeerPart:
    """The same, with the peers' programs."""

    name: str
    about: str
    run: Callable[[Box, Options], list[Series]]


PARTS: tuple[Part | PeerPart, ...] = (
    Part("start", "a small command beside python3's start", lambda o: apply.run_start(o.rounds)),
    Part(
        "apply",
        "1,000 networks and 10,000 ports onto an empty kernel, beside nft",
        lambda o: apply.run_apply(o.rounds),
    ),
    Part(
        "changes",
        "one port more or less on up to 50,000, as a command and in process; memory",
        lambda o: changes.run(o.rounds),
    ),
    Part(
        "packets",
        "UDP packets, new flows and TCP connections to a container under 10 to 10,000 ports and "
        "1 to 1,000 networks",
        lambda o: packets.run(o.rounds, o.milliseconds),
    ),
    PeerPart(
        "peers-changes",
        "publish 1 to 1,000 ports, re-create, 100 networks; with Docker, netavark and CNI portmap",
        lambda b, o: peers_changes.run(b, o.peer_rounds),
    ),
    PeerPart(
        "peers-packets",
        "the same packets under the peers' rules",
        lambda b, o: peers_packets.run(b, o.rounds, o.milliseconds),
    ),
    PeerPart(
        "peers-docker",
        "Docker's containers, from their start until they answer, under its firewall and ours",
        lambda b, o: engine.run(b, o.peer_rounds),
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if os.geteuid() != 0:
        parser.error("needs root: it works in network namespaces of its own")
    # set on some machines; every command would compile itself anew, as on no user's
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    signal.signal(signal.SIGTERM, _interrupted)
    sweep()
    options = Options(given.rounds, given.peer_rounds, given.milliseconds)
    chosen = [part for part in PARTS if _wanted(part, given.parts, peers=given.peers)]
    try:
        for report in _reports(chosen, options):
            print(report.to_json() if given.json else shown.text(report), flush=True)
            if report.part == "changes" and not given.json:
                print(*changes.imports(), sep="\n")
            _keep(report, shown.RESULTS if given.write else KEPT)
        if given.write:
            shown.write()
            readme.README.write_text(readme.generated(readme.README.read_text()))
    except KeyboardInterrupt:
        return 130
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _reports(chosen: Sequence[Part | PeerPart], options: Options) -> Iterator[Report]:
    about = machine.machine()
    for part in chosen:
        if isinstance(part, Part):
            say(part.name)
            yield Report(part.name, about, tuple(part.run(options)))
    peers = [part for part in chosen if isinstance(part, PeerPart)]
    if peers:
        with box() as opened:
            for warning in differing(opened.versions):
                say(warning)
            for part in peers:
                say(part.name)
                both = {**about, **opened.versions}
                yield Report(part.name, both, tuple(part.run(opened, options)))


def _wanted(part: Part | PeerPart, names: Sequence[str], *, peers: bool) -> bool:
    if names:
        return part.name in names
    return isinstance(part, PeerPart) is peers


def _keep(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{report.part}.json"
    file.write_text(report.to_json())
    say(f"the figures are in {file}")


def _part_name(name: str) -> str:
    names = [part.name for part in PARTS]
    if name not in names:
        raise argparse.ArgumentTypeError(f"there is no part {name!r}, but {', '.join(names)}")
    return name


def _parser() -> argparse.ArgumentParser:
    width = max(len(part.name) for part in PARTS)
    lines = [f"  {part.name:{width}}  {part.about}" for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="./run bench",
        description="Measures nftbridge, beside the limits of the machine and beside its peers.",
        epilog="parts:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        type=_part_name,  # `choices` refuses an empty list on Python 3.11
        help="what to run, see below (default: all that need no peers)",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="the peers' parts: fetches Docker, netavark and the CNI plugins from Debian sid",
    )
    parser.add_argument("--rounds", type=int, default=9, help="default: %(default)s")
    parser.add_argument(
        "--peer-rounds", type=int, default=3, help="of peers-changes (default: %(default)s)"
    )
    parser.add_argument(
        "--milliseconds", type=int, default=50, help="of traffic at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="commit the figures to tests/bench/results, and make plots and README's tables anew",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
