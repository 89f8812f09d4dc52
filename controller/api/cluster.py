"""The `Cluster` service over values: how the cluster as a whole is, and what happened in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from itertools import islice

from common.model.api import ClusterRequest, ClusterView, EventBatch, EventsRequest
from common.model.event import Event
from common.model.job import DesiredState
from common.model.node import NodeStatus
from common.model.task import Task
from controller.api import requests
from controller.api.term import ApiFront, ApiTerm
from controller.core.events import namespace_of
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request

_EVENTS_PER_BATCH = 1_000
"""About 300 KiB a message."""


class ClusterService:
    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def status(self, _request: ClusterRequest) -> ClusterView:
        term = self._front.term
        return ClusterView(
            leader=term.address,
            epoch=term.ledger.epoch,
            controllers=term.controllers(),
            store=term.store,
            timers=_timers(term),
            nodes=_node_counts(term),
            brake=bool(term.presence.brake),
            survives_loss_of_any_node=await _survives(term),
            version=term.version,
        )

    async def events(self, request: EventsRequest, send: Callable[[EventBatch], Awaitable[None]]) -> None:
        """Send what happened since a time; with `follow`, for ever on. Raises `Invalid`."""
        requests.check_events(request)
        events = self._front.term.events
        if not request.follow:
            await _send_events(events.since(request.since_s), request.namespace, send)
            return
        async with aclosing(events.follow(request.since_s)) as batches:
            async for batch in batches:
                await _send_events(batch, request.namespace, send)


async def _send_events(
    events: tuple[Event, ...], namespace: str, send: Callable[[EventBatch], Awaitable[None]]
) -> None:
    wanted = (event for event in events if namespace in ("", namespace_of(event)))
    while batch := tuple(islice(wanted, _EVENTS_PER_BATCH)):
        await send(EventBatch(events=batch))


def _timers(term: ApiTerm) -> dict[str, float]:
    liveness = term.timers.stretched(len(term.presence.seen))
    lease = term.timers.lease
    return {
        "heartbeat_period_s": liveness.period_s,
        "unreachable_s": liveness.unreachable_s,
        "down_s": liveness.down_s,
        "acknowledge_s": term.timers.acknowledge_s,
        "lease_s": lease.lease_s,
        "lease_renewal_s": lease.lease_s / lease.renewals,
        "step_down_s": lease.lease_s * lease.step_down_share,
    }


def _node_counts(term: ApiTerm) -> dict[str, int]:
    counts = {status.value: 0 for status in NodeStatus}
    for node_id in term.state.nodes:
        condition = term.conditions.get(node_id)
        counts[(condition.status if condition else NodeStatus.DISCONNECTED).value] += 1
    return counts


async def _survives(term: ApiTerm) -> bool:
    """Whether the tasks of each node would find room on the others, tried out with the production scheduler.

    Lets the loop turn between nodes: on a large cluster this is some seconds of work that nobody waits for urgently.
    """
    ready = [id_ for id_, condition in term.conditions.items() if condition.status is NodeStatus.READY]
    if len(ready) < 2:
        return False
    for node_id in ready:
        if not _survives_loss_of(term, node_id):
            return False
        await asyncio.sleep(0)
    return True


def _survives_loss_of(term: ApiTerm, node_id: str) -> bool:
    requests = tuple(_requests(term, node_id))
    if not requests:
        return True
    without = term.table.copy()
    without.remove_node(node_id)
    return not schedule(without, requests, term.rng).unplaced


def _requests(term: ApiTerm, node_id: str) -> Iterator[Request]:
    """What the scheduler would be asked for if the node were gone."""
    batches: dict[tuple[str, int], list[Task]] = {}
    for task in term.state.tasks_of_node(node_id).values():
        if task.desired is DesiredState.RUN and not task.ended and not task.lost_at_s:
            batches.setdefault((task.job_id, task.version), []).append(task)
    for (job_id, _), tasks in batches.items():
        ids = tuple(task.id for task in tasks)
        yield Request(job_id=job_id, task_ids=ids, spec=term.state.spec_of_task(tasks[0]))
