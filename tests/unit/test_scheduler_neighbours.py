"""Jobs that are to be beside each other or apart, by example: rules bind both, wishes are weighed."""

from __future__ import annotations

from collections import Counter

import pytest

from common.model.job import Affinity, TaskSpec
from common.model.node import Node
from controller.scheduler.explain import explain_placed, explain_unplaced
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.rebalance import Movable, rebalance
from controller.scheduler.schedule import schedule
from controller.scheduler.survival import Survival
from controller.scheduler.values import Request
from tests.builders import condition, constraint, job_spec, node, task_spec

RACK = "node.labels.rack"


def table_of(*nodes: Node) -> NodeTable:
    return build_table((each, condition(each)) for each in nodes)


def racks() -> NodeTable:
    """Two nodes in rack a, one in b, one in none."""
    labels = {"n1": {"rack": "a"}, "n2": {"rack": "a"}, "n3": {"rack": "b"}, "n4": {}}
    return table_of(*(node(name, labels=label) for name, label in labels.items()))


def request(name: str, *affinities: Affinity, tasks: int = 1, task: TaskSpec | None = None) -> Request:
    spec = job_spec(f"shop/{name}", task=task or task_spec(affinities=affinities))
    return Request(job_id=f"id-of-{name}", task_ids=tuple(f"{name}-{each}" for each in range(tasks)), spec=spec)


def put(table: NodeTable, wanted: Request, node_id: str) -> None:
    table.name_job(wanted.job_id, wanted.spec.full_name)
    table.add_task(node_id, wanted.spec.task, wanted.job_id)


def places(table: NodeTable, *wanted: Request) -> dict[str, int]:
    plan = schedule(table, wanted)
    return dict(sorted(Counter(placement.node_id.removeprefix("id-") for placement in plan.placements).items()))


def beside(job: str, within: str = "") -> Affinity:
    return Affinity(job=f"shop/{job}", within=within, required=True)


def apart(job: str, within: str = "") -> Affinity:
    return Affinity(job=f"shop/{job}", within=within, required=True, apart=True)


def test_a_job_that_must_be_beside_another_waits_for_it() -> None:
    table = racks()
    web = request("web", beside("db"))
    assert places(table.copy(), web) == {}
    put(table, request("db"), "id-n2")
    assert places(table.copy(), web) == {"n2": 1}
    assert places(table, request("web", beside("db", RACK), tasks=4)) == {"n1": 2, "n2": 2}


def test_a_job_that_must_be_apart_keeps_the_other_one_off_too() -> None:
    table = racks()
    quiet = request("quiet", apart("loud", RACK))
    assert places(table, request("loud"))
    table = racks()
    put(table, quiet, "id-n1")
    assert places(table, request("loud", tasks=10)).keys() == {"n3", "n4"}
    assert places(racks(), request("other", tasks=4)) == {"n1": 1, "n2": 1, "n3": 1, "n4": 1}


def test_what_kept_it_off_may_go() -> None:
    table = table_of(node("n1"))
    quiet, loud = request("quiet", apart("loud")), request("loud")
    put(table, quiet, "id-n1")
    assert places(table.copy(), loud) == {}
    table.remove_task("id-n1", quiet.spec.task, quiet.job_id)
    assert places(table, loud) == {"n1": 1}


def test_a_node_without_the_attribute_is_beside_itself_only() -> None:
    table = table_of(node("n1"), node("n2"))
    put(table, request("db"), "id-n1")
    assert places(table, request("web", beside("db", RACK), tasks=2)) == {"n1": 2}


def test_at_most_one_of_its_own_in_each_group() -> None:
    spread = request("web", apart("web", RACK), tasks=4)
    assert sum(places(racks(), spread).values()) == 3
    assert places(racks(), request("web", apart("web"), tasks=9)) == {"n1": 1, "n2": 1, "n3": 1, "n4": 1}


def test_all_of_a_job_in_one_group() -> None:
    assert places(racks(), request("web", beside("web", RACK), tasks=6)).keys() in ({"n1", "n2"}, {"n3"}, {"n4"})


