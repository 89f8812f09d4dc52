"""How the cost of one change grows with the cluster: a single task, submitted alone, among ever more nodes and tasks.

`python -m benchmarks.growth [--agents 100,1000,5000] [--tasks 0,10000,100000]`: one JSON line for each pair, on a crowd
that only grows. All else rests meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.crowd import Crowd, percentile_ms, probes, spec
from benchmarks.guard import guarded
from benchmarks.stage import NAMESPACE, missing, report, say

PROBES = 20
PAUSE_S = 0.25
SETTLE_S = 15.0
"""After the crowd has grown: what was started has to have settled."""
TASKS_PER_JOB = 1_000
TASKS_PER_AGENT = 640
"""That fit on a pretended node of 64 cores, at 0.1 each."""


async def run(agents: list[int], tasks: list[int]) -> None:
    """The tasks grow first: they have to fit on the fewest agents."""
    for number in agents:
        async with Crowd.running() as crowd:
            await crowd.grow(number)
            for total in tasks:
                if total > number * TASKS_PER_AGENT:
                    say(f"{total} tasks do not fit on {number} agents")
                    continue
                await _fill(crowd, total)
                await asyncio.sleep(SETTLE_S)
                await _measure(crowd, number, total)


async def _fill(crowd: Crowd, total: int) -> None:
    """Have so many tasks running, in jobs of a thousand; those that are there stay as they are."""
    jobs = [spec(NAMESPACE, f"job{number}", TASKS_PER_JOB) for number in range(total // TASKS_PER_JOB)]
    if total % TASKS_PER_JOB:
        jobs.append(spec(NAMESPACE, "rest", total % TASKS_PER_JOB))
    if jobs:
        await crowd.client.apply(NAMESPACE, jobs)
        await crowd.until_running(total)


async def _measure(crowd: Crowd, agents: int, tasks: int) -> None:
    before = await crowd.mark()
    took_s = await probes(crowd, PROBES, PAUSE_S)
    after = await crowd.mark()
    used_pct = 100 * (after.controller_cpu_s - before.controller_cpu_s) / (after.at_s - before.at_s)
    report(
        "growth",
        agents=agents,
        tasks=tasks,
        submit_to_running_p50_ms=percentile_ms(took_s, 50),
        submit_to_running_p99_ms=percentile_ms(took_s, 99),
        store_transactions_per_submit=round((after.transactions - before.transactions) / PROBES, 1),
        controller_cpu_pct=round(used_pct, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth")
    parser.add_argument("--agents", default="100,1000,5000")
    parser.add_argument("--tasks", default="0,10000,100000")
    given = parser.parse_args()
    if not missing("etcd"):
        with guarded():
            asyncio.run(run(_numbers(given.agents), _numbers(given.tasks)))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
