"""The Docker runtime against a real engine: what only an engine can show, and what happens when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from agent.runtime.docker import DockerRuntime
from agent.runtime.docker_engine import EngineSettings
from agent.runtime.interface import ContainerRequest, ExecManner, Runtime
from common.errors import Conflict, Invalid, NotFound, Unavailable
from common.model.job import Container, Port, PullPolicy
from common.model.privileges import Privileges
from common.model.resources import Resources
from common.model.task import PortBinding
from tests.docker_images import TEST_IMAGE, ensure_image, require_docker
from tests.engine_door import EngineDoor
from tests.runtime_rigs import DockerRig

pytestmark = pytest.mark.docker

SLEEPS = Container(image=TEST_IMAGE, command=("sleep", "600"))


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    ensure_image(host=require_docker())


@pytest.fixture
async def rig() -> AsyncIterator[DockerRig]:
    made = DockerRig()
    await made.open(made.node_id)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[EngineDoor]:
    made = EngineDoor(tmp_path / "engine.sock")
    await made.open()
    try:
        yield made
    finally:
        await made.shut()


@pytest.fixture
async def through(request: pytest.FixtureRequest, rig: DockerRig, door: EngineDoor) -> AsyncIterator[DockerRuntime]:
    """A runtime that reaches the engine through the door; lists seldom, or as often as the test's parameter says."""
    period_s = getattr(request, "param", 1000.0)
    settings = EngineSettings(call_timeout_s=5.0, start_timeout_s=20.0, status_timeout_s=0.3, list_period_s=period_s)
    runtime = DockerRuntime(rig.node_id, host=door.host, clock=time.time, settings=settings)
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.close()


def script(text: str) -> Container:
    return Container(image=TEST_IMAGE, command=("sh", "-c", text))


async def run(runtime: Runtime, request: ContainerRequest) -> tuple[int | None, list[str]]:
    """Its exit code and output."""
    started = await runtime.start_container(await runtime.create(request))
    ended = await runtime.wait(started.id)
    return ended.code, [line.text async for line in runtime.logs(started.id)]


async def test_a_container_over_its_memory_limit_is_reported_as_such(rig: DockerRig) -> None:
    limit_bytes = 16 * 1024 * 1024
    # The engine itself misses what happens in the moment of the start.
    request = rig.request(script("sleep 0.5; exec dd if=/dev/zero of=/dev/null bs=64M count=10"))
    request = msgspec.structs.replace(request, limits=Resources(memory_bytes=limit_bytes))
    started = await rig.runtime.start_container(await rig.runtime.create(request))
    ended = await rig.runtime.wait(started.id)
    assert ended.oom
    assert (ended.code, ended.signal) == (137, "SIGKILL")
    assert ended.memory_limit_bytes == limit_bytes
    assert ended.memory_peak_bytes >= limit_bytes


async def test_the_memory_peak_of_a_stopped_container_is_known(rig: DockerRig) -> None:
    container = script("head -c 25165824 /dev/zero > /scratch/x; echo ready; exec sleep 600")
    request = rig.request(msgspec.structs.replace(container, tmpfs=("/scratch",)))
    started = await rig.runtime.start_container(await rig.runtime.create(request))
    async with contextlib.aclosing(rig.runtime.logs(started.id, follow=True)) as lines:  # type: ignore[type-var]
        await anext(aiter(lines))
    ended = await rig.runtime.stop_container(started.id, "SIGKILL", 10.0)
    assert ended.memory_peak_bytes > 20 * 1024 * 1024
    assert not ended.oom


async def test_cpu_and_memory_limits_reach_the_kernel(rig: DockerRig) -> None:
    request = rig.request(script("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null; true"))
    # More than this machine has: a quota that never bites, not a refusal.
    request = msgspec.structs.replace(request, limits=Resources(cpu_millis=64_000, memory_bytes=32 * 1024 * 1024))
    code, lines = await run(rig.runtime, request)
    assert code == 0
    assert lines[0].split()[0] == "6400000"


async def test_what_the_job_says_about_the_container_is_done(rig: DockerRig) -> None:
    text = (
        'id -u; pwd; hostname; echo "$COLOUR"; touch /here 2>/dev/null || echo read-only; touch /scratch/x && echo ok'
    )
    container = msgspec.structs.replace(
        script(text),
        entrypoint=("sh", "-c"),
        command=(text,),
        user="nobody",
        working_dir="/bin",
        hostname="counter",
        environment={"COLOUR": "blue = green"},
        read_only=True,
        tmpfs=("/scratch:size=1m,mode=1777",),
    )
    code, lines = await run(rig.runtime, rig.request(container))
    assert code == 0
    assert lines == ["65534", "/bin", "counter", "blue = green", "read-only", "ok"]


