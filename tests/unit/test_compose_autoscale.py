"""`x-podium.autoscale`: what it is read as, and what is refused at which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.model.autoscale import Autoscale, Pace, Query, ScheduledReplicas
from tests.compose_files import Workspace

RESERVES = "deploy: {resources: {reservations: {cpus: '0.5', memory: 64M}}}\nports: ['8080:80']\n"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def faults(workspace: Workspace, *lines: str, before: str = RESERVES) -> list[str]:
    text = before + "x-podium:\n  autoscale:\n" + "".join(f"    {line}\n" for line in lines)
    return workspace.service_faults(text)


def test_everything_is_read(workspace: Workspace) -> None:
    spec = workspace.service(
        RESERVES
        + """x-podium:
  autoscale:
    min: 0
    max: 10
    cpu: 70
    memory: 80
    requests_per_second: 2.5
    query: {prometheus: sum(queue), target: 20}
    up: {stabilise: 30s, replicas: 2, percent: 50, period: 1m}
    down: {stabilise: 10m}
    timezone: Europe/Berlin
    schedule: [{at: 0 20 * * *, replicas: 0}]
    wake: false
    wake_wait: 20s
"""
    )
    assert spec.autoscale == Autoscale(
        least=0,
        most=10,
        cpu_percent=70,
        memory_percent=80,
        requests_per_second=2.5,
        query=Query(prometheus="sum(queue)", target=20.0),
        up=Pace(stabilise_s=30.0, replicas=2, percent=50, period_s=60.0),
        down=Pace(stabilise_s=600.0),
        timezone="Europe/Berlin",
        schedule=(ScheduledReplicas(at="0 20 * * *", replicas=0),),
        wake=False,
        wake_wait_s=20.0,
    )


def test_the_defaults_are_those_of_kubernetes(workspace: Workspace) -> None:
    autoscale = workspace.service(RESERVES + "x-podium: {autoscale: {max: 4, cpu: 70}}").autoscale
    assert autoscale is not None
    assert (autoscale.least, autoscale.up, autoscale.down) == (1, Pace(replicas=4), Pace(stabilise_s=300.0))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("cpu: 70",), "7: services.web.x-podium.autoscale: max is missing"),
        (("min: 5", "max: 2", "cpu: 70"), "8: services.web.x-podium.autoscale.min: 5 is more than max, which is 2"),
        (("max: 0", "cpu: 70"), "8: services.web.x-podium.autoscale.max: 0 is out of range: allowed is 1 to"),
        (
            ("max: 3", "cpux: 70", "cpu: 1"),
            "9: services.web.x-podium.autoscale.cpux: is not a key of autoscale (did you",
        ),
        (
            ("max: 3", "cpu: 70%"),
            "9: services.web.x-podium.autoscale.cpu: the string '70%' is given; a whole number",
        ),
        (("max: 3",), "7: services.web.x-podium.autoscale: says nothing to scale by"),
        (
            ("max: 3", "query:", "  prometheus: up", "  target: -3"),
            "11: services.web.x-podium.autoscale.query.target: ",
        ),
        (("max: 3", "query: {target: 3}", "cpu: 1"), "9: services.web.x-podium.autoscale.query: prometheus is missing"),
        (("max: 3", "cpu: 1", "schedule:", "  - {at: 0 0 30 2 *, replicas: 1}"), "never comes"),
        (
            ("max: 3", "cpu: 1", "schedule:", "  - {at: '@daily', replicas: 7}"),
            "7 is beyond the bounds: allowed is 0, or",
        ),
        (("max: 3", "cpu: 1", "timezone: Berlin"), "10: services.web.x-podium.autoscale.timezone: says something of a"),
        (("max: 3", "cpu: 1", "down:", "  stabilise: 9h"), "11: services.web.x-podium.autoscale.down.stabilise: 32400"),
        (("max: 3", "cpu: 1", "wake_wait: 0s"), "10: services.web.x-podium.autoscale.wake_wait: 0.0 seconds is out of"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_line(workspace: Workspace, lines: tuple[str, ...], said: str) -> None:
    found = faults(workspace, *lines)
    assert len(found) == 1, found
    assert said in found[0]


def test_a_percentage_of_nothing_is_refused(workspace: Workspace) -> None:
    (fault,) = faults(workspace, "max: 3", "cpu: 70", before="")
    assert fault.startswith("compose.yaml:7: services.web.x-podium.autoscale.cpu: 70 % of what? The service reserves")


def test_what_nobody_can_count_or_wake_is_refused(workspace: Workspace) -> None:
    found = faults(workspace, "max: 3", "min: 0", "requests_per_second: 5", before="")
    assert {fault.split(": ")[1] for fault in found} == {
        "services.web.x-podium.autoscale.requests_per_second",
        "services.web.x-podium.autoscale.min",
    }


@pytest.mark.parametrize("before", ["deploy: {mode: global}\n", "deploy: {mode: replicated-job}\n"])
def test_it_is_for_services_with_replicas(workspace: Workspace, before: str) -> None:
    (fault,) = faults(workspace, "max: 3", "schedule: [{at: '@daily', replicas: 1}]", before=before)
    assert "is for services with replicas; this job's mode is" in fault
