"""What a health check that was run says: a good one without output has nothing to tell, a bad one always has."""

from __future__ import annotations

import pytest

from agent.core.instructions import Probe
from agent.health import probe
from agent.runtime.fake import Behaviour, FakeEngine, FakeRuntime
from agent.runtime.interface import ContainerIdentity, ContainerRequest, ExecResult
from common.errors import Conflict, Invalid, PodiumError
from common.model.job import Container, HealthCheck


@pytest.mark.parametrize(
    ("answer", "good", "output"),
    [
        (ExecResult(code=0, output=""), True, ""),
        (ExecResult(code=0, output="200 OK\n"), True, "200 OK"),
        (ExecResult(code=3, output=" \n"), False, "exit code 3, no output"),
        (ExecResult(code=1, output="503\n"), False, "503"),
        (Invalid("no program `curl`"), False, "no program `curl`"),
        (Conflict("it is not running"), None, ""),
    ],
)
async def test_what_a_check_says(answer: ExecResult | PodiumError, good: bool | None, output: str) -> None:
    engine = FakeEngine(lambda: 0.0, behave=lambda _request: Behaviour(exec_answer=answer))
    runtime = FakeRuntime("n1", engine)
    identity = ContainerIdentity(node_id="n1", task_id="t1", attempt=1, namespace="shop", job="web", slot=1)
    started = await runtime.start_container(
        await runtime.create(ContainerRequest(identity=identity, container=Container(command=("x",))))
    )
    check = HealthCheck(test=("CMD", "up"))
    seen = await probe(runtime, Probe(attempt=1, container_id=started.id, check=check, delay_s=0.0), argv=("up",))
    assert (seen.attempt, seen.good, seen.output) == (1, good, output)