async def test_containers_have_names_and_labels_people_recognise(rig: DockerRig) -> None:
    request = rig.request(msgspec.structs.replace(SLEEPS, labels={"team": "tills"}))
    container_id = await rig.runtime.create(request)
    shown = _docker("inspect", "--format", "{{.Name}} {{.Config.Labels.team}}", container_id)
    assert shown.split() == [f"/podium-shop-web-3-{request.identity.task_id[:8]}-1", "tills"]
    found = _docker("ps", "-aq", "--no-trunc", "--filter", f"label=podium.task={request.identity.task_id}")
    assert found == container_id


async def test_a_program_inside_runs_as_another_user_where_it_is_told_to(rig: DockerRig) -> None:
    container_id = await rig.runtime.create(rig.request(Container(image=TEST_IMAGE, command=("sleep", "600"))))
    await rig.runtime.start_container(container_id)
    assert (await rig.runtime.exec(container_id, ("id", "-u"), 20.0)).output == "0\n"
    manner = ExecManner(user="65534:65534")
    assert (await rig.runtime.exec(container_id, ("id", "-u"), 20.0, manner)).output == "65534\n"


async def test_a_container_of_somebody_else_is_never_touched(rig: DockerRig) -> None:
    foreign = _docker("run", "-d", TEST_IMAGE, "sleep", "600")
    try:
        for call in (rig.runtime.kill_container, rig.runtime.remove):
            await call(foreign)
        with pytest.raises(NotFound, match="does not belong"):
            await rig.runtime.stop_container(foreign, "SIGKILL", 0.1)
        with pytest.raises(NotFound):
            await rig.runtime.exec(foreign, ("true",), 5.0)
        assert await rig.runtime.list() == ()
        assert _docker("inspect", "--format", "{{.State.Running}}", foreign) == "true"
    finally:
        _docker("rm", "-f", foreign)


async def test_a_name_that_somebody_else_took_is_a_conflict(rig: DockerRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.runtime.docker.NAME_TRIES", 2)
    request = rig.request(SLEEPS)
    name = f"podium-shop-web-3-{request.identity.task_id[:8]}-1"
    foreign = _docker("create", "--name", name, TEST_IMAGE, "true")
    try:
        with pytest.raises(Conflict, match=name):
            await rig.runtime.create(request)
    finally:
        _docker("rm", "-f", foreign)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": ("no-such-program",)}, "no-such-program"),
        ({"command": ("/etc",)}, "/etc"),
        ({"user": "no-such-user"}, "no-such-user"),
        ({"working_dir": "relative"}, "relative"),
    ],
)
async def test_what_can_never_run_is_invalid(rig: DockerRig, change: dict[str, object], said: str) -> None:
    container = msgspec.structs.replace(SLEEPS, **change)
    with pytest.raises(Invalid, match=said):
        await rig.runtime.start_container(await rig.runtime.create(rig.request(container)))


