"""Why a task has no node, what would change that, and why it is where it is."""

from __future__ import annotations

from collections.abc import Sequence

from common.model.job import TaskSpec
from common.model.node import Availability, Node, NodeStatus
from common.model.verdict import Fix, Holder
from controller.scheduler.explain import Around, explain_placed, explain_unplaced
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.preempt import Occupant
from controller.scheduler.rebalance import Movable
from controller.scheduler.values import Request
from tests.builders import GIB, MIB, condition, job_spec, node, task_spec


def table_of(*nodes: Node) -> NodeTable:
    return build_table((each, condition(each)) for each in nodes)


def request(task: TaskSpec, tasks: int = 1, avoid: Sequence[str] = ()) -> Request:
    ids = tuple(f"web-{number}" for number in range(1, tasks + 1))
    return Request(job_id="job-web", task_ids=ids, spec=job_spec("shop/web", task=task), avoid=tuple(avoid))


def fixes(table: NodeTable, wanted: Request) -> list[str]:
    return [fix.text for fix in explain_unplaced(table, wanted).fixes]


# --- reasons


def test_a_shortage_carries_its_numbers_for_scripts_and_for_people() -> None:
    table = table_of(node("n1", cpu=2), node("n2", cpu=2), node("n3", cpu=2))
    table.add_task("id-n1", task_spec(cpu=1.5), "job-a")
    for name in ("n2", "n3"):
        table.add_task(f"id-{name}", task_spec(cpu=2), "job-a")
    verdict = explain_unplaced(table, request(task_spec(cpu=2)))
    assert verdict.subject == "job shop/web"
    (reason,) = verdict.reasons
    assert (reason.reason, reason.resource, reason.nodes, reason.node) == ("resource", "cpu_millis", 3, "")
    assert (reason.need, reason.have, reason.short) == ("2000", "500", "1500")
    assert reason.text == "needs 2 cores, 0.5 free on node n1 (3 of 3 nodes)"


def test_per_node_every_ground_stands_with_its_node() -> None:
    table = table_of(node("n1", cpu=1, memory_bytes=GIB), node("n2", availability=Availability.CORDONED))
    verdict = explain_unplaced(table, request(task_spec(cpu=2, memory_bytes=2 * GIB)), per_node=True)
    assert [(reason.node, reason.reason, reason.resource, reason.short) for reason in verdict.reasons] == [
        ("n1", "resource", "cpu_millis", "1000"),
        ("n1", "resource", "memory_bytes", str(GIB)),
        ("n2", "availability", "", ""),
    ]
    assert [reason.text for reason in verdict.reasons] == [
        "needs 2 cores, 1 free on node n1",
        "needs 2 GiB of memory, 1 GiB free on node n1",
        "node n2 is cordoned",
    ]


def test_different_grounds_are_told_apart_and_the_most_common_comes_first() -> None:
    down = node("n3")
    table = table_of(node("n1", labels={"zone": "us"}), node("n2"), node("n4"))
    table.set_node(down, condition(down, NodeStatus.DOWN))
    table.set_node(node("n5"), condition(node("n5"), NodeStatus.UNREACHABLE))
    verdict = explain_unplaced(table, request(task_spec(constraints=["node.labels.zone == eu"])))
    assert [reason.text for reason in verdict.reasons] == [
        "needs node.labels.zone == eu: node n1 has us (5 of 5 nodes)",
        "node n5 is unreachable (1 of 5 nodes)",
        "node n3 is down (1 of 5 nodes)",
    ]


def test_the_node_that_comes_closest_is_told_about() -> None:
    table = table_of(node("n1", cpu=1), node("n2", cpu=3), node("n3", cpu=2))
    assert (
        explain_unplaced(table, request(task_spec(cpu=3.5)))
        .reasons[0]
        .text.startswith("needs 3.5 cores, 3 free on node n2 (3 of 3 nodes)")
    )


def test_many_nodes_are_counted_not_listed() -> None:
    table = table_of(*(node(f"n{number}", availability=Availability.CORDONED) for number in range(5)))
    (reason,) = explain_unplaced(table, request(task_spec())).reasons
    assert reason.text == "nodes n0, n1, n2 and 2 more are cordoned (5 of 5 nodes)"


