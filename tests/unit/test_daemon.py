"""Jobs with a slot for each node: which nodes, which slot, and what happens to it when the node changes."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import Invalid
from common.model.api import ApplyRequest, JobStatus, ScaleRequest, ScaleTarget
from common.model.device import Device, DeviceRequest
from common.model.job import Constraint, ConstraintOperator, Dependency, JobMode, JobSpec, Placement, UpdateOrder
from common.model.node import Availability, Node, NodeStatus
from common.model.resources import Resources
from common.model.task import TaskState
from common.validation import faults
from controller.api.why import Known, why_job
from controller.core.apply import scale
from controller.core.daemon import no_room_beside, unfit_because
from controller.core.decisions import Create, Stop
from controller.core.drain import drained
from controller.core.pending import requests_for
from controller.core.plan import plan
from controller.core.turns import at_once
from controller.core.views import job_view
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.state import Erase, Write
from tests.builders import node, resources, task_spec
from tests.world import NODES, World, acts, web, with_task

IN_EU = Constraint(attribute="node.labels.zone", operator=ConstraintOperator.EQUAL, value="eu")


def agent(image: str = "agent:1", **changes: object) -> JobSpec:
    return web(image, 1, name="agent", mode=JobMode.DAEMON, **changes)


def running(*specs: JobSpec) -> World:
    world = World(*specs)
    world.settle()
    return world


def nodes_of(world: World, name: str = "agent") -> list[str]:
    return sorted(task.node_id for task in world.tasks(name))


def describe(world: World, name: str, **changes: object) -> None:
    one = world.state.nodes[name]
    description = msgspec.structs.replace(one.description, **changes)
    world.state.apply(Write(msgspec.structs.replace(one, description=description)))


def join(world: World, name: str) -> None:
    template = world.state.nodes["n1"]
    description = msgspec.structs.replace(template.description, id=name, name=name)
    world.state.apply(Write(Node(id=name, description=description)))
    world.node(name, NodeStatus.READY)


def table_of(world: World) -> NodeTable:
    pairs = ((one, world.conditions[one.id]) for one in world.state.nodes.values())
    return build_table(pairs, ((task, world.state.spec_of_task(task).task) for task in world.state.tasks.values()))


def test_every_node_has_one_task_that_may_run_nowhere_else() -> None:
    world = World(agent())
    creates = world.decide("agent")
    assert [(create.slot, create.only_node) for create in creates if isinstance(create, Create)] == [
        (1, "n1"),
        (2, "n2"),
        (3, "n3"),
    ]
    assert [request.only for request in requests_for(world.state, world.state.tasks)] == list(NODES)
    assert world.decide("agent") == ()


def test_a_node_that_joins_gets_the_next_slot_and_one_that_leaves_takes_its_own() -> None:
    world = running(agent())
    join(world, "n4")
    world.settle()
    assert [(task.slot, task.node_id) for task in world.tasks("agent")] == [(1, "n1"), (2, "n2"), (3, "n3"), (4, "n4")]
    world.state.apply(Erase(world.state.nodes["n2"]))
    world.conditions.pop("n2")
    world.settle()
    assert nodes_of(world) == ["n1", "n3", "n4"]
    assert 2 not in world.state.slots_of(world.job("agent").id)


def test_a_node_that_ceases_to_fit_gives_its_task_up_and_gets_its_slot_back_later() -> None:
    spec = with_task(agent(), placement=Placement(constraints=(IN_EU,)))
    world = World(spec)
    for name in ("n1", "n2"):
        describe(world, name, labels={"zone": "eu"})
    world.settle()
    assert nodes_of(world) == ["n1", "n2"]
    describe(world, "n1", labels={"zone": "us"})
    (stop,) = world.decide("agent")
    assert isinstance(stop, Stop)
    assert stop.reason == "node n1 does not fit any more: needs node.labels.zone == eu, and has us"
    world.settle()
    describe(world, "n1", labels={"zone": "eu"})
    world.settle()
    assert [(task.slot, task.node_id) for task in world.tasks("agent")] == [(1, "n1"), (2, "n2")]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (task_spec(), ""),
        (task_spec(cpu=8), "needs 8 cores, and has 4 cores in all"),
        (task_spec(image=""), "needs the process runtime, and has docker"),
        (task_spec(constraints=["node.labels.zone == eu"]), "needs node.labels.zone == eu, and has no such value"),
        (task_spec(constraints=["node.platform.arch == x86_64"]), ""),
        (task_spec(constraints=["node.labels.zone != eu"]), ""),
        (msgspec.structs.replace(task_spec(), devices=(DeviceRequest(kind="gpu", count=2),)), "needs 2 gpu, and has 1"),
    ],
)
def test_which_nodes_fit(spec: object, text: str) -> None:
    one = node(runtimes=["docker"])
    description = msgspec.structs.replace(one.description, devices=(Device(kind="gpu", id="0"),))
    found = unfit_because(msgspec.structs.replace(one, description=description), spec)  # type: ignore[arg-type]
    assert found.startswith(text)
    assert bool(found) is bool(text)


def test_what_fits_is_what_the_scheduler_would_place_on_an_empty_node() -> None:
    nodes = [
        node("a", labels={"zone": "eu"}),
        node("b", cpu=1),
        node("c", runtimes=["process"]),
        node("d", attributes={"arch": "arm64"}),
    ]
    for spec in (
        task_spec(constraints=["node.labels.zone == eu"]),
        task_spec(constraints=["node.labels.zone != eu"]),
        task_spec(constraints=["node.platform.arch == aarch64"]),
        task_spec(cpu=2),
        task_spec(image=""),
    ):
        job = web(task=spec, replicas=1)
        world = World()
        world.state = type(world.state).of(nodes)
        world.conditions = {one.id: msgspec.structs.replace(world.conditions["n1"], node_id=one.id) for one in nodes}
        world.up(job)
        world.decide()
        for one in nodes:
            table = table_of(world)
            (request,) = requests_for(world.state, world.state.tasks)
            placed = schedule(table, (msgspec.structs.replace(request, only=one.id),)).placements
            assert bool(placed) is not bool(unfit_because(one, spec)), (one.name, spec)


def test_the_slot_of_a_node_that_is_down_rests_until_it_returns() -> None:
    world = running(agent())
    world.node("n2", NodeStatus.DOWN)
    world.settle()
    view = job_view(world.state, world.job("agent"), world.conditions, world.now_s)
    assert (view.status, view.desired, view.healthy) == (JobStatus.RUNNING, 2, 2)
    lost = [task for task in world.tasks("agent") if task.lost_at_s]
    assert [task.node_id for task in lost] == ["n2"]
    world.node("n2", NodeStatus.READY)
    world.settle()
    assert {task.id for task in world.tasks("agent")} >= {lost[0].id}
    assert nodes_of(world) == list(NODES)


def test_a_failed_task_is_replaced_on_its_own_node() -> None:
    world = running(agent())
    world.see(world.task(2, "agent"), TaskState.FAILED, attempt=5, message="exit 1")
    world.decide("agent")
    (task,) = [task for task in world.tasks("agent") if task.slot == 2]
    assert (task.only_node, task.node_id) == ("n2", "")


def test_a_cordon_does_not_concern_it() -> None:
    world = running(agent())
    world.availability("n2", Availability.CORDONED)
    assert world.decide("agent") == ()
    world.see(world.task(2, "agent"), TaskState.FAILED, attempt=5)
    world.decide("agent")
    requests = requests_for(world.state, world.state.tasks)
    assert [placed.node_id for placed in schedule(table_of(world), requests).placements] == ["n2"]


def test_it_leaves_a_drained_node_last_and_comes_back() -> None:
    world = running(web(replicas=3), agent())
    before = nodes_of(world, "web")
    world.availability("n2", Availability.DRAINING)
    assert world.decide("agent") == ()
    left = drained(world.state, world.state.nodes["n2"], world.conditions, {}).left
    assert "belongs to the node: stops when everything else has left it" in [one.text for one in left]
    world.settle()
    assert "n2" in before
    assert "n2" not in nodes_of(world, "web")
    assert nodes_of(world) == ["n1", "n3"]
    world.availability("n2", Availability.ACTIVE)
    world.settle()
    assert nodes_of(world) == list(NODES)


def test_an_update_goes_node_by_node_with_the_new_task_beside_the_old_one() -> None:
    world = running(agent())
    world.up(agent("agent:2"))
    (first,) = world.decide("agent")
    assert isinstance(first, Create)
    world.settle()
    assert {task.version for task in world.tasks("agent")} == {2}
    assert nodes_of(world) == list(NODES)


def test_where_two_have_no_room_the_old_one_goes_first_and_the_plan_says_why() -> None:
    spec = with_task(agent(), reservations=resources(cpu=3))
    world = World()
    for name in NODES:
        describe(world, name, capacity=resources(cpu=4))
    world.up(spec)
    world.settle()
    newer = with_task(agent("agent:2"), reservations=resources(cpu=3))
    request = ApplyRequest(namespace="shop", specs=(newer,))
    planned = at_once(plan(world.state, world.conditions, table_of(world), request, world.now_s, world.rng))
    stops = [step.text for step in planned.steps if step.action == "stop"]
    assert "stopped before the next one starts, since node n1 has only 1 core left for a second one" in stops[0]
    assert not planned.unplaced
    world.up(newer)
    assert [type(decision) for decision in world.decide("agent")] == [Stop]


def test_room_that_another_job_took_meanwhile_does_not_block_the_update() -> None:
    spec = with_task(agent(), reservations=resources(cpu=1))
    world = World()
    for name in NODES:
        describe(world, name, capacity=resources(cpu=2))
    world.up(spec)
    world.settle()
    world.up(with_task(agent("agent:2"), reservations=resources(cpu=1)))
    (create,) = world.decide("agent")
    assert isinstance(create, Create)
    world.up(with_task(web(replicas=1), reservations=resources(cpu=1)))
    world.decide("web")
    world.assign(world.task(1, "web"), create.only_node)
    (stop,) = world.decide("agent")
    assert isinstance(stop, Stop)
    assert stop.task.node_id == create.only_node


def test_whole_devices_leave_no_room_for_a_second_one() -> None:
    world = World()
    spec = msgspec.structs.replace(agent().task, devices=(DeviceRequest(kind="gpu"),))
    assert no_room_beside(world.state, "n1", spec) == "it holds devices of its node"


def test_a_full_node_says_why_its_task_does_not_run_and_an_unfit_one_why_it_has_none() -> None:
    world = World()
    for name in NODES:
        describe(world, name, capacity=resources(cpu=2))
    describe(world, "n3", labels={"zone": "us"})
    world.up(with_task(web(replicas=2), reservations=resources(cpu=2)))
    world.decide("web")
    for task, name in zip(world.tasks("web"), ("n1", "n1"), strict=True):
        world.assign(task, name)
    placement = Placement(
        constraints=(Constraint(attribute="node.labels.zone", operator=ConstraintOperator.NOT_EQUAL, value="us"),)
    )
    world.up(with_task(agent(), reservations=resources(cpu=1), placement=placement))
    world.decide("agent")
    known = Known(state=world.state, conditions=world.conditions, table=table_of(world), now_s=world.now_s)
    for task in world.tasks("agent"):
        if task.only_node == "n2":
            world.assign(task, "n2")
    verdict = why_job(known, world.job("agent"))
    assert "the task of shop/agent for node n1 does not fit: needs 1 core, 0 free on node n1" in verdict.verdict
    assert "n2" not in verdict.verdict
    texts = [reason.text for reason in verdict.reasons]
    assert "no task on node n3: it needs node.labels.zone != us, and has us" in texts


def test_there_is_no_number_to_scale() -> None:
    world = running(agent())
    with pytest.raises(Invalid, match="has a task on every node that fits"):
        scale(world.state, ScaleRequest(namespace="shop", targets=(ScaleTarget(job="agent", replicas=2),)), 1.0)
    assert [fault.path for fault in faults(msgspec.structs.replace(agent(), replicas=2))] == ["replicas"]


def test_a_service_that_becomes_global_keeps_the_tasks_that_stand_where_they_should() -> None:
    world = running(web(replicas=2, name="agent"))
    before = {task.node_id: task.slot for task in world.tasks("agent")}
    world.up(agent("agent:2"))
    world.settle()
    after = {task.node_id: task.slot for task in world.tasks("agent")}
    assert sorted(after) == list(NODES)
    assert {name: after[name] for name in before} == before


def test_who_waits_for_it_to_be_healthy_waits_for_every_node() -> None:
    world = World(agent(), web(depends_on=(Dependency(job="agent"),)))
    assert acts(world.decide("web")) == ()
    world.settle()
    assert len(world.tasks("web")) == 3


def test_the_order_of_its_spec_is_kept() -> None:
    update = msgspec.structs.replace(agent().update, order=UpdateOrder.STOP_FIRST)
    world = running(agent(update=update))
    world.up(agent("agent:2", update=update))
    assert [type(decision) for decision in world.decide("agent")] == [Stop]


def test_a_task_that_holds_nothing_counts_for_nothing() -> None:
    world = running(agent())
    spec = msgspec.structs.replace(agent().task, reservations=Resources())
    assert no_room_beside(world.state, "n1", spec) == ""
