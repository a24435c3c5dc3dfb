"""The long proof: ``./run prove``. Generated hosts, both backends, real packets. Needs root.

Each model is built in network namespaces with two uplinks and a link that sends loopback addresses
to the host. nftables is applied, then iptables; every probe must fare as the evaluator says, and
the same on both. Before that the backends' output is read back and compared cell by cell.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from random import Random

from nftbridge.model import Host
from tests.equivalence.compare import READINGS, cases, first_difference
from tests.equivalence.models import seeded
from tests.equivalence.partition import LONG, Depth
from tests.equivalence.traffic import Trial, trial

DEFAULT_MODELS = 200
DEFAULT_PROBES = 4000
"""Per model and backend. A host of five networks has up to 30,000 possible ones; half of those
sent are for what is published and for ICMP, half for all the rest, chosen anew for each model."""


def main(arguments: list[str] | None = None) -> int:
    """Run the proof; 1 if anything disagreed."""
    options = _parser().parse_args(arguments)
    trials: list[Trial] = []
    started, cells, wrong = time.monotonic(), 0, 0
    for number in range(options.models):
        seed = options.seed + number
        host = seeded(seed)
        checked, differences = compared(host, LONG)
        done = trial(host, options.probes, Random(seed))
        trials.append(done)
        cells += checked
        wrong += len(differences) + len(done.disagreements)
        minutes = (time.monotonic() - started) / 60
        print(
            f"{number + 1}/{options.models} model {seed}: {host.summary()}; {checked} cells,"
            f" {done.probes} of {done.possible} probes, {minutes:.1f} min",
            flush=True,
        )
        if differences or done.disagreements:
            print("\n".join(("DISAGREEMENT", *differences, done.account())), flush=True)
    print(_summary(trials, cells, wrong))
    return 1 if wrong else 0


def compared(host: Host, depth: Depth) -> tuple[int, list[str]]:
    """How many cells were compared, and what the readings of both backends differ in."""
    number, differences = 0, list[str]()
    for family in host.families():
        wanted = list(cases(host, family, depth))
        number += len(wanted)
        for name, reading in READINGS.items():
            difference = first_difference(wanted, reading(host, family))
            if difference:
                differences.append(f"{name}, {family.label}: {difference}")
    return number, differences


def _summary(trials: list[Trial], cells: int, wrong: int) -> str:
    def lines() -> Iterator[str]:
        yield f"models         {len(trials)}"
        yield f"cells          {cells}"
        yield f"probes         {sum(t.probes for t in trials)} on each backend"
        yield f"  passed       {sum(t.passed for t in trials)} on both together"
        yield f"  dropped      {sum(t.dropped for t in trials)} on both together"
        yield f"disagreements  {wrong}"

    return "\n".join(lines())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run prove",
        description="Both backends against the evaluator: generated hosts, real packets.",
    )
    parser.add_argument("--models", type=int, default=DEFAULT_MODELS, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first (%(default)s)")
    parser.add_argument(
        "--probes", type=int, default=DEFAULT_PROBES, help="most probes per model (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
