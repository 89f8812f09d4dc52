"""Jobs with a schedule: what is due starts once, whatever runs, waits, was missed, or happens to clocks and leaders."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Conflict
from common.model.api import ApplyRequest, JobsRequest, JobStatus
from common.model.job import DesiredState, Job, Overlap, RunOf
from common.model.task import TaskState
from common.schedule import next_after
from controller.core.apply import apply_specs, remove, restart, stop
from controller.core.runs import due_s
from controller.core.views import job_view
from controller.state import State, Write
from tests.schedules import DAY_S, HOUR_S, MINUTE_S, NOON_S, Calendar, nightly, overlapping
from tests.world import web

BACKUP = JobsRequest(namespace="shop", jobs=("backup",))


def view_of(world: Calendar) -> str:
    return job_view(world.state, world.job("backup"), world.conditions, world.now_s).message


def test_a_run_starts_when_it_is_due_and_has_the_spec_of_its_job() -> None:
    world = Calendar(nightly())
    world.until(NOON_S + 15 * HOUR_S - 1)
    assert world.runs() == []
    world.until(NOON_S + 15 * HOUR_S)
    assert world.runs() == ["03:00*"]
    run = world.job("backup-20260602-0300")
    assert world.state.spec_of(run) == msgspec.structs.replace(nightly(), name=run.name, schedule=None)
    assert run.run_of == RunOf(job_id=world.job("backup").id, due_s=NOON_S + 15 * HOUR_S)


def test_the_job_itself_has_no_tasks() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    assert world.decide("backup") == ()
    assert [task.job for task in world.state.tasks.values()] == []


def test_nothing_is_written_while_nothing_is_due() -> None:
    world = Calendar(nightly())
    for hour in range(15):
        world.at(NOON_S + hour * HOUR_S)
    assert world.writes == 0


def test_what_was_due_before_the_job_came_is_not_its_business() -> None:
    world = Calendar(nightly("0 12 * * *"))
    world.at(NOON_S + HOUR_S)
    assert world.runs() == []


# --- one run at a time


def test_skip_passes_over_what_is_due_while_another_run_goes_on_and_says_so() -> None:
    world = Calendar(overlapping(Overlap.SKIP))
    world.until(NOON_S + 20 * MINUTE_S)
    assert world.runs() == ["12:10*"]
    assert "the run due at 2026-06-01 12:20 UTC was skipped: backup-20260601-1210 had not ended" in view_of(world)
    world.end()
    world.until(NOON_S + 30 * MINUTE_S)
    assert world.runs() == ["12:10", "12:30*"]
    assert "skipped" not in view_of(world)


def test_queue_keeps_the_latest_that_was_due_and_starts_it_when_the_other_one_has_ended() -> None:
    world = Calendar(overlapping(Overlap.QUEUE))
    world.until(NOON_S + 35 * MINUTE_S)
    assert world.runs() == ["12:10*"]
    assert "the run due at 2026-06-01 12:30 UTC waits for the one before" in view_of(world)
    world.end()
    world.at(NOON_S + 35 * MINUTE_S)
    assert world.runs() == ["12:10", "12:30*"]
    world.end()
    world.at(NOON_S + 36 * MINUTE_S)
    assert world.runs() == ["12:10", "12:30"]


def test_replace_stops_the_other_one_and_starts_when_it_has_ended() -> None:
    world = Calendar(overlapping(Overlap.REPLACE))
    world.until(NOON_S + 10 * MINUTE_S)
    (first,) = [run for run in world.state.jobs.values() if run.run_of]
    world.decide(first.name)
    world.assign(world.task(1, first.name), "n1")
    world.until(NOON_S + 20 * MINUTE_S)
    assert world.runs() == ["12:10*"]
    assert world.job(first.name).desired is DesiredState.STOP
    assert world.job(first.name).note == "replaced by the run due at 2026-06-01 12:20 UTC"
    world.decide(first.name)
    world.see(world.task(1, first.name), TaskState.STOPPED)
    world.at(NOON_S + 20 * MINUTE_S + 5)
    assert world.runs() == ["12:10", "12:20*"]


def test_so_many_ended_runs_are_kept_whatever_their_end() -> None:
    world = Calendar(nightly("*/10 * * * *", keep=2))
    for turn in range(1, 6):
        world.until(NOON_S + turn * 10 * MINUTE_S)
        world.end(TaskState.FAILED if turn == 4 else TaskState.COMPLETE)
    world.at(world.now_s + 1)
    assert world.runs() == ["12:40", "12:50"]
    view = job_view(world.state, world.job("backup"), world.conditions, world.now_s)
    assert view.schedule is not None
    assert [run.status for run in view.schedule.runs] == [JobStatus.COMPLETE, JobStatus.FAILED]
    assert view.status is JobStatus.RUNNING
    assert view.message == "next run 2026-06-01 13:00 UTC; last run backup-20260601-1250 is complete"


# --- time without a leader, and clocks that are put right


def test_of_what_came_due_without_a_leader_the_latest_runs() -> None:
    world = Calendar(nightly("*/10 * * * *"))
    world.at(NOON_S + 3 * HOUR_S + 5 * MINUTE_S)
    assert world.runs() == ["15:00*"]


def test_what_is_too_late_to_start_is_passed_over_and_said() -> None:
    world = Calendar(nightly(start_within_s=HOUR_S))
    world.at(NOON_S + 17 * HOUR_S)
    assert world.runs() == []
    assert "was missed: no controller could start it within 3600 s" in view_of(world)
    world.until(NOON_S + DAY_S + 15 * HOUR_S)
    assert world.runs() == ["03:00*"]


@pytest.mark.parametrize("ahead_s", [DAY_S, 730 * DAY_S])
def test_a_clock_that_leaps_ahead_and_comes_back_starts_one_run_and_then_goes_on(ahead_s: float) -> None:
    world = Calendar(nightly("*/10 * * * *", keep=100))
    world.until(NOON_S + 10 * MINUTE_S)
    world.end()
    world.at(NOON_S + ahead_s + 5 * MINUTE_S)
    world.end()
    assert len(world.runs()) == 2
    world.until(NOON_S + 20 * MINUTE_S)  # it was put right
    world.end()
    world.until(NOON_S + 30 * MINUTE_S)
    assert len(world.runs()) <= 4
    assert world.runs()[-2:] != world.runs()[:2]
    assert any(due_s(run) == NOON_S + 30 * MINUTE_S for run in world.state.jobs.values())


def test_a_clock_put_back_a_little_runs_nothing_a_second_time() -> None:
    world = Calendar(nightly("*/10 * * * *", keep=0))
    world.until(NOON_S + 30 * MINUTE_S)
    world.end()
    world.until(NOON_S + 5 * MINUTE_S)
    world.until(NOON_S + 30 * MINUTE_S)
    assert world.runs() == []
    world.until(NOON_S + 40 * MINUTE_S)
    assert world.runs() == ["12:40*"]


def test_the_shifts_of_a_year_bring_one_run_a_night() -> None:
    begin_s = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    world = Calendar()
    world.now_s = begin_s
    world.up(nightly("30 2 * * *", timezone="Europe/Berlin", keep=100))
    starts = []
    while (wake_at_s := world.look().wake_at_s) < begin_s + 365 * DAY_S:
        world.at(wake_at_s)
        starts.append(wake_at_s)
        world.end()
    assert len(starts) == 365


# --- what engineers do


def test_restart_runs_it_now_and_in_the_place_of_one_that_goes_on() -> None:
    world = Calendar(nightly())
    world.now_s = NOON_S + 17.0
    world.write(restart(world.state, BACKUP, world.now_s))
    world.look()
    assert world.runs() == ["12:00*"]
    world.job("backup-20260601-120017")
    world.now_s += 60
    world.write(restart(world.state, BACKUP, world.now_s))
    world.at(world.now_s)
    assert world.runs() == ["12:00", "12:01*"]


def test_a_run_that_was_asked_for_leaves_those_that_ended_alone() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    world.end()
    world.write(restart(world.state, BACKUP, world.now_s))
    statuses = [job_view(world.state, run, {}, 0.0).status for run in world.state.jobs.values() if run.run_of]
    assert statuses == [JobStatus.COMPLETE]


def test_a_stopped_schedule_runs_nothing_and_what_it_missed_is_not_made_up_for() -> None:
    world = Calendar(nightly())
    world.write(stop(world.state, BACKUP))
    world.at(NOON_S + 16 * HOUR_S)
    assert world.runs() == []
    world.up(nightly())
    world.at(NOON_S + 16 * HOUR_S + 1)
    assert world.runs() == []
    world.until(NOON_S + 40 * HOUR_S)
    assert world.runs() == ["03:00*"]


def test_stop_stops_the_run_that_goes_on() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    world.write(stop(world.state, BACKUP))
    assert world.job("backup-20260602-0300").desired is DesiredState.STOP


def test_a_new_image_moves_no_schedule_and_a_new_schedule_begins_anew() -> None:
    world = Calendar(nightly())
    world.now_s = NOON_S + 15 * HOUR_S  # due, and nobody has looked yet
    world.up(msgspec.structs.replace(nightly(), labels={"a": "b"}))
    world.look()
    assert world.runs() == ["03:00*"]
    world.up(nightly("*/5 * * * *"))
    world.look()
    assert world.runs() == ["03:00*"]


def test_removal_takes_the_runs_along_and_so_does_a_job_that_is_no_orphan() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    keeping = ApplyRequest(namespace="shop", specs=(nightly(),), remove_orphans=True)
    assert [change.action for change in apply_specs(world.state, keeping, world.now_s, world.rng).changes] == [
        "unchanged"
    ]
    world.write(remove(world.state, BACKUP))
    assert all(job.removed for job in world.state.jobs.values())


def test_a_job_that_loses_its_schedule_gives_up_its_ended_runs() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    world.up(msgspec.structs.replace(nightly(), schedule=None))
    world.look()
    assert world.runs() == ["03:00*"]
    world.end()
    world.look()
    assert world.runs() == []
    assert world.decide("backup")


def test_a_service_that_gets_a_schedule_stops_its_tasks() -> None:
    world = Calendar()
    world.up(web(name="backup", replicas=1))
    world.settle()
    world.up(nightly())
    world.decide("backup")
    (task,) = world.tasks("backup")
    assert (task.desired, task.reason) == (DesiredState.STOP, "the job has a schedule now")


def test_a_run_s_name_is_its_own() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    with pytest.raises(Conflict, match="is a run of a job with a schedule"):
        world.up(web(name="backup-20260602-0300"))
    other = Calendar(nightly())
    other.up(web(name="backup-20260602-0300"))
    other.at(NOON_S + 15 * HOUR_S)
    assert other.runs() == []
    assert "there is another job of this name" in view_of(other)


# --- in any order


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 200)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("nobody leads"), st.integers(1, 2_000)),
        st.tuples(st.just("new leader"), st.just(0)),
    ),
    max_size=30,
)


@given(EVENTS, st.sampled_from(Overlap), st.sampled_from(["*/7 * * * *", "0 * * * *", "30 2 * * *"]))
@settings(max_examples=40, deadline=None)
def test_nothing_due_runs_twice_and_nothing_is_lost_while_somebody_leads(
    events: list[tuple[str, int]], overlap: Overlap, cron: str
) -> None:
    world = Calendar()
    world.now_s = datetime(2026, 3, 28, 12, 0, tzinfo=UTC).timestamp()  # the night before clocks shift
    world.up(nightly(cron, overlap=overlap, keep=100, timezone="Europe/Berlin"))
    started: dict[str, float] = {}
    previous: list[Job] = []

    def account() -> None:
        fresh = [job for job in world.state.jobs.values() if job.run_of and job.id not in started]
        for job in fresh:
            assert due_s(job) not in started.values()
            assert due_s(job) > max(started.values(), default=0.0)
            assert next_after(cron, "Europe/Berlin", due_s(job) - 1) == due_s(job)
            started[job.id] = due_s(job)
        previous[:] = fresh

    for event, minutes in events:
        match event:
            case "pass":
                until_s = world.now_s + minutes * MINUTE_S
                while (due := world.look().wake_at_s) <= until_s:
                    free = all(name[-1] != "*" for name in world.runs())
                    world.at(due)
                    account()
                    assert not free or due in started.values()
                world.at(until_s)
            case "end":
                world.end()
                world.at(world.now_s)
            case "nobody leads":
                world.now_s += minutes * MINUTE_S
                world.at(world.now_s)
            case _:
                world.state = State.of(world.state.records())
        account()
        assert len(previous) <= 1
        assert not world.look().groups
        assert sum(name[-1] == "*" for name in world.runs()) <= 1


def test_a_state_keeps_its_index_of_runs() -> None:
    world = Calendar(nightly())
    world.at(NOON_S + 15 * HOUR_S)
    again = State.of(world.state.records())
    assert again.runs_of(world.job("backup").id) == world.state.runs_of(world.job("backup").id) != {}
    (run,) = again.runs_of(world.job("backup").id).values()
    again.apply(Write(msgspec.structs.replace(run, note="x")))
    assert [job.note for job in again.runs_of(world.job("backup").id).values()] == ["x"]
