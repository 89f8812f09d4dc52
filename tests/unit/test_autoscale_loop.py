"""The loops of autoscaling on virtual time, with agents that report what their tasks use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from msgspec.structs import replace

from common.model.api import SetQuota
from common.model.autoscale import Autoscale, Pace, Query
from common.model.event import Event
from common.model.job import DesiredState, JobSpec
from common.model.session import ServiceTraffic, TaskUsage, UsageReport
from common.model.task import Health, Task, TaskState, TaskStatus
from controller.core.load import Answer
from controller.core.quota import set_quota
from controller.core.settings import QUOTA_LOOK_S, WAKES_BURST, WAKES_PER_S
from controller.loops.autoscale import AutoscaleLoop
from controller.loops.convergence import ConvergenceLoop
from controller.loops.waking import WakingLoop
from controller.measurements import Measurements
from controller.settings import ScalingTimers
from controller.store.keys import Record
from tests.builders import node
from tests.loops_rig import LoopsRig, rig, running
from tests.scaling import scaled_spec
from tests.virtual_time import on_virtual_time

PERIOD_S = 15.0
N1 = node("n1")
BY_CPU = Autoscale(least=2, most=10, cpu_percent=70)
BY_REQUESTS = Autoscale(least=0, most=5, requests_per_second=10, down=Pace(stabilise_s=60))


class ScalingRig(LoopsRig):
    """One node whose agent does what it is told, and reports as often as it is asked."""

    def begin(self, ask: Callable[[str], Awaitable[Answer]]) -> None:
        self.whole_cpu = 0.0
        """Millicores that all tasks together use."""
        self.per_second = 0.0
        self.open = 0
        self.events: list[Event] = []
        self.reports = 0
        self._connections = 0.0
        self.measurements = Measurements(asyncio.get_running_loop().time)
        self.autoscale = AutoscaleLoop(
            self.ledger,
            self.presence,
            self.measurements,
            clock=lambda: self.now_s,
            ask=ask,
            timers=ScalingTimers(period_s=PERIOD_S),
            record=self.events.append,
        )
        self.waking = WakingLoop(self.ledger, self.measurements, clock=lambda: self.now_s)
        self.convergence = ConvergenceLoop(self.ledger, self.presence, clock=lambda: self.now_s, rng=self.rng)

    async def obey(self) -> None:
        """Run and stop tasks as soon as they are wanted, or no more."""
        stirred = asyncio.Event()
        self.ledger.subscribe(lambda _committed: stirred.set())
        while True:
            stirred.clear()
            for task in list(self.state.tasks.values()):
                if task.desired is DesiredState.STOP and not task.ended:
                    await self._report(task, TaskState.STOPPED)
                elif not task.node_id and not task.ended:
                    await self.write(replace(task, node_id=N1.id))
                elif task.status.state is TaskState.PENDING:
                    await self._report(task, TaskState.RUNNING)
            await stirred.wait()

    async def _report(self, task: Task, state: TaskState) -> None:
        status = TaskStatus(attempt=1, state=state, sequence=task.status.sequence + 1, health=Health.NONE)
        await self.write(replace(self.state.tasks[task.id], status=status, observed_at_s=self.now_s))

    async def tell(self) -> None:
        every_s = 0.0
        while True:
            await asyncio.sleep(every_s or 1.0)
            self._connections += self.per_second * (every_s or 1.0)
            every_s = self.measurements.every_s(N1.id)
            if every_s:
                self.reports += 1
                self.measurements.report(N1.id, self._usage(every_s))

    def _usage(self, interval_s: float) -> UsageReport:
        tasks = [task for task in self.state.tasks.values() if task.status.state is TaskState.RUNNING]
        each = round(self.whole_cpu / len(tasks)) if tasks else 0
        return UsageReport(
            interval_s=interval_s,
            tasks=tuple(TaskUsage(task_id=task.id, cpu_millis=each) for task in tasks),
            traffic=(ServiceTraffic(job="shop/web", connections=round(self._connections), open=self.open),),
        )

    @property
    def replicas(self) -> int:
        return self.job().replicas


async def no_answer(_expression: str) -> Answer:
    return Answer(problem="there is none")


@asynccontextmanager
async def leading(
    *specs: JobSpec, records: Iterable[Record] = (), ask: Callable[[str], Awaitable[Answer]] = no_answer
) -> AsyncIterator[ScalingRig]:
    """A term with these jobs on one node."""
    async with rig(records) as plain:
        world = ScalingRig(plain.store, plain.ledger)
        world.begin(ask)
        loops = (world.autoscale.run, world.waking.run, world.convergence.run, world.obey, world.tell)
        async with running(*loops):
            await world.ready(N1)
            if specs:
                await world.up(*specs)
            yield world


@on_virtual_time
async def test_replicas_follow_the_load_within_two_periods_and_fall_again_without_flapping() -> None:
    async with leading(scaled_spec(BY_CPU, replicas=2)) as world:
        world.whole_cpu = 1_400  # as wanted
        await asyncio.sleep(10 * PERIOD_S)
        assert world.replicas == 2
        world.whole_cpu = 2_800
        await asyncio.sleep(2 * PERIOD_S)
        assert world.replicas == 4
        numbers = []
        world.whole_cpu = 1_400
        for _ in range(60):
            await asyncio.sleep(PERIOD_S)
            numbers.append(world.replicas)
        assert numbers == sorted(numbers, reverse=True)
        assert numbers[int(300 / PERIOD_S) - 2] == 4, "not before the window is over"
        assert numbers[-1] == 2


@on_virtual_time
async def test_constant_load_writes_nothing_and_no_autoscaled_job_measures_nothing() -> None:
    async with leading(scaled_spec(replace(BY_CPU, least=1), replicas=2)) as world:
        world.whole_cpu = 1_400
        await asyncio.sleep(30 * PERIOD_S)
        commits = len(world.store.commits)
        await asyncio.sleep(100 * PERIOD_S)
        assert len(world.store.commits) == commits
        await world.up(replace(world.state.spec_of(world.job()), autoscale=None))
        await asyncio.sleep(1.0)
        reports = world.reports
        await asyncio.sleep(100 * PERIOD_S)
        assert world.reports - reports <= 1


@on_virtual_time
async def test_a_new_leader_makes_nothing_smaller_before_its_own_window_is_over() -> None:
    async with leading(scaled_spec(BY_CPU, replicas=6)) as world:
        world.whole_cpu = 100
        await asyncio.sleep(280)
        assert world.replicas == 6
        records = list(world.state.records())
    async with leading(records=records) as world:
        world.whole_cpu = 100
        await asyncio.sleep(290)
        assert world.replicas == 6
        await asyncio.sleep(60)
        assert world.replicas == 2


@on_virtual_time
async def test_an_agent_that_reports_no_more_changes_nothing() -> None:
    async with leading(scaled_spec(replace(BY_CPU, down=Pace()), replicas=4)) as world:
        world.whole_cpu = 2_800
        await asyncio.sleep(4 * PERIOD_S)
        world.measurements.reported = lambda _node_id, _report, _at_s: None  # all get lost from here on
        world.whole_cpu = 0
        await asyncio.sleep(20 * PERIOD_S)
        assert world.replicas == 4
        assert world.autoscale.texts[world.job().id] == ("cpu: no task has told what it uses",)


@on_virtual_time
async def test_a_prometheus_that_disappears_changes_nothing_and_is_told_once() -> None:
    told = [Answer(value=40.0)]

    async def ask(_expression: str) -> Answer:
        return told[-1]

    queue = Autoscale(most=10, query=Query(prometheus="sum(jobs)", target=10), down=Pace())
    async with leading(scaled_spec(queue), ask=ask) as world:
        await asyncio.sleep(3 * PERIOD_S)
        assert world.replicas == 4
        told.append(Answer(problem="Prometheus did not answer within 5 s"))
        await asyncio.sleep(20 * PERIOD_S)
        assert world.replicas == 4
        (event,) = world.events
        assert (event.kind, event.cause) == ("job.metric-lost", "Prometheus did not answer within 5 s")
        told.append(Answer(value=10.0))
        await asyncio.sleep(3 * PERIOD_S)
        assert world.replicas == 1
        assert [event.kind for event in world.events] == ["job.metric-lost", "job.metric-found"]


@on_virtual_time
async def test_it_sleeps_when_nobody_comes_and_the_next_connection_wakes_it_at_once() -> None:
    async with leading(scaled_spec(BY_REQUESTS)) as world:
        world.per_second = 5.0
        await asyncio.sleep(10 * PERIOD_S)
        assert world.replicas == 1
        world.per_second = 0.0
        await asyncio.sleep(60 + 3 * PERIOD_S)
        assert world.replicas == 0
        assert world.autoscale.texts[world.job().id] == ("it sleeps: the next connection wakes it",)
        begun_s = world.now_s
        world.open = 1
        world.measurements.waits(N1.id, ("shop/web",))
        await world.until(lambda: bool(world.job().scaling.woke))
        assert world.now_s == begun_s, "without waiting for the next look"
        assert world.job().scaling.woke == "woke in 0.00 s: 0.00 placed, 0.00 started, 0.00 healthy"
        assert world.job().scaling.reason == "a connection on n1 waits for it"
        assert world.job().id not in world.autoscale.texts, "what was found while it slept is no longer so"
        world.measurements.waits(N1.id, ())
        await asyncio.sleep(300)
        assert world.replicas == 1, "its connection is open"


@on_virtual_time
async def test_a_connection_that_waited_before_this_leader_is_heard() -> None:
    async with leading(scaled_spec(BY_REQUESTS)) as world:
        await asyncio.sleep(200)
        assert world.replicas == 0
        records = [record for record in world.state.records() if not isinstance(record, Task)]
    async with leading(records=records) as world:
        world.measurements.waits(N1.id, ("shop/web", "shop/none"))
        await world.until(lambda: world.replicas == 1)


@on_virtual_time
async def test_a_job_that_the_quota_forbids_is_not_woken_until_there_is_room() -> None:
    async with leading(scaled_spec(BY_REQUESTS)) as world:
        await asyncio.sleep(200)
        await world.ledger.submit(lambda state: set_quota(state, SetQuota(namespace="shop", limits={"tasks": 0})))
        world.measurements.waits(N1.id, ("shop/web",))
        await asyncio.sleep(1.0)
        assert world.replicas == 0
        assert "over the quota of namespace shop" in world.waking.refusals[world.job().id]
        await world.ledger.submit(lambda state: set_quota(state, SetQuota(namespace="shop", lift_all=True)))
        await asyncio.sleep(QUOTA_LOOK_S + 0.1)
        assert world.replicas == 1


@on_virtual_time
async def test_a_node_that_says_without_end_that_connections_wait_wakes_so_many_at_a_time() -> None:
    slept = replace(scaled_spec(BY_REQUESTS), replicas=0)
    ports = [(replace(slept.task.ports[0], published_port=9_000 + number),) for number in range(WAKES_BURST + 5)]
    many = [
        replace(slept, name=f"web-{number}", task=replace(slept.task, ports=port)) for number, port in enumerate(ports)
    ]
    async with leading(*many) as world:
        await asyncio.sleep(200)

        def awake() -> int:
            return sum(bool(job.replicas) for job in world.state.jobs.values())

        assert awake() == 0
        world.measurements.waits(N1.id, tuple(f"shop/{spec.name}" for spec in many))
        await asyncio.sleep(1.0)
        assert awake() == WAKES_BURST
        assert "has woken too many jobs" in next(iter(world.waking.refusals.values()))
        world.measurements.waits("n2", (f"shop/{many[-1].name}",))
        await asyncio.sleep(1.0)
        assert awake() == WAKES_BURST + 1, "another node is not held up"
        await asyncio.sleep(5 / WAKES_PER_S + 2 * QUOTA_LOOK_S)
        assert awake() == WAKES_BURST + 5


@on_virtual_time
async def test_it_grows_as_far_as_the_quota_allows() -> None:
    async with leading(scaled_spec(BY_CPU, replicas=2)) as world:
        await world.ledger.submit(lambda state: set_quota(state, SetQuota(namespace="shop", limits={"tasks": 3})))
        world.whole_cpu = 3_500
        await asyncio.sleep(4 * PERIOD_S)
        assert world.replicas == 3
        assert any("over the quota" in text for text in world.autoscale.texts[world.job().id])
