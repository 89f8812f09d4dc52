"""What would be if, and moving tasks for a better balance: of the services `Cluster` and `Jobs`, over values.

Never moves a task itself: an order is a wish in the task, which the convergence carries out under this leader or the
next.
"""

from __future__ import annotations

from common.model.api import MoveRequest, Moves, Plan, RebalanceRequest, WhatIfRequest
from common.model.task import Task
from controller.api import requests
from controller.api.names import find_nodes
from controller.api.term import ApiFront, ApiTerm
from controller.core.balance import (
    MOVES_AT_MOST,
    held_because,
    looking,
    order_moves,
    plan_rebalance,
    planned_moves,
    under_way,
    wish,
)
from controller.core.what_if import what_if
from controller.state import Group, State, find_task
from controller.turns import in_turns


class BalanceService:
    """Every method raises `NotLeader` where nobody leads, and what it says besides."""

    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def what_if(self, request: WhatIfRequest) -> Plan:
        """Raises `NotFound` for nodes and jobs that there are not, and what applying the file would."""
        requests.check_what_if(request)
        term = self._front.term
        killed = find_nodes(term.state, request.kill) if request.kill else ()
        return await in_turns(
            what_if(term.state, term.conditions, term.table, request, killed, term.clock(), term.rng, term.attention())
        )

    async def plan_rebalance(self, request: RebalanceRequest) -> Plan:
        """What `rebalance` would do."""
        requests.check_rebalance(request)
        term = self._front.term
        return await in_turns(
            plan_rebalance(
                term.state,
                term.conditions,
                term.table,
                term.clock(),
                term.rng,
                limit=request.moves,
                held=_held(term),
                attention=term.attention(),
            )
        )

    async def rebalance(self, request: RebalanceRequest) -> Moves:
        """Order it. The tasks move by and by; where something speaks against it, nothing is moved and that is said."""
        requests.check_rebalance(request)
        term = self._front.term

        async def order() -> Moves:
            held = _held(term)
            if held:
                return Moves(held=held)
            state, conditions, table = term.snapshot()
            found = await in_turns(looking(state, conditions, table, term.clock(), request.moves or MOVES_AT_MOST))
            moves = planned_moves(state, found.moves)
            await term.ledger.answer(lambda state: wish(state, found.moves))
            return Moves(moves=moves, notes=found.notes)

        key = request.idempotency_key and f"rebalance {request.idempotency_key}"
        return await term.repeats.once(key, request, order)

    async def move(self, request: MoveRequest) -> Moves:
        """Raises `NotFound`, or `Conflict` with all that cannot move; then nothing does."""
        requests.check_move(request)
        term = self._front.term
        done = Moves()

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal done
            (there,) = find_nodes(state, (request.node,))
            ordered = order_moves(state, term.table, [_task(state, request.namespace, name) for name in names], there)
            done = ordered.moves  # the last call is what was committed
            return ordered.groups

        async def write() -> Moves:
            await term.ledger.answer(transaction)
            return done

        names = tuple(dict.fromkeys(request.tasks))
        key = request.idempotency_key and f"move {request.namespace} {request.idempotency_key}"
        return await term.repeats.once(key, request, write)


def _task(state: State, namespace: str, name: str) -> Task:
    within, _, last = name.rpartition("/")
    return find_task(state, within or namespace, last)


def _held(term: ApiTerm) -> str:
    moving = under_way(term.state)
    if moving:
        return f"{moving} {'task is' if moving == 1 else 'tasks are'} moving still"
    return held_because(term.state, term.conditions, term.presence.brake, term.clock())
