"""The random actions: which of all faults and requests comes next."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.sim.cluster import Cluster
from tests.sim.faults import ContainerFaults, ControllerFaults, LoadChanges, MachineFaults, answer
from tests.sim.trouble import Trouble
from tests.sim.whims import Whims

ANSWERED_WITHIN_S = 300.0
"""Without faults; a request to a job that is being removed waits until that is gone."""


class Actions:
    """See the module. `act` does one of them; `calm` ends every fault."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._trouble = trouble = Trouble(cluster, rng)
        self._whims = whims = Whims(cluster, rng)
        self._machines = machines = MachineFaults(trouble)
        self._controllers = controllers = ControllerFaults(trouble)
        containers, load = ContainerFaults(trouble), LoadChanges(trouble)
        self._kinds: dict[Callable[[], Awaitable[str]], int] = {
            containers.kill_container: 12,
            containers.exit_container: 8,
            containers.out_of_memory: 4,
            containers.remove_container: 3,
            containers.sicken: 6,
            containers.cure: 5,
            machines.crash_agent: 7,
            machines.stop_agent: 2,
            machines.freeze_agent: 4,
            machines.lose_disk: 2,
            machines.fill_disk: 2,
            machines.slow_disk: 2,
            machines.crash_machine: 4,
            machines.cut: 6,
            machines.cut_one_way: 4,
            machines.break_links: 4,
            machines.slow_link: 3,
            machines.engine_away: 4,
            machines.jump_clock: 2,
            controllers.crash_controller: 4,
            controllers.stop_controller: 2,
            controllers.freeze_controller: 5,
            controllers.jump_controllers_clock: 2,
            controllers.cut_store: 3,
            controllers.slow_store: 2,
            controllers.freeze_store: 2,
            controllers.fill_store: 2,
            controllers.lose_commit: 2,
            controllers.end_term: 2,
            load.change: 10,
            load.lose_source: 3,
            whims.scale: 10,
            whims.update: 5,
            whims.update_badly: 3,
            whims.restart: 4,
            whims.steer: 12,
            whims.stop: 3,
            whims.up: 6,
            whims.remove: 1,
            whims.cordon: 2,
            whims.drain: 4,
            whims.uncordon: 6,
        }

    def spare_containers(self) -> None:
        """From now on only what controllers, their store and the links to them may suffer."""
        self._cluster.behaviours.calm()
        kinds = (
            self._machines.break_links,
            self._machines.jump_clock,
            self._controllers.crash_controller,
            self._controllers.stop_controller,
            self._controllers.freeze_controller,
            self._controllers.jump_controllers_clock,
            self._controllers.cut_store,
            self._controllers.slow_store,
            self._controllers.freeze_store,
            self._controllers.fill_store,
            self._controllers.lose_commit,
            self._controllers.end_term,
        )
        self._kinds = {kind: self._kinds[kind] for kind in kinds}

    async def begin(self, *, exclusive: bool = True) -> None:
        """Deploy; `exclusive` as in `Whims.deploy`."""
        self._whims.deploy(exclusive=exclusive)
        await self._answered()

    async def act(self) -> None:
        """One random action."""
        kinds = list(self._kinds)
        (kind,) = self._rng.choices(kinds, weights=list(self._kinds.values()))
        done = await kind()
        self._cluster.record.note("action", f"{kind.__name__} {done or 'nobody'}")

    async def calm(self) -> None:
        """Faults stop: everything heals at once, and whatever was broken on purpose is mended."""
        await self._trouble.end()
        self._cluster.behaviours.calm()
        for machine in self._cluster.machines:
            machine.data_plane.drains = False
            machine.set_clock_right()
            for container in machine.engine.containers.values():
                answer(container, well=True)
        for site in self._cluster.sites:
            assert site.store is not None
            site.skew_s = 0.0
            site.store.lose_next_commit = None
        self._whims.release()  # the rest cannot hold everything
        await self._answered()

    def mend(self) -> None:
        """As `Whims.mend`."""
        self._whims.mend()

    async def _answered(self) -> None:
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                await self._cluster.engineer.answered()
        except TimeoutError:
            self._cluster.record.violated(f"the engineer has waited {ANSWERED_WITHIN_S:g} s for an answer")
        self._cluster.record.check()
