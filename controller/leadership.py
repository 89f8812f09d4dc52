"""Who leads: campaigns, keeps the lease, runs one term's work at a time and makes sure that it ends with the term.

A term is one task group: the lease's renewal, the watch that steps down before others may lead, and the parts that
`enter` hands over. Whatever ends first ends all of it within a bound; a term whose work will not stop ends the process.
Never writes to the store by itself and knows nothing of jobs, nodes or tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeAlias

from common.errors import Conflict, Fenced, Invalid, OutcomeUnknown, PodiumError, Superseded, Unavailable
from common.model.epoch import Epoch
from common.model.ids import Rng
from controller.settings import LeaseTimers
from controller.state import State, Write
from controller.store.foreign import foreign_fields
from controller.store.interface import LeaderRecord, Leadership, Snapshot, Store
from controller.store.keys import decode

logger = logging.getLogger(__name__)

_RECORDS_PER_TURN = 2_000
"""Decoded before the loop may turn: about 10 ms, so that loading a large state does not delay the lease's renewal."""

Parts: TypeAlias = Mapping[str, Callable[[], Awaitable[None]]]
"""The work of a term by name. None of it may return while the term lasts."""


class Term:
    """One term of ours: what its work needs to know of it."""

    def __init__(self, leadership: Leadership, state: State, lease: _Lease) -> None:
        self.leadership = leadership
        self.state = state
        self._lease = lease

    @property
    def epoch(self) -> Epoch:
        return self.leadership.epoch

    def lease_late_s(self) -> float:
        """How long the lease's renewal is overdue: a controller cut off from its store distrusts itself first."""
        return self._lease.late_s()

    def holds(self) -> bool:
        """Whether the lease is certainly ours at this moment: no other term can have begun."""
        return self._lease.holds()


Enter: TypeAlias = Callable[[Term], AbstractContextManager[Parts]]
"""Constructs a term's work; leaving takes it out of service, before its parts have ended."""


class StepDown(PodiumError):
    """The lease was not renewed in time: another controller may lead soon, so this one stops first."""


class Unreadable(Invalid):
    """The store holds what this version cannot work with: no other term of this process would do any better."""


