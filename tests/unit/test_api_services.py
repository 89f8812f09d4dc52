"""The engineer's services over values: what is refused, what is written, and what one reads of it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import msgspec
import pytest

from common.errors import Conflict, Invalid, NotFound, NotLeader
from common.model.api import (
    ApplyRequest,
    ClusterRequest,
    EventBatch,
    EventsRequest,
    JobRef,
    JobsRequest,
    JobStatus,
    ListJobs,
    ListNodes,
    ListTasks,
    LogLines,
    LogsRequest,
    NodeRef,
    ScaleRequest,
    ScaleTarget,
    TaskRef,
    WatchedJobs,
    WatchJobs,
    WhyRequest,
)
from common.model.job import DesiredState, JobSpec
from common.model.resources import Resources
from common.model.session import CloseLog, Heartbeat, HeartbeatAck, LogChunk, LogLine, OpenLog, StreamCredit
from common.model.task import TaskState, TaskStatus
from common.settings import LIMITS
from controller.api.cluster import ClusterService
from controller.api.jobs import JobsService
from controller.api.nodes import NodesService
from controller.api.term import ApiFront
from controller.state import Erase
from controller.store.keys import Record
from tests.api_rig import api, node
from tests.dispatcher_rig import WAIT_S, job_records, running_status, task_of, web_spec
from tests.virtual_time import on_virtual_time


def apply_of(*specs: JobSpec, key: str = "") -> ApplyRequest:
    return ApplyRequest(namespace="shop", specs=specs, idempotency_key=key)


class Sent:
    """Collects what a stream sends."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[msgspec.Struct] = asyncio.Queue()

    async def __call__(self, item: msgspec.Struct) -> None:
        self.items.put_nowait(item)

    async def next(self) -> msgspec.Struct:
        async with asyncio.timeout(WAIT_S):
            return await self.items.get()


# --- writes


async def test_apply_is_in_the_store_when_it_answers() -> None:
    async with api() as a:
        answer = await a.jobs.apply(apply_of(web_spec()))
        assert [(change.job, change.action) for change in answer.changes] == [("shop/web", "create")]
        assert any(key.startswith("jobs/") for key in a.rig.store.values)


async def test_a_repeat_with_its_key_answers_the_same_and_writes_nothing() -> None:
    async with api() as a:
        first = await a.jobs.apply(apply_of(web_spec(), key="k1"))
        commits = len(a.rig.store.commits)
        assert await a.jobs.apply(apply_of(web_spec(), key="k1")) == first
        assert len(a.rig.store.commits) == commits


async def test_a_repeat_waits_for_the_write_its_first_caller_gave_up() -> None:
    async with api() as a:
        a.rig.store.commit_gate.clear()
        first = asyncio.create_task(a.jobs.apply(apply_of(web_spec(), key="k1")))
        await a.rig.store.commit_begun.wait()
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        repeat = asyncio.create_task(a.jobs.apply(apply_of(web_spec(), key="k1")))
        a.rig.store.commit_gate.set()
        assert (await repeat).changes[0].action == "create"


async def test_a_key_belongs_to_one_request() -> None:
    async with api() as a:
        await a.jobs.apply(apply_of(web_spec(), key="k1"))
        with pytest.raises(Conflict, match="k1"):
            await a.jobs.apply(apply_of(web_spec("other", ports=()), key="k1"))


async def test_a_refused_write_may_be_repeated_with_its_key() -> None:
    async with api() as a:
        request = JobsRequest(namespace="shop", jobs=("web",), idempotency_key="k1")
        with pytest.raises(NotFound):
            await a.jobs.stop(request)
        await a.jobs.apply(apply_of(web_spec()))
        assert (await a.jobs.stop(request)).changes[0].action == "stop"


async def test_scale_restart_stop_remove_answer_with_what_they_did() -> None:
    async with api() as a:
        await a.jobs.apply(apply_of(web_spec()))
        scaled = await a.jobs.scale(ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=4),)))
        assert scaled.changes[0].action == "scale"
        jobs = JobsRequest(namespace="shop", jobs=("web",))
        assert (await a.jobs.restart(jobs)).changes[0].action == "restart"
        assert (await a.jobs.stop(jobs)).changes[0].action == "stop"
        removed = await a.jobs.remove(JobsRequest(namespace="shop", all_jobs=True))
        assert removed.changes[0].action == "remove"
        (job,) = a.rig.state.jobs.values()
        assert (job.replicas, job.version, job.desired, job.removed) == (4, 2, DesiredState.STOP, True)


