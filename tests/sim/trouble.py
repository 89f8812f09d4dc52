"""Trouble that lasts: whom it concerns, for how long, and what ends it.

A fault that lasts heals by itself after a while, drawn so that every timer of the cluster is missed, hit and exceeded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from tests.sim.cluster import Cluster
from tests.sim.machine import Machine
from tests.sim.site import Site

Heal = Callable[[], Awaitable[None]]


class Trouble:
    """See the module. Whoever is in lasting trouble is in no other: `machine` and `site` choose among the rest."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.busy: dict[str, None] = {}
        self._healing: dict[asyncio.Task[None], None] = {}
        self._heals: dict[int, Heal] = {}
        self._faults = 0

    def machine(self) -> Machine | None:
        """One that no other lasting fault concerns."""
        free = [machine for machine in self.cluster.machines if machine.name not in self.busy]
        if not free:
            return None
        machine = self.rng.choice(free)
        self.disturb(machine)
        return machine

    def site(self) -> Site | None:
        """Rather the leader: it is the one that matters."""
        free = [site for site in self.cluster.sites if site.name not in self.busy]
        leading = [site for site in free if site.work is not None]
        return self.rng.choice(leading if leading and self.rng.random() < 0.7 else free) if free else None

    def disturb(self, machine: Machine) -> None:
        machine.disturbed_at_s = asyncio.get_running_loop().time()

    def lasts(self, who: str, heal: Heal) -> str:
        """Keep `who` in trouble for a while."""
        seconds = self._duration_s()
        self.busy[who] = None
        self._faults += 1
        number = self._faults

        async def free() -> None:
            await heal()
            self.busy.pop(who, None)
            for machine in self.cluster.machines:
                if machine.name == who:
                    self.disturb(machine)

        self._heals[number] = free
        task = asyncio.get_running_loop().create_task(self._heal_in(seconds, number))
        self._healing[task] = None
        task.add_done_callback(lambda done: self._healing.pop(done, None))
        return f"{who} for {seconds:.2f} s"

    async def end(self) -> None:
        """Everything heals at once."""
        for task in tuple(self._healing):
            task.cancel()
        for number in list(self._heals):
            await self._heal(number)

    def _duration_s(self) -> float:
        low, high = self.rng.choice(((0.05, 1.0), (1.0, 3.0), (2.4, 6.5), (6.0, 30.0)))
        return self.rng.uniform(low, high)

    async def _heal_in(self, seconds: float, number: int) -> None:
        await asyncio.sleep(seconds)
        await self._heal(number)

    async def _heal(self, number: int) -> None:
        heal = self._heals.pop(number, None)
        if heal is not None:
            self.cluster.record.note("heal", f"fault {number}")
            await heal()