class Leader:
    """See the module. `boottime` is a clock that also counts while the machine sleeps."""

    def __init__(
        self,
        store: Store,
        candidate: LeaderRecord,
        enter: Enter,
        *,
        timers: LeaseTimers,
        boottime: Callable[[], float],
        rng: Rng,
        abort: Callable[[str], None],
    ) -> None:
        self._store = store
        self._candidate = candidate
        self._enter = enter
        self._timers = timers
        self._boottime = boottime
        self._rng = rng
        self._abort = abort
        self._complaint = ""
        """What the last campaign failed with: said once, not with every try."""

    async def run(self, stop: asyncio.Event) -> None:
        """Lead whenever elected, until `stop` is set; then stop the term's work and give the leader key up.

        Raises `Invalid` when the store cannot be used or read at all, `Conflict` when it is another controller's alone,
        and `Superseded` when an agent has obeyed a later epoch: a person has to act.
        """
        stopping = asyncio.create_task(stop.wait(), name="stop")
        failures = 0
        try:
            while not stop.is_set():
                begun_at_s = self._boottime()
                await self._one_term(stopping)
                lasted_s = self._boottime() - begun_at_s
                failures = 1 if lasted_s > self._timers.again.limit_s else failures + 1
                await asyncio.wait({stopping}, timeout=self._timers.again.full_jitter_s(failures, self._rng))
        finally:
            stopping.cancel()

    async def _one_term(self, stopping: asyncio.Task[bool]) -> None:
        """Campaign, lead, let go."""
        campaign = asyncio.ensure_future(self._store.campaign(self._candidate))
        try:
            await asyncio.wait({campaign, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            elected = await _result_or_cancel(campaign, self._timers.stop_s)
        if isinstance(elected, (Invalid, Conflict)):
            raise elected
        if isinstance(elected, Exception):
            self._campaign_failed(elected)
        elif elected is not None:
            self._complaint = ""
            try:
                await self._serve(elected, stopping)
            finally:
                await self._resign(elected)

    def _campaign_failed(self, error: Exception) -> None:
        if str(error) != self._complaint or not isinstance(error, _EXPECTED):
            self._complaint = str(error)
            _report("the campaign", error)

    async def _serve(self, leadership: Leadership, stopping: asyncio.Task[bool]) -> None:
        logger.info("elected: term %d begins", leadership.epoch.term)
        ending = asyncio.Event()
        work = asyncio.create_task(self._work(leadership, ending), name=f"term {leadership.epoch.term}")
        ended = asyncio.create_task(ending.wait())
        try:
            await asyncio.wait({work, ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            if not ending.is_set():
                work.cancel()
            await asyncio.wait({work}, timeout=self._timers.stop_s)
        if not work.done():
            text = f"the work of term {leadership.epoch.term} did not stop within {self._timers.stop_s} s"
            self._abort(f"{text}; it must not go on under another leader")
            raise RuntimeError(text)
        _judge_end(f"term {leadership.epoch.term}", work)

    async def _work(self, leadership: Leadership, ending: asyncio.Event) -> None:
        lease = _Lease(self._store, leadership, self._timers, self._boottime)
        try:
            async with asyncio.TaskGroup() as group:
                await lease.renew()  # how old it was when the election's answer came, nobody knows
                group.create_task(_part("lease", lease.keep, ending), name="lease")
                group.create_task(_part("step-down", lease.watch, ending), name="step-down")
                state = await self._load(leadership)
                with self._enter(Term(leadership, state, lease)) as parts:
                    for name, part in parts.items():
                        group.create_task(_part(name, part, ending), name=name)
                    await asyncio.get_running_loop().create_future()  # until the term ends
        finally:
            ending.set()

    async def _load(self, leadership: Leadership) -> State:
        try:
            return await _state_of(await self._store.load(leadership))
        except Invalid as error:
            raise Unreadable(error.faults) from None

    async def _resign(self, leadership: Leadership) -> None:
        try:
            async with asyncio.timeout(self._timers.resign_s):
                await self._store.resign(leadership)
        except (PodiumError, TimeoutError) as error:
            logger.warning("could not give the leader key up (%s): it lapses by itself", _text(error))


class _Lease:
    """One term's lease: renewed in time, or the term ends."""

    def __init__(
        self, store: Store, leadership: Leadership, timers: LeaseTimers, boottime: Callable[[], float]
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._boottime = boottime
        lease_s = min(leadership.lease_s, timers.lease_s)  # a store that nobody shares gives an endless one
        self._period_s = lease_s / timers.renewals
        self._limit_s = leadership.lease_s * timers.step_down_share
        self._renewed_at_s = boottime()

    async def renew(self) -> None:
        """One renewal. The lease counts from before the request: nobody knows when the store took it up."""
        sent_at_s = self._boottime()
        try:
            async with asyncio.timeout(self._period_s):
                await self._store.keep_alive(self._leadership)
        except TimeoutError:
            raise Unavailable(f"the store did not renew the lease within {self._period_s:g} s") from None
        self._renewed_at_s = sent_at_s

    async def keep(self) -> None:
        """Renew for as long as the term lasts, sooner again after a failure."""
        wait_s = self._period_s
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self.renew()
                wait_s = self._period_s
            except Unavailable as error:
                logger.warning("the lease was not renewed: %s", error)
                wait_s = self._period_s / 4

    async def watch(self) -> None:
        """Raise `StepDown` before the lease can have lapsed.

        Looks often rather than sleeping until then: the loop's timers stand still while the machine sleeps.
        """
        while True:
            age_s = self._age_s()
            if age_s >= self._limit_s:
                raise StepDown(f"the lease was not renewed for {age_s:.1f} s")
            await asyncio.sleep(self._period_s / 4)

    def holds(self) -> bool:
        return self._age_s() < self._limit_s

    def late_s(self) -> float:
        return max(0.0, self._age_s() - 1.5 * self._period_s)  # a renewal under way is not late

    def _age_s(self) -> float:
        """While the loop was busy, the store may have renewed the lease by itself."""
        return min(self._boottime() - self._renewed_at_s, self._store.renewal_age_s(self._leadership))


async def _part(name: str, part: Callable[[], Awaitable[None]], ending: asyncio.Event) -> None:
    """Run one part of a term; its end, whatever it is, is the end of the term."""
    try:
        await part()
        raise RuntimeError(f"{name} ended by itself")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled this task: something it waited for was. A task group would take no notice.
        raise RuntimeError(f"{name} waited for something that was cancelled") from None
    finally:
        ending.set()


async def _state_of(snapshot: Snapshot) -> State:
    state = State()
    state.revision = snapshot.revision
    for number, (key, value) in enumerate(snapshot.values.items(), 1):
        record = decode(key, value)
        state.apply(Write(record))
        if foreign := foreign_fields(record, value):
            state.foreign[key] = foreign
        if number % _RECORDS_PER_TURN == 0:
            await asyncio.sleep(0)
    return state


async def _result_or_cancel(campaign: asyncio.Future[Leadership], timeout_s: float) -> Leadership | Exception | None:
    """What came of the campaign; None when it was still waiting and has been withdrawn."""
    campaign.cancel()
    await asyncio.wait({campaign}, timeout=timeout_s)
    if not campaign.done():
        return Unavailable(f"the candidacy could not be withdrawn within {timeout_s:g} s")
    if campaign.cancelled():
        return None
    error = campaign.exception()
    if error is None:
        return campaign.result()
    if isinstance(error, Exception):
        return error
    raise error


def _judge_end(what: str, work: asyncio.Task[None]) -> None:
    """Say why a term ended."""
    if work.cancelled():
        logger.info("%s ended: this controller stops", what)
        return
    error = work.exception()
    assert error is not None, "a term's work never returns"
    if not isinstance(error, Exception):
        raise error
    _report(what, error)


_EXPECTED = (Fenced, OutcomeUnknown, StepDown, Unavailable)


def _report(what: str, error: Exception) -> None:
    """Log why something ended. Raises what no other term of this process could mend."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, (Unreadable, Superseded)):
            raise leaf
    if all(isinstance(leaf, _EXPECTED) for leaf in leaves):
        logger.warning("%s ended: %s", what, "; ".join(dict.fromkeys(map(_text, leaves))))
    else:
        logger.error("%s ended by a fault of this program", what, exc_info=error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