def test_a_task_larger_than_every_node_is_told_so() -> None:
    table = table_of(node("n1", cpu=4), node("n2", cpu=2))
    verdict = explain_unplaced(table, request(task_spec(cpu=8)))
    assert verdict.reasons[0].text == "needs 8 cores, 4 free on node n1 (2 of 2 nodes); no node has more than 4 cores"


def test_what_fits_by_now_is_said_to_fit() -> None:
    verdict = explain_unplaced(table_of(node("n1")), request(task_spec(), 2))
    assert verdict.verdict == "nothing is in the way: 2 tasks of shop/web can go to n1"
    assert verdict.reasons == ()
    assert verdict.fixes == ()


def test_asking_changes_nothing() -> None:
    table = table_of(node("n1", cpu=1))
    explain_unplaced(table, request(task_spec(cpu=1), 2))
    assert table.load_of("id-n1").tasks == 0


# --- fixes


def test_a_cordoned_node_that_would_take_it_is_the_first_fix() -> None:
    table = table_of(node("n1", cpu=1), node("n2", cpu=4, availability=Availability.CORDONED))
    first = explain_unplaced(table, request(task_spec(cpu=2))).fixes[0]
    assert (first.text, first.command) == ("uncordon node n2, which is cordoned", "podium uncordon n2")


def test_a_cordoned_node_that_would_not_take_it_is_no_fix() -> None:
    table = table_of(node("n1", cpu=1, availability=Availability.CORDONED))
    assert not any("uncordon" in text for text in fixes(table, request(task_spec(cpu=2))))


def test_a_node_that_is_away_may_be_the_fix() -> None:
    table = table_of(node("n1", cpu=1))
    table.set_node(node("n2"), condition(node("n2"), NodeStatus.DOWN))
    assert fixes(table, request(task_spec(cpu=2)))[0] == "bring node n2 back, which is down"


def test_the_highest_reservation_that_fits_is_offered() -> None:
    table = table_of(node("n1", cpu=1), node("n2", cpu=1.5, memory_bytes=GIB))
    text = "reserve 0.75 cores instead of 2 cores (deploy.resources.reservations)"
    assert text in fixes(table, request(task_spec(cpu=2, memory_bytes=500 * MIB), 3))


def test_both_reservations_are_lowered_when_neither_alone_helps() -> None:
    table = table_of(node("n1", cpu=1, memory_bytes=GIB))
    (text,) = (text for text in fixes(table, request(task_spec(cpu=2, memory_bytes=2 * GIB))) if "instead" in text)
    assert "reserve 1 core instead of 2 cores" in text
    assert "reserve 1 GiB of memory instead of 2 GiB of memory" in text


def test_a_higher_maximum_per_node_is_offered_as_low_as_it_helps() -> None:
    table = table_of(node("n1"), node("n2"))
    assert "raise max_replicas_per_node from 1 to 3" in fixes(table, request(task_spec(max_per_node=1), 6))


def test_only_the_constraint_in_the_way_is_offered_to_be_dropped() -> None:
    table = table_of(node("n1", labels={"zone": "eu"}))
    wanted = request(task_spec(constraints=["node.labels.zone == eu", "node.labels.disk == ssd"]))
    dropped = [text for text in fixes(table, wanted) if "drop" in text]
    assert dropped == ["drop the constraint node.labels.disk == ssd"]


def test_a_node_to_add_is_described_with_all_it_must_have() -> None:
    table = table_of(node("n1", cpu=1))
    wanted = request(task_spec(cpu=2, memory_bytes=GIB, constraints=["node.labels.zone == eu"]), 2)
    assert fixes(table, wanted) == [
        "add 2 nodes, each with 2 cores, 1 GiB of memory, the docker runtime, node.labels.zone eu"
    ]


def test_no_fix_is_offered_for_what_cannot_be_met() -> None:
    wanted = request(task_spec(constraints=["node.labels.a == 1", "node.labels.a == 2"]))
    assert fixes(table_of(node("n1")), wanted) == []


# --- why here


def placed_table(*nodes: Node, on: str, task: TaskSpec) -> NodeTable:
    table = table_of(*nodes)
    table.add_task(on, task, "job-web")
    return table


