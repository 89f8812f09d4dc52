"""The `Cluster` service over values: how the cluster as a whole is, and what happened in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import islice

import msgspec

from common.errors import Unavailable
from common.model.api import (
    BrakeReleased,
    ClusterRequest,
    ClusterView,
    EventBatch,
    EventsRequest,
    ListQuotas,
    Loss,
    PlannedMove,
    QuotaList,
    QuotaView,
    ReleaseBrake,
    SetQuota,
)
from common.model.event import Event
from common.model.node import NodeStatus
from controller.api import requests
from controller.api.term import ApiFront, ApiTerm
from controller.core.balance import becomes_of, held_because, looking, planned_moves, under_way
from controller.core.events import brake_released, namespace_of
from controller.core.liveness import LOOKS_PER_PERIOD
from controller.core.quota import quota_view, set_quota
from controller.core.survival import losing
from controller.turns import in_turns

_LEASE_CHECK_S = 0.5
"""How often etcd looks for leases that have run out."""
_EVENTS_PER_BATCH = 1_000
"""About 300 KiB a message."""


class ClusterService:
    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def status(self, request: ClusterRequest) -> ClusterView:
        term = self._front.term
        foreseen = _Foreseen() if request.quick else await _foreseen(term)
        return ClusterView(
            leader=term.address,
            epoch=term.ledger.epoch,
            controllers=await _controllers(term),
            store=term.store,
            timers=_timers(term),
            nodes=_node_counts(term),
            brake=bool(term.presence.brake),
            survives_loss_of_any_node=foreseen.survives,
            losses=foreseen.losses,
            suggested_moves=foreseen.moves,
            rebalances=foreseen.rebalances,
            version=term.version,
            brake_reason=term.presence.brake,
            store_health=await _store_health(term),
            detection=_detection(term),
            strays=sum(len(node.strays) for node in term.state.nodes.values()),
        )

    async def release_brake(self, request: ReleaseBrake) -> BrakeReleased:
        """Give up what the nodes run that are silent now. Nothing is stored: the next leader judges for itself."""
        requests.check_key(request.idempotency_key)
        term = self._front.term

        async def release() -> BrakeReleased:
            held, node_ids = term.release_brake()
            nodes = [term.state.nodes[node_id].name for node_id in node_ids if node_id in term.state.nodes]
            if held:
                term.events.record(brake_released(held, len(nodes)))
            return BrakeReleased(held=held, nodes=tuple(sorted(nodes)))

        return await term.repeats.once(request.idempotency_key and f"brake {request.idempotency_key}", request, release)

    async def set_quota(self, request: SetQuota) -> QuotaView:
        """Change limits of a namespace. What is there already stays, also when it is more. Raises `Invalid`."""
        requests.check_quota(request)
        term = self._front.term

        async def change() -> QuotaView:
            await term.ledger.answer(lambda state: set_quota(state, request))
            return quota_view(term.state, request.namespace)

        return await term.repeats.once(request.idempotency_key and f"quota {request.idempotency_key}", request, change)

    async def quotas(self, request: ListQuotas) -> QuotaList:
        """Of one namespace, also without limits, or of all that have some, by name."""
        requests.check_namespace(request.namespace)
        state = self._front.term.state
        names = [request.namespace] if request.namespace else sorted(state.quotas)
        return QuotaList(quotas=tuple(quota_view(state, name) for name in names))

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
    """As they are for a cluster of this size, and what follows from them."""
    liveness = term.timers.stretched(len(term.presence.seen))
    lease = term.timers.lease
    looks_s = liveness.period_s / LOOKS_PER_PERIOD
    failover_s = lease.lease_s + _LEASE_CHECK_S if term.store == "etcd" else 0.0
    return {
        "out_of_balancers_s": liveness.unreachable_s + looks_s,
        "replaced_s": liveness.down_s + looks_s,
        "failover_s": failover_s,
        "replaced_after_leader_s": failover_s + liveness.down_s + looks_s,
        "heartbeat_period_s": liveness.period_s,
        "unreachable_s": liveness.unreachable_s,
        "down_s": liveness.down_s,
        "acknowledge_s": term.timers.acknowledge_s,
        "lease_s": lease.lease_s,
        "lease_renewal_s": lease.lease_s / lease.renewals,
        "step_down_s": lease.lease_s * lease.step_down_share,
    }


async def _controllers(term: ApiTerm) -> tuple[str, ...]:
    """The leader first. While the store does not answer only this one is known."""
    try:
        return await term.controllers()
    except Unavailable:
        return (term.address,)


async def _store_health(term: ApiTerm) -> str:
    try:
        return await term.store_health()
    except Unavailable as error:
        return f"not well: {error}"


def _detection(term: ApiTerm) -> str:
    """The sentence that an operator wants to know of all these timers."""
    timers = _timers(term)
    text = (
        f"a silent node is out of the balancers in {timers['out_of_balancers_s']:.1f} s, "
        f"replaced in {timers['replaced_s']:.1f} s"
    )
    if not timers["failover_s"]:
        return f"{text}; no other controller can take over from this one"
    after_s = timers["replaced_after_leader_s"]
    return f"{text}, after a leader's death in {after_s:.1f} s (another one leads in {timers['failover_s']:.1f} s)"


def _node_counts(term: ApiTerm) -> dict[str, int]:
    counts = {status.value: 0 for status in NodeStatus}
    for node_id in term.state.nodes:
        condition = term.conditions.get(node_id)
        counts[(condition.status if condition else NodeStatus.DISCONNECTED).value] += 1
    return counts


class _Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """What a full answer takes some time to find."""

    survives: bool = False
    losses: tuple[Loss, ...] = ()
    moves: tuple[PlannedMove, ...] = ()
    rebalances: str = ""


async def _foreseen(term: ApiTerm) -> _Foreseen:
    """Lets the loop turn in between: where the cluster is nearly full this may take a second."""
    state, conditions, table = term.snapshot()
    losses = await in_turns(losing(state, conditions, table))
    found = await in_turns(looking(state, conditions, table, term.clock()))
    held = held_because(state, conditions, term.presence.brake, term.clock())
    return _Foreseen(
        survives=losses == (),
        losses=losses or (),
        moves=planned_moves(state, found.moves),
        rebalances=becomes_of(found, held, auto=term.timers.rebalance_auto, under_way=under_way(state)),
    )
