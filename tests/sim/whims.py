"""What the engineer asks for at random, and how broken jobs are given something that works."""

from __future__ import annotations

import random

import msgspec

from common.model.job import DesiredState, Job, JobSpec
from common.model.node import Availability
from common.model.rollout import RolloutPhase
from controller.core import rollout_machine
from controller.core.dependencies import waits_for
from tests.sim.cluster import Cluster
from tests.sim.engineer import with_image
from tests.sim.jobs import JOBS, MOST_REPLICAS

BAD = "bad"
"""Images of this name crash."""


class Whims:
    """See the module. Each request is handed to the engineer, who sends it when it is its turn."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._specs: dict[str, JobSpec] = {spec.name: spec for spec in JOBS}
        self._images = 1

    def deploy(self, *, exclusive: bool) -> None:
        """All jobs. Without `exclusive`: none that nodes stop by themselves when nobody leads for long."""
        if not exclusive:
            self._specs = {name: spec for name, spec in self._specs.items() if not spec.task.exclusive}
        for spec in self._specs.values():
            self._cluster.engineer.up(spec)

    async def scale(self) -> str:
        name = self._job()
        if self._specs[name].mode.per_node or self._specs[name].autoscale:  # there is no number to set
            return await self.up()
        replicas = self._rng.randint(0, MOST_REPLICAS[name])
        self._specs[name] = msgspec.structs.replace(self._specs[name], replicas=replicas)
        self._cluster.engineer.scale(name, replicas)
        return f"{name} to {replicas}"

    async def update(self) -> str:
        spec = self._new_image(self._specs[self._job()], bad=False)
        self._cluster.engineer.up(spec)
        return f"{spec.name} to {spec.task.container.image}"

    async def update_badly(self) -> str:
        spec = self._new_image(self._specs[self._job()], bad=True)
        self._cluster.engineer.up(spec)
        return f"{spec.name} to {spec.task.container.image}"

    async def steer(self) -> str:
        """Rather a job whose rollout is under way: most of this makes no sense of others."""
        jobs = self._cluster.witness.state.jobs.values()
        names = sorted(job.name for job in jobs if rollout_machine.active(job.rollout))
        name = self._rng.choice(names) if names else self._job()
        verb = self._rng.choice(("rollback", "pause", "resume", "resume", "promote", "promote"))
        self._cluster.engineer.steer(name, verb)
        return f"{verb} {name}"

    async def up(self) -> str:
        name = self._job()
        self._cluster.engineer.up(self._specs[name])
        return name

    async def restart(self) -> str:
        name = self._job()
        self._cluster.engineer.restart(name)
        return name

    async def stop(self) -> str:
        name = self._job()
        self._cluster.engineer.stop(name)
        return name

    async def remove(self) -> str:
        name = self._job()
        self._cluster.engineer.remove(name)
        return name

    async def cordon(self) -> str:
        return self._order(Availability.CORDONED)

    async def drain(self) -> str:
        return self._order(Availability.DRAINING)

    async def uncordon(self) -> str:
        held_back = self._held_back()
        if not held_back:
            return ""
        name = self._rng.choice(held_back)
        self._cluster.engineer.order(name, Availability.ACTIVE)
        return name

    def _order(self, wanted: Availability) -> str:
        name = self._rng.choice(self._cluster.machines).name
        self._cluster.engineer.order(name, wanted)
        return name

    def _held_back(self) -> list[str]:
        """Nodes that take no new tasks, or soon will not."""
        nodes = self._cluster.witness.state.nodes.values()
        held_back = {node.name for node in nodes if node.availability is not Availability.ACTIVE}
        names = [machine.name for machine in self._cluster.machines]
        return [name for name in names if name in held_back or not self._cluster.engineer.idle_about(name)]

    def _job(self) -> str:
        return self._rng.choice(list(self._specs))

    def _new_image(self, spec: JobSpec, *, bad: bool) -> JobSpec:
        self._images += 1
        kind = BAD if bad else "batch" if spec.name == "report" else spec.name
        spec = with_image(spec, f"{kind}:{self._images}", spec.replicas)
        self._specs[spec.name] = spec
        return spec

    def mend(self) -> None:
        """Give jobs whose image is broken, or whose rollout was paused, one that works: also those that went back."""
        state = self._cluster.witness.state
        for job in tuple(state.jobs.values()):
            broken = state.spec_of(job).task.container.image.startswith(BAD) or bool(job.paused)
            broken = broken or _phase(job) is RolloutPhase.FAILED
            wish = self._cluster.engineer.wishes[job.name]
            wanted = wish.spec is not None and wish.desired is DesiredState.RUN
            if broken and wanted and self._cluster.engineer.idle(job.name):
                self._cluster.engineer.up(self._new_image(self._specs[job.name], bad=False))
            elif wanted and _phase(job) is RolloutPhase.AWAITING and self._cluster.engineer.idle(job.name):
                self._cluster.engineer.steer(job.name, "promote")
            if wanted and waits_for(state, state.spec_of(job)) and self._runs_badly(job):
                for dependency in state.spec_of(job).depends_on:  # its mended version waits for what was stopped
                    self._bring_back(dependency.job)

    def _runs_badly(self, job: Job) -> bool:
        state = self._cluster.witness.state
        live = [task for task in state.tasks_of_job(job.id).values() if not task.ended]
        return any(state.spec_of_task(task).task.container.image.startswith(BAD) for task in live)

    def _bring_back(self, name: str) -> None:
        wish = self._cluster.engineer.wishes[name]
        missed = wish.spec is None or wish.desired is DesiredState.STOP or not wish.replicas
        if missed and self._cluster.engineer.idle(name):
            spec = self._specs[name]
            self._specs[name] = msgspec.structs.replace(spec, replicas=max(1, spec.replicas))
            self._cluster.engineer.up(self._specs[name])

    def release(self) -> None:
        """Let every node take tasks again."""
        for name in self._held_back():
            self._cluster.engineer.order(name, Availability.ACTIVE)


def _phase(job: Job) -> RolloutPhase | None:
    return job.rollout.phase if job.rollout is not None else None
