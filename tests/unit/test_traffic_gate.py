"""A published task is stopped only after its traffic has gone elsewhere: as the agents of its cluster see it."""

from __future__ import annotations

import msgspec
import pytest

from common.model.job import DesiredState, JobSpec
from common.model.node import Node
from common.model.session import Assignments, Endpoints
from common.model.task import Health, TaskState
from controller.dispatcher.settings import DispatcherSettings
from tests.dispatcher_rig import (
    NOW_S,
    STOPPING,
    Agent,
    Rig,
    description,
    job_records,
    report_of,
    rig,
    running_status,
    task_of,
    web_spec,
)

PUBLISHED = (
    *job_records(web_spec()),
    task_of("t1", status=running_status()),
    task_of("t2", slot=2, node_id="n2", status=running_status()),
)
ON_N1 = report_of("t1", TaskState.RUNNING, sequence=3, ports=running_status().ports)
ON_N2 = report_of("t2", TaskState.RUNNING, sequence=3, ports=running_status().ports)


async def both(r: Rig) -> tuple[Agent, Agent]:
    """The two nodes, connected and carrying out the endpoints."""
    first, second = await r.agent("n1", ON_N1), await r.agent("n2", ON_N2)
    for agent in (first, second):
        agent.applied()
        await agent.told()
    return first, second


def endpoints(agent: Agent) -> list[str]:
    (service,) = agent.services.values()
    return [endpoint.task_id for endpoint in service.endpoints]


async def test_the_stop_follows_the_word_of_every_connected_node() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        for agent in (first, second):
            await agent.next(Endpoints)
            assert endpoints(agent) == ["t2"]
        assert await first.told() == ()
        first.applied()
        assert await first.told() == ()
        assert first.set["t1"].desired is DesiredState.RUN
        second.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_the_stop_waits_for_connections_to_end() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        await first.next(Endpoints)
        await second.next(Endpoints)
        first.applied()
        second.applied("t1")
        assert await second.told() == ()
        assert await first.told() == ()
        second.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_an_old_word_does_not_count() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        before = first.revision
        await r.change_task("t1", **STOPPING)
        await first.next(Endpoints)
        await second.next(Endpoints)
        second.applied()
        first.applied(revision=before)
        first.applied(revision=before + (1 << 40))
        await second.told()
        assert await first.told() == ()


async def test_a_node_that_leaves_is_waited_for_no_more() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        await first.next(Endpoints)
        first.applied()
        assert await first.told() == ()
        second.link.broken.set()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


def short_grace() -> JobSpec:
    spec = web_spec()
    container = msgspec.structs.replace(spec.task.container, stop_grace_s=0.05)
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container))


async def test_the_wait_is_bounded_by_the_tasks_grace() -> None:
    async with rig(*job_records(short_grace()), *PUBLISHED[2:]) as r:
        first, _ = await both(r)
        await r.change_task("t1", **STOPPING)
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_a_stop_long_overdue_is_told_at_once() -> None:
    async with rig(*PUBLISHED) as r:
        first, _ = await both(r)
        r.now_s = NOW_S + 60
        await r.change_task("t1", **STOPPING)
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


@pytest.mark.parametrize(
    "fields",
    [
        {"status": msgspec.structs.replace(running_status(), state=TaskState.STARTING)},
        {"status": msgspec.structs.replace(running_status(), state=TaskState.RESTARTING)},
    ],
)
async def test_a_task_that_takes_no_connections_is_stopped_at_once(fields: dict[str, object]) -> None:
    async with rig(*job_records(web_spec()), task_of("t1", **fields)) as r:
        agent = await r.agent("n1", report_of("t1", TaskState.STARTING))
        await r.change_task("t1", **STOPPING)
        await agent.next(Assignments)
        assert agent.set["t1"].desired is DesiredState.STOP


async def test_a_held_task_that_stops_running_is_held_no_more() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        await second.next(Endpoints)
        first.report(report_of("t1", TaskState.RESTARTING, sequence=4))
        await first.until(lambda: first.set["t1"].desired is DesiredState.STOP)


async def test_a_task_that_is_wanted_again_is_not_stopped() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        await first.next(Endpoints)
        await r.change_task("t1", desired=DesiredState.RUN, stop_requested_at_s=0.0)
        await first.next(Endpoints)
        assert endpoints(first) == ["t1", "t2"]
        first.applied()
        second.applied()
        await second.told()
        assert await first.told() == ()
        assert first.set["t1"].desired is DesiredState.RUN


