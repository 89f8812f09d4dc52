"""What goes over an agent's session: registration, assignment sets, statuses, and how sessions end."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from common.errors import Fenced, Invalid
from common.model.epoch import Epoch
from common.model.job import DesiredState
from common.model.node import Node, NodeStatus
from common.model.session import (
    Assignments,
    Endpoints,
    HeartbeatAck,
    Redirect,
    Registered,
    ResyncRequest,
    StatusAck,
)
from common.model.task import Attempt, TaskState
from controller.core.liveness import Seen
from controller.dispatcher.front import FrontDispatcher
from controller.dispatcher.settings import DispatcherSettings
from controller.settings import Timers
from controller.store.interface import LeaderRecord
from tests.dispatcher_rig import (
    QUICK,
    Agent,
    MemoryLink,
    Rig,
    description,
    job_records,
    report_of,
    rig,
    running_status,
    task_of,
    web_spec,
)


async def test_a_new_node_is_recorded_and_told_everything_in_order() -> None:
    job, version = job_records(web_spec())
    async with rig(job, version, task_of("t1")) as r:
        agent = r.dial("n1")
        agent.register()
        kinds = [await agent.message() for _ in range(3)]
        assert [type(message.body) for message in kinds] == [Registered, Endpoints, Assignments]
        assert all(message.epoch == r.ledger.epoch for message in kinds)
        assert agent.set["t1"].task == version.spec.task
        assert agent.set["t1"].desired is DesiredState.RUN
        assert r.state.nodes["n1"].description == description("n1")
        assert r.presence.conditions["n1"].status is NodeStatus.READY


async def test_registering_again_with_the_same_description_writes_nothing() -> None:
    async with rig() as r:
        await r.agent("n1")
        commits = len(r.store.commits)
        await r.agent("n1")
        assert len(r.store.commits) == commits


async def test_a_task_is_assigned_only_after_its_commit() -> None:
    async with rig(*job_records(web_spec())) as r:
        agent = await r.agent()
        r.store.commit_gate.clear()
        r.store.commit_begun.clear()
        writing = asyncio.create_task(r.write(task_of("t1")))
        await r.store.commit_begun.wait()
        assert await agent.told() == ()
        r.store.commit_gate.set()
        await writing
        await agent.next(Assignments)
        assert set(agent.set) == {"t1"}


async def test_a_stop_is_told_as_an_incremental_set() -> None:
    async with rig(*job_records(web_spec(ports=())), task_of("t1"), task_of("t2", slot=2)) as r:
        agent = await r.agent()
        await r.change_task("t1", desired=DesiredState.STOP)
        message = await agent.next(Assignments)
        assert not message.complete
        assert [assignment.task_id for assignment in message.assignments] == ["t1"]
        assert agent.set["t1"].desired is DesiredState.STOP
        assert agent.set["t2"].desired is DesiredState.RUN


async def test_what_changes_nothing_for_the_agent_is_not_sent() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        await r.change_task("t1", reason="another reason")
        assert "Assignments" not in await agent.told()


async def test_an_ended_task_leaves_the_set_once_its_end_is_stored() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        agent.report(report_of("t1", TaskState.FAILED))
        message = await agent.next(Assignments)
        assert message.removed == ("t1",)
        assert r.state.tasks["t1"].ended


async def test_statuses_are_acknowledged_after_their_commit() -> None:
    async with rig(*job_records(web_spec(ports=())), task_of("t1")) as r:
        agent = await r.agent()
        r.store.commit_gate.clear()
        agent.report(report_of("t1", TaskState.RUNNING), sequence=7)
        await r.store.commit_begun.wait()
        assert await agent.told() == ()
        r.store.commit_gate.set()
        assert (await agent.next(StatusAck)).sequence == 7
        assert r.state.tasks["t1"].status.state is TaskState.RUNNING


async def test_many_nodes_statuses_share_a_commit() -> None:
    tasks = [task_of(f"t{place}", node_id=f"n{place}", slot=place) for place in range(1, 21)]
    async with rig(*job_records(web_spec(ports=())), *tasks) as r:
        agents = [await r.agent(f"n{place}") for place in range(1, 21)]
        before = len(r.store.commits)
        r.store.commit_gate.clear()
        for place, agent in enumerate(agents, start=1):
            agent.report(report_of(f"t{place}", TaskState.RUNNING))
        r.store.commit_gate.set()
        for agent in agents:
            await agent.next(StatusAck)
        assert len(r.store.commits) - before <= 3


async def test_batches_in_the_store_are_told_with_a_heartbeat_and_sooner_when_they_are_many() -> None:
    settings = msgspec.structs.replace(QUICK, unacknowledged_batches=3)
    async with rig(*job_records(web_spec()), task_of("t1"), settings=settings) as r:
        agent = await r.agent()
        agent.report(report_of("t1", TaskState.RUNNING), sequence=2)
        agent.beat(beats := 1)
        while (ack := await agent.next(HeartbeatAck)).statuses == 0:
            agent.beat(beats := beats + 1)
        assert ack.statuses == 2
        for sequence in (3, 4, 5):
            agent.report(report_of("t1", TaskState.RUNNING), sequence=sequence)
        assert (await agent.next(StatusAck)).sequence == 5


async def test_a_batch_of_nothing_new_is_acknowledged_without_a_write() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        agent.report(report_of("t1", TaskState.RUNNING), sequence=1)
        await agent.next(StatusAck)
        commits = len(r.store.commits)
        agent.report(report_of("t1", TaskState.RUNNING), report_of("unknown", TaskState.RUNNING), sequence=2)
        assert (await agent.next(StatusAck)).sequence == 2
        assert len(r.store.commits) == commits


async def test_a_node_speaks_for_its_own_tasks_only() -> None:
    async with rig(*job_records(web_spec()), task_of("t1", node_id="n2")) as r:
        agent = await r.agent("n1")
        agent.report(report_of("t1", TaskState.FAILED))
        await agent.next(StatusAck)
        assert r.state.tasks["t1"].status.state is TaskState.PENDING


async def test_reports_that_wait_for_a_slow_store_are_merged_by_task() -> None:
    async with rig(*job_records(web_spec()), task_of("t1"), task_of("t2", slot=2)) as r:
        agent = await r.agent()
        r.store.commit_gate.clear()
        r.store.commit_begun.clear()
        agent.report(report_of("t2", TaskState.RUNNING), sequence=1)
        await r.store.commit_begun.wait()
        agent.report(report_of("t1", TaskState.RESTARTING, Attempt(task_id="t1", number=1)), sequence=2)
        agent.report(report_of("t1", TaskState.RUNNING, attempt=2), sequence=3)
        agent.report(report_of("t1", TaskState.STARTING, attempt=2), sequence=4)
        await agent.told()
        commits = len(r.store.commits)
        r.store.commit_gate.set()
        assert (await agent.next(StatusAck)).sequence == 1
        assert (await agent.next(StatusAck)).sequence == 4
        assert len(r.store.commits) == commits + 2
        assert r.state.tasks["t1"].status.state is TaskState.RUNNING
        assert [attempt.number for attempt in r.state.slot_of("id-web", 1).attempts] == [1]


async def test_many_assignments_are_told_in_messages_of_bounded_size() -> None:
    async with rig(*job_records(web_spec(ports=()))) as r:
        agent = await r.agent()
        await r.write(*[task_of(f"t{slot}", slot=slot) for slot in range(1, 111)])
        sizes = [len((await agent.next(Assignments)).assignments) for _ in range(3)]
        assert sizes == [50, 50, 10]
        assert len(agent.set) == 110


async def test_a_silent_session_is_closed() -> None:
    async with rig(settings=msgspec.structs.replace(QUICK, silence_periods=0.05)) as r:
        agent = await r.agent()
        await agent.ended()
        assert r.presence.conditions["n1"].status is NodeStatus.DISCONNECTED


async def test_the_inventory_is_believed_before_the_set_is_sent() -> None:
    async with rig(*job_records(web_spec()), task_of("t1"), task_of("t2", slot=2)) as r:
        agent = await r.agent(
            "n1",
            report_of("t1", TaskState.COMPLETE),
            report_of("t2", TaskState.RUNNING),
            report_of("x", TaskState.RUNNING),
        )
        assert set(agent.set) == {"t2"}
        assert r.state.tasks["t1"].ended
        assert r.state.tasks["t2"].status.state is TaskState.RUNNING
        assert "unknown" not in r.state.tasks


async def test_a_task_the_node_once_ran_and_forgot_has_failed() -> None:
    ran = task_of("t1", status=running_status())
    fresh = task_of("t2", slot=2)
    async with rig(*job_records(web_spec()), ran, fresh) as r:
        agent = await r.agent("n1")
        assert set(agent.set) == {"t2"}
        agent.report()
        await agent.next(StatusAck)
        assert await agent.told() == (), "it is told nothing of what it does not have"
        assert r.state.tasks["t1"].status.state is TaskState.FAILED
        assert "data directory" in r.state.tasks["t1"].status.message


async def test_a_registration_that_nobody_stands_behind_ends_no_task() -> None:
    """It lay in the buffers of a frozen controller, say, and was sent before the task was begun."""
    async with rig(*job_records(web_spec()), task_of("t1", status=running_status())) as r:
        stale = r.dial("n1")
        stale.register()
        first = await stale.next(Assignments)
        assert (first.assignments, first.kept) == ((), ("t1",))
        stale.link.broken.set()
        await stale.ended()
        has = report_of("t1", TaskState.RUNNING, sequence=3, ports=running_status().ports)
        agent = await r.agent("n1", has)
        assert await agent.told() == ()
        assert set(agent.set) == {"t1"}
        assert r.state.tasks["t1"].status.state is TaskState.RUNNING


async def test_an_agent_that_sees_a_gap_gets_complete_sets_again() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        agent.say(ResyncRequest(reason="gap"))
        assert (await agent.next(Endpoints)).complete
        assert (await agent.next(Assignments)).complete
        assert set(agent.set) == {"t1"}
        await r.write(task_of("t2", slot=2))
        assert not (await agent.next(Assignments)).complete


async def test_heartbeats_are_acknowledged_and_make_the_node_known() -> None:
    async with rig() as r:
        agent = await r.agent()
        r.now_s += 5
        agent.beat(sequence=42)
        ack = await agent.next(HeartbeatAck)
        assert (ack.sequence, ack.next_period_s) == (42, 1.0)
        assert r.presence.conditions["n1"].last_seen_s == r.now_s


async def test_a_broken_link_disconnects_the_node_and_leaves_its_tasks() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        agent.link.broken.set()
        await agent.ended()
        assert r.presence.conditions["n1"].status is NodeStatus.DISCONNECTED
        assert r.dispatcher.sessions == 0
        assert r.state.tasks["t1"].desired is DesiredState.RUN


async def test_a_newer_session_replaces_the_older_one_without_a_disconnection() -> None:
    async with rig() as r:
        older = await r.agent()
        newer = await r.agent()
        farewell = await older.next(Redirect)
        assert "newer session" in farewell.reason
        await older.ended()
        assert r.presence.conditions["n1"].status is NodeStatus.READY
        newer.beat()
        await newer.next(HeartbeatAck)


PATIENT = DispatcherSettings(wait_s=60.0)


async def instance(r: Rig, name: str) -> Agent:
    agent = r.dial("n1")
    agent.instance = name
    agent.register()
    return agent


async def test_a_copy_of_a_connected_node_is_refused_and_the_node_itself_stays() -> None:
    async with rig() as r:
        original = await instance(r, "one")
        await original.next(Registered)
        copy = await instance(r, "two")
        refusal = await copy.next(Redirect)
        assert "delete the agent's data directory" in refusal.reason
        assert "peer of n1" in refusal.reason
        assert refusal.retry_after_s < Timers().liveness.down_s, "it may be the node's restarted agent"
        await copy.ended()
        original.beat()
        await original.next(HeartbeatAck)


async def test_a_process_takes_its_own_session_over_and_another_one_a_silent_session() -> None:
    async with rig() as r:
        half_open = await instance(r, "one")
        await half_open.next(Registered)
        again = await instance(r, "one")
        await again.next(Registered)
        await half_open.ended()
        heard_s = asyncio.get_running_loop().time() - Timers().liveness.unreachable_s
        r.presence._seen["n1"] = Seen(last_heard_s=heard_s, connected=True)
        restarted = await instance(r, "two")
        await restarted.next(Registered)
        await again.ended()


async def test_a_new_leader_takes_a_node_in_from_where_it_was_before_it_does_from_elsewhere() -> None:
    here = description("n1")
    async with rig(Node(id="n1", description=here)) as r:
        copy = r.dial("n1")
        copy.description = msgspec.structs.replace(here, address="10.0.0.99")
        copy.instance = "two"
        copy.register()
        refusal = await copy.next(Redirect)
        assert "was at 10.0.0.1 a moment ago, and this agent is at 10.0.0.99" in refusal.reason
        assert "delete the agent's data directory" in refusal.reason
        assert refusal.retry_after_s < Timers().liveness.unreachable_s
        assert r.state.nodes["n1"].description == here
        original = await instance(r, "three")
        await original.next(Registered)


async def test_of_two_that_come_together_the_second_one_leaves_no_trace() -> None:
    here = description("n1")
    async with rig(Node(id="n1", description=here)) as r:
        heard_s = asyncio.get_running_loop().time() - Timers().liveness.unreachable_s
        r.presence._seen["n1"] = Seen(last_heard_s=heard_s, connected=False)  # either may have it
        r.store.commit_gate.clear()
        original, copy = r.dial("n1"), r.dial("n1")
        original.description = msgspec.structs.replace(here, labels={"disk": "new"})
        copy.description = msgspec.structs.replace(here, address="10.0.0.99")
        original.instance, copy.instance = "one", "two"
        original.register()
        copy.register()
        for _ in range(20):
            await asyncio.sleep(0)
        r.store.commit_gate.set()
        await original.next(Registered)
        assert "another agent" in (await copy.next(Redirect)).reason
        assert r.state.nodes["n1"].description == original.description


async def test_a_node_that_has_moved_is_taken_in_when_nobody_has_come_from_where_it_was() -> None:
    here = description("n1")
    async with rig(Node(id="n1", description=here)) as r:
        heard_s = asyncio.get_running_loop().time() - Timers().liveness.unreachable_s
        r.presence._seen["n1"] = Seen(last_heard_s=heard_s, connected=False)
        moved = r.dial("n1")
        moved.description = msgspec.structs.replace(here, address="10.0.0.99")
        moved.register()
        await moved.next(Registered)
        assert r.state.nodes["n1"].description == moved.description


async def test_another_node_of_a_connected_nodes_name_is_refused() -> None:
    async with rig() as r:
        await r.agent("n1")
        other = r.dial("n2", name="n1")
        other.register()
        refusal = await other.next(Redirect)
        assert "n1" in refusal.reason
        assert "--name" in refusal.reason
        assert refusal.retry_after_s > 0
        await other.ended()
        assert "n2" not in r.state.nodes


async def test_an_agent_of_a_later_epoch_ends_the_term() -> None:
    async with rig() as r:
        agent = r.dial()
        agent.register(highest_epoch=Epoch(term=99))
        with pytest.raises(Fenced, match=r"0\.99"):
            await agent.ended()
        assert r.running is not None
        with pytest.raises(ExceptionGroup) as ended:
            await r.running
        assert isinstance(ended.value.exceptions[0], Fenced)
        assert not r.state.nodes


async def test_when_the_term_ends_agents_are_told_to_look_for_the_leader() -> None:
    async with rig() as r:
        agent = await r.agent()
        assert r.running is not None
        r.running.cancel()
        assert (await agent.next(Redirect)).retry_after_s == 0
        await agent.ended()


async def test_a_node_too_far_behind_loses_its_session() -> None:
    async with rig(settings=msgspec.structs.replace(QUICK, outbox_messages=16)) as r:
        agent = r.dial("n1", waiting=1)
        agent.register()
        for sequence in range(1, 31):
            agent.beat(sequence)
        await agent.ended()
        assert r.dispatcher.sessions == 0


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "x" * 64])
async def test_a_node_without_a_proper_name_is_not_taken_in(name: str) -> None:
    async with rig() as r:
        agent = Agent(description("n1"), MemoryLink())
        agent.description = type(agent.description)(id="n1", name=name, address="10.0.0.1")
        r.serve(agent, r.dispatcher)
        agent.register()
        with pytest.raises(Invalid, match=r"node\.name"):
            await agent.ended()


async def test_a_session_begins_with_register() -> None:
    async with rig() as r:
        agent = r.dial()
        agent.beat()
        with pytest.raises(Invalid, match="Register"):
            await agent.ended()


async def test_a_second_register_ends_the_session() -> None:
    async with rig() as r:
        agent = await r.agent()
        agent.register()
        with pytest.raises(Invalid, match="once"):
            await agent.ended()
        assert r.presence.conditions["n1"].status is NodeStatus.DISCONNECTED


async def test_the_end_of_an_attempt_is_remembered_with_its_slot() -> None:
    async with rig(*job_records(web_spec()), task_of("t1")) as r:
        agent = await r.agent()
        attempt = Attempt(task_id="t1", number=1, exit_code=3, log_tail=("boom",))
        agent.report(report_of("t1", TaskState.RESTARTING, attempt))
        await agent.next(StatusAck)
        agent.report(report_of("t1", TaskState.RUNNING, attempt, attempt=2), sequence=2)
        await agent.next(StatusAck)
        (kept,) = r.state.slot_of("id-web", 1).attempts
        assert (kept.exit_code, kept.log_tail, kept.node_id) == (3, ("boom",), "n1")


async def test_a_follower_names_the_leader() -> None:
    leader = LeaderRecord(controller_id="b", address="10.0.0.2:7077", epoch=Epoch(term=5))
    front = FrontDispatcher(lambda: leader, "10.0.0.1:7077")
    async with rig() as r:
        agent = Agent(description("n1"), MemoryLink())
        r.serve(agent, front)
        agent.register()
        message = await agent.message()
        assert isinstance(message.body, Redirect)
        assert (message.body.leader, message.epoch.term) == ("10.0.0.2:7077", 5)
        with front.lead(r.dispatcher):
            agent = Agent(description("n1"), MemoryLink())
            r.serve(agent, front)
            agent.register()
            assert (await agent.next(Registered)).node_id == "n1"


async def at_the_door(r: Rig, front: FrontDispatcher) -> Agent:
    """One that registers while nobody leads; it has got no answer yet."""
    agent = Agent(description("n1"), MemoryLink())
    r.serve(agent, front)
    agent.register()
    for _ in range(5):
        await asyncio.sleep(0)
    assert agent.link.down.empty()
    return agent


async def test_between_two_terms_an_agent_is_kept_at_the_door_until_it_is_known_who_leads() -> None:
    leader: LeaderRecord | None = None
    async with rig() as r:
        front = FrontDispatcher(lambda: leader, "10.0.0.1:7077", PATIENT)
        agent = await at_the_door(r, front)
        leader = LeaderRecord(controller_id="b", address="10.0.0.2:7077")
        front.leader_changed()
        assert (await agent.next(Redirect)).leader == "10.0.0.2:7077"

        leader = LeaderRecord(controller_id="a", address="10.0.0.1:7077")
        agent = await at_the_door(r, front)  # this one is elected, and still loading
        with front.lead(r.dispatcher):
            assert (await agent.next(Registered)).node_id == "n1"


@pytest.mark.parametrize("leader", [None, LeaderRecord(controller_id="a", address="10.0.0.1:7077")])
async def test_without_a_leader_agents_are_told_to_wait(leader: LeaderRecord | None) -> None:
    async with rig() as r:
        agent = Agent(description("n1"), MemoryLink())
        r.serve(agent, FrontDispatcher(lambda: leader, "10.0.0.1:7077"))
        redirect = await agent.next(Redirect)
        assert redirect.leader == ""
        assert redirect.retry_after_s > 0
