"""what-if, rebalance and move over a transport of answers: what they ask, what they print, and how they end."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from client.transport import MOVE, PLAN_REBALANCE, REBALANCE, STATUS, WHAT_IF
from common.errors import Conflict
from common.model.api import (
    AddedNodes,
    ClusterView,
    Loss,
    Moves,
    Plan,
    PlannedMove,
    PlanStep,
    ScaleTarget,
    WhatIfRequest,
)
from common.model.epoch import Epoch
from common.model.resources import Resources
from tests.builders import GIB
from tests.unit.test_cli_operate import Podium

MOVED = PlannedMove(job="shop/web", slot=3, task_id="t3", node="n1", to="n4", text="3 tasks become 2")
PLAN = Plan(
    steps=(PlanStep(action="kill", subject="node n1", text="is lost, with 2 tasks on it"),),
    before={"n1": 2, "n2": 0},
    after={"n1": 0, "n2": 2},
    notes=("`podium rebalance` would then move 1 task",),
)


@pytest.fixture
def podium(tmp_path: Path) -> Podium:
    return Podium(tmp_path)


def test_what_if_asks_for_all_that_is_supposed(podium: Podium) -> None:
    podium.fake.answer(WHAT_IF, PLAN)
    done = podium.run(
        *("what-if", "-n", "shop", "--kill", "n1", "--kill", "n2"),
        *("--add", "4,8G,2", "--add", "0.5,512M", "--scale", "web=5"),
    )
    assert done.exit_code == 1
    assert podium.asked("Cluster/WhatIf") == WhatIfRequest(
        kill=("n1", "n2"),
        add=(
            AddedNodes(count=2, capacity=Resources(cpu_millis=4_000, memory_bytes=8 * GIB)),
            AddedNodes(count=1, capacity=Resources(cpu_millis=500, memory_bytes=GIB // 2)),
        ),
        scale=(ScaleTarget(job="web", replicas=5),),
        namespace="shop",
    )
    assert done.stdout.splitlines() == [
        "  1. kill node n1: is lost, with 2 tasks on it",
        "tasks per node:",
        "  n1: 2 -> 0",
        "  n2: 0 -> 2",
        "note: `podium rebalance` would then move 1 task",
    ]


def test_what_makes_no_difference_is_0_and_said(podium: Podium) -> None:
    podium.fake.answer(WHAT_IF, Plan())
    done = podium.run("what-if", "--kill", "n1", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)["steps"]) == (0, [])
    assert "it would make no difference" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing is supposed"),
        (("--add", "4"), "'4' is not CPUS,MEMORY[,COUNT]"),
        (("--add", "4,8G,0"), "'4,8G,0' is not CPUS,MEMORY[,COUNT]"),
        (("--add", "nan,8G"), "nan"),
        (("--add", "4,much"), "'much' is not a size"),
        (("--scale", "web"), "'web' is not JOB=N"),
    ],
)
def test_what_cannot_be_supposed_is_2(podium: Podium, arguments: tuple[str, ...], said: str) -> None:
    done = podium.run("what-if", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_rebalance_says_what_it_ordered(podium: Podium) -> None:
    podium.fake.answer(REBALANCE, Moves(moves=(MOVED,), notes=("1 task of shop/db stays: it is exclusive",)))
    done = podium.run("rebalance", "--moves", "2")
    assert done.exit_code == 0
    assert podium.asked("Cluster/Rebalance").moves == 2
    assert done.stdout == "shop/web.3 from n1 to n4: 3 tasks become 2\n"
    assert done.stderr.splitlines() == [
        "1 task of shop/db stays: it is exclusive",
        "ordered: 1 task moves, a few at a time; `podium ps` shows them",
    ]


def test_rebalance_that_is_held_is_1(podium: Podium) -> None:
    podium.fake.answer(REBALANCE, Moves(held="the brake holds: 3 nodes fell silent"))
    done = podium.run("rebalance")
    assert done.exit_code == 1
    assert "nothing is moved now: the brake holds: 3 nodes fell silent" in done.stderr


def test_the_plan_of_a_rebalancing(podium: Podium) -> None:
    podium.fake.answer(PLAN_REBALANCE, Plan())
    done = podium.run("rebalance", "--plan")
    assert done.exit_code == 0
    assert "nothing would make it more even" in done.stderr


def test_move_names_tasks_and_a_node(podium: Podium) -> None:
    podium.fake.answer(MOVE, Moves(moves=(MOVED,)))
    done = podium.run("move", "web.3", "shop/api.1", "--to", "n4", "-n", "shop", "-o", "json")
    asked = podium.asked("Jobs/Move")
    assert (asked.namespace, asked.tasks, asked.node) == ("shop", ("web.3", "shop/api.1"), "n4")
    assert json.loads(done.stdout) == [
        {"job": "shop/web", "slot": 3, "task_id": "t3", "node": "n1", "to": "n4", "text": "3 tasks become 2"}
    ]


def test_a_move_that_is_refused_says_why(podium: Podium) -> None:
    def refuse(_address: str, _request: object) -> Moves:
        raise Conflict("shop/web.3 cannot move to n4: node n4 is cordoned")

    podium.fake.answer(MOVE, refuse)
    done = podium.run("move", "web.3", "--to", "n4", "-n", "shop")
    assert done.exit_code == 1
    assert "cannot move to n4: node n4 is cordoned" in done.stderr


def test_the_cluster_says_what_a_loss_would_cost_and_what_could_move(podium: Podium) -> None:
    loss = Loss(node="n1", jobs=("shop/web",), text="without node n1: 1 task of shop/web would have no place")
    view = ClusterView(
        leader="a:1",
        epoch=Epoch(term=1),
        losses=(loss,),
        suggested_moves=(MOVED,) * 4,
        rebalances="4 tasks could move (`podium rebalance`)",
    )
    podium.fake.answer(STATUS, view)
    shown = podium.run("cluster").stdout
    assert re.search(r"^survives the loss of any node +no$", shown, re.MULTILINE)
    assert re.search(r"^  without n1 +1 task of shop/web would have no place$", shown, re.MULTILINE)
    assert "4 tasks could move (`podium rebalance`): shop/web.3 n1 to n4" in shown
    assert "and 1 more" in shown
    plain = json.loads(podium.run("cluster", "-o", "json").stdout)
    assert plain["losses"] == [{"node": "n1", "jobs": ["shop/web"], "text": loss.text}]
    assert plain["suggested_moves"][0]["to"] == "n4"
