"""A job of many tasks, some of which fail, over the death of its controller in the middle: are the counts right?

`python -m benchmarks.batch [TASKS]`; 10,000 without an argument. One JSON line; ends with 1 when the counts are wrong.
A controller on SQLite and pretended nodes (the production agent over real gRPC) as processes of their own. When a third
is through the controller is killed, and started again on what it stored.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.runtime.pretence import FAIL_EVERY, SECONDS
from benchmarks.guard import guarded
from benchmarks.stage import report, say
from client.client import Client
from client.settings import ClientSettings
from common.errors import PodiumError
from common.model.api import JobStatus, JobView
from common.model.job import (
    BatchPolicy,
    Container,
    JobMode,
    JobSpec,
    RestartCondition,
    RestartPolicy,
    TaskSpec,
)
from common.model.resources import Resources
from tests.cluster.processes import Program
from tests.ports import free_port

NAMESPACE, JOB = "bench", "batch"
ONE_FAILS_IN = 100
NODES = 20
AT_A_TIME = 200
TASK_S = 0.2
WAIT_S = 1_500.0
_LOOK_S = 0.2
_QUIET = ("--log-level", "warning", "--insecure")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    view: JobView
    """Of the job, when it had ended."""
    through_at_death: int
    """Slots that were through when the controller was killed."""
    seconds: float


async def through_a_death(directory: Path, tasks: int, *, wait_s: float = WAIT_S) -> Result:
    """Run such a job of so many tasks; `TimeoutError` when it takes longer than it may."""
    address = f"127.0.0.1:{free_port()}"
    http = f"127.0.0.1:{free_port()}"
    stored = ("--store", f"sqlite://{directory}/store.db", "--grpc-listen", address, "--http-listen", http)
    nodes = ("--runtime", "fake", "--count", str(NODES), "--cpus", "64", "--memory", "64G", "--http-listen", "")
    data_dir = ("--data-dir", str(directory / "agents"))
    controller = Program("controller", directory, "controller", *stored, *_QUIET)
    agents = Program("agents", directory, "agent", "--controller", address, "--name", "sim", *nodes, *data_dir, *_QUIET)
    try:
        controller.start()
        agents.start()
        async with asyncio.timeout(wait_s), Client(ClientSettings(controllers=(address,), insecure=True)) as client:
            return await _watched(client, controller, tasks)
    finally:
        agents.kill()
        controller.kill()


async def _watched(client: Client, controller: Program, tasks: int) -> Result:
    await _until(client, controller)
    await client.apply(NAMESPACE, [spec(tasks)])
    begun_s = time.monotonic()
    (view,) = await _until(client, controller, lambda views: _through(views[0]) >= tasks // 3)
    controller.kill()
    controller.start()
    over = (JobStatus.COMPLETE, JobStatus.FAILED)
    (ended,) = await _until(client, controller, lambda views: views[0].status in over)
    return Result(view=ended, through_at_death=_through(view), seconds=time.monotonic() - begun_s)


def _any_answer(_views: Sequence[JobView]) -> bool:
    return True


async def _until(
    client: Client, controller: Program, reached: Callable[[Sequence[JobView]], bool] = _any_answer
) -> Sequence[JobView]:
    while True:
        if controller.ended:
            raise RuntimeError(f"the controller ended; its log:\n{controller.log()[-3000:]}")
        with suppress(PodiumError):  # there is no controller for a while
            views = await client.jobs(NAMESPACE)
            if reached(views):
                return views
        await asyncio.sleep(_LOOK_S)


def _through(view: JobView) -> int:
    return view.succeeded + view.failed


def spec(tasks: int) -> JobSpec:
    environment = {SECONDS: str(TASK_S), FAIL_EVERY: str(ONE_FAILS_IN)}
    return JobSpec(
        namespace=NAMESPACE,
        name=JOB,
        mode=JobMode.BATCH,
        replicas=tasks,
        batch=BatchPolicy(parallelism=AT_A_TIME),
        task=TaskSpec(
            container=Container(image="work:1", environment=environment),
            reservations=Resources(cpu_millis=100),
            restart=RestartPolicy(condition=RestartCondition.NONE),
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("tasks", type=int, nargs="?", default=10_000)
    tasks: int = parser.parse_args().tasks
    with guarded(), tempfile.TemporaryDirectory(prefix="podium-batch-") as scratch:
        result = asyncio.run(through_a_death(Path(scratch), tasks))
    report(
        "batch",
        agents=NODES,
        tasks=tasks,
        succeeded=result.view.succeeded,
        failed=result.view.failed,
        through_when_the_controller_died=result.through_at_death,
        seconds=round(result.seconds, 1),
        per_second=round(tasks / result.seconds),
    )
    wrong = (result.view.succeeded, result.view.failed) != (tasks - tasks // ONE_FAILS_IN, tasks // ONE_FAILS_IN)
    if wrong:
        say(f"wrong: {result.view.message}")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
