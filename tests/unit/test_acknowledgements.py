"""An acknowledgement lets exclusive tasks run on: the leader gives it for what it counted, while it surely leads."""

from __future__ import annotations

import asyncio

from common.model.job import DesiredState
from common.model.session import Assignments, HeartbeatAck, ResyncRequest
from controller.leadership import _Lease
from controller.settings import LeaseTimers
from controller.store.interface import LeaderRecord, Leadership
from controller.store.memory import MemoryDatabase, MemoryStore
from tests.dispatcher_rig import Agent, job_records, rig, task_of, web_spec


async def acknowledged(agent: Agent, sequence: int) -> bool:
    """Whether the heartbeat is answered before what was asked for after it."""
    agent.beat(sequence)
    agent.say(ResyncRequest(reason="to be answered"))
    seen = False
    while True:
        match (await agent.message()).body:
            case HeartbeatAck(sequence=number):
                seen |= number == sequence
            case Assignments(complete=True):
                return seen
            case _:
                pass


async def test_a_leader_whose_lease_may_have_lapsed_acknowledges_nothing_but_hears_everything() -> None:
    async with rig() as r:
        agent = await r.agent()
        assert await acknowledged(agent, 1)
        heard_s = r.presence.seen["n1"].last_heard_s
        r.holds = False
        await asyncio.sleep(0.01)
        assert not await acknowledged(agent, 2)
        assert r.presence.seen["n1"].last_heard_s > heard_s, "to hear too much delays a replacement, and is safe"
        r.holds = True
        assert await acknowledged(agent, 3)


async def test_a_task_that_was_given_up_for_good_is_told_to_stop_whoever_wants_it() -> None:
    async with rig(*job_records(web_spec(ports=())), task_of("t1")) as r:
        agent = await r.agent()
        await r.change_task("t1", fence_after_s=15.0, lost_at_s=1.0)
        (told,) = (await agent.next(Assignments)).assignments
        assert told.desired is DesiredState.STOP


async def test_the_lease_is_certain_until_the_leader_would_step_down() -> None:
    now_s = 100.0
    store = MemoryStore(MemoryDatabase())
    elected = await store.campaign(LeaderRecord(controller_id="c1", address="c1:1"))
    leadership = Leadership(epoch=elected.epoch, lease_s=3.0)
    lease = _Lease(store, leadership, LeaseTimers(), lambda: now_s)
    assert lease.holds()
    now_s += 1.99
    assert lease.holds()
    now_s += 0.01
    assert not lease.holds()
    await lease.renew()
    assert lease.holds()
    await store.close()
