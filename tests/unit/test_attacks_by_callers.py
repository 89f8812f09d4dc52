"""What an engineer, or whoever has an engineer's token, may send without doing harm: too much, numbers that are none.
What rights and nodes' policies say is in `test_gate.py` and `test_policy.py`."""

from __future__ import annotations

import math

import msgspec
import pytest

from common.errors import Invalid
from common.model.api import ApplyRequest
from common.model.job import Container, HealthCheck, JobSpec, RestartPolicy, TaskSpec, UpdatePolicy
from common.model.resources import Resources
from common.settings import LIMITS
from common.validation import faults
from controller.api.requests import check_apply


def spec_of(**fields: object) -> JobSpec:
    return JobSpec(namespace="shop", name="web", task=TaskSpec(container=Container(image="shop:1", **fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "path", "said"),
    [
        (
            spec_of(labels={f"l{number}": "" for number in range(100_000)}),
            "task.container.labels",
            f"has 100000 entries; at most {LIMITS.labels_per_object}",
        ),
        (spec_of(environment={"BIG": "x" * 10_000_000}), "task.container.environment", "at most 131072 are allowed"),
        (
            spec_of(environment={f"E{number}": "x" * 100 for number in range(100_000)}),
            "task.container.environment",
            "at most 131072 are allowed",
        ),
        (spec_of(command=("x",) * 100_000), "task.container.command", "has 100000 entries"),
        (spec_of(command=("x" * 1_000_000,)), "", "at most 262144 are allowed"),
    ],
    ids=["100,000 labels", "10 MB in a variable", "10 MB of variables", "100,000 arguments", "1 MB of an argument"],
)
def test_more_than_a_job_can_have_is_refused_by_name(spec: JobSpec, path: str, said: str) -> None:
    (fault,) = faults(spec)
    assert fault.path == path
    assert said in fault.text
    with pytest.raises(Invalid):
        check_apply(ApplyRequest(namespace="shop", specs=(spec,)))


def with_task(**fields: object) -> JobSpec:
    return msgspec.structs.replace(spec_of(), task=msgspec.structs.replace(spec_of().task, **fields))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_times_that_are_none_are_refused(value: float) -> None:
    for spec in (
        spec_of(stop_grace_s=value),
        with_task(restart=RestartPolicy(delay_s=value)),
        with_task(health_check=HealthCheck(test=("CMD", "true"), interval_s=value)),
        msgspec.structs.replace(spec_of(), update=UpdatePolicy(delay_s=value)),
        msgspec.structs.replace(spec_of(), update=UpdatePolicy(max_failure_ratio=value)),
    ):
        assert faults(spec), value


@pytest.mark.parametrize("amount", [-1, -(2**63), 2**63 - 1])
def test_sizes_that_are_none_are_refused(amount: int) -> None:
    for field in ("reservations", "limits"):
        for name in Resources.__struct_fields__:
            assert faults(with_task(**{field: Resources(**{name: amount})})), (field, name)
    assert faults(msgspec.structs.replace(spec_of(), replicas=amount))
