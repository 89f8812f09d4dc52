"""The operator's moves over values: what they store, what a repeat does, and what is said of a drain on its way."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from common.errors import Conflict, Invalid, NotFound, Unavailable
from common.model.api import (
    ClusterRequest,
    DrainView,
    EventBatch,
    EventsRequest,
    LeftTask,
    NodesRequest,
    ReleaseBrake,
    WhyRequest,
)
from common.model.job import DesiredState, JobMode, Port, PublishMode
from common.model.node import Availability, Node
from common.model.resources import Resources
from common.model.task import Task
from common.model.verdict import Verdict
from controller.core.drain import drained
from tests.api_rig import Api, api, node
from tests.dispatcher_rig import job_records, running_status, task_of, web_spec

RUNS = {"status": running_status()}


def named(*nodes: str, key: str = "") -> NodesRequest:
    return NodesRequest(nodes=nodes, idempotency_key=key)


def availability(a: Api, node_id: str = "n1") -> Availability:
    return a.rig.state.nodes[node_id].availability


async def ready(a: Api, *nodes: Node) -> None:
    await a.rig.write(*nodes)
    for each in nodes:
        a.rig.presence.connected(each.id, each.description.runtimes)


class TestWrites:
    async def test_each_is_in_the_store_when_it_answers(self) -> None:
        async with api(node("n1"), node("n2")) as a:
            answer = await a.nodes.cordon(named("n1"))
            assert [(change.node, change.action) for change in answer.changes] == [("n1", "cordon")]
            assert availability(a) is Availability.CORDONED
            assert b'"availability":"cordoned"' in a.rig.store.values["nodes/n1"]
            assert (await a.nodes.drain(named("n1"))).changes[0].action == "drain"
            assert availability(a) is Availability.DRAINING
            uncordoned = (await a.nodes.uncordon(named("n1"))).changes[0]
            assert "successors that are not healthy yet are dropped" in uncordoned.text
            assert availability(a) is Availability.ACTIVE
            assert availability(a, "n2") is Availability.ACTIVE

    async def test_what_is_so_already_is_no_fault_and_no_write(self) -> None:
        async with api(node("n1")) as a:
            await a.nodes.drain(named("n1"))
            commits = len(a.rig.store.commits)
            for again in (await a.nodes.drain(named("n1")), await a.nodes.cordon(named("n1"))):
                assert [(change.action, change.text) for change in again.changes] == [
                    ("unchanged", "is being drained already")
                ]
            assert len(a.rig.store.commits) == commits
            assert availability(a) is Availability.DRAINING

    async def test_a_repeat_with_its_key_answers_the_same(self) -> None:
        async with api(node("n1")) as a:
            first = await a.nodes.drain(named("n1", key="k1"))
            assert await a.nodes.drain(named("n1", key="k1")) == first
            with pytest.raises(Conflict, match="k1"):
                await a.nodes.drain(named("n1", "n2", key="k1"))

    async def test_nodes_go_by_prefix_of_their_id_and_once_each(self) -> None:
        async with api(node("rackabc"), node("rackxyz")) as a:
            answer = await a.nodes.cordon(named("racka", "rackabc"))
            assert [change.node for change in answer.changes] == ["rackabc"]
            with pytest.raises(Conflict, match="fits 2 nodes"):
                await a.nodes.cordon(named("rack"))

    async def test_a_short_name_is_no_beginning_of_an_id(self) -> None:
        async with api(node("rackabc")) as a:
            with pytest.raises(NotFound, match="no node 'rac'"):
                await a.nodes.cordon(named("rac"))

    async def test_unknown_ones_are_all_named_with_the_nearest_and_nothing_is_changed(self) -> None:
        async with api(node("node-1"), node("node-2")) as a:
            with pytest.raises(NotFound) as raised:
                await a.nodes.cordon(named("node-1", "nod-2", "zzz"))
            assert str(raised.value) == (
                "no node 'nod-2' (did you mean 'node-2'?); no node 'zzz' (there are node-1, node-2)"
            )
            assert availability(a, "node-1") is Availability.ACTIVE

    async def test_a_name_that_two_nodes_have_hits_neither(self) -> None:
        twin = node("n2")
        twin = msgspec.structs.replace(twin, description=msgspec.structs.replace(twin.description, name="n1"))
        async with api(node("n1a"), twin) as a:
            other = a.rig.state.nodes["n1a"]
            await a.rig.write(
                msgspec.structs.replace(other, description=msgspec.structs.replace(other.description, name="n1"))
            )
            with pytest.raises(Conflict, match=r"2 nodes are named n1: give the id .*n1a, n2"):
                await a.nodes.drain(named("n1"))
            assert (await a.nodes.drain(named("n2"))).changes[0].node_id == "n2"

    async def test_none_and_too_many_are_refused(self) -> None:
        async with api() as a:
            with pytest.raises(Invalid, match="names no node"):
                await a.nodes.drain(named())
            with pytest.raises(Invalid, match="at most 1000"):
                await a.nodes.drain(named(*(f"n{place}" for place in range(1_001))))


class TestPlan:
    async def test_steps_come_in_order_with_the_replicas_meanwhile(self) -> None:
        spec = msgspec.structs.replace(web_spec(), replicas=2)
        tasks = [task_of(f"t{slot}", slot=slot, node_id=f"n{slot}", **RUNS) for slot in (1, 2)]
        async with api(*job_records(spec, good_version=1), node("n1"), node("n2"), node("n3"), *tasks) as a:
            await ready(a, node("n1"), node("n2"), node("n3"))
            a.rig.now_s += 100
            plan = await a.nodes.plan_drain(named("n1"))
            assert [(step.action, step.subject, step.healthy_at_least) for step in plan.steps] == [
                ("drain", "node n1", 0),
                ("start", "shop/web.1", 2),
                ("stop", "shop/web.1", 2),
            ]
            assert [(placed.slot, placed.node) for placed in plan.placements] == [(1, "n3")]
            assert (plan.before, plan.after) == ({"n1": 1, "n2": 1, "n3": 0}, {"n1": 0, "n2": 1, "n3": 1})
            assert availability(a) is Availability.ACTIVE

    async def test_stop_first_says_so_and_that_a_replica_is_missing_meanwhile(self) -> None:
        port = Port(container_port=80, published_port=8080, mode=PublishMode.HOST)
        async with api(
            *job_records(web_spec(ports=(port,)), good_version=1), node("n1"), node("n2"), task_of("t1", **RUNS)
        ) as a:
            await ready(a, node("n1"), node("n2"))
            a.rig.now_s += 100
            _, stop, start = (await a.nodes.plan_drain(named("n1"))).steps
            assert (stop.action, stop.healthy_at_least, start.action) == ("stop", 0, "start")
            assert "stopped before the next one starts, since it binds port 8080 of its node" in stop.text

    async def test_what_has_no_place_elsewhere_is_said_with_its_reason_and_stays(self) -> None:
        spec = web_spec(reservations=Resources(cpu_millis=3_000))
        tasks = [task_of(f"t{slot}", slot=slot, node_id=f"n{slot}", **RUNS) for slot in (1, 2)]
        records = job_records(msgspec.structs.replace(spec, replicas=2))
        async with api(*records, node("n1"), node("n2"), *tasks) as a:
            await ready(a, node("n1"), node("n2"))
            plan = await a.nodes.plan_drain(named("n1"))
            (unplaced,) = plan.unplaced
            assert unplaced.slots == (1,)
            assert {reason.reason for reason in unplaced.verdict.reasons} == {"resource", "availability"}
            assert plan.stops == ()

    async def test_a_batch_task_is_waited_for(self) -> None:
        spec = msgspec.structs.replace(web_spec(ports=()), mode=JobMode.BATCH)
        async with api(*job_records(spec, good_version=1), node("n1"), node("n2"), task_of("t1", **RUNS)) as a:
            await ready(a, node("n1"), node("n2"))
            steps = (await a.nodes.plan_drain(named("n1"))).steps
            assert [(step.action, step.subject) for step in steps] == [("drain", "node n1"), ("wait", "shop/web.1")]


class TestStatus:
    async def test_it_counts_what_is_left_and_is_empty_at_the_end(self) -> None:
        async with api(*job_records(web_spec()), node("n1"), task_of("t1", **RUNS)) as a:
            await a.nodes.drain(named("n1"))
            (left,) = (await a.nodes.drain_status(named("n1"))).nodes[0].left
            assert (left.job, left.slot, left.task_id, left.text) == ("shop/web", 1, "t1", "waits for its turn")
            await a.rig.erase(a.rig.state.tasks["t1"])
            view = await a.nodes.drain_status(named("n1"))
            assert [(seen.availability, seen.left) for seen in view.nodes] == [(Availability.DRAINING, ())]
            assert isinstance(view, DrainView)

    @pytest.mark.parametrize(
        ("relief", "verdict", "stuck", "text"),
        [
            (task_of("t2", node_id=""), None, False, "its successor waits for a node"),
            (task_of("t2", node_id=""), "fits nowhere", True, "fits nowhere"),
            (task_of("t2", node_id="n2"), None, False, "its successor on n2 is assigned"),
            (
                task_of("t2", node_id="n2", **RUNS),
                None,
                False,
                "its successor on n2 is running and watched",
            ),
        ],
    )
    async def test_it_says_what_each_task_waits_for(
        self, relief: Task, verdict: str | None, stuck: bool, text: str
    ) -> None:
        relief = msgspec.structs.replace(relief, moves="t1")
        async with api(*job_records(web_spec()), node("n1"), node("n2"), task_of("t1", **RUNS), relief) as a:
            verdicts = {"t2": Verdict(subject="", verdict=verdict)} if verdict else {}
            view = drained(a.rig.state, a.rig.state.nodes["n1"], a.rig.presence.conditions, verdicts)
            assert view.left == (LeftTask(job="shop/web", slot=1, task_id="t1", stuck=stuck, text=text),)

    async def test_who_waits_for_a_turn_behind_one_that_is_stuck_is_so_too(self) -> None:
        tasks = [task_of(f"t{slot}", slot=slot, **RUNS) for slot in (1, 2)]
        relief = task_of("t9", node_id="", moves="t1")
        async with api(*job_records(web_spec()), node("n1"), *tasks, relief) as a:
            verdicts = {"t9": Verdict(subject="", verdict="fits nowhere")}
            view = drained(a.rig.state, a.rig.state.nodes["n1"], a.rig.presence.conditions, verdicts)
            assert [(left.stuck, left.text) for left in view.left] == [
                (True, "fits nowhere"),
                (True, "waits for its turn, after shop/web.1"),
            ]

    async def test_what_stops_and_what_ends_by_itself_say_so(self) -> None:
        batch = msgspec.structs.replace(web_spec("batch", ports=()), mode=JobMode.BATCH)
        stopping = task_of("t1", desired=DesiredState.STOP, **RUNS)
        own = task_of("t2", job="batch", **RUNS)
        async with api(*job_records(web_spec()), *job_records(batch), node("n1"), stopping, own) as a:
            view = drained(a.rig.state, a.rig.state.nodes["n1"], a.rig.presence.conditions, {})
            assert [left.text for left in view.left] == [
                "runs to completion and is not moved",
                "is stopping: connections in flight end first",
            ]


async def test_why_says_that_the_node_is_being_emptied() -> None:
    async with api(*job_records(web_spec()), node("n1"), node("n2"), task_of("t1", **RUNS)) as a:
        await ready(a, node("n1"), node("n2"))
        await a.nodes.drain(named("n1"))
        verdict = await a.jobs.why(WhyRequest(namespace="shop", name="web.1"))
        assert any("node n1 is being drained" in reason.text for reason in verdict.reasons)


class TestBrake:
    async def test_a_release_names_why_it_held_and_which_nodes_are_given_up(self) -> None:
        async with api(node("n1"), node("n2")) as a:
            a.brake = ("2 of 2 nodes fell silent together", ("n2", "n1"))
            released = await a.cluster.release_brake(ReleaseBrake(idempotency_key="k1"))
            assert (released.held, released.nodes) == ("2 of 2 nodes fell silent together", ("n1", "n2"))
            a.brake = ("", ())
            assert await a.cluster.release_brake(ReleaseBrake(idempotency_key="k1")) == released
            seen: list[EventBatch] = []

            async def send(batch: EventBatch) -> None:
                seen.append(batch)

            await a.cluster.events(EventsRequest(), send)
            assert [event.kind for batch in seen for event in batch.events] == ["brake.released"]

    async def test_one_that_does_not_hold_is_not_released(self) -> None:
        async with api() as a:
            assert (await a.cluster.release_brake(ReleaseBrake())).held == ""
            assert a.events.since(0.0) == ()


class TestCluster:
    async def test_it_says_what_the_timers_amount_to(self) -> None:
        async with api() as a:
            view = await a.cluster.status(ClusterRequest())
            assert view.detection == (
                "a silent node is out of the balancers in 2.8 s, replaced in 5.2 s; "
                "no other controller can take over from this one"
            )
            a.term = dataclasses.replace(a.term, store="etcd")
            with a.front.lead(a.term):
                view = await a.cluster.status(ClusterRequest())
            assert view.detection.endswith(", after a leader's death in 8.8 s (another one leads in 3.5 s)")
            assert view.timers["replaced_after_leader_s"] == pytest.approx(8.75)

    async def test_it_tells_the_brake_with_its_reason_and_a_store_that_is_not_well(self) -> None:
        async with api() as a:
            a.rig.presence.brake = "all fell silent"
            a.store_says = Unavailable("no quorum")
            view = await a.cluster.status(ClusterRequest(quick=True))
            assert (view.brake, view.brake_reason) == (True, "all fell silent")
            assert view.store_health == "not well: no quorum"
