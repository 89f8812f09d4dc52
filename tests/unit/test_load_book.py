"""What nodes' reports mean for a job: averages, counts that begin anew, shared proxies, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from common.model.node import Node, NodeCondition, NodeStatus
from common.model.session import ServiceTraffic, TaskUsage, UsageReport
from common.model.task import Task, TaskState
from controller.core.load import Traffic
from controller.core.load_book import LoadBook
from controller.state import State
from tests.builders import condition, job, job_spec, node, task

N1, N2 = node("n1", address="10.0.0.1"), node("n2", address="10.0.0.2")
WEB, VERSION = job(job_spec(replicas=2))
NOW_S = 1_000.0


def book() -> LoadBook:
    return LoadBook(window_s=15.0, fresh_s=10.0)


def report(*, cpu: int = 0, connections: int = 0, still_open: int = 0, interval_s: float = 5.0) -> UsageReport:
    return UsageReport(
        interval_s=interval_s,
        tasks=(TaskUsage(task_id="web-1", cpu_millis=cpu, memory_bytes=7),),
        traffic=(ServiceTraffic(job="shop/web", connections=connections, open=still_open),),
    )


def cpu_of(kept: LoadBook, at_s: float, **changes: object) -> Mapping[int, float]:
    running = replace(task(WEB, 1, node_id=N1.id), **changes)
    state = State.of([WEB, VERSION, N1, running])
    loads = kept.tasks(state, WEB, {N1.id: condition(N1)}, NOW_S, at_s)
    return {slot: load.cpu_millis for slot, load in loads.items()}


def traffic_of(kept: LoadBook, at_s: float, *nodes: Node, down: tuple[Node, ...] = ()) -> Traffic:
    conditions: dict[str, NodeCondition] = {one.id: condition(one) for one in nodes}
    conditions |= {one.id: condition(one, NodeStatus.DOWN) for one in down}
    return kept.traffic((*nodes, *down), conditions, at_s).of(WEB)


def test_cpu_is_the_average_of_the_window() -> None:
    kept = book()
    for at_s, cpu, interval_s in ((0, 9_000, 5.0), (10, 100, 5.0), (15, 400, 10.0), (20, 100, 5.0)):
        kept.take(N1.id, report(cpu=cpu, interval_s=interval_s), at_s)
    assert cpu_of(kept, 20.0) == {1: 250.0}


def test_a_first_reading_an_old_one_and_a_sick_task_are_not_known() -> None:
    kept = book()
    kept.take(N1.id, report(cpu=0, interval_s=0.0), 0.0)
    assert cpu_of(kept, 0.0) == {}
    kept.take(N1.id, report(cpu=300), 5.0)
    assert cpu_of(kept, 5.0) == {1: 300.0}
    assert cpu_of(kept, 15.1) == {}
    assert cpu_of(kept, 5.0, status=replace(task(WEB, node_id=N1.id).status, state=TaskState.RESTARTING)) == {}


def test_requests_are_counted_over_all_nodes_and_beginnings_anew() -> None:
    kept = book()
    for at_s, one, other in ((0, 100, 0), (5, 150, 10), (10, 20, 20)):  # the first proxy was started again
        kept.take(N1.id, report(connections=one, still_open=2), at_s)
        kept.take(N2.id, report(connections=other, still_open=1), at_s)
    assert traffic_of(kept, 10.0, N1, N2) == Traffic(per_second=(70 + 20) / 10, open=3)


def test_agents_that_share_a_proxy_count_once() -> None:
    kept = book()
    twin = node("n3", address="10.0.0.1")
    for at_s, total in ((0, 0), (5, 50)):
        for one in (N1, twin):
            kept.take(one.id, report(connections=total, still_open=4), at_s)
    assert traffic_of(kept, 5.0, N1, twin) == Traffic(per_second=10.0, open=4)


def test_a_node_that_has_not_told_twice_lately_is_missing_and_one_that_is_down_is_not() -> None:
    kept = book()
    for at_s in (0, 5):
        kept.take(N1.id, report(), at_s)
    kept.take(N2.id, report(), 5.0)
    assert traffic_of(kept, 5.0, N1, N2).missing == "node n2 has not told what its proxy carries"
    assert not traffic_of(kept, 5.0, N1, N2).none
    assert traffic_of(kept, 5.0, N1, down=(N2,)).none
    assert traffic_of(kept, 16.0, N1, N2).missing == "node n1 and 1 more has not told what its proxy carries"


def test_it_keeps_no_more_than_the_window_and_forgets_nodes() -> None:
    kept = book()
    for at_s in range(0, 500, 5):
        kept.take(N1.id, report(connections=max(0, at_s - 480) * 20), at_s)
    assert traffic_of(kept, 495.0, N1).per_second == 20, "what was long ago does not thin it out"
    kept.keep_only([])
    assert traffic_of(kept, 495.0, N1).missing


def test_tasks_of_a_job_are_told_by_slot_and_the_newer_of_two_counts() -> None:
    kept = book()
    kept.take(N1.id, report(cpu=300), 5.0)
    older: Task = task(WEB, 1, node_id=N1.id, suffix="-old")
    newer = replace(task(WEB, 1, node_id=N1.id), created_at_s=9.0)
    state = State.of([WEB, VERSION, N1, older, newer])
    assert {
        slot: load.cpu_millis for slot, load in kept.tasks(state, WEB, {N1.id: condition(N1)}, NOW_S, 5.0).items()
    } == {1: 300.0}
