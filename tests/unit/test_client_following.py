"""The client finds the leader, repeats what may be repeated, and resumes streams."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest
from msgspec.structs import replace

from client.client import Client
from client.fake import FakeTransport
from client.settings import ClientSettings
from client.transport import APPLY, EVENTS, JOBS, LOGS, SCALE, WATCH
from common.backoff import Backoff
from common.errors import Conflict, NotLeader, OutcomeUnknown, Unavailable
from common.model.api import (
    ApplyRequest,
    Changes,
    EventBatch,
    EventsRequest,
    JobChange,
    JobDelta,
    JobDetail,
    JobList,
    JobStatus,
    ListJobs,
    LogLines,
    LogsRequest,
    ScaleRequest,
    ScaleTarget,
    TaskView,
    WatchedJobs,
    WatchJobs,
)
from common.model.event import Event
from common.model.session import LogLine
from common.model.task import Health, Task, TaskState
from tests.builders import job_spec, job_view

A, B, C = "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"
FAST = ClientSettings(
    controllers=(A, B), silence_limit_s=0.05, deadline_s=0.2, backoff=Backoff(first_s=0.001, limit_s=0.002)
)


@pytest.fixture
def fake() -> FakeTransport:
    return FakeTransport()


def client(fake: FakeTransport, settings: ClientSettings = FAST) -> Client:
    return Client(settings, transport=fake, rng=random.Random(1))


def addresses(fake: FakeTransport) -> list[str]:
    return [asked.address for asked in fake.asked]


async def test_a_follower_names_the_leader_and_it_is_asked_from_then_on(fake: FakeTransport) -> None:
    def answer(address: str, request: ListJobs) -> JobList:
        if address != B:
            raise NotLeader(B)
        return JobList()

    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        await podium.jobs()
        await podium.jobs()
    assert addresses(fake) == [A, B, B]
    assert fake.closed


async def test_the_leader_may_be_an_address_that_was_not_configured(fake: FakeTransport) -> None:
    def answer(address: str, request: ListJobs) -> JobList:
        if address != C:
            raise NotLeader(C)
        return JobList()

    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        await podium.jobs()
    assert addresses(fake) == [A, C]


async def test_the_next_address_is_asked_when_one_is_gone_and_back_again(fake: FakeTransport) -> None:
    gone = {A}

    def answer(address: str, request: ListJobs) -> JobList:
        if address in gone:
            raise Unavailable("nobody there")
        return JobList()

    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        await podium.jobs()
        gone.clear()
        gone.add(B)
        await podium.jobs()
    assert addresses(fake) == [A, B, B, A]


async def test_a_late_failure_does_not_turn_away_from_the_leader_another_call_has_found(fake: FakeTransport) -> None:
    begun, broken = asyncio.Event(), asyncio.Event()

    async def watched(address: str, request: WatchJobs) -> AsyncGenerator[WatchedJobs, None]:
        if address == A:  # frozen
            begun.set()
            await broken.wait()
            raise Unavailable("gone")
        yield WatchedJobs()

    def answer(address: str, request: ListJobs) -> JobList:
        if address == A:
            raise Unavailable("gone")
        return JobList()

    fake.stream(WATCH, watched)
    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        watching = asyncio.create_task(anext(podium.watch("shop")))
        await begun.wait()
        await podium.jobs()
        broken.set()
        await watching
    assert addresses(fake) == [A, A, B, B]


async def test_waits_out_an_election(fake: FakeTransport) -> None:
    refusals = iter([NotLeader(""), NotLeader(""), NotLeader(B), NotLeader("")])

    def answer(address: str, request: ListJobs) -> JobList:
        for refusal in refusals:
            raise refusal
        return JobList()

    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        assert await podium.jobs() == ()
    assert len(fake.asked) == 5


async def test_controllers_that_name_each_other_are_given_time_not_a_busy_loop(fake: FakeTransport) -> None:
    def answer(address: str, request: ListJobs) -> JobList:
        raise NotLeader(B if address == A else A)

    settings = replace(FAST, backoff=Backoff(first_s=0.02, limit_s=0.02))
    fake.answer(JOBS, answer)
    async with client(fake, settings) as podium:
        with pytest.raises(Unavailable, match="no leader"):
            await podium.jobs()
    assert len(fake.asked) < 200


async def test_nobody_there_is_said_with_the_addresses_asked(fake: FakeTransport) -> None:
    async with client(fake) as podium:
        with pytest.raises(Unavailable) as raised:
            await podium.jobs()
    assert str(raised.value) == f"no controller answers at {A}, {B}"
    assert {A, B} <= set(addresses(fake))


async def test_a_write_is_repeated_under_the_same_key_after_a_lost_answer(fake: FakeTransport) -> None:
    lost = [OutcomeUnknown("no answer")]

    def answer(address: str, request: ApplyRequest) -> Changes:
        if lost:
            raise lost.pop()
        return Changes(changes=(JobChange(job="shop/web", action="create", version=1),))

    fake.answer(APPLY, answer)
    async with client(fake) as podium:
        done = await podium.apply("shop", ())
        await podium.apply("shop", ())
    keys = [asked.request.idempotency_key for asked in fake.asked]
    assert done.changes[0].action == "create"
    assert keys[0] == keys[1] != keys[2]
    assert all(len(key) == 20 for key in keys)


async def test_a_write_without_any_answer_may_have_happened_and_says_so(fake: FakeTransport) -> None:
    failures = [OutcomeUnknown("no answer")]

    def answer(address: str, request: ScaleRequest) -> Changes:
        raise failures.pop() if failures else Unavailable("gone")

    fake.answer(SCALE, answer)
    async with client(fake) as podium:
        with pytest.raises(OutcomeUnknown, match="may have been done"):
            await podium.scale("shop", [ScaleTarget(job="web", replicas=2)])


async def test_a_read_without_any_answer_is_merely_unavailable(fake: FakeTransport) -> None:
    def answer(address: str, request: ListJobs) -> JobList:
        raise OutcomeUnknown("no answer")

    fake.answer(JOBS, answer)
    async with client(fake) as podium:
        with pytest.raises(Unavailable) as raised:
            await podium.jobs()
    assert not isinstance(raised.value, OutcomeUnknown)


async def test_a_refusal_is_final(fake: FakeTransport) -> None:
    def answer(address: str, request: ApplyRequest) -> Changes:
        raise Conflict("shop/web is being removed")

    fake.answer(APPLY, answer)
    async with client(fake) as podium:
        with pytest.raises(Conflict, match="being removed"):
            await podium.apply("shop", ())
    assert len(fake.asked) == 1


async def test_a_watch_goes_on_at_the_next_leader(fake: FakeTransport) -> None:
    async def answer(address: str, request: WatchJobs) -> AsyncGenerator[WatchedJobs, None]:
        yield WatchedJobs()
        if address == A:
            raise NotLeader(B)
        await asyncio.Event().wait()

    fake.stream(WATCH, answer)
    async with client(fake) as podium:
        news = podium.watch("shop", ["web"])
        assert [await anext(news), await anext(news)] == [(), ()]
        await news.aclose()
    assert addresses(fake) == [A, B]
    assert fake.asked[1].request == WatchJobs(namespace="shop", jobs=("web",))


async def test_a_watch_shows_all_jobs_after_a_change_of_one_and_none_that_is_gone(fake: FakeTransport) -> None:
    web, api = (JobDetail(view=job_view(job_spec(name))) for name in ("shop/web", "shop/api"))
    failed = replace(web, view=replace(web.view, status=JobStatus.FAILED))
    gone = replace(api, view=replace(api.view, job=replace(api.view.job, removed=True)))
    fake.stream(WATCH, [WatchedJobs(jobs=jobs) for jobs in ((web, api), (failed,), (gone,))], then=asyncio.Event().wait)
    async with client(fake) as podium:
        news = podium.watch("shop")
        assert [await anext(news) for _ in range(3)] == [(api, web), (api, failed), (failed,)]
        await news.aclose()


async def test_a_watch_takes_in_what_changed_and_shows_an_answer_of_several_messages_once(fake: FakeTransport) -> None:
    def seen(slot: int, state: TaskState = TaskState.RUNNING) -> TaskView:
        task = Task(id=f"t{slot}", job_id="j", namespace="shop", job="web", slot=slot, version=1, node_id="n1")
        return TaskView(task=task, state=state, health=Health.NONE)

    view = job_view(job_spec("shop/web"))
    failed = replace(view, status=JobStatus.FAILED)
    answers = [
        WatchedJobs(jobs=(JobDetail(view=view, tasks=(seen(2),)),), more=True),
        WatchedJobs(deltas=(JobDelta(view=view, tasks=(seen(3), seen(1))),)),
        WatchedJobs(deltas=(JobDelta(view=failed, tasks=(seen(2, TaskState.FAILED),), gone=("t3",)),)),
    ]
    fake.stream(WATCH, answers, then=asyncio.Event().wait)
    async with client(fake) as podium:
        news = podium.watch("shop")
        assert await anext(news) == (JobDetail(view=view, tasks=(seen(1), seen(2), seen(3))),)
        assert await anext(news) == (JobDetail(view=failed, tasks=(seen(1), seen(2, TaskState.FAILED))),)
        await news.aclose()


async def test_events_resume_without_repeating_one(fake: FakeTransport) -> None:
    first, second, third = (
        Event(time_s=time_s, kind="task.running", subject=subject, message="")
        for time_s, subject in ((10.0, "a"), (10.0, "b"), (11.0, "c"))
    )

    async def answer(address: str, request: EventsRequest) -> AsyncGenerator[EventBatch, None]:
        if address == A:
            yield EventBatch(events=(first, second))
            raise NotLeader(B)
        yield EventBatch(events=(first, second, third))
        await asyncio.Event().wait()

    fake.stream(EVENTS, answer)
    async with client(fake) as podium:
        happened = podium.events(since_s=5.0, follow=True)
        assert [await anext(happened) for _ in range(3)] == [first, second, third]
        await happened.aclose()
    assert [asked.request.since_s for asked in fake.asked] == [5.0, 10.0]


async def test_events_without_follow_end(fake: FakeTransport) -> None:
    fake.stream(EVENTS, [EventBatch(events=())])
    async with client(fake) as podium:
        assert [event async for event in podium.events()] == []


def log(task_id: str, time_s: float, text: str) -> LogLine:
    return LogLine(task_id=task_id, time_s=time_s, text=text)


async def test_a_log_resumes_where_the_slowest_task_was_and_repeats_no_line(fake: FakeTransport) -> None:
    async def answer(address: str, request: LogsRequest) -> AsyncGenerator[LogLines, None]:
        if address == A:
            yield LogLines(lines=(log("one", 1.0, "1"), log("two", 5.0, "2")))
            raise NotLeader(B)
        yield LogLines(lines=(log("one", 1.0, "1"), log("one", 2.0, "3"), log("two", 5.0, "2")))

    fake.stream(LOGS, answer)
    async with client(fake) as podium:
        texts = [line.text async for batch in podium.logs("shop", "web", tail=10, follow=True) for line in batch.lines]
    assert texts == ["1", "2", "3"]
    assert (fake.asked[1].request.tail, fake.asked[1].request.since_s) == (-1, 1.0)


async def test_a_log_without_times_is_not_resumed_into_repetition(fake: FakeTransport) -> None:
    async def answer(address: str, request: LogsRequest) -> AsyncGenerator[LogLines, None]:
        yield LogLines(lines=(log("one", 0.0, "1"),))
        raise Unavailable("gone")

    fake.stream(LOGS, answer)
    async with client(fake) as podium:
        with pytest.raises(Unavailable, match="broke off"):
            async for _ in podium.logs("shop", "web"):
                pass
    assert len(fake.asked) == 1
