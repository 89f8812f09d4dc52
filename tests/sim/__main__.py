"""`python -m tests.sim --seed N`: replay one run, or try many at once."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from tests.sim.record import Violation
from tests.sim.simulate import Faults, Outcome, attempt, simulate


def main() -> int:
    arguments = _arguments()
    first = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    if arguments.log is not None:
        return _replay(first, arguments)
    began_s = time.monotonic()
    outcomes: list[Outcome] = []
    for done in _runs(range(first, first + arguments.seeds), arguments):
        if isinstance(done, Outcome):
            outcomes.append(done)
            if not arguments.quiet:
                print(msgspec.json.encode(done).decode(), flush=True)
        else:
            print(done, file=sys.stderr, flush=True)
    print(_summary(first, arguments.seeds, outcomes, time.monotonic() - began_s))
    return 0 if len(outcomes) == arguments.seeds else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this run; without it, random ones")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs, each with the seed after the last")
    parser.add_argument("--actions", type=int, default=1_000)
    parser.add_argument("--faults", type=Faults, default=Faults.ALL, help="all or control-plane")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time; 0: as many as cores")
    parser.add_argument("--quiet", action="store_true", help="say only what failed, and the summary")
    parser.add_argument("--log", type=Path, help="write the whole event log there, with what the product logs")
    return parser.parse_args()


def _runs(seeds: range, arguments: argparse.Namespace) -> Iterator[Outcome | str]:
    """What each run came to, in order."""
    run = partial(attempt, arguments.actions, arguments.faults)
    processes = min(arguments.processes or os.cpu_count() or 1, len(seeds))
    if processes <= 1:
        yield from map(run, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run, seeds)


def _replay(seed: int, arguments: argparse.Namespace) -> int:
    log: list[str] = []
    try:
        outcome = simulate(seed, arguments.actions, faults=arguments.faults, log=log, verbose=True)
        print(msgspec.json.encode(outcome).decode())
    except Violation as violation:
        print(violation, file=sys.stderr)
        return 1
    finally:
        arguments.log.write_text("\n".join(log) + "\n")
    return 0


def _summary(first: int, seeds: int, outcomes: list[Outcome], took_s: float) -> str:
    hours, minutes = sum(one.virtual_s for one in outcomes) / 3600, took_s / 60
    return (
        f"{seeds} seeds from {first}: {seeds - len(outcomes)} failed; {hours:.1f} virtual hours in {minutes:.1f} min, "
        f"{hours / minutes:.1f} virtual hours and {seeds / minutes:.1f} seeds a minute"
    )


if __name__ == "__main__":
    sys.exit(main())
