"""One run: so many random actions, then calm, and the cluster must converge, stay so, and write nothing more."""

from __future__ import annotations

import asyncio
import random
import time

import msgspec

from tests.sim.actions import Actions
from tests.sim.cluster import Cluster, running
from tests.sim.loop import SimLoop
from tests.sim.record import Record, Violation, listening

CONVERGES_WITHIN_S = 400.0
"""Of virtual time after the last fault: a slot that failed often waits a minute for its next try, and rollouts wait in
turn for each other's health checks."""
QUIET_S = 40.0
"""Without a commit: longer than every timer that could still bring a decision."""
LOOK_EVERY_S = 0.25
STALE_LIMIT_S = 60.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    actions: int
    digest: str
    counts: dict[str, int]
    virtual_s: float
    real_s: float


def simulate(seed: int, actions: int, *, log: list[str] | None = None, verbose: bool = False) -> Outcome:
    """Raises `Violation` with the last lines of the event log."""
    record = Record(log)
    begun_s = time.perf_counter()
    with asyncio.Runner(loop_factory=SimLoop) as runner, listening(record, verbose=verbose):
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: _unhandled(record, context))
        try:
            runner.run(_run(seed, actions, record))
        except Violation as violation:
            tail = "\n".join(list(record.lines)[-60:])
            raise Violation(
                f"seed {seed}: {violation}\nreplay: python -m tests.sim --seed {seed} --actions {actions}\n{tail}"
            ) from None
        virtual_s = loop.time()
    return Outcome(
        seed=seed,
        actions=actions,
        digest=record.digest,
        counts=dict(sorted(record.counts.items())),
        virtual_s=virtual_s,
        real_s=time.perf_counter() - begun_s,
    )


async def _run(seed: int, actions: int, record: Record) -> None:
    rng = random.Random(f"{seed} actions")
    async with running(seed, record) as cluster:
        chaos = Actions(cluster, rng)
        await chaos.begin()
        for _ in range(actions):
            await _pass(_pause_s(rng), cluster)
            await chaos.act()
            record.check()
        await chaos.calm()
        record.note("calm", "")
        await _converge(cluster, chaos)
    record.check()


def _pause_s(rng: random.Random) -> float:
    """Mostly short, so that faults meet; now and then long enough for everything to settle."""
    return rng.uniform(10.0, 40.0) if rng.random() < 0.02 else rng.expovariate(1 / 0.6)


async def _pass(seconds: float, cluster: Cluster) -> None:
    """Let time pass, looking."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while (left_s := until_s - loop.time()) > 1e-6:
        await asyncio.sleep(min(left_s, LOOK_EVERY_S))
        cluster.look(STALE_LIMIT_S)
        cluster.record.check()


async def _converge(cluster: Cluster, chaos: Actions) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + CONVERGES_WITHIN_S
    quiet_since_s, commits = loop.time(), cluster.witness.commits
    while True:
        await _pass(1.0, cluster)
        chaos.mend()
        unfinished = cluster.unfinished()
        if unfinished or cluster.witness.commits != commits:
            quiet_since_s, commits = loop.time(), cluster.witness.commits
        if loop.time() - quiet_since_s >= QUIET_S:
            cluster.record.note("converged", "")
            return
        if loop.time() > deadline_s:
            why = "; ".join(unfinished[:8]) or "it goes on writing"
            raise Violation(f"not converged {CONVERGES_WITHIN_S:g} s after the last fault: {why}")


def _unhandled(record: Record, context: dict[str, object]) -> None:
    record.violated(f"nobody handled {context.get('exception')!r}: {context.get('message')}")
