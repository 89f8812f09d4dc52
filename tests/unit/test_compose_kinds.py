"""Kinds of jobs in a Compose file: which keys make them, and what is refused, with line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.job import BatchPolicy, JobMode, RestartCondition
from tests.compose_files import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("replicated", JobMode.SERVICE),
        ("global", JobMode.DAEMON),
        ("replicated-job", JobMode.BATCH),
        ("global-job", JobMode.DAEMON_BATCH),
    ],
)
def test_modes(workspace: Workspace, mode: str, kind: JobMode) -> None:
    (spec,) = workspace.load(f"services:\n  web:\n    image: a\n    deploy: {{mode: {mode}}}\n").specs
    assert spec.mode is kind
    ends = spec.task.restart.condition is RestartCondition.ON_FAILURE
    assert ends is kind.ends


def test_how_a_job_that_ends_goes_about_it(workspace: Workspace) -> None:
    text = (
        "services:\n  web:\n    image: a\n"
        "    deploy: {mode: replicated-job, replicas: 9, update_config: {parallelism: 3}}\n"
        "    x-podium: {attempts: 4, deadline: 1h30m}\n"
    )
    (spec,) = workspace.load(text).specs
    assert spec.batch == BatchPolicy(parallelism=3, attempts=4, deadline_s=5400.0)


def test_without_a_word_all_run_at_once_and_each_once(workspace: Workspace) -> None:
    (spec,) = workspace.load("services:\n  web:\n    image: a\n    deploy: {mode: replicated-job}\n").specs
    assert spec.batch == BatchPolicy()


def test_the_parallelism_of_a_service_is_of_its_updates(workspace: Workspace) -> None:
    text = "services:\n  web:\n    image: a\n    deploy: {update_config: {parallelism: 3}}\n"
    (spec,) = workspace.load(text).specs
    assert (spec.update.parallelism, spec.batch) == (3, BatchPolicy())


def test_a_gang_restarts_no_member_alone_unless_it_is_told_to(workspace: Workspace) -> None:
    text = "services:\n  web:\n    image: a\n    x-podium: {gang: true}\n"
    (spec,) = workspace.load(text).specs
    assert spec.gang
    assert spec.task.restart.max_attempts == 1
    (spec,) = workspace.load(f"{text}    deploy: {{restart_policy: {{max_attempts: 3}}}}\n").specs
    assert spec.task.restart.max_attempts == 3
    (spec,) = workspace.load("services:\n  web:\n    image: a\n    x-podium: {gang: false}\n").specs
    assert (spec.gang, spec.task.restart.max_attempts) == (False, 5)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("x-podium: {deadline: 10m}", "compose.yaml:4: services.web.x-podium.deadline: is of a job whose tasks end"),
        ("x-podium: {attempts: 2}", "compose.yaml:4: services.web.x-podium.attempts: is of a job whose tasks end"),
        (
            "deploy: {mode: replicated-job}\nx-podium: {attempts: 0}",
            "compose.yaml:5: services.web.x-podium.attempts: 0 is out of range",
        ),
        (
            "deploy: {mode: replicated-job}\nx-podium: {deadline: soon}",
            "compose.yaml:5: services.web.x-podium.deadline: 'soon' is not a duration",
        ),
        (
            "deploy: {mode: global}\nx-podium: {gang: true}",
            "compose.yaml:5: services.web.x-podium.gang: a job with a task on every node is no gang",
        ),
        (
            "deploy: {replicas: 101}\nx-podium: {gang: true}",
            "compose.yaml:4: services.web.deploy.replicas: 101 tasks; a gang has at most 100",
        ),
        (
            "deploy: {mode: replicated-job, replicas: 4, update_config: {parallelism: 2}}\nx-podium: {gang: true}",
            "compose.yaml:4: services.web.deploy.update_config.parallelism: 2 at a time; a gang of 4 runs all at once",
        ),
    ],
)
def test_what_cannot_be_names_line_and_field(workspace: Workspace, keys: str, expected: str) -> None:
    (fault,) = workspace.service_faults(keys)
    assert fault.startswith(expected)


_ONLY_A_SERVICE = "only a service with replicas (deploy.mode: replicated) can"


@pytest.mark.parametrize("strategy", ["canary: {replicas: 1}", "blue_green: {bake: 5s}"])
@pytest.mark.parametrize(
    ("keys", "because"),
    [
        (
            "deploy: {replicas: 4}\nx-podium: {gang: true, ",
            "a gang starts and stops as a whole",
        ),
        ("deploy: {mode: global}\nx-podium: {", f"the job has a task on every node: {_ONLY_A_SERVICE}"),
        ("deploy: {mode: replicated-job}\nx-podium: {", f"its tasks end: {_ONLY_A_SERVICE}"),
        ("deploy: {mode: global-job}\nx-podium: {", f"its tasks end: {_ONLY_A_SERVICE}"),
    ],
)
def test_two_versions_side_by_side_are_refused_where_they_make_no_sense(
    workspace: Workspace, strategy: str, keys: str, because: str
) -> None:
    (fault,) = workspace.service_faults(f"{keys}{strategy}}}")
    field = strategy.partition(":")[0]
    said = f"services.web.x-podium.{field}: runs two versions of each replica side by side, and {because}"
    assert fault.startswith(f"compose.yaml:5: {said}")


_DATABASE = """\
services:
  db:
    image: db:1
    volumes: [data:/data]
    x-podium: {blue_green: {bake: 5s}}
volumes:
  data: {}
"""
_BACKUP = "  backup: {image: 'backup:1', volumes: ['data:/data']}\n"


def test_two_versions_do_not_write_one_volume_side_by_side(workspace: Workspace) -> None:
    because = "it alone may write volume test_data: leave it out, or share the volume"
    (fault,) = workspace.faults(_DATABASE)
    said = f"services.db.x-podium.blue_green: runs two versions of each replica side by side, and {because}"
    assert fault.startswith(f"compose.yaml:5: {said}")
    assert workspace.load(_DATABASE.replace("volumes:\n  data", f"{_BACKUP}volumes:\n  data")).specs, "it is shared"