async def test_every_fault_is_named_at_once_and_nothing_is_changed() -> None:
    bad = msgspec.structs.replace(web_spec("UPPER"), namespace="else", replicas=-1)
    async with api() as a:
        with pytest.raises(Invalid) as refused:
            await a.jobs.apply(apply_of(bad, web_spec("web"), web_spec("web"), key="x" * 200))
        paths = {fault.path for fault in refused.value.faults}
        assert {"services[0].namespace", "services[0].name", "services[0].replicas"} <= paths
        assert {"idempotency_key", "services.web"} <= paths
        assert not a.rig.store.values


@pytest.mark.parametrize(
    "request_",
    [
        JobsRequest(namespace="shop"),
        JobsRequest(namespace="shop", jobs=("a",), all_jobs=True),
        JobsRequest(namespace="No!", jobs=("a",)),
        JobsRequest(namespace="shop", jobs=("a", "a")),
        JobsRequest(namespace="shop", jobs=tuple(f"j{place}" for place in range(1_001))),
    ],
)
async def test_a_request_that_names_no_clear_set_of_jobs_is_refused(request_: JobsRequest) -> None:
    async with api() as a:
        with pytest.raises(Invalid):
            await a.jobs.stop(request_)


async def test_plan_changes_nothing() -> None:
    async with api(node("n1")) as a:
        await a.rig.agent("n1")
        plan = await a.jobs.plan(apply_of(web_spec()))
        assert plan.changes[0].action == "create"
        assert not a.rig.state.jobs


# --- who answers


async def test_a_follower_names_the_leader_for_everything() -> None:
    front = ApiFront(lambda: "10.0.0.9:7077")
    jobs, nodes, cluster, sent = JobsService(front), NodesService(front), ClusterService(front), Sent()
    for call in (
        jobs.apply(apply_of(web_spec())),
        jobs.list_jobs(ListJobs()),
        jobs.why(WhyRequest(namespace="shop", name="web")),
        jobs.watch(WatchJobs(namespace="shop"), sent),
        nodes.list_nodes(ListNodes()),
        cluster.status(ClusterRequest()),
        cluster.events(EventsRequest(), sent),
    ):
        with pytest.raises(NotLeader) as refused:
            await call
        assert refused.value.leader == "10.0.0.9:7077"


# --- reads


async def test_one_reads_what_was_written() -> None:
    job, version = job_records(web_spec())
    running = task_of("t1", status=running_status())
    ended = task_of("t2", slot=2, status=TaskStatus(attempt=1, state=TaskState.FAILED))
    async with api(node("n1"), job, version, running, ended) as a:
        (view,) = (await a.jobs.list_jobs(ListJobs(namespace="shop"))).jobs
        assert view.job.full_name == "shop/web"
        assert not (await a.jobs.list_jobs(ListJobs(namespace="other"))).jobs
        detail = await a.jobs.inspect(JobRef(namespace="shop", name="web"))
        assert [one.task.id for one in detail.tasks] == ["t1", "t2"]
        live = await a.jobs.tasks(ListTasks(namespace="shop"))
        assert [one.task.id for one in live.tasks] == ["t1"]
        everything = await a.jobs.tasks(ListTasks(namespace="shop", job="web", include_ended=True))
        assert [one.task.id for one in everything.tasks] == ["t1", "t2"]
        assert (await a.jobs.inspect_task(TaskRef(namespace="shop", name="web.1"))).view.task.id == "t1"
        assert (await a.nodes.inspect(NodeRef(name="n1"))).tasks == 1
        assert [one.node.id for one in (await a.nodes.list_nodes(ListNodes())).nodes] == ["n1"]
        for refused in (
            a.jobs.inspect(JobRef(namespace="shop", name="nothing")),
            a.jobs.inspect_task(TaskRef(namespace="shop", name="nothing")),
            a.nodes.inspect(NodeRef(name="nothing")),
            a.jobs.tasks(ListTasks(namespace="shop", job="nothing")),
        ):
            with pytest.raises(NotFound):
                await refused


async def test_status_of_the_cluster() -> None:
    async with api(node("n1"), node("n2")) as a:
        await a.rig.agent("n1")
        view = await a.cluster.status(ClusterRequest())
        assert view.leader == "10.0.0.1:7077"
        assert view.epoch == a.rig.ledger.epoch
        assert (view.nodes["ready"], view.nodes["disconnected"]) == (1, 1)
        assert view.timers["down_s"] == 5.0
        assert not view.survives_loss_of_any_node