def test_the_only_node_that_fits() -> None:
    task = task_spec(constraints=["node.labels.zone == eu"])
    table = placed_table(node("n1", labels={"zone": "eu"}), node("n2"), on="id-n1", task=task)
    verdict = explain_placed(table, request(task), "id-n1")
    assert verdict.verdict == "shop/web is on node n1: no other node fits"
    texts = [reason.text for reason in verdict.reasons]
    assert "node.labels.zone == eu holds on node n1 (1 of 2 nodes)" in texts
    assert "needs node.labels.zone == eu: node n2 has no such value (1 of 1 node)" in texts


def test_the_best_of_several() -> None:
    task = task_spec(cpu=1)
    table = placed_table(node("n1"), node("n2"), on="id-n1", task=task)
    table.add_task("id-n2", task, "job-web")
    verdict = explain_placed(table, request(task), "id-n1")
    assert verdict.verdict == "shop/web is on node n1: no better one among the 2 nodes that fit"
    assert [(reason.reason, reason.have, reason.text) for reason in verdict.reasons] == [
        ("tasks-of-job", "0", "other tasks of this job: 0 on node n1; 0 to 1 on the 2 nodes that fit"),
        ("load", "25%", "reserved with this task: 25% on node n1; 25% to 50% on the 2 nodes that fit"),
        ("tasks", "0", "other tasks: 0 on node n1; 0 to 1 on the 2 nodes that fit"),
        (
            "tasks-of-job",
            "1",
            "1 other node that fits is worse by other tasks of this job: 1 on node n2, 0 on node n1",
        ),
    ]


def test_a_node_that_is_better_by_now_is_named() -> None:
    task = task_spec(cpu=1)
    table = placed_table(node("n1"), node("n2"), on="id-n1", task=task)
    table.add_task("id-n1", task, "job-other")
    verdict = explain_placed(table, request(task), "id-n1")
    assert verdict.verdict == "shop/web is on node n1; of the 2 nodes that fit, n2 would come first now"


def test_a_node_it_would_not_get_again_says_why() -> None:
    task = task_spec()
    table = placed_table(node("n1", availability=Availability.DRAINING), node("n2"), on="id-n1", task=task)
    verdict = explain_placed(table, request(task), "id-n1")
    assert verdict.verdict == "shop/web is on node n1, but would not be placed there again: node n1 is draining"


def test_where_its_slot_failed_before() -> None:
    task = task_spec()
    table = placed_table(node("n1"), on="id-n1", task=task)
    verdict = explain_placed(table, request(task, avoid=["id-n1"]), "id-n1")
    assert verdict.verdict == "shop/web is on node n1, where a task of this slot failed before"


def test_a_node_that_is_gone() -> None:
    verdict = explain_placed(NodeTable(), request(task_spec()), "id-n9")
    assert verdict.verdict == "node id-n9, on which this task of shop/web was placed, is gone"


# --- who is in the way


def occupied(table: NodeTable, *tasks: tuple[str, str, TaskSpec]) -> Around:
    """Tasks by job and node on the books, all of which may be moved."""
    there: dict[str, list[Movable]] = {}
    for place, (job, node_id, spec) in enumerate(tasks):
        table.name_job(f"id-of-{job}", f"shop/{job}")
        table.add_task(node_id, spec, f"id-of-{job}")
        whole = job_spec(f"shop/{job}", task=spec)
        one = Request(job_id=f"id-of-{job}", task_ids=(f"{job}-{place}",), spec=whole)
        there.setdefault(node_id, []).append(Movable(request=one, node_id=node_id))
    return Around(
        occupants=lambda node_id: [
            Occupant(task_id=one.task_id, job_id=one.request.job_id, spec=one.request.spec.task)
            for one in there.get(node_id, [])
        ],
        movables=lambda node_id: there.get(node_id, []),
        name=lambda task_id: f"shop/{task_id}",
    )


def test_a_shortage_names_who_holds_most_of_it() -> None:
    table = table_of(node("n1", cpu=4))
    around = occupied(
        table,
        ("db", "id-n1", task_spec(cpu=2)),
        *(("web", "id-n1", task_spec(cpu=0.5)) for _ in range(2)),
        ("idle", "id-n1", task_spec()),
    )
    (reason,) = explain_unplaced(table, request(task_spec(cpu=2)), around=around).reasons
    assert reason.text == (
        "needs 2 cores, 1 free on node n1 (1 of 1 node); "
        "on n1 shop/db holds 2 cores (1 task), shop/web holds 1 core (2 tasks)"
    )
    assert reason.held_by == (
        Holder(job="shop/db", tasks=1, amount="2000"),
        Holder(job="shop/web", tasks=2, amount="1000"),
    )
    (mine,) = explain_unplaced(table, request(task_spec(cpu=2)), per_node=True, around=around).reasons
    assert mine.held_by == reason.held_by


