"""Who is told of services that are for other jobs only: nodes whose tasks may call them, in time, and nobody else."""

from __future__ import annotations

import msgspec

from common.model.endpoint import Service
from common.model.job import Dependency, Port
from common.model.node import Node
from common.model.session import Assignments, Endpoints
from common.model.task import TaskState, TaskStatus
from controller.core.audience import concerns, interests
from tests.dispatcher_rig import (
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

INNER = Port(container_port=80)
DB = web_spec("db", ports=(INNER,))
NODES = tuple(Node(id=name, description=description(name)) for name in ("n1", "n2"))
DB_ON_N1 = task_of("d1", job="db", status=running_status())


async def quiet(r: Rig, *nodes: str) -> list[Agent]:
    """The nodes, connected, carrying out what they were told."""
    has = {"n1": (report_of("d1", TaskState.RUNNING, sequence=3, ports=running_status().ports),)}
    agents = [await r.agent(node, *has.get(node, ())) for node in nodes]
    for agent in agents:
        agent.applied()
        await agent.told()
    return agents


def test_tasks_may_call_their_own_namespace_and_those_they_depend_on_elsewhere() -> None:
    spec = msgspec.structs.replace(DB, depends_on=(Dependency(job="api", namespace="blog"), Dependency(job="web")))
    assert interests(spec) == {"shop", "blog/api"}


async def test_only_nodes_whose_tasks_may_call_it_hear_of_an_inner_service() -> None:
    async with rig(*NODES, *job_records(DB), DB_ON_N1) as r:
        one, two = await quiet(r, "n1", "n2")
        assert list(one.services) == ["/shop/db:80/tcp"]
        assert two.services == {}
        await r.change_task("d1", status=running_status(port=30_001))
        assert (await one.next(Endpoints)).services[0].endpoints[0].port == 30_001
        assert await two.told() == ()


async def test_a_node_hears_of_those_its_task_may_call_before_it_hears_of_the_task() -> None:
    async with rig(*NODES, *job_records(DB), DB_ON_N1, *job_records(web_spec(ports=()))) as r:
        (two,) = await quiet(r, "n2")
        await r.write(task_of("w1", node_id="n2"))
        assert await two.told() == ("Endpoints", "Assignments")
        assert list(two.services) == ["/shop/db:80/tcp"]


async def test_jobs_that_begin_together_know_of_each_other_when_they_begin() -> None:
    async with rig(*NODES) as r:
        (two,) = await quiet(r, "n2")
        await r.write(*job_records(DB), *job_records(web_spec(ports=())), task_of("w1", node_id="n2"))
        await two.next(Assignments)
        assert list(two.services) == ["/shop/db:80/tcp"]


async def test_a_node_whose_last_task_left_forgets_whom_it_could_call() -> None:
    web = task_of("w1", node_id="n2")
    async with rig(*NODES, *job_records(DB), DB_ON_N1, *job_records(web_spec(ports=())), web) as r:
        (two,) = await quiet(r, "n2")
        assert list(two.services) == ["/shop/db:80/tcp"]
        await r.erase(web)
        await two.next(Endpoints)
        assert two.services == {}


async def test_tasks_that_have_ended_and_are_kept_call_nobody() -> None:
    web = task_of("w1", node_id="n2")
    async with rig(*NODES, *job_records(DB), DB_ON_N1, *job_records(web_spec(ports=())), web) as r:
        (two,) = await quiet(r, "n2")
        assert list(two.services) == ["/shop/db:80/tcp"]
        await r.change_task("w1", status=TaskStatus(attempt=1, state=TaskState.FAILED, sequence=9))
        await two.next(Endpoints)
        assert two.services == {}
        again = await r.agent("n2")
        await again.told()
        assert again.services == {}


async def test_a_node_that_is_not_concerned_holds_up_no_stop() -> None:
    async with rig(*NODES, *job_records(DB), DB_ON_N1) as r:
        one, two = await quiet(r, "n1", "n2")
        await r.change_task("d1", **STOPPING)
        await one.next(Endpoints)
        assert await two.told() == ()
        one.applied()
        await one.next(Assignments)
        assert one.set["d1"].desired.value == "stop"


async def test_a_node_is_as_far_as_the_last_it_was_told_says() -> None:
    """What it confirms of before it was told of a withdrawal says nothing about that."""
    async with rig(*NODES, *job_records(DB), DB_ON_N1) as r:
        (one,) = await quiet(r, "n1")
        await r.change_task("d1", status=running_status(port=30_001))
        await one.next(Endpoints)
        before = one.revision
        await r.change_task("d1", **STOPPING)
        await one.next(Endpoints)
        one.applied(revision=before)
        assert await one.told() == ()
        one.applied(revision=one.revision + 1)  # never sent
        assert await one.told() == ()
        one.applied()
        await one.next(Assignments)


async def test_numbers_rise_from_session_to_session() -> None:
    async with rig(*NODES, *job_records(DB), DB_ON_N1) as r:
        (one,) = await quiet(r, "n1")
        before = one.revision
        one.link.broken.set()
        await one.ended()
        (again,) = await quiet(r, "n1")
        assert again.revision > before


def test_what_is_published_concerns_every_node() -> None:
    published = Service(namespace="shop", job="web", container_port=80, published_port=8080)
    assert concerns(published, frozenset())
    assert not concerns(msgspec.structs.replace(published, published_port=0), frozenset({"blog"}))
