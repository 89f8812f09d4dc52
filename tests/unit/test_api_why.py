"""What `podium why` answers: of jobs and tasks that fit nowhere, wait, crash, are unwell, or are well."""

from __future__ import annotations

import msgspec
import pytest

from common.errors import NotFound
from common.model.api import (
    WhyRequest,
)
from common.model.job import Dependency, HealthCheck, JobMode, Progress
from common.model.node import RuntimeStatus
from common.model.resources import Resources
from common.model.task import Attempt, Health, Slot, TaskState, TaskStatus
from controller.api.why import attempt_text
from tests.api_rig import Api, api, node
from tests.dispatcher_rig import job_records, running_status, task_of, web_spec


async def why(a: Api, name: str) -> tuple[str, list[str], str]:
    verdict = await a.jobs.why(WhyRequest(namespace="shop", name=name))
    return (
        verdict.verdict,
        [reason.reason for reason in verdict.reasons],
        "\n".join(one.text for one in verdict.reasons),
    )


async def test_why_a_job_fits_nowhere_says_what_is_short() -> None:
    job, version = job_records(web_spec(reservations=Resources(cpu_millis=9_000)))
    async with api(node("n1"), job, version, task_of("t1", node_id="")) as a:
        agent = a.rig.dial("n1")
        agent.description = node("n1").description
        agent.register()
        await agent.message()
        for name in ("web", "t1"):
            _, words, text = await why(a, name)
            assert "resource" in words, text


async def test_why_a_job_that_ended_says_how_many_of_its_tasks_did_well() -> None:
    spec = msgspec.structs.replace(web_spec(), mode=JobMode.BATCH)
    job, version = job_records(spec)
    ended = msgspec.structs.replace(job, progress=Progress(version=1, succeeded="1", started_at_s=1.0, ended_at_s=2.0))
    async with api(node("n1"), ended, version) as a:
        verdict, *_ = await why(a, "web")
        assert verdict == "shop/web is complete: 1 of 1 completed"


async def test_why_names_the_dependency_that_is_not_met() -> None:
    spec = msgspec.structs.replace(web_spec(), depends_on=(Dependency(job="db"),))
    async with api(node("n1"), *job_records(spec)) as a:
        _, words, text = await why(a, "web")
        assert words == ["dependency"]
        assert "shop/db" in text


async def test_why_a_task_keeps_failing_shows_its_crash_records() -> None:
    attempt = Attempt(
        task_id="t1",
        number=4,
        node_id="n1",
        oom=True,
        memory_peak_bytes=300 << 20,
        memory_limit_bytes=256 << 20,
        log_tail=("before", "killed"),
    )
    slot = Slot(job_id="id-web", slot=1, attempts=(attempt,), failures=1)
    restarting = task_of("t1", status=TaskStatus(attempt=4, state=TaskState.RESTARTING, message="waits 3 s"))
    async with api(node("n1"), *job_records(web_spec()), restarting, slot) as a:
        for name in ("web", "web.1"):
            verdict, words, text = await why(a, name)
            assert "attempt" in words, verdict
            assert "ran out of memory: 300 MiB used of 256 MiB allowed" in text
            assert "killed" in text
            assert "waits 3 s" in text


async def test_why_a_job_runs_that_was_just_restarted_shows_how_it_crashed_for_as_long_as_that_is_news() -> None:
    attempt = Attempt(task_id="t1", number=1, node_id="n1", exit_code=3, message="exited with code 3")
    slot = Slot(job_id="id-web", slot=1, attempts=(attempt,))
    window_s = web_spec().task.restart.window_s
    for ran_s, told in ((1.0, True), (window_s + 1, False)):
        again = task_of("t1", status=msgspec.structs.replace(running_status(), attempt=2))
        async with api(node("n1"), *job_records(web_spec()), again, slot) as a:
            await a.rig.change_task("t1", observed_at_s=a.rig.now_s - ran_s)
            _, words, text = await why(a, "web")
            assert ("attempt" in words and "exited with code 3" in text) is told


@pytest.mark.parametrize(
    ("attempt", "told"),
    [
        (Attempt(task_id="t1", number=1, exit_code=3, message="exited with code 3"), "exited with code 3"),
        (Attempt(task_id="t1", number=1, signal="SIGKILL", message="killed by SIGKILL"), "killed by SIGKILL"),
        (Attempt(task_id="t1", number=1, message="image x:1 is not there"), "image x:1 is not there"),
        (Attempt(task_id="t1", number=1, signal="SIGTERM"), "killed by SIGTERM"),
        (Attempt(task_id="t1", number=1), "ended, nobody knows how"),
    ],
)
def test_how_an_attempt_ended_is_said_once(attempt: Attempt, told: str) -> None:
    assert attempt_text(attempt) == told


async def test_why_a_task_crashed_quotes_its_last_health_check_unless_that_is_the_reason() -> None:
    said = Attempt(task_id="t1", number=1, node_id="n1", exit_code=1, health_output="503 from upstream\n")
    doomed = msgspec.structs.replace(said, number=2, message="unhealthy: 503 from upstream")
    for attempt, times in ((said, 1), (doomed, 0)):
        slot = Slot(job_id="id-web", slot=1, attempts=(attempt,), failures=1)
        async with api(node("n1"), *job_records(web_spec()), task_of("t1", status=running_status()), slot) as a:
            _, _, text = await why(a, "web")
            assert text.count("its last health check said: 503 from upstream") == times


async def test_why_a_healthy_task_is_where_it_is() -> None:
    async with api(node("n1"), *job_records(web_spec()), task_of("t1", status=running_status())) as a:
        a.rig.presence.connected("n1", (RuntimeStatus(name="docker"),))
        verdict, words, _ = await why(a, "web.1")
        assert verdict.startswith("shop/web is on node n1")
        assert "attempt" not in words


async def test_why_an_unhealthy_task_quotes_its_check() -> None:
    status = msgspec.structs.replace(running_status(health=Health.UNHEALTHY), message="connection refused")
    spec = web_spec(health_check=HealthCheck(test=("CMD", "true")))
    async with api(node("n1"), *job_records(spec), task_of("t1", status=status)) as a:
        a.rig.presence.connected("n1", ())
        _, words, text = await why(a, "web")
        assert "health" in words
        assert "connection refused" in text


async def test_why_of_nothing_says_what_there_is() -> None:
    async with api(*job_records(web_spec())) as a:
        with pytest.raises(NotFound, match="the namespace has web"):
            await a.jobs.why(WhyRequest(namespace="shop", name="wep"))
