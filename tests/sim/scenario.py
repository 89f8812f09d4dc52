"""One named fault on one small cluster: what a scenario may do, and how it is run.

The witness watches as in the random runs; a scenario adds what must hold of its own fault, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from common.model.job import JobSpec
from controller.app import TermWork
from controller.state import Change, State
from tests.sim.cluster import Cluster, Size, running
from tests.sim.loop import SimLoop
from tests.sim.machine import Machine
from tests.sim.record import Record, Violation, listening
from tests.sim.site import Site

FAILOVER_S = 4.5
"""From a leader's silent death to its successor's term: the lease of 3 s, and a campaign."""
LOOK_S = 0.05


class Scenario:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @property
    def now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def leader(self) -> Site:
        """Who holds the leader key."""
        leading = self.cluster.leading()
        found = [site for site in self.cluster.sites if leading is not None and site.work is leading]
        self.must(bool(found), "somebody leads")
        return found[0]

    @property
    def follower(self) -> Site:
        return next(site for site in self.cluster.sites if site is not self.leader and site.up)

    @property
    def state(self) -> State:
        """As committed."""
        return self.cluster.witness.state

    @property
    def term(self) -> TermWork:
        work = self.leader.work
        assert work is not None
        return work

    def must(self, holds: bool, what: str) -> None:
        """Raises `Violation` unless it holds."""
        if not holds:
            self.cluster.record.violated(f"it does not hold that {what}")
        self.cluster.record.check()

    async def passes(self, seconds: float) -> None:
        await self.cluster.passes(seconds)

    async def until(self, holds: Callable[[], object], within_s: float, what: str, *, look_s: float = LOOK_S) -> float:
        """Wait until it holds; how long that took."""
        begun_s = self.now_s
        while not holds():
            if self.now_s - begun_s > within_s:
                self.must(False, f"within {within_s:g} s {what}")
            await self.passes(look_s)
        return self.now_s - begun_s

    async def settles(self, within_s: float = 120.0) -> None:
        """Until everything is as it should be."""
        begun_s = self.now_s
        while unfinished := self.cluster.unfinished():
            if self.now_s - begun_s > within_s:
                self.must(False, f"it converges within {within_s:g} s ({'; '.join(unfinished[:5])})")
            await self.passes(0.5)

    async def up(self, *specs: JobSpec, settle: bool = True) -> None:
        for spec in specs:
            self.cluster.engineer.up(spec)
        await self.until(
            lambda: all(self.cluster.engineer.idle(spec.name) for spec in specs), 60.0, "the engineer is answered"
        )
        if settle:
            await self.settles()

    async def commit(self, *changes: Change) -> None:
        """As an operator's command would."""
        await self.term.ledger.submit(lambda _state: [changes])

    async def led_by_another(self, than: Site, within_s: float = FAILOVER_S) -> float:
        def led() -> bool:
            leading = self.cluster.leading()
            return leading is not None and leading is not than.work

        return await self.until(led, within_s, "another controller leads")

    # --- containers

    def containers(self, job: str = "") -> dict[str, float]:
        """Running ones, and when each was started."""
        return {
            f"{machine.name}/{container.id}": container.started_at_s
            for machine in self.cluster.machines
            for container in machine.running()
            if job in ("", container.identity.job)
        }

    def running_on(self, machine: Machine) -> int:
        return len(machine.running())

    def lost(self) -> int:
        """Tasks given up because of silence, ever."""
        return self.cluster.witness.lost

    @contextmanager
    def untouched(self, *, endpoints: bool = True) -> Iterator[None]:
        """I6: the same containers run afterwards, none was started or ended, and no endpoint was withdrawn.

        Without `endpoints`: a node that was silent may have been left out for a moment.
        """
        before, counts = self.containers(), self._counts()
        self.must(bool(before), "something runs")
        for machine in self.cluster.machines:
            machine.watch_endpoints()
        served = [machine.data_plane.fewest for machine in self.cluster.machines]
        yield
        self.must(self.containers() == before, "I6: the same containers run, since the same moments")
        self.must(self._counts() == counts, f"I6: nothing was started or ended ({counts} before, {self._counts()} now)")
        fewest = [machine.data_plane.fewest for machine in self.cluster.machines]
        self.must(
            not endpoints or fewest == served, f"I6: endpoints stay ({served} were served, {fewest} at the lowest)"
        )

    def _counts(self) -> tuple[int, ...]:
        return tuple(self.cluster.record.counts.get(kind, 0) for kind in ("create", "start", "end"))


Play: TypeAlias = Callable[[Scenario], Awaitable[None]]


def play(scenario: Play, *, seed: int = 1, size: Size | None = None, log: list[str] | None = None) -> None:
    """Raises `Violation`, with the last lines of the event log."""
    record = Record(log)

    async def run() -> None:
        async with running(seed, record, size or Size(machines=3)) as cluster:
            await scenario(Scenario(cluster))
            record.check()

    with asyncio.Runner(loop_factory=SimLoop) as runner, listening(record, verbose=log is not None):
        runner.get_loop().set_exception_handler(lambda _loop, context: record.unhandled(context))
        try:
            runner.run(run())
        except Violation as violation:
            tail = "\n".join(list(record.lines)[-40:])
            raise Violation(f"{violation}\n{tail}") from None
