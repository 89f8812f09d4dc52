"""A job of many tasks over the death of its controller, with real processes: nothing is counted twice or forgotten.

`python -m benchmarks.batch` is the same at full size: ten thousand.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.batch import ONE_FAILS_IN, through_a_death
from common.model.api import JobStatus

TASKS = 1_000
LIMIT_S = 90.0


async def test_a_job_of_which_some_fail_ends_with_the_right_counts_though_its_controller_died(tmp_path: Path) -> None:
    result = await through_a_death(tmp_path, TASKS, wait_s=LIMIT_S)
    assert TASKS // 3 <= result.through_at_death < TASKS, "it died in the middle"
    assert result.view.status is JobStatus.FAILED
    assert (result.view.succeeded, result.view.failed) == (TASKS - TASKS // ONE_FAILS_IN, TASKS // ONE_FAILS_IN)
    assert result.view.running == 0
