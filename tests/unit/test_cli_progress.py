"""When a deployment is done, when it has failed for good, and what is said of it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from cli.draw import REPEAT_INTERVAL_S, PlainDrawing
from cli.progress import (
    FAILURES_FOR_GOOD,
    UNPLACED_GRACE_S,
    Deployment,
    Done,
    Failure,
    Phase,
    Row,
    describe,
    last_words,
)
from common.model.api import JobDetail, JobStatus, TaskView
from common.model.job import HealthCheck, JobMode
from common.model.task import Health, Slot, Task, TaskState, TaskStatus
from tests.builders import attempt, job, job_spec, job_view, task, task_spec, task_view


def detail(
    status: JobStatus = JobStatus.RUNNING,
    *,
    tasks: Sequence[TaskView] = (),
    slots: Sequence[Slot] = (),
    **fields: object,
) -> JobDetail:
    return JobDetail(view=job_view(job_spec(replicas=2), status, **fields), tasks=tuple(tasks), slots=tuple(slots))


def a_task(state: TaskState = TaskState.RUNNING, *, slot: int = 1, message: str = "", node_id: str = "id-n1") -> Task:
    record, _ = job()
    status = TaskStatus(attempt=1, state=state, sequence=1, message=message)
    return replace(task(record, slot, node_id=node_id), status=status)


def outcome(*details: JobDetail, version: int = 1, now_s: float = 0.0) -> Done | Failure | None:
    deployment = Deployment({"web": version})
    deployment.observe(details, now_s)
    return deployment.outcome(now_s)


def reason(found: Done | Failure | None) -> str:
    assert isinstance(found, Failure)
    return found.reason


def test_running_and_complete_jobs_are_done() -> None:
    assert outcome(detail()) == Done()
    assert outcome(detail(JobStatus.COMPLETE)) == Done()


def test_tasks_that_are_well_are_not_all_that_counts() -> None:
    taken = "node n1: port 8080/tcp cannot be published: address already in use"
    assert outcome(detail(message=taken)) == Done(warnings=(f"web: {taken}",))


def test_when_a_job_without_tasks_will_have_some_is_shown_and_no_warning() -> None:
    due = "next run 2026-03-30 03:00 CEST"
    waiting = detail(desired=0, message=due)
    assert describe(waiting) == due
    assert outcome(waiting) == Done()


def test_a_job_that_runs_is_done_only_when_it_has_run_well_for_long_enough() -> None:
    young = detail(good_version=0)
    assert outcome(young) is None
    assert describe(young) == "running, done when up for 5 s"
    assert outcome(detail(good_version=1)) == Done()
    assert outcome(detail(good_version=0, desired=0)) == Done()


def test_nothing_is_decided_before_the_first_news() -> None:
    assert Deployment({"web": 1}).outcome(0.0) is None
    assert outcome(version=1) == Failure(job="web", reason="was removed meanwhile")


def test_others_of_the_namespace_do_not_matter() -> None:
    other = JobDetail(view=job_view(job_spec("shop/other"), JobStatus.FAILED))
    assert outcome(detail(), other) == Done()


def test_under_way_is_neither() -> None:
    assert outcome(detail(JobStatus.PROGRESSING)) is None
    assert outcome(detail(JobStatus.DEGRADED)) is None


def test_all_jobs_must_be_done_and_one_failure_is_enough() -> None:
    deployment = Deployment({"web": 1, "api": 1})
    api = JobDetail(view=job_view(job_spec("shop/api"), JobStatus.PROGRESSING))
    deployment.observe((detail(), api), 0.0)
    assert deployment.outcome(0.0) is None
    deployment.observe((detail(), replace(api, view=job_view(job_spec("shop/api"), JobStatus.FAILED, message="no"))), 1)
    assert deployment.outcome(1.0) == Failure(job="api", reason="no")


def test_beside_the_failure_the_other_jobs_in_trouble_are_told() -> None:
    deployment = Deployment({"web": 1, "api": 1, "db": 1})
    api = JobDetail(view=job_view(job_spec("shop/api"), JobStatus.DEGRADED, message="api.1 failed twice"))
    db = JobDetail(view=job_view(job_spec("shop/db"), JobStatus.PROGRESSING, message="on its way"))
    deployment.observe((detail(JobStatus.FAILED, message="no"), api, db), 0.0)
    found = deployment.outcome(0.0)
    assert isinstance(found, Failure)
    assert deployment.also_in_trouble(found) == (Failure(job="api", reason="api.1 failed twice"),)


def test_what_the_controller_gave_up_has_failed() -> None:
    assert reason(outcome(detail(JobStatus.FAILED, message="web.1 failed: exit code 3"))) == "web.1 failed: exit code 3"
    assert "paused" in reason(outcome(detail(JobStatus.DEGRADED, paused="too many failures")))
    assert "stopped" in reason(outcome(detail(JobStatus.STOPPED)))


def test_a_rolled_back_version_has_failed_even_if_the_old_one_is_well() -> None:
    note = "version 2 was rolled back to 1: it crashed"
    assert reason(outcome(detail(note=note), version=2)) == note
    assert "changed meanwhile" in reason(outcome(detail(), version=2))


def test_a_job_that_disappears_has_failed() -> None:
    deployment = Deployment({"web": 1, "api": 1})
    deployment.observe((detail(),), 0.0)
    assert deployment.outcome(0.0) == Failure(job="api", reason="was removed meanwhile")


def test_fitting_nowhere_is_final_only_after_a_while_and_only_if_it_lasts() -> None:
    pending = detail(
        JobStatus.DEGRADED, message="no node fits", tasks=[task_view(a_task(TaskState.PENDING, node_id=""))]
    )
    deployment = Deployment({"web": 1})
    deployment.observe((pending,), 0.0)
    assert deployment.outcome(UNPLACED_GRACE_S - 0.1) is None
    found = deployment.outcome(UNPLACED_GRACE_S)
    assert isinstance(found, Failure)
    assert (found.reason, found.unplaced) == ("no node fits", True)
    deployment.observe((detail(JobStatus.PROGRESSING),), UNPLACED_GRACE_S)
    deployment.observe((pending,), UNPLACED_GRACE_S + 1)
    assert deployment.outcome(UNPLACED_GRACE_S + 2) is None


def test_given_up_again_and_again_is_final_but_failures_of_before_do_not_count() -> None:
    def failing(failures: int) -> JobDetail:
        return detail(JobStatus.DEGRADED, message="exit 1", slots=[Slot(job_id="job-web", slot=1, failures=failures)])

    deployment = Deployment({"web": 1})
    deployment.observe((failing(7),), 0.0)
    deployment.observe((failing(7 + FAILURES_FOR_GOOD - 1),), 1.0)
    assert deployment.outcome(1.0) is None
    deployment.observe((failing(7 + FAILURES_FOR_GOOD),), 2.0)
    assert reason(deployment.outcome(2.0)) == "exit 1"
    forgiven = Deployment({"web": 1})
    for failures in (7, 0, FAILURES_FOR_GOOD - 1):
        forgiven.observe((failing(failures),), 0.0)
    assert forgiven.outcome(0.0) is None


def test_a_failure_brings_the_last_words_of_the_failed_attempt() -> None:
    record = a_task(TaskState.FAILED)
    slot = Slot(
        job_id=record.job_id,
        slot=1,
        attempts=(
            attempt(replace(record, version=0), 9, ended_at_s=99.0, message="of the version before"),
            attempt(record, 1, ended_at_s=1.0, log_tail=("first",)),
            attempt(record, 2, ended_at_s=2.0, log_tail=tuple(f"line {n}" for n in range(20)), health_output="503\n"),
            attempt(record, 3, ended_at_s=3.0, exit_code=0),
        ),
    )
    said = last_words(detail(JobStatus.FAILED, slots=[slot]))
    assert said[0] == "web.1 attempt 2: exit code 1"
    assert said[1:3] == ("  | line 10", "  | line 11")
    assert said[-1] == "  last health check said: 503"
    assert last_words(detail()) == ()


def test_time_up_tells_what_is_missing() -> None:
    deployment = Deployment({"web": 1, "api": 1})
    api = JobDetail(view=job_view(job_spec("shop/api"), JobStatus.PROGRESSING, message="waits for db to be healthy"))
    deployment.observe((detail(), api), 0.0)
    assert deployment.unfinished() == (Failure(job="api", reason="progressing: waits for db to be healthy"),)


def test_rows_count_what_is_well() -> None:
    batch = JobDetail(
        view=job_view(
            job_spec("shop/web", mode=JobMode.BATCH, replicas=2), JobStatus.PROGRESSING, healthy=0, succeeded=1
        ),
        tasks=(task_view(a_task(TaskState.COMPLETE)), task_view(a_task(slot=2))),
    )
    deployment = Deployment({"web": 1})
    assert deployment.rows()[0].phase is Phase.WORKING
    deployment.observe((batch,), 0.0)
    assert (deployment.rows()[0].done, deployment.rows()[0].desired) == (1, 2)
    deployment.observe((detail(),), 0.0)
    assert str(deployment.rows()[0]) == "web: 2/2 running"
    assert deployment.rows()[0].phase is Phase.DONE


def test_steps_are_counted_and_the_news_of_the_last_one_told() -> None:
    tasks = [
        task_view(a_task(TaskState.PREPARING, message="pulling app:1: 3 of 7 layers")),
        task_view(a_task(TaskState.STARTING, slot=2)),
        task_view(a_task(slot=3), health=Health.STARTING),
        task_view(a_task(slot=4)),
        task_view(replace(a_task(TaskState.RESTARTING), version=0)),
    ]
    text = describe(detail(JobStatus.PROGRESSING, tasks=tasks))
    assert text == "1 pulling, 1 starting, 1 in health check, 1 running (pulling app:1: 3 of 7 layers)"


def test_a_job_that_waits_says_for_what() -> None:
    assert describe(detail(JobStatus.PROGRESSING, message="waits for db")) == "waits for db"
    checked = replace(task_spec(), health_check=HealthCheck(test=("CMD", "true")))
    assert describe(JobDetail(view=job_view(job_spec(task=checked)))) == "healthy"


def test_plain_lines_tell_changes_but_not_every_one_of_a_crash_loop(capsys: pytest.CaptureFixture[str]) -> None:
    moments_s = iter([0.0, 0.1, 1.1, 2.5, 2.6])
    plain = PlainDrawing(clock=lambda: next(moments_s))
    for text in ("a", "b", "b", "b"):
        plain.update((Row(job="web", phase=Phase.WORKING, done=0, desired=1, text=text),))
    plain.update((Row(job="web", phase=Phase.DONE, done=1, desired=1, text="running"),))
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["web: 0/1 a", "web: 0/1 b", "web: 1/1 running"]
    assert captured.out == ""


def test_two_plain_lines_in_turn_are_said_again_only_after_a_while(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 0.0
    plain = PlainDrawing(clock=lambda: now_s)
    said: list[tuple[float, str]] = []
    while now_s < 2 * REPEAT_INTERVAL_S:
        text = "pulling" if now_s % 4 < 2 else "waits for docker"
        plain.update((Row(job="web", phase=Phase.WORKING, done=0, desired=1, text=text),))
        said += [(now_s, line) for line in capsys.readouterr().err.splitlines()]
        now_s += 1
    assert said == [
        (0, "web: 0/1 pulling"),
        (2, "web: 0/1 waits for docker"),
        (REPEAT_INTERVAL_S + 2, "web: 0/1 pulling"),
        (REPEAT_INTERVAL_S + 4, "web: 0/1 waits for docker"),
    ]
    plain.update((Row(job="web", phase=Phase.FAILED, done=0, desired=1, text="pulling"),))
    assert capsys.readouterr().err == "web: 0/1 pulling\n"
