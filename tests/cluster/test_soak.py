"""Memory, file descriptors, what ended tasks leave behind and the store stay bounded while work comes and goes (I10).

Real processes. `PODIUM_SOAK_ROUNDS` makes it last: a round is a deployment, a scaling up and down, a run that ends, a
removal, logs, and a crash. The simulation holds the same of hours (`tests/sim/plays_long.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from agent.settings import AgentBounds
from client.client import Client
from client.settings import ClientSettings
from common.model.api import JobDetail, ScaleTarget
from common.model.job import (
    Container,
    JobMode,
    JobSpec,
    RestartCondition,
    RestartPolicy,
    TaskSpec,
    UpdateOrder,
    UpdatePolicy,
)
from tests.cluster.beside import beside
from tests.cluster.processes import PATIENT, Cluster, cluster, healthy, live

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BESIDE = "processes"
NAMESPACE = "soak"
NODES = (("n1", "127.0.0.81"), ("n2", "127.0.0.82"))
ROUNDS = int(os.environ.get("PODIUM_SOAK_ROUNDS", "12"))
WARM = 6
"""Rounds before the first look: until then what is kept (versions, ended tasks) fills up."""
MB = 1024 * 1024
MORE_BYTES = 8 * MB
"""Of resident memory: events, statistics and the allocator's own ways; a round's leak is multiplied by the rounds."""
FILE_BYTES = 6 * MB
"""Of a database here: its content is some 100 KB, and SQLite cuts its log at 4 MB."""


class Sizes(msgspec.Struct, frozen=True):
    """Of one look."""

    descriptors: dict[str, int]
    """By program."""
    resident_bytes: dict[str, int]
    processes: int
    left_behind: int
    """Directories of process tasks."""
    stored_bytes: int
    journal_bytes: int


def spec(name: str, *command: str, replicas: int = 1, version: int = 1) -> JobSpec:
    container = Container(command=command, environment={"VERSION": str(version)}, stop_signal="SIGKILL")
    update = UpdatePolicy(parallelism=0, monitor_s=0.1, order=UpdateOrder.START_FIRST)
    return JobSpec(namespace=NAMESPACE, name=name, replicas=replicas, task=TaskSpec(container=container), update=update)


def run(number: int) -> JobSpec:
    """One that ends by itself."""
    task = spec("run", "sh", "-c", f"seq 1 200; exit {number % 2}").task
    once = msgspec.structs.replace(task, restart=RestartPolicy(condition=RestartCondition.NONE))
    return JobSpec(namespace=NAMESPACE, name="run", mode=JobMode.BATCH, replicas=2, task=once)


async def one_round(made: Cluster, number: int) -> None:
    async with Client(ClientSettings(controllers=made.controllers, insecure=True)) as client:
        await client.apply(NAMESPACE, [spec("web", "sleep", "3600", replicas=2, version=number)])
        await made.until(NAMESPACE, lambda all_: _web(all_, 2, (version := _version(all_))) and version > 0)
        await client.scale(NAMESPACE, [ScaleTarget(job="web", replicas=5)])
        (web,) = [job for job in await made.until(NAMESPACE, lambda all_: _web(all_, 5)) if job.view.job.name == "web"]
        psutil.Process(int(live(web)[0].task.status.runtime_id)).kill()
        await client.scale(NAMESPACE, [ScaleTarget(job="web", replicas=2)])
        await client.apply(NAMESPACE, [run(number)])
        await made.until(NAMESPACE, lambda all_: _web(all_, 2) and _ran(all_))
        _ = [line async for line in client.logs(NAMESPACE, "run", follow=False)]
        await client.remove(NAMESPACE, ["run"])
        await made.until(NAMESPACE, lambda all_: len(all_) == 1)


def _web(found: tuple[JobDetail, ...], count: int, version: int | None = None) -> bool:
    return any(job.view.job.name == "web" and healthy(job, count, version) for job in found)


def _version(found: tuple[JobDetail, ...]) -> int:
    return next((job.view.job.version for job in found if job.view.job.name == "web"), 0)


def _ran(found: tuple[JobDetail, ...]) -> bool:
    return any(job.view.job.name == "run" and job.tasks and all(t.task.ended for t in job.tasks) for job in found)


def sizes(made: Cluster) -> Sizes:
    programs = {"controller": psutil.Process(made.controller.pid)}
    for name, agent in made.agents.items():
        programs[name] = psutil.Process(agent.pid)
    programs |= {f"relay of {name}": relay for name, relay in _relays(made)}
    return Sizes(
        descriptors={name: program.num_fds() for name, program in programs.items()},
        resident_bytes={name: program.memory_info().rss for name, program in programs.items()},
        processes=sum(str(made.directory) in " ".join(_words(process)) for process in psutil.process_iter()),
        left_behind=sum(1 for name in made.agents for _ in (made.directory / name).glob("processes/*")),
        stored_bytes=_bytes(made.directory.glob("controller.db*")),
        journal_bytes=sum(_bytes((made.directory / name).glob("journal.db*")) for name in made.agents),
    )


def _relays(made: Cluster) -> Iterator[tuple[str, psutil.Process]]:
    for process in psutil.process_iter():
        words = _words(process)
        for name in made.agents:
            if any("relay" in word for word in words) and any(str(made.directory / name) in word for word in words):
                yield name, process


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return process.cmdline()
    return []


def _bytes(files: Iterator[Path]) -> int:
    return sum(file.stat().st_size for file in files)


@beside(lambda directory: cluster(directory, f"sqlite://{directory}/controller.db", "process", NODES, *PATIENT))
async def test_nothing_grows_with_what_has_happened(made: Cluster) -> None:
    for number in range(WARM):
        await one_round(made, number)
    before = sizes(made)
    assert len(before.descriptors) == 5, "a controller, two agents, two relays"
    for number in range(WARM, WARM + ROUNDS):
        await one_round(made, number)
    after = sizes(made)
    print(msgspec.json.encode([before, after]).decode())
    for name, count in after.descriptors.items():
        assert count <= before.descriptors[name] + 3, f"descriptors of the {name}"
        assert after.resident_bytes[name] <= before.resident_bytes[name] + MORE_BYTES, f"memory of the {name}"
    assert after.processes <= before.processes + 1
    assert after.left_behind <= (AgentBounds().ended_kept + 2) * len(NODES)
    assert after.stored_bytes <= FILE_BYTES
    assert after.journal_bytes <= FILE_BYTES * len(NODES)
