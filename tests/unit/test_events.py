"""What happened, in words: the event of each change, and the leader's bounded log of them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import pytest

from common.model.event import Event
from common.model.job import DesiredState, JobMode
from common.model.node import Availability, Node, NodeCondition, NodeStatus, RuntimeStatus
from common.model.resources import Resources
from common.model.task import Health, Task, TaskState, TaskStatus
from controller.core.events import condition_event, events_of, namespace_of
from controller.events import EventLog
from controller.ledger import Committed
from controller.state import Applied, State
from controller.store.keys import Record
from tests.dispatcher_rig import NOW_S, description, job_records, running_status, task_of, web_spec

JOB, VERSION = job_records(web_spec())
NODE = Node(id="n1", description=description("n1", "alpha"))
TASK = task_of("t1", reason="the slot was empty")
RUNNING = msgspec.structs.replace(TASK, status=running_status())


def event(before: Record | None, after: Record | None) -> Event | None:
    state = State.of((JOB, VERSION, NODE))
    return events_of(Applied(before=before, after=after), state)


def ended(state: TaskState, **fields: object) -> Task:
    status = msgspec.structs.replace(running_status(), state=state, **fields)
    return msgspec.structs.replace(TASK, status=status)


def changed(record: Record, **fields: object) -> Record:
    return msgspec.structs.replace(record, **fields)


@pytest.mark.parametrize(
    ("before", "after", "kind", "words"),
    [
        (None, JOB, "job.created", "1 replica of shop:1"),
        (JOB, changed(JOB, replicas=5), "job.scaled", "from 1 to 5"),
        (JOB, changed(JOB, version=2), "job.updated", "version 1 to 2"),
        (JOB, changed(JOB, version=2, note="version 3 fails"), "job.rolled-back", "version 1 to 2"),
        (JOB, changed(JOB, paused="too many failures"), "job.paused", "stands still"),
        (JOB, changed(JOB, good_version=1), "job.settled", "version 1"),
        (JOB, changed(JOB, desired=DesiredState.STOP), "job.stopped", "to stop"),
        (changed(JOB, desired=DesiredState.STOP), JOB, "job.started", "run again"),
        (JOB, changed(JOB, removed=True), "job.stopped", "then it is removed"),
        (JOB, None, "job.removed", "removed"),
        (None, TASK, "task.created", "version 1"),
        (changed(TASK, node_id=""), TASK, "task.assigned", "alpha"),
        (TASK, RUNNING, "task.running", "running on alpha"),
        (RUNNING, ended(TaskState.RUNNING, attempt=2, health=Health.HEALTHY), "task.running", "attempt 2 and healthy"),
        (RUNNING, ended(TaskState.RUNNING, health=Health.HEALTHY), "task.healthy", "alpha"),
        (RUNNING, ended(TaskState.RUNNING, health=Health.UNHEALTHY), "task.unhealthy", "fails"),
        (RUNNING, ended(TaskState.RESTARTING, exit_code=3), "task.restarting", "exit code 3"),
        (RUNNING, ended(TaskState.FAILED, exit_code=1), "task.failed", "failed on alpha with exit code 1"),
        (RUNNING, ended(TaskState.REJECTED), "task.rejected", "cannot run"),
        (RUNNING, ended(TaskState.STOPPED, exit_code=0), "task.stopped", "stopped on alpha"),
        (RUNNING, ended(TaskState.COMPLETE, exit_code=0), "task.complete", "ended well"),
        (RUNNING, changed(RUNNING, lost_at_s=NOW_S), "task.lost", "given up on alpha"),
        (changed(RUNNING, lost_at_s=NOW_S), RUNNING, "task.recovered", "kept on alpha"),
        (RUNNING, changed(RUNNING, desired=DesiredState.STOP), "task.stopping", "is to stop on alpha"),
        (changed(TASK, node_id=""), None, "task.stopped", "before it had a node"),
        (None, NODE, "node.joined", "10.0.0.1"),
        (NODE, changed(NODE, availability=Availability.DRAINING), "node.draining", "hands over"),
        (NODE, changed(NODE, description=description("n1", "beta")), "node.updated", "name"),
        (NODE, None, "node.removed", "forgotten"),
    ],
)
def test_a_change_is_called_by_its_name(before: Record | None, after: Record | None, kind: str, words: str) -> None:
    happened = event(before, after)
    assert happened is not None
    assert happened.kind == kind
    assert words in happened.message


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (JOB, changed(JOB, write_key="k")),
        (TASK, changed(TASK, reason="another")),
        (TASK, changed(TASK, status=TaskStatus(attempt=1, state=TaskState.PREPARING, message="pulling"))),
        (ended(TaskState.FAILED), changed(ended(TaskState.FAILED), desired=DesiredState.STOP)),
        (ended(TaskState.FAILED), None),
        (None, VERSION),
        (NODE, changed(NODE, joined_at_s=1.0)),
    ],
)
def test_what_concerns_nobody_is_no_event(before: Record | None, after: Record | None) -> None:
    assert event(before, after) is None


def test_an_event_says_whom_it_is_about_and_why() -> None:
    happened = event(RUNNING, ended(TaskState.FAILED, message="out of memory"))
    assert happened is not None
    assert (happened.subject, happened.cause) == ("task shop/web.1 (t1)", "out of memory")
    assert namespace_of(happened) == "shop"
    same = event(RUNNING, ended(TaskState.FAILED, exit_code=3, message="exited with code 3"))
    assert same is not None
    assert (same.message, same.cause) == ("failed on alpha with exit code 3", "")
    joined = event(None, NODE)
    assert joined is not None
    assert namespace_of(joined) == ""


def test_a_job_that_ended_runs_nothing_any_more() -> None:
    spec = msgspec.structs.replace(VERSION.spec, mode=JobMode.BATCH)
    state = State.of((JOB, msgspec.structs.replace(VERSION, spec=spec), NODE))
    happened = events_of(Applied(before=JOB, after=changed(JOB, good_version=1)), state)
    assert happened is not None
    assert (happened.kind, happened.message) == ("job.settled", "version 1 is through, and all of it went well")


def test_what_a_new_node_has_is_told_in_units_people_read() -> None:
    offer = msgspec.structs.replace(NODE.description, capacity=Resources(cpu_millis=666, memory_bytes=3 << 29))
    joined = event(None, msgspec.structs.replace(NODE, description=offer))
    assert joined is not None
    assert joined.message == "joined from 10.0.0.1 with 0.666 cores and 1.5 GiB of memory"


def test_a_nodes_condition_is_an_event_when_it_changes() -> None:
    ready = NodeCondition(node_id="n1", status=NodeStatus.READY)
    down = changed_condition(ready, status=NodeStatus.DOWN)
    degraded = changed_condition(ready, runtimes=(RuntimeStatus(name="docker", ready=False, message="away"),))
    kinds = [
        condition_event(NODE, before, after)
        for before, after in ((None, ready), (ready, down), (ready, degraded), (degraded, ready), (ready, ready))
    ]
    assert [one and one.kind for one in kinds] == ["node.ready", "node.down", "node.degraded", "node.ready", None]
    assert kinds[2] is not None
    assert "docker does not answer: away" in kinds[2].message


def changed_condition(condition: NodeCondition, **fields: object) -> NodeCondition:
    return msgspec.structs.replace(condition, **fields)


# --- the log


def log(kept: int = 100) -> EventLog:
    return EventLog(State.of((JOB, VERSION, NODE)), lambda: NOW_S, kept=kept)


def note(text: str) -> Event:
    return Event(time_s=0.0, kind="job.created", subject="job shop/web", message=text)


def test_the_log_gives_time_and_sequence_and_forgets_the_oldest() -> None:
    events = log(kept=2)
    for text in ("a", "b", "c"):
        events.record(note(text))
    assert [(one.message, one.sequence, one.time_s) for one in events.since(0)] == [("b", 2, NOW_S), ("c", 3, NOW_S)]
    assert events.since(NOW_S + 1) == ()


def test_a_commit_is_recorded_in_order() -> None:
    events = log()
    applied = (Applied(before=None, after=JOB), Applied(before=None, after=TASK), Applied(before=None, after=VERSION))
    events.committed(Committed(revision=1, applied=applied))
    assert [one.kind for one in events.since(0)] == ["job.created", "task.created"]


async def test_a_follower_gets_what_is_kept_then_each_event_once() -> None:
    events = log(kept=3)
    events.record(note("a"))
    async with aclosing(events.follow(0)) as batches:
        assert [one.message for one in await anext(batches)] == ["a"]
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        for text in ("b", "c"):
            events.record(note(text))
        assert [one.message for one in await waiting] == ["b", "c"]
        for text in ("d", "e", "f", "g"):
            events.record(note(text))
        assert [one.message for one in await anext(batches)] == ["e", "f", "g"]
