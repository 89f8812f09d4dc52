"""The control plane at size, end to end on one machine: etcd, one controller, pretended nodes over real gRPC.

`python -m benchmarks.scale [AGENTS TASKS]` (5000 100000): all agents connected; then all tasks submitted, committed,
delivered and acknowledged as running, with single tasks submitted in between; then, when nothing is written any more,
what it costs to do nothing.
"""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks.crowd import Crowd, Mark, percentile_ms, probes, spec
from benchmarks.guard import guarded
from benchmarks.stage import NAMESPACE, missing, report, say

AGENTS, TASKS = 5_000, 100_000
TASKS_PER_JOB = 1_000
PROBES_AT_IDLE = 20
PAUSE_S = 0.5
"""Between two single tasks."""
SETTLE_S = 15.0
"""After the last change, before what idleness costs is measured: three heartbeats of 5,000 nodes."""
IDLE_S = 20.0


async def run(agents: int, tasks: int) -> None:
    async with Crowd.running() as crowd:
        bare = await _settled(crowd)
        connected_s = await crowd.grow(agents)
        say(f"{agents} agents connected in {connected_s:.1f} s")
        manned = await _settled(crowd)
        at_idle = await probes(crowd, PROBES_AT_IDLE, PAUSE_S)
        say(f"a single task at idle: {percentile_ms(at_idle, 50)} ms")
        before = await crowd.mark()
        took_s, during = await _submit(crowd, tasks)
        after = await crowd.mark()
        say(f"{tasks} tasks run after {took_s:.1f} s: {_shares(before, after)}")
        say(f"at rest after {await crowd.until_at_rest():.0f} s more")
        full = await _settled(crowd)
        await asyncio.sleep(IDLE_S)
        rested = await crowd.mark()
        say(f"idle: {_shares(full, rested)}")
        complaints = crowd.controller.log()
        say(
            f"the controller complained of\n{complaints[-4_000:]}"
            if complaints
            else "the controller complained of nothing"
        )
    report(
        "scale",
        agents=agents,
        tasks=tasks,
        per_second=round(tasks / took_s),
        submit_to_running_p50_ms=percentile_ms(during, 50),
        submit_to_running_p99_ms=percentile_ms(during, 99),
        submit_to_running_idle_p50_ms=percentile_ms(at_idle, 50),
        submit_to_running_idle_p99_ms=percentile_ms(at_idle, 99),
        store_transactions_per_task=round((after.transactions - before.transactions) / tasks, 3),
        store_bytes_per_task=round((after.received_bytes - before.received_bytes) / tasks),
        controller_bytes_per_task=round((full.controller_bytes - manned.controller_bytes) / tasks),
        controller_bytes_per_agent=round((manned.controller_bytes - bare.controller_bytes) / agents),
        controller_cpu_us_per_task=round(1e6 * (after.controller_cpu_s - before.controller_cpu_s) / tasks),
        agents_cpu_us_per_task=round(1e6 * (after.agents_cpu_s - before.agents_cpu_s) / tasks),
        store_cpu_us_per_task=round(1e6 * (after.store_cpu_s - before.store_cpu_s) / tasks),
        idle_cpu_pct=_percent(rested.controller_cpu_s - full.controller_cpu_s, full, rested),
        idle_store_writes=rested.transactions - full.transactions,
        connected_s=round(connected_s, 1),
    )


async def _submit(crowd: Crowd, tasks: int) -> tuple[float, list[float]]:
    """All of them; the seconds until the last runs, and what single tasks took in between."""
    alone: list[float] = []

    async def probing() -> None:
        while True:
            alone.append(await crowd.probe())
            await asyncio.sleep(PAUSE_S)

    counts = [TASKS_PER_JOB] * (tasks // TASKS_PER_JOB) + [tasks % TASKS_PER_JOB] * (tasks % TASKS_PER_JOB > 0)
    begun_s = time.monotonic()
    single = asyncio.create_task(probing())
    try:
        await crowd.client.apply(NAMESPACE, [spec(NAMESPACE, f"job{n}", count) for n, count in enumerate(counts)])
        await crowd.until_running(tasks)
        return time.monotonic() - begun_s, alone
    finally:
        single.cancel()
        await asyncio.wait([single])


async def _settled(crowd: Crowd) -> Mark:
    await asyncio.sleep(SETTLE_S)
    return await crowd.mark()


def _shares(before: Mark, after: Mark) -> str:
    """Who used how much of one core."""
    return ", ".join(
        f"{who} {_percent(used_s, before, after)} %"
        for who, used_s in (
            ("controller", after.controller_cpu_s - before.controller_cpu_s),
            ("agents", after.agents_cpu_s - before.agents_cpu_s),
            ("etcd", after.store_cpu_s - before.store_cpu_s),
        )
    )


def _percent(used_s: float, before: Mark, after: Mark) -> float:
    return round(100 * used_s / (after.at_s - before.at_s), 1)


def main(arguments: list[str]) -> None:
    agents, tasks = map(int, arguments) if arguments else (AGENTS, TASKS)
    if not missing("etcd"):
        with guarded():
            asyncio.run(run(agents, tasks))


if __name__ == "__main__":
    main(sys.argv[1:])