@pytest.mark.parametrize(
    ("on_n1_millis", "on_n2_millis", "survives"),
    [
        ((1_000,), (1_000,), True),
        ((3_000,), (3_000,), False),
        ((1_500,), (1_000, 1_000, 1_000), False),  # room enough, but only on the node that is lost
    ],
)
async def test_the_cluster_survives_a_node_when_the_others_have_room(
    on_n1_millis: tuple[int, ...], on_n2_millis: tuple[int, ...], survives: bool
) -> None:
    records: list[Record] = []
    for node_id, amounts in (("n1", on_n1_millis), ("n2", on_n2_millis)):
        for place, cpu_millis in enumerate(amounts):
            name = f"{node_id}-{place}"
            records += job_records(web_spec(name, ports=(), reservations=Resources(cpu_millis=cpu_millis)))
            records.append(task_of(f"task-{name}", job=name, node_id=node_id))
    async with api(node("n1"), node("n2"), *records) as a:
        for node_id in ("n1", "n2"):
            agent = a.rig.dial(node_id)
            agent.description = node(node_id).description
            agent.register()
            await agent.message()
        view = await a.cluster.status(ClusterRequest())
        assert view.survives_loss_of_any_node is survives


# --- streams


async def test_watch_shows_everything_then_what_changed_once() -> None:
    async with api(*job_records(web_spec()), *job_records(web_spec("api", ports=()))) as a:
        sent = Sent()
        watching = asyncio.create_task(a.jobs.watch(WatchJobs(namespace="shop"), sent))
        first = await sent.next()
        assert isinstance(first, WatchedJobs)
        assert {detail.view.job.name for detail in first.jobs} == {"web", "api"}
        for slot in (1, 2, 3):
            await a.rig.write(task_of(f"t{slot}", slot=slot))
        second = await sent.next()
        assert isinstance(second, WatchedJobs)
        (delta,) = second.deltas
        assert [view.task.id for view in delta.tasks] == ["t1", "t2", "t3"]
        await a.rig.change_task("t2", status=running_status(), observed_at_s=a.rig.now_s)
        await a.rig.ledger.submit(lambda state: [(Erase(state.tasks["t3"]),)])
        third = await sent.next()
        while isinstance(third, WatchedJobs) and not third.deltas[0].gone:  # each commit may be an answer of its own
            assert {view.task.id for view in third.deltas[0].tasks} == {"t2"}
            third = await sent.next()
        assert isinstance(third, WatchedJobs)
        assert third.deltas[0].gone == ("t3",)
        assert {view.task.id for view in third.deltas[0].tasks} <= {"t2"}
        watching.cancel()


async def test_a_watched_job_longer_than_a_message_comes_in_pieces() -> None:
    tasks = [task_of(f"t{slot}", slot=slot) for slot in range(1, 2_502)]
    async with api(*job_records(web_spec()), *job_records(web_spec("api", ports=())), *tasks) as a:
        sent = Sent()
        watching = asyncio.create_task(a.jobs.watch(WatchJobs(namespace="shop"), sent))
        answers = [await sent.next()]
        while isinstance(answers[-1], WatchedJobs) and answers[-1].more:
            answers.append(await sent.next())
        watching.cancel()
        sizes, seen = [], set()
        for answer in answers:
            assert isinstance(answer, WatchedJobs)
            told = [view for one in (*answer.jobs, *answer.deltas) for view in one.tasks]
            sizes.append(len(told))
            seen |= {view.task.id for view in told}
        assert max(sizes) <= LIMITS.items_per_piece
        assert seen == {task.id for task in tasks}


@on_virtual_time
async def test_watch_tells_the_first_change_after_a_quiet_time_at_once() -> None:
    async with api(*job_records(web_spec())) as a:
        sent, loop = Sent(), asyncio.get_running_loop()
        watching = asyncio.create_task(a.jobs.watch(WatchJobs(namespace="shop"), sent))
        await sent.next()
        await asyncio.sleep(1.0)
        for slot, at_once in ((1, True), (2, False)):  # the second follows right after an answer
            await a.rig.write(task_of(f"t{slot}", slot=slot))
            changed_s = loop.time()
            await sent.next()
            assert (loop.time() == changed_s) is at_once
        watching.cancel()


