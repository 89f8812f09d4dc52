"""The application that runs while everything fails: one job of each kind that the decisions tell apart."""

from __future__ import annotations

from common.model.autoscale import Autoscale, Pace, Query
from common.model.job import (
    BatchPolicy,
    Container,
    Dependency,
    FailureAction,
    HealthCheck,
    JobMode,
    JobSpec,
    Placement,
    Port,
    PublishMode,
    RestartCondition,
    RestartPolicy,
    TaskSpec,
    UpdateOrder,
    UpdatePolicy,
)
from common.model.resources import Resources
from common.model.rollout import BlueGreen, Canary, CanaryStep, Promotion
from tests.sim.engineer import NAMESPACE

CHECK = HealthCheck(test=("CMD", "/up"), interval_s=2.0, timeout_s=1.0, retries=2)
RESTART = RestartPolicy(delay_s=0.2, max_attempts=3, window_s=20.0)
"""Gives up and forgets sooner than the default, so that more happens in a run."""
MIB = 1024 * 1024


def task(image: str, cpu_millis: int, **fields: object) -> TaskSpec:
    defaults: dict[str, object] = {
        "container": Container(image=image, stop_grace_s=3.0),
        "reservations": Resources(cpu_millis=cpu_millis, memory_bytes=64 * MIB),
        "limits": Resources(memory_bytes=128 * MIB),
        "restart": RESTART,
    }
    return TaskSpec(**(defaults | fields))  # type: ignore[arg-type]


def job(name: str, replicas: int, spec: TaskSpec, **fields: object) -> JobSpec:
    return JobSpec(namespace=NAMESPACE, name=name, replicas=replicas, task=spec, **fields)  # type: ignore[arg-type]


TASK_CPU_MILLIS, CPU_PERCENT = 100, 70
STEADY = Pace(stabilise_s=35.0, percent=100, period_s=15.0)
"""Longer than two looks, so that a number which follows every one of them would be seen."""
BURST = job(
    "burst",
    2,
    task("burst:1", TASK_CPU_MILLIS),
    autoscale=Autoscale(least=1, most=5, cpu_percent=CPU_PERCENT, down=STEADY),
)
"""Follows what its containers use."""
TIDE = job(
    "tide",
    2,
    task("tide:1", 20),
    autoscale=Autoscale(least=1, most=5, query=Query(prometheus="tide", target=1.0), down=STEADY),
)
"""Follows a number that Prometheus knows."""
AUTOSCALED = (BURST, TIDE)

JOBS = (
    job(
        "web",
        5,
        task("web:1", 300, ports=(Port(container_port=80, published_port=8080),), health_check=CHECK),
        update=UpdatePolicy(
            parallelism=2,
            delay_s=0.5,
            monitor_s=1.0,
            failure_action=FailureAction.ROLLBACK,
            progress_deadline_s=120.0,
            canary=Canary(
                steps=(CanaryStep(replicas=1, weight=10, bake_s=3.0), CanaryStep(replicas=2, weight=40, bake_s=2.0))
            ),
        ),
        rollback=UpdatePolicy(parallelism=0, monitor_s=0.0, failure_action=FailureAction.PAUSE),
    ),
    job(
        "api",
        4,
        task("api:1", 500, ports=(Port(container_port=90, published_port=9090),)),
        update=UpdatePolicy(failure_action=FailureAction.PAUSE),
        depends_on=(Dependency(job="db"),),
    ),
    job(
        "queue",
        3,
        task("queue:1", 200, health_check=CHECK),
        update=UpdatePolicy(order=UpdateOrder.STOP_FIRST, failure_action=FailureAction.CONTINUE),
    ),
    job(
        "db",
        2,
        task(
            "db:1",
            400,
            ports=(Port(container_port=5432, published_port=5432, mode=PublishMode.HOST),),
            placement=Placement(max_replicas_per_node=1),
        ),
    ),
    job(
        "report",
        3,
        task(
            "batch:1",
            100,
            restart=RestartPolicy(condition=RestartCondition.ON_FAILURE, delay_s=0.2, max_attempts=3, window_s=20.0),
        ),
        mode=JobMode.BATCH,
        batch=BatchPolicy(parallelism=2, attempts=2),
    ),
    job("shipper", 1, task("shipper:1", 20), mode=JobMode.DAEMON),
    job("ranks", 3, task("ranks:1", 20, restart=RestartPolicy(max_attempts=1)), gang=True),
    job("alone", 2, task("alone:1", 100, exclusive=True)),
    job(
        "green",
        2,
        task("green:1", 50, ports=(Port(container_port=70, published_port=7070),), health_check=CHECK),
        update=UpdatePolicy(
            monitor_s=0.0,
            progress_deadline_s=120.0,
            blue_green=BlueGreen(bake_s=3.0, promote=Promotion.MANUAL),
        ),
    ),
    *AUTOSCALED,
)
MOST_REPLICAS = {
    "web": 8,
    "api": 6,
    "queue": 6,
    "db": 3,
    "report": 5,
    "alone": 2,
    "green": 3,
    "ranks": 4,
    "shipper": 1,
}
"""What fits on the machines with one of them gone, and twice where a rollout or a loss needs it."""
