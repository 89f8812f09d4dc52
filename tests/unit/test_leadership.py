"""Terms: elected, renewed, lost in every way there is, and ended within a bound."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from common.backoff import Backoff
from common.errors import Fenced, Invalid, OutcomeUnknown, Superseded, Unavailable
from common.model.node import Node, NodeDescription
from controller.leadership import Leader, Parts, Term
from controller.settings import LeaseTimers
from controller.store.interface import LeaderRecord
from controller.store.keys import RESTORING, encode, key_of
from tests.scripted_store import ScriptedStore

TIMERS = LeaseTimers(lease_s=0.3, stop_s=0.2, resign_s=0.2, again=Backoff(first_s=0.001, limit_s=0.001))
CANDIDATE = LeaderRecord(controller_id="a", address="a:1")


class Terms:
    """The work of terms, as the tests see it."""

    def __init__(self) -> None:
        self.begun: list[Term] = []
        self.log: list[str] = []
        self.began = asyncio.Condition()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.stubborn = False
        self.boottime_s = 1_000.0
        self.aborted: list[str] = []

    @contextmanager
    def enter(self, term: Term) -> Iterator[Parts]:
        self.begun.append(term)
        self.failure = asyncio.get_running_loop().create_future()
        try:
            yield {"work": self._work, "announce": self._announce}
        finally:
            self.log.append(f"withdrawn {term.epoch.term}")

    async def _announce(self) -> None:
        async with self.began:
            self.began.notify_all()
        await asyncio.Event().wait()

    async def _work(self) -> None:
        try:
            await self.failure
        finally:
            self.log.append(f"stopped {self.begun[-1].epoch.term}")
            if self.stubborn:
                await asyncio.get_running_loop().create_future()

    async def number(self, count: int) -> None:
        async with self.began:
            await self.began.wait_for(lambda: len(self.begun) >= count)


@asynccontextmanager
async def leading(store: ScriptedStore, terms: Terms) -> AsyncIterator[asyncio.Event]:
    stop = asyncio.Event()
    leader = Leader(
        store,
        CANDIDATE,
        terms.enter,
        timers=TIMERS,
        boottime=lambda: terms.boottime_s,
        rng=random.Random(1),
        abort=terms.aborted.append,
    )
    run = asyncio.create_task(leader.run(stop))
    run.add_done_callback(lambda _run: stop.set())
    try:
        yield stop
        stop.set()
        await run
    finally:
        run.cancel()
        await asyncio.wait({run})


async def test_a_term_begins_with_what_the_store_has() -> None:
    store, terms = ScriptedStore(), Terms()
    known = Node(id="n1", description=NodeDescription(id="n1", name="n1", address="127.0.0.1"))
    store.values[key_of(known)] = encode(known)
    async with leading(store, terms):
        await terms.number(1)
    (term,) = terms.begun
    assert term.state.nodes == {"n1": known}
    assert term.epoch.term == 1


async def test_a_restore_that_broke_off_is_accepted_by_no_term() -> None:
    store, terms = ScriptedStore(), Terms()
    store.values[RESTORING] = b"{}"
    with pytest.raises(Invalid, match=r"begun and not finished.*repeat `podium store restore`"):
        async with leading(store, terms) as stop:
            await stop.wait()
    assert terms.begun == []
    assert store.leader is None


async def test_a_clean_stop_ends_the_work_before_it_gives_the_leader_key_up() -> None:
    store, terms = ScriptedStore(), Terms()
    async with leading(store, terms):
        await terms.number(1)
        assert store.resigned == []
    assert terms.log == ["withdrawn 1", "stopped 1"]
    assert store.resigned == [1]
    assert store.leader is None


async def test_a_follower_leads_when_the_leader_resigns_and_stops_at_once_while_it_waits() -> None:
    store, first, second = ScriptedStore(), Terms(), Terms()
    async with leading(store, second):
        await second.number(1)
        async with leading(store, first):
            await asyncio.sleep(0)
        assert first.begun == []
    async with leading(store, first):
        await first.number(1)


@pytest.mark.parametrize("error", [Fenced("another"), OutcomeUnknown("no answer"), ValueError("a bug")])
async def test_a_part_that_fails_ends_the_term_and_the_next_one_begins(error: Exception) -> None:
    store, terms = ScriptedStore(), Terms()
    async with leading(store, terms):
        await terms.number(1)
        terms.failure.set_exception(error)
        await terms.number(2)
    assert [term.epoch.term for term in terms.begun] == [1, 2]
    assert store.resigned == [1, 2]


async def test_a_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    store, terms = ScriptedStore(), Terms()
    async with leading(store, terms):
        await terms.number(1)
        terms.failure.set_exception(ValueError("a bug"))
        await terms.number(2)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "a bug" in caplog.text


@pytest.mark.parametrize("end", ["return", "stray cancel"])
async def test_a_part_that_just_ends_ends_the_term_too(end: str, caplog: pytest.LogCaptureFixture) -> None:
    store, terms = ScriptedStore(), Terms()
    async with leading(store, terms):
        await terms.number(1)
        if end == "return":
            terms.failure.set_result(None)
        else:
            terms.failure.cancel()
        await terms.number(2)
    assert "work ended by itself" in caplog.text or "work waited for something that was cancelled" in caplog.text
    assert terms.aborted == []


async def test_it_steps_down_before_its_lease_can_have_lapsed(caplog: pytest.LogCaptureFixture) -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    async with leading(store, terms):
        await terms.number(1)
        store.renewal_gate.clear()
        terms.boottime_s += 0.2  # two thirds, by a clock that also counts sleep
        await asyncio.sleep(0)
        store.renewal_gate.set()
        await terms.number(2)
    assert "lease was not renewed" in caplog.text


async def test_it_does_not_step_down_while_the_store_itself_renews_for_a_busy_loop() -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    async with leading(store, terms):
        await terms.number(1)
        store.stand_in_age_s = 0.1
        store.renewal_gate.clear()
        terms.boottime_s += 0.21
        await store.more_renewals(3)
        assert terms.log == []
        store.stand_in_age_s = 0.21
        async with store.changed:
            await store.changed.wait_for(lambda: store.leader is None)
        store.renewal_gate.set()
        await terms.number(2)
    assert set(terms.log[:2]) == {"withdrawn 1", "stopped 1"}


async def test_it_does_not_step_down_while_renewals_fail_for_less_than_that() -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    async with leading(store, terms):
        await terms.number(1)
        store.renewal_failures.extend([Unavailable("etcd elects")] * 3)
        await store.more_renewals(5)
        assert len(terms.begun) == 1


async def test_an_overdue_renewal_shows_before_the_term_ends() -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    async with leading(store, terms):
        await terms.number(1)
        assert terms.begun[0].lease_late_s() == 0.0
        terms.boottime_s += 0.16
        assert terms.begun[0].lease_late_s() == pytest.approx(0.01)


async def test_an_endless_lease_is_never_too_old() -> None:
    store, terms = ScriptedStore(), Terms()
    async with leading(store, terms):
        await terms.number(1)
        terms.boottime_s += 1e9
        await store.more_renewals(2)
        assert len(terms.begun) == 1


async def test_a_lost_lease_ends_the_term() -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    async with leading(store, terms):
        await terms.number(1)
        await store.set_leader(None)
        await terms.number(2)
    assert [term.epoch.term for term in terms.begun] == [1, 2]


async def test_an_election_is_proved_by_a_renewal_before_any_work() -> None:
    store, terms = ScriptedStore(lease_s=0.3), Terms()
    store.renewal_failures.append(Fenced("the lease lapsed while the answer was on its way"))
    async with leading(store, terms):
        await terms.number(1)
    assert [term.epoch.term for term in terms.begun] == [2]


async def test_a_store_that_cannot_be_loaded_is_tried_again() -> None:
    store, terms = ScriptedStore(), Terms()
    store.load_failures.extend([Unavailable("no quorum")] * 2)
    async with leading(store, terms):
        await terms.number(1)
    assert store.resigned == [1, 2, 3]


async def test_a_campaign_that_keeps_failing_is_tried_again_and_complains_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, terms = ScriptedStore(), Terms()
    store.campaign_failures.extend([Unavailable("the file is in use")] * 3)
    async with leading(store, terms):
        await terms.number(1)
    assert caplog.text.count("the file is in use") == 1


async def test_a_store_that_cannot_be_read_is_for_a_person_to_mend() -> None:
    store, terms = ScriptedStore(), Terms()
    store.values["tasks/t1"] = b"{broken"
    with pytest.raises(Invalid, match="tasks/t1"):
        async with leading(store, terms) as stop:
            await stop.wait()
    assert store.resigned == [1]


async def test_a_controller_that_the_agents_have_left_behind_ends_for_good() -> None:
    terms = Terms()

    async def left_behind() -> None:
        async with leading(ScriptedStore(), terms) as ended:
            await terms.number(1)
            terms.failure.set_exception(Superseded("n1 has obeyed a later epoch"))
            await ended.wait()

    with pytest.raises(Superseded, match="a later epoch"):
        await left_behind()
    assert len(terms.begun) == 1


async def test_work_that_does_not_stop_ends_the_process() -> None:
    store, terms = ScriptedStore(), Terms()
    terms.stubborn = True
    with pytest.raises(RuntimeError, match="did not stop"):
        async with leading(store, terms):
            await terms.number(1)
    assert len(terms.aborted) == 1
    assert "term 1" in terms.aborted[0]
    left = asyncio.all_tasks() - {asyncio.current_task()}  # what the abort would have ended
    for task in left:
        task.cancel()
    await asyncio.wait(left)
