"""Which tasks a rebalancing moves and which it leaves, when it is held, and that its order does what its plan said."""

from __future__ import annotations

import math
import random
from collections import Counter

import msgspec
import pytest

from common.errors import Conflict
from common.model.api import ApplyRequest
from common.model.device import DeviceGrant
from common.model.job import JobSpec
from common.model.node import Availability, NodeCondition, NodeStatus
from common.model.resources import Resources
from common.model.task import Task
from controller.api.why import Known, why_job
from controller.core.apply import apply_specs
from controller.core.balance import Look, held_because, held_until_s, look, order_moves, plan_rebalance, under_way, wish
from controller.core.imagine import Imagination
from controller.core.plan import TablePlacer
from controller.core.settings import ROLLOUT_HOLDS_S
from controller.core.turns import at_once
from controller.scheduler.node_table import NodeTable, build_table
from controller.state import State, Write
from tests.builders import condition, node
from tests.world import web, with_task

OLD = [node(name, cpu=8) for name in ("n1", "n2", "n3")]
NEW = node("n4", cpu=8)
CONDITIONS = {each.id: condition(each) for each in (*OLD, NEW)}
NOW_S = 10_000.0


def service(name: str = "web", replicas: int = 8, **changes: object) -> JobSpec:
    spec = with_task(web(replicas=replicas), reservations=Resources(cpu_millis=500), **changes)
    return msgspec.structs.replace(spec, name=name)


def joined(*specs: JobSpec) -> State:
    """Jobs that run well on three nodes, and a fourth one that has just come."""
    state = State.of(OLD)
    applying = apply_specs(state, ApplyRequest(namespace="shop", specs=specs), 900.0, random.Random(1))
    imagined = Imagination(state, CONDITIONS, 900.0, random.Random(1), TablePlacer(table_of(state)))
    imagined.take(applying.groups)
    imagined.run(list(imagined.state.jobs))
    imagined.set_node(NEW)
    return imagined.state


def table_of(state: State) -> NodeTable:
    nodes = ((each, CONDITIONS[each.id]) for each in state.nodes.values())
    return build_table(nodes, ((task, state.spec_of_task(task).task) for task in state.tasks.values()))


def seen(state: State) -> Look:
    return look(state, CONDITIONS, table_of(state), NOW_S)


def carried_out(state: State) -> State:
    """After the order, with agents that always succeed."""
    imagined = Imagination(state, CONDITIONS, NOW_S, random.Random(3), TablePlacer(table_of(state)))
    imagined.take(wish(state, seen(state).moves))
    imagined.run(list(imagined.state.jobs))
    return imagined.state


def per_node(state: State) -> Counter[str]:
    return Counter(task.node_id for task in state.tasks.values() if not task.ended)


def change(state: State, task: Task, **fields: object) -> None:
    state.apply(Write(msgspec.structs.replace(task, **fields)))


def test_a_node_that_joins_gets_its_share_and_then_there_is_nothing_to_do() -> None:
    state = joined(service())
    assert len(seen(state).moves) == 2
    after = carried_out(state)
    assert sorted(per_node(after).values()) == [2, 2, 2, 2]
    assert seen(after).moves == ()
    assert under_way(after) == 0


def test_the_plan_says_what_the_order_then_does() -> None:
    state = joined(service(), service("api", 4))
    said = at_once(plan_rebalance(state, CONDITIONS, table_of(state), NOW_S, random.Random(9), limit=0, held=""))
    after = carried_out(state)
    names = {each.id: each.name for each in (*OLD, NEW)}
    assert said.after == {names[node_id]: count for node_id, count in sorted(per_node(after).items())}
    actions = [step.action for step in said.steps]
    moves = actions.count("move")
    assert actions == ["move"] * moves + actions[moves:]
    assert min(step.healthy_at_least for step in said.steps if step.action == "stop") >= 4
    assert said.unplaced == ()


def test_nothing_is_moved_that_would_have_to_stop_first_and_that_is_said() -> None:
    found = seen(joined(service(exclusive=True)))
    assert found.moves == ()
    (note,) = found.notes
    assert note.startswith("8 tasks of shop/web stay: it is exclusive")
    assert note.endswith("so moving it would mean to stop it first")


def test_tasks_with_devices_and_on_cordoned_nodes_stay() -> None:
    state = joined(service())
    for task in list(state.tasks.values()):
        change(state, task, devices=(DeviceGrant(kind="gpu", id="0", share_millis=1000),))
    assert look(state, CONDITIONS, table_of(State.of(state.nodes.values())), NOW_S).moves == ()
    state = joined(service())
    for each in OLD:
        state.apply(Write(msgspec.structs.replace(each, availability=Availability.CORDONED)))
    assert seen(state).moves == ()


