"""What tasks use: measured only while somebody asks, by one hand, and shown only while it is fresh."""

from __future__ import annotations

import asyncio

import pytest

from agent.metrics import ContainerUsage
from agent.network.interface import DataPlaneState
from agent.runtime.fake import Behaviour
from agent.usage_reports import UsageSampler
from common.errors import NotFound
from common.model.resources import Resources, Usage
from common.model.session import Heartbeat, HeartbeatAck, ServiceTraffic, TaskUsage, UsageReport
from common.model.task import TaskReport
from common.model.usage import UsageRequest
from controller.measurements import EVERY_S, FRESH_S, WANTED_S, Measurements
from tests.agent_builders import assignment
from tests.agent_rig import Machine, orders
from tests.api_rig import api, node
from tests.dispatcher_rig import job_records, running_status, task_of, web_spec
from tests.unit.test_agent_tasks import behave, running
from tests.virtual_time import on_virtual_time

USED = Usage(cpu_millis=250, memory_bytes=1 << 20, tasks=3)


@on_virtual_time
async def test_an_agent_measures_while_its_controller_wants_it() -> None:
    machine = Machine()
    behave(machine, Behaviour(usage=USED))
    machine.data_plane.state = DataPlaneState(revision=-1, connections={"shop/web": 17})
    machine.controller.first = orders(assignment())
    async with machine.running() as controller:
        await running(machine, controller)
        await controller.beats(5)
        assert not controller.of(UsageReport), "nobody asked"
        controller.usage_every_s = 2.0
        report = (await controller.until_heard(UsageReport, 2))[1]
        assert report.tasks == (TaskUsage(task_id="t1", cpu_millis=250, memory_bytes=1 << 20, processes=3),)
        assert report.traffic == (ServiceTraffic(job="shop/web", connections=17),)
        assert report.interval_s == pytest.approx(2.0)
        controller.usage_every_s = 0.0
        await controller.beats(5)
        told = len(controller.of(UsageReport))
        await controller.beats(10)
        assert len(controller.of(UsageReport)) == told


@on_virtual_time
async def test_two_who_ask_share_one_reading() -> None:
    readings = 0
    observed: list[float] = []

    async def read() -> tuple[ContainerUsage, ...]:
        nonlocal readings
        readings += 1
        return ()

    sampler = UsageSampler(read, lambda _usages, interval_s: observed.append(interval_s))
    first, second = await asyncio.gather(sampler.sample(10.0), sampler.sample(0.5))
    assert (first, readings) == (second, 1)
    await asyncio.sleep(2.0)
    assert (await sampler.sample(10.0)) is first
    assert (await sampler.sample(0.5)).interval_s == pytest.approx(2.0)
    assert observed == [0.0, pytest.approx(2.0)]


def test_measuring_ends_some_time_after_the_last_question() -> None:
    now_s = 100.0
    kept = Measurements(lambda: now_s)
    assert kept.every_s("n1") == 0.0
    kept.want()
    assert kept.every_s("n1") == EVERY_S
    kept.report("n1", UsageReport(interval_s=2.0, tasks=(TaskUsage(task_id="t1"),)))
    assert kept.fresh("n1") is not None
    now_s += FRESH_S + 0.1
    assert kept.fresh("n1") is None, "it says nothing about now"
    now_s += WANTED_S
    assert (kept.every_s("n1"), dict(kept.nodes)) == (0.0, {})


async def test_the_answer_names_tasks_nodes_and_limits() -> None:
    limits = Resources(cpu_millis=500, memory_bytes=1 << 30)
    records = (*job_records(web_spec(limits=limits)), task_of("t1", status=running_status()))
    async with api(node("n1"), node("n2"), *records) as a:
        agent = await a.rig.agent("n1", TaskReport(task_id="t1", status=running_status()))
        assert [one.measured for one in (await a.nodes.usage(UsageRequest())).nodes] == [False, False]
        agent.say(Heartbeat(sequence=1, usage=Usage(cpu_millis=900, memory_bytes=5)))
        assert (await agent.next(HeartbeatAck)).usage_every_s == EVERY_S
        agent.say(UsageReport(interval_s=2.0, tasks=(TaskUsage(task_id="t1", cpu_millis=7), TaskUsage(task_id="x"))))
        agent.say(Heartbeat(sequence=2, usage=Usage(cpu_millis=900, memory_bytes=5)))
        await agent.next(HeartbeatAck)
        view = await a.nodes.usage(UsageRequest(namespace="shop", job="web"))
        assert [(one.node, one.measured, one.usage.cpu_millis) for one in view.nodes] == [
            ("n1", True, 900),
            ("n2", False, 0),
        ]
        (task,) = view.tasks
        assert (task.job, task.slot, task.node, task.usage.cpu_millis, task.limits) == ("shop/web", 1, "n1", 7, limits)
        assert (await a.nodes.usage(UsageRequest(namespace="bank"))).tasks == ()
        with pytest.raises(NotFound):
            await a.nodes.usage(UsageRequest(namespace="shop", job="nope"))
