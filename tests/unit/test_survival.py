"""Whether a node's tasks would have room elsewhere: the short answer is the scheduler's own, and needs no copy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.scheduler.node_table import NodeTable, build_table
from controller.scheduler.schedule import schedule
from controller.scheduler.survival import Survival
from controller.scheduler.values import Request
from tests.builders import condition, job_spec, node, task_spec


def table_of(free_cores: list[int]) -> NodeTable:
    """Nodes n0, n1, ... with so many cores free."""
    nodes = [node(f"n{place}", cpu=cores) for place, cores in enumerate(free_cores)]
    return build_table([(each, condition(each)) for each in nodes])


def request(name: str, tasks: int, cores: int) -> Request:
    spec = job_spec(f"shop/{name}", task=task_spec(cpu=cores))
    return Request(job_id=f"job-{name}", task_ids=tuple(f"{name}-{place}" for place in range(tasks)), spec=spec)


@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=6),
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=3),
)
def test_it_says_what_the_scheduler_would(free: list[int], asked: list[tuple[int, int]]) -> None:
    requests = [request(f"j{place}", tasks, cores) for place, (tasks, cores) in enumerate(asked)]
    table = table_of(free)
    without = table.copy()
    without.remove_node("id-n0")
    expected = not schedule(without, requests).unplaced
    assert Survival(table).of("id-n0", requests) is expected


def test_where_there_is_plenty_nothing_is_copied() -> None:
    class Uncopied(NodeTable):
        def copy(self) -> NodeTable:
            raise AssertionError("a look at the nodes says it")

    table = Uncopied()
    for place in range(4):
        each = node(f"n{place}", cpu=2)
        table.set_node(each, condition(each))
    survival = Survival(table)
    assert survival.of("id-n0", [request("a", 2, 1), request("b", 1, 2)])
    assert survival.of("id-n1", [])


def test_the_lost_node_itself_does_not_count() -> None:
    assert not Survival(table_of([4, 1])).of("id-n0", [request("a", 1, 2)])
