"""A plan for people: what is alike is told once, nothing is left out, and order stays order."""

from __future__ import annotations

from cli import render_json, render_plan, render_table
from common.model.api import ClusterView, Loss, Plan, PlannedPlacement, PlannedStop, PlanStep
from common.model.epoch import Epoch
from common.model.verdict import Reason, Verdict

GIVES_WAY = "version 1 gives way to 2"


def told(planned: Plan) -> list[str]:
    return render_plan.plan(render_json.plan(planned))


def start(slot: int, floor: int = 0, text: str = "version 1: the slot was empty") -> PlanStep:
    return PlanStep(action="start", subject=f"shop/web.{slot}", text=text, healthy_at_least=floor)


def test_a_thousand_replicas_are_a_few_lines() -> None:
    steps = tuple(start(slot) for slot in range(1, 1001))
    placements = tuple(PlannedPlacement(job="shop/web", slot=slot, node=f"n{slot % 400:03}") for slot in range(1, 1001))
    nodes = {f"n{number:03}": 0 for number in range(400)}
    after = {name: 2 + (0 < int(name[1:]) <= 200) for name in nodes}
    done = PlanStep(action="done", subject="shop/web", text="version 1 runs in every slot", healthy_at_least=1000)
    assert told(Plan(steps=(*steps, done), placements=placements, before=nodes, after=after)) == [
        "  1. start shop/web.1-1000: version 1: the slot was empty",
        "  2. done shop/web: version 1 runs in every slot (at least 1000 healthy meanwhile)",
        "  + shop/web.1-1000 on 400 nodes, 2 to 3 each",
        "tasks per node:",
        "  200 nodes: 0 -> 2",
        "  200 nodes: 0 -> 3",
    ]


def test_steps_that_take_turns_are_told_once_with_their_number_and_the_lowest_floor() -> None:
    steps: list[PlanStep] = []
    for slot in (1, 3, 5):
        steps += [start(one, 30 - slot, f"version 2: {GIVES_WAY}") for one in (slot, slot + 1)]
        steps += [
            PlanStep(
                action="stop",
                subject=f"shop/web.{one}",
                text=f"version 1 on n{one % 2}: {GIVES_WAY}",
                healthy_at_least=27,
            )
            for one in (slot, slot + 1)
        ]
    stops = tuple(
        PlannedStop(job="shop/web", slot=slot, task_id=f"t{slot}", node=f"n{slot % 2}", reason=GIVES_WAY)
        for slot in range(1, 7)
    )
    assert told(Plan(steps=tuple(steps), stops=stops)) == [
        "  1. in 3 turns (at least 25 healthy meanwhile):",
        f"     - start shop/web.1-6 (2 at a time): version 2: {GIVES_WAY}",
        f"     - stop shop/web.1-6 on n0 3, n1 3 (2 at a time): version 1: {GIVES_WAY}",
        f"  - shop/web.1-6 on n0 3, n1 3: {GIVES_WAY}",
    ]


def test_few_are_told_one_by_one_and_what_differs_stays_apart() -> None:
    steps = (start(1), start(2), start(4), start(3, text="version 1: moved"), start(5))
    placements = tuple(PlannedPlacement(job="shop/web", slot=slot, node="n1") for slot in (1, 2))
    assert told(Plan(steps=steps, placements=placements)) == [
        "  1. start shop/web.1-2,4: version 1: the slot was empty",
        "  2. start shop/web.3: version 1: moved",
        "  3. start shop/web.5: version 1: the slot was empty",
        "  + shop/web.1 on n1",
        "  + shop/web.2 on n1",
    ]


def test_jobs_that_take_turns_once_keep_their_order() -> None:
    steps = tuple(
        PlanStep(action=action, subject=f"shop/{job}.1", text="because", healthy_at_least=0)
        for job in ("a", "b")
        for action in ("start", "stop")
    )
    assert [line.split(":")[0] for line in told(Plan(steps=steps))] == [
        "  1. start shop/a.1",
        "  2. stop shop/a.1",
        "  3. start shop/b.1",
        "  4. stop shop/b.1",
    ]


def test_what_a_verdict_says_already_is_not_said_again() -> None:
    short = "needs 2 cores, 1 free on node n1 (2 of 2 nodes)"
    reasons = (
        Reason(reason="resource", nodes=2, text=short),
        Reason(reason="resource", nodes=2, text=f"{short}; web has 1"),
        Reason(reason="status", node="n2", text="is down"),
    )
    verdict = Verdict(subject="shop/db", verdict=f"fits nowhere: {reasons[0].text}", reasons=reasons)
    assert render_table.why(render_json.verdict(verdict)) == [
        "shop/db: fits nowhere: needs 2 cores, 1 free on node n1 (2 of 2 nodes)",
        "  - needs 2 cores, 1 free on node n1 (2 of 2 nodes); web has 1",
        "  - n2: is down",
    ]


def test_each_loss_that_cannot_be_absorbed_has_a_line() -> None:
    losses = (
        Loss(node="n1", jobs=("shop/web",), text="without node n1: 1 task of shop/web fits on no node: too small"),
        Loss(node="n2", jobs=("shop/db",), text="without node n2: 2 tasks of shop/db fit on no node: too small"),
    )
    plain = render_json.cluster(ClusterView(leader="a:1", epoch=Epoch(generation=1, term=7), losses=losses))
    rows = {name: text for name, text in render_table.cluster(plain).rows}  # noqa: C416
    assert rows["survives the loss of any node"] == "no"
    assert rows["  without n1"] == "1 task of shop/web fits on no node: too small"
    assert rows["  without n2"] == "2 tasks of shop/db fit on no node: too small"
