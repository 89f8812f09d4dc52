"""What happened to a task: whether a job has to be looked at again for it."""

from __future__ import annotations

import msgspec
import pytest

from common.model.job import DesiredState
from common.model.task import Health, Task, TaskState, TaskStatus
from controller.core.slots import merely_nearer

PREPARING = Task(
    id="t1",
    namespace="shop",
    job="web",
    job_id="j1",
    slot=1,
    version=1,
    node_id="n1",
    status=TaskStatus(attempt=1, state=TaskState.PREPARING, sequence=2),
)


def later(state: TaskState, **changes: object) -> Task:
    status = msgspec.structs.replace(PREPARING.status, state=state, sequence=3, **changes)
    return msgspec.structs.replace(PREPARING, status=status, observed_at_s=5.0)


@pytest.mark.parametrize("state", [TaskState.PREPARING, TaskState.STARTING])
def test_a_first_attempt_on_its_way_asks_for_nothing(state: TaskState) -> None:
    assert merely_nearer(PREPARING, later(state, message="pulling"))


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.FAILED, TaskState.REJECTED, TaskState.STOPPED])
def test_a_task_that_has_come_somewhere_is_looked_at(state: TaskState) -> None:
    assert not merely_nearer(PREPARING, later(state, health=Health.NONE))


def test_a_further_attempt_is_looked_at() -> None:
    assert not merely_nearer(PREPARING, later(TaskState.PREPARING, attempt=2))


def test_what_the_controller_itself_wrote_is_looked_at() -> None:
    for change in ({"desired": DesiredState.STOP}, {"lost_at_s": 1.0}, {"node_id": "n2"}):
        assert not merely_nearer(PREPARING, msgspec.structs.replace(later(TaskState.STARTING), **change))


def test_a_crash_is_looked_at_until_its_next_attempt_runs() -> None:
    restarting = later(TaskState.RESTARTING)
    assert not merely_nearer(PREPARING, restarting)
    assert not merely_nearer(restarting, later(TaskState.PREPARING, attempt=2))
