"""Where tasks go, case by case."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import msgspec
import pytest

from common.model.job import Container, Port, Protocol, PublishMode, Strategy, TaskSpec
from common.model.node import Availability, Node, NodeStatus, RuntimeStatus
from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.values import Request, SchedulePlan
from tests.builders import GIB, MIB, condition, job_spec, node, task_spec


def table_of(*nodes: Node) -> NodeTable:
    return build_table((each, condition(each)) for each in nodes)


def request(
    task: TaskSpec | None = None,
    tasks: int = 1,
    *,
    job: str = "web",
    avoid: Sequence[str] = (),
) -> Request:
    return Request(
        job_id=f"job-{job}",
        task_ids=tuple(f"{job}-{number}" for number in range(1, tasks + 1)),
        spec=job_spec(f"shop/{job}", task=task),
        avoid=tuple(avoid),
    )


def placed(table: NodeTable, *requests: Request, seed: int = 0) -> SchedulePlan:
    return schedule(table, requests, random.Random(seed))


def counts(plan: SchedulePlan) -> dict[str, int]:
    """Tasks placed by node name."""
    return dict(sorted(Counter(placement.node_id.removeprefix("id-") for placement in plan.placements).items()))


def reasons(plan: SchedulePlan) -> list[str]:
    return [reason.text for unplaced in plan.unplaced for reason in unplaced.verdict.reasons]


def test_replicas_go_one_to_each_node() -> None:
    plan = placed(table_of(node("n1"), node("n2"), node("n3")), request(tasks=3))
    assert counts(plan) == {"n1": 1, "n2": 1, "n3": 1}
    assert [placement.task_id for placement in plan.placements] == ["web-1", "web-2", "web-3"]


def test_every_beginning_of_a_batch_is_even_so_that_scaling_down_stays_even() -> None:
    plan = placed(table_of(node("n1"), node("n2"), node("n3")), request(tasks=9))
    for beginning in (3, 6, 9):
        assert set(counts(SchedulePlan(placements=plan.placements[:beginning])).values()) == {beginning // 3}


def test_nodes_with_fewer_tasks_of_the_job_are_filled_first() -> None:
    table = table_of(node("n1"), node("n2"), node("n3"))
    for _ in range(3):
        table.add_task("id-n1", task_spec(), "job-web")
    table.add_task("id-n2", task_spec(), "job-web")
    assert counts(placed(table, request(tasks=3))) == {"n2": 1, "n3": 2}


def test_tasks_of_another_job_do_not_count_as_the_same_job() -> None:
    table = table_of(node("n1", cpu=100), node("n2", cpu=1))
    for _ in range(3):
        table.add_task("id-n1", task_spec(), "job-other")
    assert counts(placed(table, request(tasks=2))) == {"n1": 1, "n2": 1}


def test_spread_takes_the_node_with_the_least_reserved_once_the_task_is_there() -> None:
    table = table_of(node("small", cpu=2), node("large", cpu=16))
    assert counts(placed(table, request(task_spec(cpu=1)))) == {"large": 1}


def test_binpack_takes_the_node_with_the_most_reserved() -> None:
    table = table_of(node("n1"), node("n2"), node("n3"))
    table.add_task("id-n2", task_spec(cpu=2), "job-other")
    plan = placed(table, request(task_spec(cpu=1, strategy=Strategy.BINPACK)))
    assert counts(plan) == {"n2": 1}
    tasks = [request(task_spec(cpu=0.25, strategy=Strategy.BINPACK), job=f"j{number}") for number in range(4)]
    assert counts(placed(table, *tasks)) == {"n2": 4}


def test_the_strategy_of_the_cluster_is_that_of_jobs_which_say_nothing() -> None:
    table = table_of(node("n1"), node("n2"))
    table.add_task("id-n2", task_spec(cpu=2), "job-other")
    table.strategy = Strategy.BINPACK
    assert counts(placed(table.copy(), request(task_spec(cpu=1)))) == {"n2": 1}
    assert counts(placed(table, request(task_spec(cpu=1, strategy=Strategy.SPREAD)))) == {"n1": 1}


def test_a_port_of_a_node_is_there_once_for_each_protocol() -> None:
    table = table_of(node("n1"), node("n2"), node("n3"))
    one = placed(table, request(task_spec(host_ports=[80]), tasks=4))
    assert counts(one) == {"n1": 1, "n2": 1, "n3": 1}
    assert reasons(one) == ["needs port 80/tcp of its node: shop/web holds it on nodes n1, n2 and n3 (3 of 3 nodes)"]
    udp = TaskSpec(
        container=Container(image="app:1"),
        ports=(Port(container_port=80, published_port=80, protocol=Protocol.UDP, mode=PublishMode.HOST),),
    )
    assert len(placed(table, request(udp, job="dns")).placements) == 1
    ingress = TaskSpec(container=Container(image="app:1"), ports=(Port(container_port=80, published_port=80),))
    assert len(placed(table, request(ingress, 5, job="all")).placements) == 5


def test_a_port_is_free_again_when_its_task_is_gone() -> None:
    table = table_of(node("n1"))
    holder = task_spec(host_ports=[80, 81])
    table.add_task("id-n1", holder, "job-other")
    untouched = table.copy()
    assert counts(placed(table, request(task_spec(host_ports=[81])))) == {}
    table.remove_task("id-n1", holder, "job-other")
    assert counts(placed(table, request(task_spec(host_ports=[81])))) == {"n1": 1}
    assert counts(placed(untouched, request(task_spec(host_ports=[81])))) == {}


def test_tasks_without_reservations_still_spread_over_the_nodes() -> None:
    jobs = [request(job=f"j{number}") for number in range(6)]
    assert counts(placed(table_of(node("n1"), node("n2"), node("n3")), *jobs)) == {"n1": 2, "n2": 2, "n3": 2}


def test_full_nodes_take_what_they_can_and_the_rest_goes_on() -> None:
    table = table_of(node("n1", cpu=1), node("n2", cpu=10))
    assert counts(placed(table, request(task_spec(cpu=1), tasks=6))) == {"n1": 1, "n2": 5}


def test_what_fits_nowhere_is_left_with_numbers() -> None:
    table = table_of(node("n1", cpu=2), node("n2", cpu=2), node("n3", cpu=2))
    plan = placed(table, request(task_spec(cpu=1.5), tasks=5))
    assert counts(plan) == {"n1": 1, "n2": 1, "n3": 1}
    (unplaced,) = plan.unplaced
    assert unplaced.task_ids == ("web-4", "web-5")
    assert (
        unplaced.verdict.verdict
        == "2 tasks of shop/web fit on no node: needs 1.5 cores, 0.5 free on node n1 (3 of 3 nodes)"
    )


def test_memory_is_a_limit_of_its_own() -> None:
    table = table_of(node("n1", memory_bytes=GIB))
    plan = placed(table, request(task_spec(memory_bytes=600 * MIB), tasks=2))
    assert counts(plan) == {"n1": 1}
    assert reasons(plan) == ["needs 600 MiB of memory, 424 MiB free on node n1 (1 of 1 node)"]


def test_a_node_that_shrank_takes_nothing_more_but_tasks_that_reserve_nothing() -> None:
    table = table_of(node("n1", cpu=4))
    table.add_task("id-n1", task_spec(cpu=3), "job-a")
    table.set_node(node("n1", cpu=2), condition(node("n1")))
    assert counts(placed(table, request(task_spec(cpu=0.1)))) == {}
    assert counts(placed(table, request(task_spec(memory_bytes=MIB)))) == {"n1": 1}


@pytest.mark.parametrize("status", [status for status in NodeStatus if status is not NodeStatus.READY])
def test_only_ready_nodes_get_tasks(status: NodeStatus) -> None:
    table = table_of(node("n1"), node("n2"))
    table.set_node(node("n1"), condition(node("n1"), status))
    assert counts(placed(table, request(tasks=4))) == {"n2": 4}


@pytest.mark.parametrize("availability", [Availability.CORDONED, Availability.DRAINING])
def test_only_active_nodes_get_tasks(availability: Availability) -> None:
    table = table_of(node("n1", availability=availability), node("n2"))
    assert counts(placed(table, request(tasks=4))) == {"n2": 4}


@pytest.mark.parametrize(
    ("image", "takes"),
    [("app:1", {"docker": 1, "fake": 1}), ("", {"fake": 1, "process": 1})],
)
def test_an_image_needs_docker_and_a_plain_command_the_process_runtime(image: str, takes: dict[str, int]) -> None:
    table = table_of(*(node(name, runtimes=[name]) for name in ("docker", "process", "fake")))
    plan = placed(table, request(task_spec(image=image, max_per_node=1), tasks=3))
    assert counts(plan) == takes


def test_a_runtime_that_does_not_answer_now_is_no_runtime() -> None:
    away = RuntimeStatus(name="docker", ready=False, message="no socket")
    table = build_table([(node("n1"), condition(node("n1"), runtimes=[away]))])
    plan = placed(table, request())
    assert counts(plan) == {}
    assert reasons(plan) == [
        "needs the docker runtime: node n1 has docker, which does not answer: no socket (1 of 1 node)"
    ]


@pytest.mark.parametrize(
    ("text", "takes"),
    [
        ("node.labels.zone == eu", ["eu"]),
        ("node.labels.zone != eu", ["bare", "us"]),
        ("node.labels.zone == EU", []),
        ("node.labels.Zone == eu", []),
        ("node.labels.zone != nowhere", ["bare", "eu", "us"]),
        ("node.id == id-us", ["us"]),
        ("node.name == us", ["us"]),
        ("node.hostname != us", ["bare", "eu"]),
        ("node.platform.os == Linux", ["bare", "eu", "us"]),
        ("node.platform.arch == x86_64", ["eu", "us"]),
        ("node.platform.arch == arm64", ["bare"]),
        ("node.attributes.kernel == 6.1", ["bare"]),
        ("node.attributes.gpu != yes", ["bare", "eu", "us"]),
        ("node.labels.zone in (eu, asia)", ["eu"]),
        ("node.labels.zone not in (eu, asia)", ["bare", "us"]),
        ("node.platform.arch in (x86_64, 386)", ["eu", "us"]),
        ("node.labels.size > 9", ["us"]),
        ("node.labels.size <= 9", ["eu"]),
        ("node.attributes.kernel < 6.2", ["bare"]),
        ("node.attributes.kernel >= v6.1.0", ["bare"]),
    ],
)
def test_constraints_mean_what_swarm_users_know(text: str, takes: list[str]) -> None:
    table = table_of(
        node("eu", labels={"zone": "eu", "size": "9"}),
        node("us", labels={"zone": "us", "size": "10"}),
        node("bare", labels={"size": "large"}, attributes={"arch": "aarch64", "kernel": "6.1"}),
    )
    plan = placed(table, request(task_spec(constraints=[text], max_per_node=1), tasks=3))
    assert sorted(counts(plan)) == takes


def test_values_that_come_up_later_are_judged_too() -> None:
    table = table_of(node("n1", labels={"size": "9"}))
    large = request(task_spec(constraints=["node.labels.size >= 10"]))
    assert counts(placed(table, large)) == {}
    for name, size in (("n2", "12"), ("n3", "2")):
        table.set_node(node(name, labels={"size": size}), condition(node(name)))
    assert counts(placed(table, large)) == {"n2": 1}


def test_all_constraints_must_hold() -> None:
    table = table_of(node("n1", labels={"a": "1"}), node("n2", labels={"a": "1", "b": "2"}))
    both = task_spec(constraints=["node.labels.a == 1", "node.labels.b == 2"])
    assert counts(placed(table, request(both, tasks=2))) == {"n2": 2}


def test_a_changed_label_counts_from_then_on() -> None:
    table = table_of(node("n1", labels={"zone": "eu"}), node("n2"))
    there = request(task_spec(constraints=["node.labels.zone == eu"]))
    assert counts(placed(table, there)) == {"n1": 1}
    table.set_node(node("n1"), condition(node("n1")))
    table.set_node(node("n2", labels={"zone": "eu"}), condition(node("n2")))
    assert counts(placed(table, there)) == {"n2": 1}


def test_no_more_than_max_replicas_per_node() -> None:
    table = table_of(node("n1"), node("n2"))
    table.add_task("id-n1", task_spec(), "job-web")
    plan = placed(table, request(task_spec(max_per_node=2), tasks=5))
    assert counts(plan) == {"n1": 1, "n2": 2}
    assert reasons(plan) == [
        "needs fewer than 2 tasks of this job on the node (max_replicas_per_node): nodes n1 and n2 run 2 (2 of 2 nodes)"
    ]


def test_a_spread_preference_balances_its_groups_before_single_nodes() -> None:
    racks = [node("a1", labels={"rack": "a"}), *(node(f"b{n}", labels={"rack": "b"}) for n in (1, 2, 3))]
    plan = placed(table_of(*racks), request(task_spec(spread=["node.labels.rack"]), tasks=6))
    assert counts(plan) == {"a1": 3, "b1": 1, "b2": 1, "b3": 1}


def test_nodes_without_the_label_are_a_group_of_their_own() -> None:
    table = table_of(node("a1", labels={"rack": "a"}), node("x1"), node("x2"))
    plan = placed(table, request(task_spec(spread=["node.labels.rack"]), tasks=4))
    assert counts(plan) == {"a1": 2, "x1": 1, "x2": 1}


def test_a_later_preference_balances_within_the_groups_of_the_first() -> None:
    table = table_of(
        node("a1", labels={"zone": "a", "rack": "1"}),
        node("a2", labels={"zone": "a", "rack": "2"}),
        node("a3", labels={"zone": "a", "rack": "2"}),
        node("b1", labels={"zone": "b", "rack": "1"}),
    )
    plan = placed(table, request(task_spec(spread=["node.labels.zone", "node.labels.rack"]), tasks=8))
    assert counts(plan) == {"a1": 2, "a2": 1, "a3": 1, "b1": 4}


@pytest.mark.parametrize("seed", range(8))
def test_a_single_task_obeys_every_preference_in_turn(seed: int) -> None:
    table = table_of(
        node("a1", labels={"zone": "a", "rack": "1"}),
        node("a2", labels={"zone": "a", "rack": "1"}),
        node("a3", labels={"zone": "a", "rack": "2"}),
        node("b1", labels={"zone": "b", "rack": "2"}),
    )
    for node_id in ("id-a1", *["id-b1"] * 3):
        table.add_task(node_id, task_spec(), "job-web")
    # Zone a has fewer tasks, there rack 2 has fewer: that zone b has a rack 2 as well, with three, does not matter.
    plan = placed(table, request(task_spec(spread=["node.labels.zone", "node.labels.rack"])), seed=seed)
    assert counts(plan) == {"a3": 1}


def test_a_single_task_goes_to_the_node_with_fewest_of_its_job_even_if_that_is_fuller() -> None:
    table = table_of(node("n1", cpu=2), node("n2", cpu=64))
    table.add_task("id-n2", task_spec(cpu=1), "job-web")
    assert counts(placed(table, request(task_spec(cpu=1)))) == {"n1": 1}


@pytest.mark.parametrize("seed", range(8))
def test_the_odd_task_of_a_batch_goes_to_the_group_with_the_emptier_node(seed: int) -> None:
    table = table_of(
        node("a1", labels={"zone": "a"}), node("a2", labels={"zone": "a"}), node("b1", labels={"zone": "b"})
    )
    for node_id in ("id-a1", "id-b1"):
        table.add_task(node_id, task_spec(), "job-web")
    table.add_task("id-a2", task_spec(cpu=2), "job-other")
    plan = placed(table, request(task_spec(spread=["node.labels.zone"]), tasks=3), seed=seed)
    assert counts(plan)["b1"] == 1


def test_a_full_group_does_not_hold_up_the_others() -> None:
    table = table_of(node("a1", cpu=1, labels={"rack": "a"}), node("b1", cpu=9, labels={"rack": "b"}))
    assert counts(placed(table, request(task_spec(cpu=1, spread=["node.labels.rack"]), tasks=6))) == {"a1": 1, "b1": 5}


def test_tasks_that_are_leaving_do_not_count_for_their_group() -> None:
    leaving = node("a1", labels={"rack": "a"}, availability=Availability.DRAINING)
    table = table_of(leaving, node("a2", labels={"rack": "a"}), node("b1", labels={"rack": "b"}))
    for node_id in ("id-a1", "id-a1", "id-b1"):
        table.add_task(node_id, task_spec(), "job-web")
    plan = placed(table, request(task_spec(spread=["node.labels.rack"]), tasks=1))
    assert counts(plan) == {"a2": 1}


def test_nodes_where_the_slot_failed_come_last() -> None:
    table = table_of(node("n1", cpu=1), node("n2", cpu=100), node("n3", cpu=1))
    wanted = request(task_spec(cpu=1), tasks=2, avoid=["id-n2", "id-unheard-of"])
    assert counts(placed(table.copy(), wanted)) == {"n1": 1, "n3": 1}
    assert counts(placed(table, msgspec.structs.replace(wanted, task_ids=("a", "b", "c", "d")))) == {
        "n1": 1,
        "n2": 2,
        "n3": 1,
    }


def test_later_requests_see_what_earlier_ones_took() -> None:
    table = table_of(node("n1", cpu=1))
    plan = placed(table, request(task_spec(cpu=1), job="a"), request(task_spec(cpu=1), job="b"))
    assert [placement.task_id for placement in plan.placements] == ["a-1"]
    assert [unplaced.task_ids for unplaced in plan.unplaced] == [("b-1",)]
    assert table.load_of("id-n1").reserved.cpu_millis == 1000


def test_ties_are_broken_by_the_seed_and_not_by_the_order_of_rows() -> None:
    nodes = [node(f"n{number}") for number in range(20)]
    plans = {tuple(placed(table_of(*order), request(tasks=3), seed=7).placements) for order in (nodes, nodes[::-1])}
    assert len(plans) == 1
    first = {placed(table_of(*nodes), request(), seed=seed).placements[0].node_id for seed in range(50)}
    assert len(first) > 10


def test_an_empty_cluster_says_so() -> None:
    plan = placed(NodeTable(), request())
    assert reasons(plan) == ["the cluster has no nodes: start `podium agent` on a machine"]


def test_nothing_asked_is_nothing_planned() -> None:
    assert placed(table_of(node("n1")), request(tasks=0)) == SchedulePlan()
