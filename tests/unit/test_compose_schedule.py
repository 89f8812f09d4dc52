"""Schedules in Compose files, and dependencies on jobs of other files: what they become, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.compose import load
from common.errors import Fault
from common.model.job import Dependency, DependencyCondition, JobMode, Overlap, RestartCondition, Schedule
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def nightly(keys: str) -> str:
    return f"x-podium: {{schedule: '0 3 * * *', {keys}}}"


def test_a_service_with_a_schedule_is_a_job_that_ends(workspace: Workspace) -> None:
    spec = workspace.service("x-podium: {schedule: '30 3 * * 1-5'}")
    assert spec.schedule == Schedule(cron="30 3 * * 1-5")
    assert spec.mode is JobMode.BATCH
    assert spec.task.restart.condition is RestartCondition.ON_FAILURE


def test_everything_about_a_schedule(workspace: Workspace) -> None:
    keys = "timezone: Europe/Berlin, overlap: replace, keep: 7, start_within: 90m"
    assert workspace.service(nightly(keys)).schedule == Schedule(
        cron="0 3 * * *", timezone="Europe/Berlin", overlap=Overlap.REPLACE, keep=7, start_within_s=5400.0
    )


@pytest.mark.parametrize(
    ("written", "place", "said"),
    [
        ("{schedule: '0 0 30 2 *'}", "schedule", "'0 0 30 2 *' never comes: no month it names has such a day"),
        ("{schedule: '0 25 * * *'}", "schedule", "'0 25 * * *' is not a schedule: its hour cannot be read"),
        ("{schedule: hourly}", "schedule", "'hourly' is not a schedule: write five fields"),
        ("{schedule: '0 0 0 1 1 *'}", "schedule", "'0 0 0 1 1 *' is not a schedule: write five fields"),
        ("{schedule: ''}", "schedule", "'' is not a schedule"),
        ("{schedule: [1]}", "schedule", "a list is given; a schedule such as 30 3 * * * is expected"),
        (
            "{schedule: '@daily', timezone: Europe/Berln}",
            "timezone",
            "'Europe/Berln' is not a time zone: write a name such as Europe/Berlin, or UTC (did you mean Europe/Berlin",
        ),
        ("{schedule: '@daily', timezone: berlin}", "timezone", "(did you mean Europe/Berlin?)"),
        ("{schedule: '@daily', overlap: both}", "overlap", "'both' is given; allowed is skip, queue or replace"),
        ("{schedule: '@daily', keep: 101}", "keep", "101 is out of range: allowed is 0 to 100"),
        ("{schedule: '@daily', start_within: 0s}", "start_within", "is out of range"),
        ("{timezone: UTC}", "timezone", "says something of a schedule, and there is none"),
    ],
)
def test_what_a_schedule_cannot_be_is_said_with_its_line(
    workspace: Workspace, written: str, place: str, said: str
) -> None:
    (fault,) = workspace.service_faults(f"x-podium:\n    {written}")
    assert fault.startswith(f"compose.yaml:5: services.web.x-podium.{place}: ")
    assert said in fault


def test_a_run_has_to_end_and_publishes_nothing(workspace: Workspace) -> None:
    found = workspace.faults(
        "services:\n"
        "  web:\n"
        "    image: a\n"
        "    ports: ['80:80']\n"
        "    deploy: {mode: replicated}\n"
        "    x-podium: {schedule: '@daily'}\n"
    )
    port, mode = found
    assert port.startswith("compose.yaml:4: services.web.ports[0]: a job with a schedule publishes nothing")
    assert mode == (
        "compose.yaml:5: services.web.deploy.mode: a run of a schedule has to end: make it a job whose tasks do"
    )


def test_its_runs_are_named_after_it(workspace: Workspace) -> None:
    (fault,) = workspace.faults(f"services:\n  {'a' * 48}: {{image: a, x-podium: {{schedule: '@daily'}}}}\n")
    assert fault.endswith("with a schedule at most 47 are allowed, since its runs are named after it")


def test_of_a_schedule_one_can_wait_for_a_run_that_completed_and_nothing_else(workspace: Workspace) -> None:
    text = "services:\n  web: {{image: a, depends_on: {{job: {{condition: {}}}}}}}\n  job: {{image: a, {}}}\n"
    assert workspace.load(text.format("service_completed_successfully", "x-podium: {schedule: '@daily'}")).specs
    (fault,) = workspace.faults(text.format("service_started", "x-podium: {schedule: '@daily'}"))
    assert "waits for job, which has a schedule" in fault


# --- dependencies on jobs of other files


def test_jobs_of_any_file_can_be_waited_for(workspace: Workspace) -> None:
    spec = workspace.service("x-podium: {depends_on: {db: {condition: service_healthy}, ops/cache: {required: false}}}")
    assert spec.depends_on == (
        Dependency(job="db", condition=DependencyCondition.SERVICE_HEALTHY),
        Dependency(job="cache", namespace="ops", optional=True),
    )
    assert workspace.service("x-podium: {depends_on: [ops/cache]}").depends_on == (
        Dependency(job="cache", namespace="ops"),
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a/b/c", "'a/b' is not a name"),
        ("Ops/cache", "'Ops' is not a name"),
        ("ops/", "'' is not a name"),
        ("web", "a job cannot depend on itself"),
    ],
)
def test_names_of_other_jobs_are_checked(workspace: Workspace, name: str, said: str) -> None:
    (fault,) = workspace.service_faults(f"x-podium:\n    depends_on:\n      {name}: {{}}")
    assert fault.startswith("compose.yaml:")
    assert said in fault


def test_a_job_of_the_own_file_is_checked_like_any_other(workspace: Workspace) -> None:
    (fault,) = workspace.faults(
        "services:\n  web: {image: a, x-podium: {depends_on: {db: {condition: service_healthy}}}}\n  db: {image: a}\n"
    )
    assert fault.endswith("waits for db to be healthy, which has no healthcheck")


def test_circles_are_found_through_both_kinds_all_at_once(workspace: Workspace) -> None:
    found = workspace.faults(
        "services:\n"
        "  a: {image: a, depends_on: [b]}\n"
        "  b: {image: a, x-podium: {depends_on: [test/a]}}\n"
        "  c: {image: a, depends_on: [d]}\n"
        "  d: {image: a, depends_on: [c]}\n"
        "  e: {image: a, x-podium: {depends_on: [other/e]}}\n"
    )
    assert len(found) == 2
    assert all("services wait for each other in a circle: " in fault for fault in found)


def test_what_the_controller_finds_is_told_with_its_line(workspace: Workspace) -> None:
    path = workspace.write(
        "compose.yaml",
        "services:\n  web:\n    image: a\n    depends_on:\n      - db\n    x-podium:\n"
        "      depends_on:\n        ops/cache: {}\n  db: {image: a}\n",
    )
    project = load([path], project_name="shop", environment={})

    def line(path: str) -> int:
        placed = project.placed(Fault(path=path, text="x"))
        assert placed.file.endswith("compose.yaml")
        return placed.line

    assert line("services.web.depends_on.db") == 5
    assert line("services.web.x-podium.depends_on.ops/cache") == 8
    assert line("services.web.task.container.image") == 2
    assert line("services.db.replicas") == 9