async def test_watch_has_a_last_word_on_a_removed_job() -> None:
    job, version = job_records(web_spec())
    async with api(job, version) as a:
        sent = Sent()
        watching = asyncio.create_task(a.jobs.watch(WatchJobs(namespace="shop", jobs=("web",)), sent))
        await sent.next()
        await a.rig.ledger.submit(lambda _state: [(Erase(version), Erase(job))])
        last = await sent.next()
        assert isinstance(last, WatchedJobs)
        (detail,) = last.jobs
        assert detail.view.job.removed
        assert detail.view.status is JobStatus.STOPPED
        assert not detail.tasks
        watching.cancel()


async def test_watch_looks_again_when_time_makes_a_task_count() -> None:
    job, version = job_records(web_spec(), good_version=1)
    task = task_of("t1", status=running_status(), observed_at_s=0.0)
    async with api(node("n1"), job, version, task) as a:
        a.rig.presence.connected("n1", ())
        await a.rig.change_task("t1", observed_at_s=a.rig.now_s - 0.95)
        sent = Sent()
        watching = asyncio.create_task(a.jobs.watch(WatchJobs(namespace="shop"), sent))
        first = await sent.next()
        assert isinstance(first, WatchedJobs)
        assert first.jobs[0].view.healthy == 0
        a.rig.now_s += 0.1
        second = await sent.next()
        assert isinstance(second, WatchedJobs)
        assert second.deltas[0].view.healthy == 1
        watching.cancel()


async def test_events_are_kept_filtered_and_followed() -> None:
    async with api() as a:
        await a.jobs.apply(apply_of(web_spec()))
        await a.rig.agent("n1")
        sent = Sent()
        await a.cluster.events(EventsRequest(namespace="shop"), sent)
        batch = await sent.next()
        assert isinstance(batch, EventBatch)
        assert [event.kind for event in batch.events] == ["job.created"]
        following = asyncio.create_task(a.cluster.events(EventsRequest(follow=True), sent))
        kept = await sent.next()
        assert isinstance(kept, EventBatch)
        assert [event.kind for event in kept.events] == ["job.created", "node.joined", "node.ready"]
        await a.jobs.stop(JobsRequest(namespace="shop", jobs=("web",)))
        fresh = await sent.next()
        assert isinstance(fresh, EventBatch)
        assert [event.kind for event in fresh.events] == ["job.stopped"]
        following.cancel()


async def test_logs_of_a_job_come_from_all_its_nodes() -> None:
    records = (*job_records(web_spec()), task_of("t1"), task_of("t2", slot=2, node_id="n2"), task_of("t3", node_id=""))
    async with api(node("n1"), node("n2"), *records) as a:
        agent = await a.rig.agent("n1")
        sent = Sent()
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="web", tail=7), sent))
        opened = await agent.next(OpenLog)
        assert (opened.task_id, opened.tail, opened.follow) == ("t1", 7, False)
        warning = await sent.next()
        assert isinstance(warning, LogLines)
        assert "web.2 (t2)" in warning.warnings[0]
        assert "not connected" in warning.warnings[0]
        agent.say(LogChunk(request_id=opened.request_id, lines=(LogLine(task_id="t1", text="hello"),), done=True))
        lines = await sent.next()
        assert isinstance(lines, LogLines)
        (line,) = lines.lines
        assert (line.job, line.slot, line.text) == ("shop/web", 1, "hello")
        await reading
        await agent.next(CloseLog)


async def test_followed_logs_of_a_job_take_up_its_new_tasks() -> None:
    async with api(node("n1"), *job_records(web_spec())) as a:
        agent = await a.rig.agent("n1")
        sent = Sent()
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="web", follow=True), sent))
        await asyncio.sleep(0)
        await a.rig.write(task_of("t1"))
        opened = await agent.next(OpenLog)
        assert (opened.task_id, opened.follow) == ("t1", True)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        assert (await agent.next(CloseLog)).request_id == opened.request_id


async def test_lines_of_several_tasks_are_merged_by_time() -> None:
    records = (*job_records(web_spec()), task_of("t1"), task_of("t2", slot=2))
    async with api(node("n1"), *records) as a:
        agent = await a.rig.agent("n1")
        sent = Sent()
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="web"), sent))
        first, second = await agent.next(OpenLog), await agent.next(OpenLog)
        for opened, times in ((first, (1.0, 4.0)), (second, (2.0, 3.0))):
            lines = tuple(LogLine(task_id=opened.task_id, time_s=time_s) for time_s in times)
            agent.say(LogChunk(request_id=opened.request_id, lines=lines, done=True))
        merged: list[LogLine] = []
        while len(merged) < 4:
            batch = await sent.next()
            assert isinstance(batch, LogLines)
            merged += batch.lines
        assert [line.slot for line in merged] == [1, 2, 2, 1]
        await reading


