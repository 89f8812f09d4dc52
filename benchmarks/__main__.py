"""`python -m benchmarks [NAME]...`: all benchmarks, or those named, one after another, each as a process of its own.

Each has a bound on its time; one that exceeds it is interrupted, so that it still takes down what it started.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys

from benchmarks.stage import say

LIMITS_S = {
    "place": 1_200.0,
    "foresight": 600.0,
    "start": 1_200.0,
    "crash": 300.0,
    "idle": 300.0,
    "failover": 5_400.0,
    "agents": 120.0,
    "scale": 3_600.0,
    "growth": 7_200.0,
    "batch": 1_800.0,
    "traffic": 600.0,
    "rollout": 1_800.0,
    "trust": 600.0,
}
"""Name of each benchmark and the longest it may take: some four times what it takes on two idle cores."""
FAREWELL_S = 120.0
"""To take down what it started, once interrupted: 50 containers take a dozen seconds."""


def main() -> int:
    """1 when any failed or took too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="One JSON line per case on stdout.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LIMITS_S)}; none: all of them")
    names = parser.parse_args().names or list(LIMITS_S)
    unknown = [name for name in names if name not in LIMITS_S]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(LIMITS_S)}")
    failed = [name for name in names if not run(name)]
    return int(bool(failed))


def run(name: str) -> bool:
    say(f"--- {name}")
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"]) as benchmark:
        try:
            code = benchmark.wait(LIMITS_S[name])
        except subprocess.TimeoutExpired:
            say(f"{name} took longer than {LIMITS_S[name]:g} s and is interrupted")
            code = _interrupt(benchmark)
        except KeyboardInterrupt:  # the terminal told it too
            benchmark.wait(FAREWELL_S)
            raise
    if code:
        say(f"{name} failed (exit code {code})")
    return code == 0


def _interrupt(benchmark: subprocess.Popen[bytes]) -> int:
    benchmark.send_signal(signal.SIGINT)
    try:
        benchmark.wait(FAREWELL_S)
    except subprocess.TimeoutExpired:
        benchmark.kill()
    return benchmark.wait() or 1


if __name__ == "__main__":
    sys.exit(main())
