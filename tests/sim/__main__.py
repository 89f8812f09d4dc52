"""`python -m tests.sim --seed N`: replay one run, or try many."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import msgspec

from tests.sim.record import Violation
from tests.sim.simulate import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this run; without it, random ones")
    parser.add_argument("--seeds", type=int, default=1, help="how many runs, each with the seed after the last")
    parser.add_argument("--actions", type=int, default=1_000)
    parser.add_argument("--log", type=Path, help="write the whole event log there, with what the product logs")
    arguments = parser.parse_args()
    first = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    failed = 0
    for seed in range(first, first + arguments.seeds):
        log: list[str] | None = [] if arguments.log else None
        try:
            outcome = simulate(seed, arguments.actions, log=log, verbose=log is not None)
            print(msgspec.json.encode(outcome).decode(), flush=True)
        except Violation as violation:
            failed += 1
            print(violation, file=sys.stderr, flush=True)
        finally:
            if log is not None:
                arguments.log.write_text("\n".join(log) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
