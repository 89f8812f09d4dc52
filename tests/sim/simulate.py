"""One run: so many random actions, then calm, and the cluster must converge, stay so, and write nothing more."""

from __future__ import annotations

import asyncio
import enum
import random
import time

import msgspec

from tests.sim.actions import Actions
from tests.sim.cluster import Cluster, running
from tests.sim.loop import SimLoop
from tests.sim.record import Record, Violation, listening
from tests.sim.scenario import Scenario

CONVERGES_WITHIN_S = 400.0
"""Of virtual time after the last fault: a slot that failed often waits a minute for its next try, and rollouts wait in
turn for each other's health checks."""
QUIET_S = 40.0
"""Without a commit: longer than every timer that could still bring a decision."""


class Faults(enum.Enum):
    ALL = "all"
    CONTROL_PLANE = "control-plane"
    """Only of controllers, their store and the links to them: no container may notice (I6)."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    seed: int
    actions: int
    digest: str
    counts: dict[str, int]
    virtual_s: float
    real_s: float


def simulate(
    seed: int, actions: int, *, faults: Faults = Faults.ALL, log: list[str] | None = None, verbose: bool = False
) -> Outcome:
    """Raises `Violation` with the last lines of the event log."""
    record = Record(log)
    begun_s = time.perf_counter()
    with asyncio.Runner(loop_factory=SimLoop) as runner, listening(record, verbose=verbose):
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _loop, context: record.unhandled(context))
        try:
            runner.run(_run(seed, actions, faults, record))
        except Violation as violation:
            tail = "\n".join(list(record.lines)[-60:])
            replay = f"python -m tests.sim --seed {seed} --actions {actions} --faults {faults.value}"
            raise Violation(f"seed {seed}: {violation}\nreplay: {replay}\n{tail}") from None
        virtual_s = loop.time()
    return Outcome(
        seed=seed,
        actions=actions,
        digest=record.digest,
        counts=dict(sorted(record.counts.items())),
        virtual_s=virtual_s,
        real_s=time.perf_counter() - begun_s,
    )


def attempt(actions: int, faults: Faults, seed: int) -> Outcome | str:
    """As `simulate`, for another process: what went wrong as text."""
    try:
        return simulate(seed, actions, faults=faults)
    except Violation as violation:
        return str(violation)


async def _run(seed: int, actions: int, faults: Faults, record: Record) -> None:
    rng = random.Random(f"{seed} actions")
    async with running(seed, record) as cluster:
        chaos = Actions(cluster, rng)
        await chaos.begin(exclusive=faults is Faults.ALL)
        if faults is Faults.ALL:
            await _act(chaos, actions, rng, cluster)
            await _converge(cluster, chaos)
        else:
            chaos.spare_containers()
            await _converge(cluster, chaos)
            with Scenario(cluster).untouched(endpoints=False):
                await _act(chaos, actions, rng, cluster)
                await _converge(cluster, chaos)
    record.check()


async def _act(chaos: Actions, actions: int, rng: random.Random, cluster: Cluster) -> None:
    for _ in range(actions):
        await cluster.passes(_pause_s(rng))
        await chaos.act()
        cluster.record.check()
    await chaos.calm()
    cluster.record.note("calm", "")


def _pause_s(rng: random.Random) -> float:
    """Mostly short, so that faults meet; now and then long enough for everything to settle."""
    return rng.uniform(10.0, 40.0) if rng.random() < 0.02 else rng.expovariate(1 / 0.6)


async def _converge(cluster: Cluster, chaos: Actions) -> None:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + CONVERGES_WITHIN_S
    quiet_since_s, commits = loop.time(), cluster.witness.commits
    while True:
        await cluster.passes(1.0)
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