async def test_a_session_that_begins_meanwhile_is_told_to_run_and_waited_for() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        for agent in (first, second):
            await agent.next(Endpoints)
        first = await r.agent("n1", ON_N1)
        assert first.set["t1"].desired is DesiredState.RUN
        assert endpoints(first) == ["t2"]
        second.applied()
        await second.told()
        assert await first.told() == ()
        first.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_a_node_that_joins_meanwhile_is_waited_for() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        for agent in (first, second):
            await agent.next(Endpoints)
        first.applied()
        third = await r.agent("n3")
        second.applied()
        await second.told()
        assert await first.told() == ()
        third.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_a_stop_once_told_is_not_taken_back() -> None:
    async with rig(*PUBLISHED) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        for agent in (first, second):
            await agent.next(Endpoints)
            agent.applied()
        await first.next(Assignments)
        await r.change_task("t1", status=running_status(health=Health.UNHEALTHY))
        assert "Assignments" not in await first.told()
        assert first.set["t1"].desired is DesiredState.STOP


async def test_a_new_term_holds_the_stops_of_the_one_before_until_all_its_nodes_are_back() -> None:
    nodes = [Node(id=name, description=description(name)) for name in ("n1", "n2")]
    stopping = msgspec.structs.replace(PUBLISHED[2], **STOPPING)
    async with rig(*nodes, *PUBLISHED[:2], stopping, PUBLISHED[3]) as r:
        first = await r.agent("n1", ON_N1)
        first.applied()
        assert await first.told() == ()
        assert first.set["t1"].desired is DesiredState.RUN
        second = await r.agent("n2", ON_N2)
        second.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP


async def test_changes_of_one_moment_are_one_revision() -> None:
    async with rig(*PUBLISHED, settings=DispatcherSettings(publish_interval_s=0.05, status_linger_s=0.0)) as r:
        agent = await r.agent("n1", ON_N1)
        await r.change_task("t2", status=msgspec.structs.replace(running_status(), state=TaskState.RESTARTING))
        first = await agent.next(Endpoints)
        for port in (31_000, 31_001, 31_002):
            await r.change_task("t1", status=running_status(port=port))
        second = await agent.next(Endpoints)
        assert second.revision == first.revision + 1
        assert [one.port for one in second.services[0].endpoints] == [31_002]
        assert "Endpoints" not in await agent.told()


async def test_a_node_that_moves_is_reached_at_its_new_address() -> None:
    everywhere = running_status(address="0.0.0.0")
    node = Node(id="n9", description=description("n9"))
    async with rig(node, *PUBLISHED[:2], task_of("t1", node_id="n9", status=everywhere)) as r:
        agent = await r.agent("n1")
        await r.write(msgspec.structs.replace(node, description=description("n8")))
        message = await agent.next(Endpoints)
        assert message.services[0].endpoints[0].address == "10.0.0.8"


async def test_a_job_that_is_gone_takes_its_services_along() -> None:
    async with rig(*PUBLISHED[:2]) as r:
        agent = await r.agent("n1")
        assert set(agent.services) == {"8080/tcp"}
        job, version = PUBLISHED[:2]
        await r.erase(version, job)
        message = await agent.next(Endpoints)
        assert message.removed == ("8080/tcp",)


async def test_a_proxy_that_does_not_carry_out_the_withdrawal_is_not_waited_for_as_long_as_the_grace() -> None:
    spec = web_spec()
    container = msgspec.structs.replace(spec.task.container, stop_grace_s=3_600.0)
    spec = msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container))
    settings = DispatcherSettings(apply_limit_s=0.05, status_linger_s=0.0)
    async with rig(*job_records(spec), *PUBLISHED[2:], settings=settings) as r:
        first, second = await both(r)
        await r.change_task("t1", **STOPPING)
        await second.next(Endpoints)
        await first.next(Endpoints)
        second.applied("t1")  # it carried it out and has connections left: those have the whole grace
        assert "Assignments" not in await first.told()
        second.applied()
        await first.next(Assignments)
        assert first.set["t1"].desired is DesiredState.STOP