async def warned(sent: Sent) -> tuple[str, ...]:
    lines = await sent.next()
    assert isinstance(lines, LogLines)
    return lines.warnings


async def test_ended_tasks_whose_output_is_gone_are_told_of_in_one_line_unless_they_are_asked_for() -> None:
    stopped = TaskStatus(state=TaskState.STOPPED)
    ended = [task_of(f"t{number}", status=stopped) for number in (2, 3)]
    async with api(node("n1"), *job_records(web_spec()), task_of("t1"), *ended) as a:
        agent = await a.rig.agent("n1")
        sent = Sent()
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="web"), sent))
        for _ in range(3):
            opened = await agent.next(OpenLog)
            error = "" if opened.task_id == "t1" else "its output is gone"
            agent.say(LogChunk(request_id=opened.request_id, done=True, error=error))
        await reading
        told = [text for _ in range(sent.items.qsize()) for text in await warned(sent)]
        assert told == ["2 tasks that ended earlier: the output is not kept any more"]
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="t2"), sent))
        opened = await agent.next(OpenLog)
        agent.say(LogChunk(request_id=opened.request_id, done=True, error="its output is gone"))
        await reading
        assert await warned(sent) == ("web.1 (t2): its output is gone",)


async def test_what_is_only_read_is_asked_for_as_it_is_read() -> None:
    async with api(node("n1"), *job_records(web_spec()), task_of("t1")) as a:
        agent = await a.rig.agent("n1")
        async with a.term.logs.open("n1", "t1") as reader:
            opened = await agent.next(OpenLog)
            assert opened.window > 0
            agent.say(LogChunk(request_id=opened.request_id, lines=(LogLine(task_id="t1", text="one"),)))
            await reader.read()
            assert await agent.next(StreamCredit) == StreamCredit(request_id=opened.request_id, amount=1)
        async with a.term.logs.open("n1", "t1", follow=True):
            assert (await agent.next(OpenLog)).window == 0


async def test_a_follower_that_reads_nothing_costs_bounded_memory_and_is_told_what_it_lost() -> None:
    async with api(node("n1"), *job_records(web_spec()), task_of("t1")) as a:
        agent = await a.rig.agent("n1")
        may_read, sent = asyncio.Event(), Sent()

        async def slow(batch: msgspec.Struct) -> None:
            await may_read.wait()
            await sent(batch)

        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="t1", follow=True), slow))
        opened = await agent.next(OpenLog)
        for start in range(0, 20_000, 200):
            lines = tuple(LogLine(task_id="t1", text=str(number)) for number in range(start, start + 200))
            agent.say(LogChunk(request_id=opened.request_id, lines=lines, done=start == 19_800))
        agent.say(Heartbeat(sequence=1))
        await agent.next(HeartbeatAck)  # all of it was taken from the node
        may_read.set()
        await reading
        batches = [await sent.next() for _ in range(sent.items.qsize())]
        shown = [line for batch in batches if isinstance(batch, LogLines) for line in batch.lines]
        told = [text for batch in batches if isinstance(batch, LogLines) for text in batch.warnings]
        lost = sum(int(re.findall(r"(\d+) lines were dropped", text)[0]) for text in told)
        assert 1_000 < len(shown) < 7_000
        assert lost == 20_000 - len(shown)


async def test_a_broken_connection_ends_its_logs_with_a_warning() -> None:
    async with api(node("n1"), *job_records(web_spec()), task_of("t1")) as a:
        agent = await a.rig.agent("n1")
        sent = Sent()
        reading = asyncio.create_task(a.jobs.logs(LogsRequest(namespace="shop", name="t1", follow=True), sent))
        await agent.next(OpenLog)
        agent.link.broken.set()
        warning = await sent.next()
        assert isinstance(warning, LogLines)
        assert "broke" in warning.warnings[0]
        await reading


async def test_lines_that_nobody_reads_in_time_are_dropped_and_counted() -> None:
    async with api(node("n1"), *job_records(web_spec()), task_of("t1")) as a:
        agent = await a.rig.agent("n1")
        async with a.term.logs.open("n1", "t1") as reader:
            opened = await agent.next(OpenLog)
            lines = tuple(LogLine(task_id="t1", text=str(place)) for place in range(2_500))
            agent.say(LogChunk(request_id=opened.request_id, lines=lines, done=True))
            part = await reader.read()
        assert part.dropped == 500
        assert [line.text for line in (part.lines[0], part.lines[-1])] == ["500", "2499"]