def test_the_greatest_weight_of_fulfilled_wishes_wins() -> None:
    table = table_of(node("n1", labels={"disk": "ssd"}), node("n2", labels={"gpu": "yes", "net": "fast"}), node("n3"))
    ssd = Affinity(constraint=constraint("node.labels.disk == ssd"), weight=50)
    others = [
        Affinity(constraint=constraint(f"node.labels.{rule}"), weight=30) for rule in ("gpu == yes", "net == fast")
    ]
    assert places(table.copy(), request("web", ssd)) == {"n1": 1}
    assert places(table.copy(), request("web", ssd, *others)) == {"n2": 1}
    assert places(table.copy(), request("web", Affinity(constraint=ssd.constraint, apart=True), tasks=2)).keys() == {
        "n2",
        "n3",
    }


def test_wishes_come_before_spreading_and_give_way_when_there_is_no_room() -> None:
    table = table_of(node("n1", cpu=2, labels={"disk": "ssd"}), node("n2", cpu=4), node("n3", cpu=4))
    ssd = Affinity(constraint=constraint("node.labels.disk == ssd"))
    wanted = request("web", tasks=4, task=task_spec(cpu=1, affinities=[ssd]))
    assert places(table, wanted) == {"n1": 2, "n2": 1, "n3": 1}


def test_verdicts_say_beside_what() -> None:
    table = racks()
    put(table, request("loud"), "id-n3")
    verdict = explain_unplaced(table, request("web", beside("db", RACK)))
    assert verdict.verdict == (
        "1 task of shop/web fits on no node: must be beside shop/db within the same node.labels.rack, "
        "which nodes n1, n2, n3 and 1 more are not (4 of 4 nodes)"
    )
    assert "make it a wish" in verdict.fixes[0].text
    only = explain_unplaced(
        table,
        request("quiet", apart("loud"), task=task_spec(affinities=[apart("loud")], constraints=["node.name == n3"])),
    )
    (mine,) = [reason for reason in only.reasons if reason.reason == "anti-affinity"]
    assert mine.text == "must be apart from shop/loud: node n3 is beside it (1 of 4 nodes)"
    put(table, request("quiet", apart("other")), "id-n1")
    theirs = explain_unplaced(table, request("other", task=task_spec(constraints=["node.name == n1"], cpu=1)))
    assert theirs.verdict.startswith("nothing is in the way") is False
    (off,) = [reason for reason in theirs.reasons if reason.reason == "anti-affinity"]
    assert off.text == (
        "must be apart from shop/quiet, which must be apart from this job: node n1 is beside it (1 of 4 nodes)"
    )


def test_a_placed_task_says_which_wishes_its_node_does_not_fulfil() -> None:
    table = table_of(node("n1"), node("n2", labels={"disk": "ssd"}))
    wanted = request("web", Affinity(constraint=constraint("node.labels.disk == ssd"), weight=40))
    put(table, wanted, "id-n1")
    texts = [one.text for one in explain_placed(table, wanted, "id-n1").reasons if one.reason == "affinity"]
    assert texts == [
        "weight of affinities that are not fulfilled: 40 on node n1; 0 to 40 on the 2 nodes that fit",
        (
            "1 other node that fits is better now by weight of affinities that are not fulfilled: "
            "0 on node n2, 40 on node n1"
        ),
    ]


def test_a_rebalancing_leaves_alone_what_others_must_be_beside() -> None:
    table = table_of(node("n1"), node("n2"))
    db, web = request("db"), request("web", beside("db"))
    for _ in range(4):
        put(table, db, "id-n1")
    movables = [
        Movable(request=Request(job_id=db.job_id, task_ids=(f"db-{n}",), spec=db.spec), node_id="id-n1")
        for n in range(4)
    ]
    assert len(rebalance(table, movables, 9)) == 2
    put(table, web, "id-n1")
    assert rebalance(table, movables, 9) == ()


@pytest.mark.parametrize(("rule", "survives"), [(beside("db"), False), (Affinity(job="shop/db"), True)])
def test_a_loss_that_takes_what_a_job_must_be_beside_is_not_absorbed(rule: Affinity, survives: bool) -> None:
    table = table_of(node("n1"), node("n2"), node("n3"))
    web = request("web", rule)
    put(table, request("db"), "id-n1")
    put(table, web, "id-n1")
    assert Survival(table).of("id-n1", [web]) is survives
