"""Autoscaling under any load: within its bounds, monotone, calm under constant load, careful with what is not known."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from common.model.autoscale import Autoscale, Pace, Query
from controller.core.load import Answer, Sight, TaskLoad, Traffic, recommendations
from tests.scaling import Follower, scaled_spec

FREE = Pace(percent=10_000)

paces = st.builds(
    Pace,
    stabilise_s=st.sampled_from([0.0, 15.0, 60.0, 300.0]),
    replicas=st.integers(0, 5),
    percent=st.sampled_from([0, 10, 50, 100, 1_000]),
    period_s=st.sampled_from([1.0, 15.0, 60.0]),
)


@st.composite
def autoscales(draw: st.DrawFn) -> Autoscale:
    least = draw(st.integers(0, 5))
    return Autoscale(
        least=least,
        most=draw(st.integers(max(1, least), 12)),
        cpu_percent=draw(st.sampled_from([0, 50, 70, 200])),
        memory_percent=draw(st.sampled_from([0, 80])),
        requests_per_second=draw(st.sampled_from([0.0, 10.0])),
        query=draw(st.sampled_from([None, Query(prometheus="q", target=5.0)])),
        up=draw(paces),
        down=draw(paces),
    )


loads = st.builds(TaskLoad, cpu_millis=st.floats(0, 50_000), memory_bytes=st.integers(0, 50_000))
sights = st.builds(
    Sight,
    tasks=st.dictionaries(st.integers(1, 12), loads, max_size=12),
    traffic=st.builds(
        Traffic, per_second=st.floats(0, 500), open=st.integers(0, 3), missing=st.sampled_from(["", "node n1 is mute"])
    ),
    answer=st.one_of(st.just(Answer(problem="gone")), st.builds(Answer, value=st.floats(-10, 1e12))),
)


def follow(web: Follower, sight: Sight, after_s: float = 15.0) -> int:
    return web.look(sight.tasks, traffic=sight.traffic, answer=sight.answer, after_s=after_s)


@settings(max_examples=60, deadline=None)
@given(autoscales(), st.integers(0, 12), st.lists(st.tuples(sights, st.floats(0.5, 400), st.booleans()), max_size=12))
def test_it_stays_within_its_bounds_whatever_happens(
    autoscale: Autoscale, replicas: int, course: list[tuple[Sight, float, bool]]
) -> None:
    web = Follower(autoscale, replicas=max(autoscale.least, min(replicas, autoscale.most)))
    for sight, after_s, changes_leader in course:
        if changes_leader:
            web.another_leader()
        assert autoscale.least <= follow(web, sight, after_s) <= autoscale.most


@settings(max_examples=60, deadline=None)
@given(autoscales(), st.integers(1, 12), sights)
def test_looking_again_at_the_same_load_comes_to_rest(autoscale: Autoscale, replicas: int, sight: Sight) -> None:
    """A constant load on the whole job (not on each task): the number is reached, and then kept."""
    autoscale = replace(autoscale, memory_percent=0)  # more replicas do not share memory
    web = Follower(autoscale, replicas=max(autoscale.least, min(replicas, autoscale.most), 1))
    whole = sum(load.cpu_millis for load in sight.tasks.values())
    numbers = []
    for _ in range(50):
        shared = {
            slot: TaskLoad(cpu_millis=whole / web.job.replicas, memory_bytes=0)
            for slot in range(1, web.job.replicas + 1)
        }
        numbers.append(follow(web, replace(sight, tasks=shared), 61.0))
    directions = {after > before for before, after in pairwise(numbers) if after != before}
    assert len(directions) <= 1, numbers
    assert len(set(numbers[-10:])) == 1, numbers


@settings(max_examples=60, deadline=None)
@given(autoscales(), st.integers(1, 12), sights, st.floats(1, 10))
def test_more_load_never_asks_for_fewer(autoscale: Autoscale, replicas: int, sight: Sight, times: float) -> None:
    task = scaled_spec(autoscale).task
    more = replace(
        sight,
        tasks={
            slot: TaskLoad(cpu_millis=load.cpu_millis * times, memory_bytes=int(load.memory_bytes * times))
            for slot, load in sight.tasks.items()
        },
        traffic=replace(sight.traffic, per_second=sight.traffic.per_second * times),
        answer=sight.answer if sight.answer.value is None else Answer(value=abs(sight.answer.value) * times),
    )
    less, greater = (recommendations(autoscale, task, replicas, seen) for seen in (sight, more))
    for one, other in zip(less, greater, strict=True):
        assert one.replicas is None or other.replicas is None or one.replicas <= other.replicas


@settings(max_examples=60, deadline=None)
@given(autoscales(), st.integers(1, 12))
def test_what_is_not_known_makes_nothing_smaller(autoscale: Autoscale, replicas: int) -> None:
    web = Follower(replace(autoscale, down=FREE), replicas=max(autoscale.least, min(replicas, autoscale.most), 1))
    before = web.job.replicas
    blind = Sight(traffic=Traffic(missing="nobody tells"), answer=Answer(problem="gone"))
    assert follow(web, blind) == before


@settings(max_examples=60, deadline=None)
@given(autoscales(), st.lists(st.tuples(sights, st.booleans()), min_size=1, max_size=30))
def test_nothing_shrinks_within_the_window_of_a_rise(autoscale: Autoscale, course: list[tuple[Sight, bool]]) -> None:
    """Also across leaders, who know nothing of each other's wishes: the number that they find counts as one."""
    web = Follower(autoscale, replicas=max(autoscale.least, 1))
    risen_at_s = -1e9
    for sight, changes_leader in course:
        if changes_leader:
            web.another_leader()
        before = web.job.replicas
        after = follow(web, sight)
        assert after >= before or web.now_s - risen_at_s >= autoscale.down.stabilise_s
        if after > before:
            risen_at_s = web.now_s