def test_the_holder_of_a_port_is_named_once() -> None:
    table = table_of(node("n1"))
    around = occupied(table, ("db", "id-n1", task_spec(host_ports=[80])))
    (reason,) = explain_unplaced(table, request(task_spec(host_ports=[80])), around=around).reasons
    assert reason.text == "needs port 80/tcp of its node: shop/db holds it on node n1 (1 of 1 node)"
    assert reason.held_by == (Holder(job="shop/db"),)


def test_moving_the_smallest_task_that_is_enough_is_offered_as_a_command() -> None:
    table = table_of(node("n1", cpu=4), node("n2", cpu=4))
    around = occupied(
        table,
        ("large", "id-n1", task_spec(cpu=2)),
        ("small", "id-n1", task_spec(cpu=1)),
        ("other", "id-n2", task_spec(cpu=3)),
    )
    found = explain_unplaced(table, request(task_spec(cpu=2)), around=around).fixes[0]
    assert found == Fix(
        text="move 1 task: shop/small-1 from node n1 to node n2", command="podium move shop/small-1 --to n2"
    )


def test_moves_for_several_tasks_go_to_several_nodes() -> None:
    table = table_of(*(node(f"n{number}", cpu=4) for number in range(1, 5)))
    around = occupied(
        table,
        *((f"a{number}", f"id-n{number}", task_spec(cpu=1)) for number in (1, 2)),
        *((f"b{number}", f"id-n{number}", task_spec(cpu=3)) for number in (3, 4)),
    )
    found = explain_unplaced(table, request(task_spec(cpu=4), 2), around=around).fixes[0]
    assert found.text.startswith("move 2 tasks: shop/a")
    assert found.command.count("podium move") == found.command.count(" && ") + 1 == 2


def test_nothing_is_moved_where_that_would_not_be_enough_or_has_no_room() -> None:
    table = table_of(node("n1", cpu=4), node("n2", cpu=2))
    around = occupied(table, ("db", "id-n1", task_spec(cpu=3)), ("web", "id-n2", task_spec(cpu=1)))
    offered = explain_unplaced(table, request(task_spec(cpu=3)), around=around).fixes
    assert not [fix for fix in offered if fix.command.startswith("podium move")]


def test_a_node_to_add_comes_with_the_command_that_starts_its_agent() -> None:
    table = table_of(node("n1", cpu=1, memory_bytes=GIB))
    wanted = request(task_spec(cpu=2, memory_bytes=3 * GIB, constraints=["node.labels.zone == eu"]))
    commands = [fix.command for fix in explain_unplaced(table, wanted).fixes if fix.text.startswith("add a node")]
    assert commands == ["podium agent --controller HOST:PORT --cpus 2 --memory 3072M --labels zone=eu"]
    odd = request(task_spec(cpu=2, constraints=["node.attributes.kernel >= 6.1"]))
    assert [fix.command for fix in explain_unplaced(table, odd).fixes if fix.text.startswith("add a node")] == [""]


def test_a_placed_task_says_why_it_is_not_on_the_other_nodes_that_fit() -> None:
    table = table_of(node("n1"), node("n2"), node("n3"), node("n4"), node("n5", cpu=0.5))
    mine = task_spec(cpu=1)
    for node_id in ("id-n1", "id-n2"):
        table.add_task(node_id, mine, "job-web")
    table.add_task("id-n3", task_spec(cpu=2), "job-other")
    texts = [reason.text for reason in explain_placed(table, request(mine), "id-n1").reasons]
    assert "1 other node that fits is worse by other tasks of this job: 1 on node n2, 0 on node n1" in texts
    assert "1 other node that fits is worse by reserved with this task: 75% on node n3, 25% on node n1" in texts
    assert "1 other node that fits would be just as good" in texts
    assert "needs 1 core, 0.5 free on node n5 (1 of 4 nodes)" in texts
