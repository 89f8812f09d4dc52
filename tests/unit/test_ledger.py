"""The ledger: group commit, order, atomic groups, and what a caller is told when the store fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from common.errors import Conflict, Fenced, Invalid, NotFound, OutcomeUnknown, Unavailable
from common.model.epoch import Epoch
from common.model.job import Container, Job, JobSpec, JobVersion, Port, TaskSpec
from common.model.node import Node, NodeDescription
from common.model.task import Task, TaskState, TaskStatus
from controller.ledger import Committed, Ledger, LedgerLimits, Transaction
from controller.state import Erase, Group, State, Write
from controller.store.interface import LeaderRecord, Put
from controller.store.keys import decode, encode
from tests.scripted_store import ScriptedStore


def node(name: str) -> Node:
    return Node(id=name, description=NodeDescription(id=name, name=name, address="127.0.0.1"))


def task(task_id: str, node_id: str = "", state: TaskState = TaskState.PENDING) -> Task:
    return Task(
        id=task_id,
        job_id="j",
        namespace="shop",
        job="web",
        version=1,
        slot=1,
        node_id=node_id,
        status=TaskStatus(state=state),
    )


def write(*records: Node | Task | Job | JobVersion) -> Transaction:
    """Each record a group of its own."""
    return lambda _state: [(Write(record),) for record in records]


@asynccontextmanager
async def running(
    store: ScriptedStore, state: State | None = None, limits: LedgerLimits | None = None, **more: Callable[..., object]
) -> AsyncIterator[Ledger]:
    leadership = await store.campaign(LeaderRecord(controller_id="a", address="a:1"))
    limits = limits or LedgerLimits()
    ledger = Ledger(store, leadership, state or State(), rng=random.Random(1), limits=limits, **more)  # type: ignore[arg-type]
    writer = asyncio.create_task(ledger.run())
    try:
        yield ledger
    finally:
        writer.cancel()
        with suppress(asyncio.CancelledError, Fenced, OutcomeUnknown):
            await writer


async def blocked_behind(store: ScriptedStore, ledger: Ledger, group: asyncio.TaskGroup) -> None:
    """Leave one commit in flight at the closed gate, so that what follows has to wait."""
    store.commit_gate.clear()
    group.create_task(ledger.submit(write(node("in-flight"))))
    await store.commit_begun.wait()


async def settled() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_submit_returns_when_the_store_and_the_memory_have_it() -> None:
    store = ScriptedStore()
    async with running(store) as ledger:
        await ledger.submit(write(node("n1")))
        assert ledger.state.nodes == {"n1": node("n1")}
        assert {key: decode(key, value) for key, value in store.values.items()} == {"nodes/n1": node("n1")}
        assert ledger.epoch == Epoch(term=1)


async def test_memory_does_not_change_before_the_store_acknowledged() -> None:
    store = ScriptedStore()
    async with running(store) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        assert ledger.state.nodes == {}
        store.commit_gate.set()


async def test_subscribers_get_every_change_with_what_was_before_it() -> None:
    told: list[Committed] = []
    async with running(ScriptedStore()) as ledger:
        stop = ledger.subscribe(told.append)
        await ledger.submit(write(task("t", state=TaskState.PENDING)))
        await ledger.submit(write(task("t", state=TaskState.RUNNING)))
        stop()
        await ledger.submit(lambda state: [(Erase(state.tasks["t"]),)])
    assert [[(applied.before, applied.after) for applied in committed.applied] for committed in told] == [
        [(None, task("t"))],
        [(task("t"), task("t", state=TaskState.RUNNING))],
    ]
    assert [committed.revision for committed in told] == [1, 2]


async def test_what_arrives_during_a_commit_goes_out_as_one() -> None:
    store = ScriptedStore()
    async with running(store) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        for number in range(5):
            group.create_task(ledger.submit(write(node(f"n{number}"))))
        await settled()
        store.commit_gate.set()
    assert [len(commit) for commit in store.commits] == [1, 5]


async def test_a_transaction_sees_what_an_earlier_one_wrote_to_its_record() -> None:
    store = ScriptedStore()

    def count(state: State) -> list[Group]:
        known = state.tasks["t"]
        status = TaskStatus(sequence=known.status.sequence + 1)
        return [(Write(Task(id="t", job_id="j", namespace="shop", job="web", version=1, slot=1, status=status)),)]

    async with running(store, State.of([task("t")])) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        for _ in range(4):
            group.create_task(ledger.submit(count))
        await settled()
        store.commit_gate.set()
    assert ledger.state.tasks["t"].status.sequence == 4


async def test_one_that_has_to_wait_keeps_its_place() -> None:
    store = ScriptedStore()
    order: list[str] = []

    async def submit(ledger: Ledger, name: str, record: Node) -> None:
        await ledger.submit(write(record))
        order.append(name)

    async with running(store) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        for name, record in (("a", node("x")), ("b", node("x")), ("c", node("y"))):
            group.create_task(submit(ledger, name, record))
        await settled()
        store.commit_gate.set()
    assert order == ["a", "b", "c"]
    assert [[operation.key for operation in commit] for commit in store.commits[1:]] == [
        ["nodes/x"],
        ["nodes/x", "nodes/y"],
    ]


def new_job(job_id: str) -> Transaction:
    def create(state: State) -> list[Group]:
        if state.job_named("shop", "web"):
            raise Conflict("shop/web exists")
        return [(Write(Job(id=job_id, namespace="shop", name="web", version=1, replicas=1)),)]

    return create


def place(task_id: str) -> Transaction:
    def onto_empty_node(state: State) -> list[Group]:
        if state.tasks_of_node("n"):
            raise Conflict("n is full")
        return [(Write(task(task_id, "n")),)]

    return onto_empty_node


def publish(job_id: str) -> Transaction:
    def take_port(state: State) -> list[Group]:
        if any(state.versions_of(known) for known in ("j1", "j2")):
            raise Conflict("8080 is taken")
        spec = JobSpec(
            namespace="shop",
            name=job_id,
            task=TaskSpec(container=Container(), ports=(Port(container_port=80, published_port=8080),)),
        )
        return [(Write(JobVersion(job_id=job_id, version=1, spec=spec)),)]

    return take_port


@pytest.mark.parametrize("make", [new_job, place, publish], ids=["name", "capacity", "published port"])
async def test_two_that_cannot_both_be_right_are_not_judged_by_the_same_state(
    make: Callable[[str], Transaction],
) -> None:
    """They write different records, so only what they were judged by keeps them apart."""
    store = ScriptedStore()
    state = State.of([task("j1"), task("j2")])
    async with running(store, state) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        first = group.create_task(ledger.submit(make("j1")))
        second = asyncio.ensure_future(ledger.submit(make("j2")))
        await settled()
        store.commit_gate.set()
        await first
        with pytest.raises(Conflict):
            await second


async def test_what_belongs_to_a_job_is_not_created_beside_the_jobs_removal() -> None:
    store = ScriptedStore()
    job = Job(id="j", namespace="shop", name="web", version=1, replicas=1)

    def create_task(state: State) -> list[Group]:
        return [(Write(task("t")),)] if "j" in state.jobs else []

    async with running(store, State.of([job])) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        group.create_task(ledger.submit(lambda _state: [(Erase(job),)]))
        group.create_task(ledger.submit(create_task))
        await settled()
        store.commit_gate.set()
    assert ledger.state.tasks == {}


async def test_a_refused_transaction_changes_nothing_and_hinders_nobody() -> None:
    store = ScriptedStore()

    def refuse(_state: State) -> list[Group]:
        raise Conflict("no")

    async with running(store) as ledger:
        with pytest.raises(Conflict, match="no"):
            await ledger.submit(refuse)
        await ledger.submit(write(node("n1")))
    assert list(store.values) == ["nodes/n1"]


async def test_nothing_to_change_writes_nothing() -> None:
    store = ScriptedStore()
    async with running(store) as ledger:
        await ledger.submit(lambda _state: [])
        await ledger.submit(lambda _state: [()])
    assert store.commits == []


async def test_a_large_transaction_is_cut_between_its_groups() -> None:
    store = ScriptedStore()
    pairs = [(Write(node(f"n{number}")), Write(task(f"t{number}"))) for number in range(4)]
    async with running(store, limits=LedgerLimits(operations=5)) as ledger:
        await ledger.submit(lambda _state: pairs)
    assert [[operation.key for operation in commit] for commit in store.commits] == [
        ["nodes/n0", "tasks/t0", "nodes/n1", "tasks/t1"],
        ["nodes/n2", "tasks/t2", "nodes/n3", "tasks/t3"],
    ]


async def test_commits_stay_below_the_bytes_a_store_takes() -> None:
    store = ScriptedStore()
    one_bytes = len(b"nodes/n0") + len(encode(node("n0")))
    async with running(store, limits=LedgerLimits(commit_bytes=2 * one_bytes + 1)) as ledger:
        await ledger.submit(write(*(node(f"n{number}") for number in range(5))))
    assert [len(commit) for commit in store.commits] == [2, 2, 1]


async def test_a_group_that_no_commit_can_hold_is_refused_whole() -> None:
    store = ScriptedStore()
    groups = [(Write(node("small")),), tuple(Write(node(f"n{number}")) for number in range(6))]
    async with running(store, limits=LedgerLimits(operations=5)) as ledger:
        with pytest.raises(Invalid, match="6 records"):
            await ledger.submit(lambda _state: groups)
    assert store.commits == []


async def test_a_record_changed_twice_in_a_commit_is_sent_once_as_it_ends() -> None:
    store = ScriptedStore()
    async with running(store) as ledger:
        await ledger.submit(write(task("t"), task("t", state=TaskState.RUNNING)))
    ((put,),) = store.commits
    assert isinstance(put, Put)
    assert decode(put.key, put.value) == ledger.state.tasks["t"] == task("t", state=TaskState.RUNNING)


async def test_an_unavailable_store_is_tried_again_until_it_takes_the_write() -> None:
    store = ScriptedStore()
    store.commit_failures.extend([Unavailable("etcd is electing")] * 3)
    async with running(store) as ledger:
        await ledger.submit(write(node("n1")))
    assert len(store.commits) == 1


@pytest.mark.parametrize("error", [Fenced("another term"), OutcomeUnknown("no answer")])
async def test_losing_the_term_is_told_to_every_caller_and_ends_the_writer(error: Fenced | OutcomeUnknown) -> None:
    store = ScriptedStore()
    store.commit_gate.clear()
    store.commit_failures.append(error)
    leadership = await store.campaign(LeaderRecord(controller_id="a", address="a:1"))
    ledger = Ledger(store, leadership, State(), rng=random.Random(1))
    writer = asyncio.create_task(ledger.run())
    sent = asyncio.create_task(ledger.submit(write(node("n1"))))
    await store.commit_begun.wait()
    queued = asyncio.create_task(ledger.submit(write(node("n2"))))
    await settled()
    store.commit_gate.set()
    with pytest.raises(type(error)):
        await writer
    with pytest.raises(type(error)):
        await sent
    with pytest.raises(Fenced, match="present leader"):
        await queued
    with pytest.raises(Fenced):
        await ledger.submit(write(node("n3")))
    assert ledger.state.nodes == {}
    assert store.commits == []


async def test_cancelling_the_writer_leaves_the_outcome_of_what_was_sent_unknown() -> None:
    store = ScriptedStore()
    async with running(store) as ledger:
        store.commit_gate.clear()
        sent = asyncio.create_task(ledger.submit(write(node("n1"))))
        await store.commit_begun.wait()
    with pytest.raises(OutcomeUnknown):
        await sent


async def test_a_caller_that_gave_up_in_the_queue_writes_nothing() -> None:
    store = ScriptedStore()
    async with running(store) as ledger, asyncio.TaskGroup() as group:
        await blocked_behind(store, ledger, group)
        impatient = asyncio.ensure_future(ledger.submit(write(node("n1"))))
        await settled()
        impatient.cancel()
        await settled()
        store.commit_gate.set()
        await ledger.submit(write(node("n2")))
    assert sorted(store.values) == ["nodes/in-flight", "nodes/n2"]


async def test_what_the_store_finds_too_large_is_refused_and_the_next_goes_on() -> None:
    store = ScriptedStore()
    store.commit_failures.append(Invalid("too large for this store"))
    async with running(store, limits=LedgerLimits(operations=1)) as ledger:
        with pytest.raises(Invalid, match="too large"):
            await ledger.submit(write(node("n1"), node("n2")))
        await ledger.submit(write(node("n3")))
    assert list(store.values) == ["nodes/n3"]


async def test_waiting_is_bounded_and_those_outside_learn_of_the_end_too() -> None:
    store = ScriptedStore()
    async with running(store, limits=LedgerLimits(waiting=2)) as ledger:
        store.commit_gate.clear()
        callers = [asyncio.create_task(ledger.submit(write(node(f"n{number}")))) for number in range(5)]
        await store.commit_begun.wait()
        await settled()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, OutcomeUnknown, Fenced, Fenced, Fenced]


async def test_commits_are_observed_with_their_operations() -> None:
    seen: list[int] = []
    async with running(ScriptedStore(), observe=lambda _seconds, operations: seen.append(operations)) as ledger:
        await ledger.submit(write(node("n1"), node("n2")))
    assert seen == [2]


async def test_a_leader_that_cannot_tell_whether_it_leads_answers_nothing_out_of_its_memory() -> None:
    """A frozen one woke up and called a job unchanged that its successor had changed."""
    certain = True
    store = ScriptedStore()

    def refuse(_state: State) -> list[Group]:
        raise NotFound("no such job")

    async with running(store, holds=lambda: certain) as ledger:
        await ledger.answer(lambda _state: [])
        with pytest.raises(NotFound):
            await ledger.answer(refuse)
        certain = False
        for transaction in (lambda _state: [], refuse):
            with pytest.raises(Unavailable, match="whether it still leads"):
                await ledger.answer(transaction)
        await ledger.answer(write(node("n1")))  # the fence judges what is written
        await ledger.submit(lambda _state: [])  # nobody outside is told anything