async def test_a_port_of_another_program_is_a_conflict(rig: DockerRig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        binding = PortBinding(container_port=80, host_address="127.0.0.1", host_port=taken.getsockname()[1])
        container_id = await rig.runtime.create(rig.request(SLEEPS, bindings=(binding,)))
        with pytest.raises(Conflict):
            await rig.runtime.start_container(container_id)
    # The port is free now: the same container starts, on just this port.
    assert (await rig.runtime.start_container(container_id)).bindings == (binding,)


async def test_images_by_pull_policy(rig: DockerRig) -> None:
    said: list[str] = []
    await rig.runtime.prepare(SLEEPS, said.append)
    absent = Container(image="podium-test-absent:1", pull_policy=PullPolicy.NEVER)
    with pytest.raises(NotFound, match="podium-test-absent:1"):
        await rig.runtime.prepare(absent, said.append)
    with pytest.raises((NotFound, Unavailable)):
        # Nobody listens on port 1: a registry that does not answer may answer later.
        await rig.runtime.prepare(Container(image="localhost:1/podium-test:1"), said.append)
    with pytest.raises(NotFound):
        await rig.runtime.create(rig.request(absent, bindings=()))
    assert said == []


@pytest.mark.parametrize("image", ["a/../../containers/victim?force=1#", "UPPER", "x:y:z", ""])
async def test_a_bad_reference_never_reaches_the_engine(
    through: DockerRuntime, door: EngineDoor, rig: DockerRig, image: str
) -> None:
    await door.shut()
    with pytest.raises(Invalid, match="image reference"):
        await through.prepare(Container(image=image), print)
    with pytest.raises(Invalid, match="image reference"):
        await through.create(rig.request(Container(image=image)))


async def test_an_engine_that_is_away_is_unavailable(through: DockerRuntime, door: EngineDoor, rig: DockerRig) -> None:
    assert (await through.status()).ready
    await door.shut()
    with pytest.raises(Unavailable):
        await through.create(rig.request(SLEEPS))
    with pytest.raises(Unavailable):
        await through.list()
    status = await through.status()
    assert not status.ready
    assert "Docker Engine" in status.message
    await door.open()
    assert (await through.status()).ready


async def test_an_engine_that_does_not_answer_costs_only_the_time_out(through: DockerRuntime, door: EngineDoor) -> None:
    door.hold = True
    status = await through.status()
    assert not status.ready
    assert "within 0.3 s" in status.message


async def test_wait_survives_the_engine_being_away(through: DockerRuntime, door: EngineDoor, rig: DockerRig) -> None:
    first, second = [(await through.start_container(await through.create(rig.request(SLEEPS)))).id for _ in range(2)]
    waits = [asyncio.create_task(through.wait(container_id)) for container_id in (first, second)]
    await door.shut()
    await rig.runtime.stop_container(first, "SIGKILL", 10.0)  # ends unseen
    assert not waits[0].done()
    await door.open()
    assert (await waits[0]).code == 137
    await rig.runtime.stop_container(second, "SIGKILL", 10.0)  # ends seen again
    assert (await waits[1]).code == 137


@pytest.mark.parametrize("through", [0.2], indirect=True)
async def test_the_list_is_the_truth_when_events_are_lost(
    through: DockerRuntime, door: EngineDoor, rig: DockerRig
) -> None:
    await door.shut()
    door.deaf_to_events = True
    await door.open()
    started = await through.start_container(await through.create(rig.request(script("sleep 0.5; exit 6"))))
    assert (await through.wait(started.id)).code == 6


async def test_waiting_holds_no_connections(through: DockerRuntime, door: EngineDoor, rig: DockerRig) -> None:
    requests = [rig.request(SLEEPS) for _ in range(6)]
    ids = await asyncio.gather(*(through.create(request) for request in requests))
    await asyncio.gather(*(through.start_container(container_id) for container_id in ids))
    before = door.connections
    waits = [asyncio.create_task(through.wait(container_id)) for container_id in ids]
    assert (await through.status()).ready
    assert door.connections <= before
    assert not any(wait.done() for wait in waits)
    await asyncio.gather(*(through.kill_container(container_id) for container_id in ids))
    assert [ended.code for ended in await asyncio.gather(*waits)] == [137] * 6


async def test_ports_in_the_request_without_bindings_are_not_published(rig: DockerRig) -> None:
    request = msgspec.structs.replace(rig.request(SLEEPS), ports=(Port(container_port=80),))
    started = await rig.runtime.start_container(await rig.runtime.create(request))
    assert started.bindings == ()


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


NET_RAW = 13
"""Its bit in a set of capabilities."""


async def rights_of(rig: DockerRig, container: Container) -> tuple[str, bool]:
    """Whether its programs are kept from gaining rights, and whether it may make packets by hand."""
    _, lines = await run(rig.runtime, rig.request(container))
    told = dict(line.split(":", 1) for line in lines)
    return told["NoNewPrivs"].strip(), bool(int(told["CapBnd"], 16) >> NET_RAW & 1)


async def test_a_container_gains_no_rights_and_makes_no_packets_unless_it_is_allowed_to(rig: DockerRig) -> None:
    plain = script("grep -e NoNewPrivs -e CapBnd /proc/self/status")
    assert await rights_of(rig, plain) == ("1", False)
    more = Privileges(cap_add=("NET_RAW",), new_privileges=True)
    assert await rights_of(rig, msgspec.structs.replace(plain, privileges=more)) == ("0", True)