def test_when_it_is_held() -> None:
    state = joined(service())
    assert held_because(state, CONDITIONS, "", NOW_S) == ""
    assert held_because(state, CONDITIONS, "3 nodes silent", NOW_S) == "the brake holds: 3 nodes silent"
    silent = CONDITIONS | {"id-n2": NodeCondition(node_id="id-n2", status=NodeStatus.UNREACHABLE)}
    assert held_because(state, silent, "", NOW_S) == "node n2 is unreachable"
    request = ApplyRequest(namespace="shop", specs=(msgspec.structs.replace(service(), task=web("web:2").task),))
    for group in apply_specs(state, request, NOW_S, random.Random(4)).groups:
        for one in group:
            state.apply(one)
    assert held_because(state, CONDITIONS, "", NOW_S) == "the rollout of shop/web is not through"


def test_a_rollout_that_comes_no_further_holds_up_its_own_job_only() -> None:
    state = joined(service(), service("api"))
    job = state.job_named("shop", "web")
    assert job is not None
    assert {move.movable.task_id for move in seen(state).moves} & state.tasks_of_job(job.id).keys()
    request = ApplyRequest(namespace="shop", specs=(msgspec.structs.replace(service(), task=web("web:2").task),))
    for group in apply_specs(state, request, NOW_S, random.Random(4)).groups:
        for one in group:
            state.apply(one)
    assert held_until_s(state, NOW_S) == NOW_S + ROLLOUT_HOLDS_S
    later_s = NOW_S + ROLLOUT_HOLDS_S
    assert held_because(state, CONDITIONS, "", later_s - 1) == "the rollout of shop/web is not through"
    assert held_because(state, CONDITIONS, "", later_s) == ""
    assert held_until_s(state, later_s) == math.inf
    moved = {state.tasks[move.movable.task_id].job for move in look(state, CONDITIONS, table_of(state), later_s).moves}
    assert moved == {"api"}


def test_an_operator_moves_one_task() -> None:
    state = joined(service())
    task = min(state.tasks.values(), key=lambda task: task.slot)
    ordered = order_moves(state, table_of(state), [task], NEW)
    (move,) = ordered.moves.moves
    assert (move.job, move.slot, move.to) == ("shop/web", task.slot, "n4")
    ((group,),) = ordered.groups
    assert group.record == msgspec.structs.replace(task, moves_to=NEW.id)


def test_a_move_that_is_there_already_is_none() -> None:
    state = joined(service())
    task = min(state.tasks.values(), key=lambda task: task.slot)
    assert order_moves(state, table_of(state), [task], state.nodes[task.node_id]).groups == ()


def test_what_does_not_fit_is_refused_with_the_numbers_and_then_nothing_is_moved() -> None:
    state = joined(service(), service("big", 1))
    table = table_of(state)
    table.add_task(NEW.id, service().task, "other")
    for _ in range(14):
        table.add_task(NEW.id, service().task, "other")
    tasks = sorted(state.tasks.values(), key=lambda task: (task.job, task.slot))[:3]
    with pytest.raises(Conflict, match=r"cannot move to n4: needs 0\.5 cores, 0 free on node n4"):
        order_moves(state, table, tasks, NEW)


def test_moves_that_why_offers_are_accepted_and_make_room() -> None:
    large = with_task(web(replicas=1), reservations=Resources(cpu_millis=7_500))
    state = joined(service("small", replicas=8))
    applying = apply_specs(
        state,
        ApplyRequest(
            namespace="shop", specs=(msgspec.structs.replace(large, name="large", replicas=2),), remove_orphans=False
        ),
        NOW_S,
        random.Random(2),
    )
    imagined = Imagination(state, CONDITIONS, NOW_S, random.Random(2), TablePlacer(table_of(state)))
    imagined.take(applying.groups)
    imagined.run(list(imagined.state.jobs))
    state = imagined.state
    known = Known(state=state, conditions=CONDITIONS, table=table_of(state), now_s=NOW_S)
    job = state.job_named("shop", "large")
    assert job is not None
    commands = [fix.command for fix in why_job(known, job).fixes if fix.command.startswith("podium move")]
    assert commands, why_job(known, job)
    after = state
    for order in commands[0].split(" && "):
        *names, target = order.removeprefix("podium move ").replace(" --to", "").split()
        tasks = [next(one for one in after.tasks.values() if f"{one.job_name}.{one.slot}" == name) for name in names]
        there = next(each for each in after.nodes.values() if each.name == target)
        ordered = order_moves(after, table_of(after), tasks, there)
        imagined = Imagination(after, CONDITIONS, NOW_S, random.Random(3), TablePlacer(table_of(after)))
        imagined.take(ordered.groups)
        imagined.run(list(imagined.state.jobs))
        after = imagined.state
    assert all(task.node_id for task in after.tasks_of_job(job.id).values())
