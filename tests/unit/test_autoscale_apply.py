"""What writes of engineers do to jobs that follow their load, and what people are told of them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from common.errors import Conflict, Invalid
from common.model.api import ApplyRequest, JobsRequest, ScaleRequest, ScaleTarget
from common.model.autoscale import Autoscale, Query, ScheduledReplicas
from common.model.job import DesiredState, Job, JobSpec
from common.validation import faults
from controller.api.requests import check_queries
from controller.api.why import Known, why_job
from controller.core.apply import restart, scale, stop
from controller.core.autoscale import kept_notes, with_replicas
from controller.core.endpoints import services_of
from controller.core.events import events_of
from controller.core.views import job_view
from controller.core.waking import ColdStart, awake, woken
from controller.scheduler.node_table import NodeTable
from controller.state import Applied, Write
from tests.scaling import scaled_spec
from tests.world import World

BY_CPU = Autoscale(least=2, most=10, cpu_percent=70)
ASLEEP = Autoscale(least=0, most=3)


def grown(spec: JobSpec, replicas: int) -> World:
    """A world whose job has come to so many."""
    world = World(spec)
    world.apply(Write(with_replicas(world.job(), replicas, "cpu is 140 %", world.now_s)))
    return world


def test_a_job_begins_with_its_file_s_number_within_the_ends() -> None:
    assert World(scaled_spec(BY_CPU, replicas=4)).job().replicas == 4
    assert World(scaled_spec(BY_CPU, replicas=1)).job().replicas == 2
    assert World(scaled_spec(BY_CPU, replicas=50)).job().replicas == 10


def test_the_same_file_again_leaves_the_number_alone_and_says_so() -> None:
    spec = scaled_spec(BY_CPU, replicas=2)
    world = grown(spec, 7)
    before = world.job()
    world.up(spec)
    assert world.job() is before
    (note,) = kept_notes(world.state, (spec,))
    assert note == (
        "shop/web has 7 replicas by its autoscaling, between 2 and 10 by cpu 70 %; deploy.replicas, 2, is only what it "
        "began with"
    )


def test_another_version_keeps_the_number_and_other_ends_make_no_version() -> None:
    spec = scaled_spec(BY_CPU, replicas=2)
    world = grown(spec, 7)
    world.up(replace(spec, labels={"a": "b"}))
    assert (world.job().version, world.job().replicas) == (2, 7)
    world.up(replace(spec, labels={"a": "b"}, autoscale=replace(BY_CPU, most=5)))
    assert (world.job().version, world.job().replicas) == (2, 5)
    assert world.job().autoscale == replace(BY_CPU, most=5)


def test_without_autoscaling_the_file_s_number_counts_again() -> None:
    spec = scaled_spec(BY_CPU, replicas=2)
    world = grown(spec, 7)
    world.up(replace(spec, autoscale=None))
    job = world.job()
    assert (job.version, job.replicas, job.autoscale, job.scaling.steps) == (1, 2, None, ())


def test_a_restart_keeps_number_and_autoscaling() -> None:
    world = grown(scaled_spec(BY_CPU, replicas=2), 7)
    world.write(restart(world.state, JobsRequest(namespace="shop", jobs=("web",)), world.now_s))
    job = world.job()
    assert (job.version, job.replicas, job.autoscale) == (2, 7, BY_CPU)


def test_one_that_sleeps_sleeps_on_under_a_new_version() -> None:
    spec = scaled_spec(ASLEEP)
    world = grown(spec, 0)
    world.up(replace(spec, labels={"a": "b"}))
    assert (world.job().version, world.job().replicas) == (2, 0)


def test_one_that_was_stopped_begins_again_with_its_file_s_number() -> None:
    spec = scaled_spec(ASLEEP)
    world = grown(spec, 0)
    world.write(stop(world.state, JobsRequest(namespace="shop", jobs=("web",))))
    world.up(spec)
    assert (world.job().desired, world.job().replicas) == (DesiredState.RUN, 1)


def scaling(world: World, replicas: int) -> str:
    request = ScaleRequest(namespace="shop", targets=(ScaleTarget(job="web", replicas=replicas),))
    applying = scale(world.state, request, world.now_s)
    world.write(applying)
    return applying.changes[0].text


def test_a_number_by_hand_stands_within_the_ends_and_is_refused_beyond_them() -> None:
    world = World(scaled_spec(BY_CPU, replicas=2))
    assert scaling(world, 5) == "from 2 to 5; it is scaled between 2 and 10 by cpu 70 % from there"
    assert world.job().replicas == 5
    with pytest.raises(Conflict, match="between 2 and 10 by cpu 70 %: 11 would not last"):
        scaling(world, 11)
    with pytest.raises(Conflict, match="`podium stop` stops the job"):
        scaling(world, 0)


def test_another_schedule_counts_from_now() -> None:
    entry = ScheduledReplicas(at="0 20 * * *", replicas=3)
    spec = scaled_spec(replace(BY_CPU, schedule=(entry,)), replicas=2)
    world = World(spec)
    assert world.job().scaling.schedule_from_s == world.now_s
    world.now_s += 100
    world.up(replace(spec, autoscale=replace(BY_CPU, schedule=(entry,), most=9)))
    assert world.job().scaling.schedule_from_s == world.now_s - 100
    world.up(replace(spec, autoscale=replace(BY_CPU, schedule=(replace(entry, replicas=4),))))
    assert world.job().scaling.schedule_from_s == world.now_s


# --- waking


def test_a_job_that_sleeps_is_woken_with_one_replica_and_no_other_is() -> None:
    spec = scaled_spec(ASLEEP)
    world = grown(spec, 0)
    job = woken(world.job(), spec, "n1", world.now_s)
    assert (job.replicas, job.scaling.woken_at_s) == (1, world.now_s)
    assert woken(job, spec, "n1", world.now_s) is job
    for other in (replace(world.job(), desired=DesiredState.STOP), replace(world.job(), autoscale=None)):
        assert woken(other, spec, "n1", world.now_s) is other
    deaf = replace(world.job(), autoscale=replace(ASLEEP, wake=False, query=Query(prometheus="q", target=1)))
    assert woken(deaf, spec, "n1", world.now_s) is deaf


def test_the_parts_of_a_cold_start_are_told() -> None:
    spec = scaled_spec(ASLEEP)
    world = grown(spec, 0)
    job = woken(world.job(), spec, "n1", world.now_s)
    up = awake(job, ColdStart(begun_s=10.0, placed_s=10.05, started_s=10.35), world.now_s, 10.41)
    assert up.scaling.woke == "woke in 0.41 s: 0.05 placed, 0.30 started, 0.06 healthy"
    assert up.scaling.woken_at_s == 0
    other = awake(job, None, world.now_s + 3, 0.0)
    assert other.scaling.woke == "woke in 3.00 s, under another leader at first"


def test_connections_wait_long_only_for_jobs_that_wake() -> None:
    def wait_s(autoscale: Autoscale | None) -> float:
        world = World(scaled_spec(autoscale) if autoscale else replace(scaled_spec(BY_CPU), autoscale=None))
        return services_of(world.state, world.conditions)[0].wake_wait_s

    assert wait_s(None) == wait_s(BY_CPU) == wait_s(replace(ASLEEP, wake=False)) == 0.0
    assert wait_s(replace(ASLEEP, wake_wait_s=30.0)) == 30.0
    assert wait_s(replace(BY_CPU, schedule=(ScheduledReplicas(at="@daily", replicas=0),))) == 60.0


# --- words


def told(world: World, after: Job) -> str:
    event = events_of(Applied(before=world.job(), after=after), world.state)
    assert event is not None
    return f"{event.kind}: {event.message} ({event.cause})"


def test_events_name_what_moved_the_number() -> None:
    spec = scaled_spec(ASLEEP)
    world = grown(spec, 0)
    by_load = with_replicas(world.job(), 3, "cpu is 140 %", world.now_s)
    assert told(world, by_load) == "job.scaled: from 0 to 3 replicas (cpu is 140 %)"
    assert told(world, replace(world.job(), replicas=2)) == "job.scaled: from 0 to 2 replicas ()"
    called = woken(world.job(), spec, "n1", world.now_s)
    assert told(world, called) == "job.woken: from 0 to 1 replicas (a connection on n1 waits for it)"
    world.apply(Write(called))
    up = awake(called, ColdStart(begun_s=1.0), world.now_s, 2.0)
    assert told(world, up).startswith("job.awake: woke in 1.00 s")


def test_jobs_and_why_say_how_the_number_came_about() -> None:
    world = grown(scaled_spec(BY_CPU, replicas=2), 4)
    view = job_view(world.state, world.job(), world.conditions, world.now_s)
    assert view.autoscale == "between 2 and 10 by cpu 70 %; last from 2 to 4: cpu is 140 %"
    known = Known(
        state=world.state,
        conditions=world.conditions,
        table=NodeTable(),
        now_s=world.now_s,
        scaling=lambda _job_id: ("cpu is 72 %",),
    )
    found = [reason.text for reason in why_job(known, world.job()).reasons if reason.reason == "autoscale"]
    assert found == [f"it is scaled {view.autoscale}", "cpu is 72 %"]


def test_one_that_sleeps_says_what_wakes_it() -> None:
    world = grown(scaled_spec(ASLEEP), 0)
    world.apply(Write(replace(world.job(), good_version=1, rollout=None)))
    view = job_view(world.state, world.job(), world.conditions, world.now_s)
    assert view.message == "sleeps; the next connection wakes it"


# --- bad input that the file's reader does not see


def test_programs_get_the_same_refusals_as_files() -> None:
    spec = scaled_spec(Autoscale(least=5, most=2, cpu_percent=70, query=Query(prometheus=" ", target=float("nan"))))
    assert [fault.path for fault in faults(spec)] == [
        "autoscale.least",
        "autoscale.query.prometheus",
        "autoscale.query.target",
    ]


def test_a_query_is_refused_where_there_is_no_prometheus() -> None:
    spec = scaled_spec(replace(BY_CPU, query=Query(prometheus="q", target=1)))
    request = ApplyRequest(namespace="shop", specs=(spec,))
    check_queries(request, asks=True)
    with pytest.raises(Invalid, match="knows no Prometheus") as refused:
        check_queries(request, asks=False)
    assert refused.value.faults[0].path == "services.web.x-podium.autoscale.query"
