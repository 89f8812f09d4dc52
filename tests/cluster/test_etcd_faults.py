"""What happens to etcd below three controllers: acknowledged writes survive, tasks keep their pids, and all goes on.

One cluster for nearly all of it: three members of etcd, three controllers, two agents with plain processes. Each test
adds a task before and after what it does to etcd.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest

from client.client import Client
from client.settings import ClientSettings
from common.model.api import ScaleTarget
from tests.cluster.beside import beside
from tests.cluster.processes import Cluster, Program, end_processes_naming, healthy, live
from tests.etcd import EtcdTrio, require_etcd
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.etcd, pytest.mark.timeout(600)]

BESIDE = "long silences"
NODES = (("n1", "127.0.0.61"), ("n2", "127.0.0.62"))
COMPOSE = """
name: faults
services:
  job: {command: ["sleep", "3600"], deploy: {replicas: 1}}
"""
QUOTA_BYTES = 24 * 1024 * 1024
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"


class Stage:
    """The cluster, and how many tasks it must have."""

    def __init__(self, directory: Path) -> None:
        self.etcd = EtcdTrio(directory, flags=(f"--quota-backend-bytes={QUOTA_BYTES}",))
        store = f"etcd://{self.etcd.endpoints}"
        self.made = made = Cluster(directory, store, "process")
        self.controllers = [made.controller]
        addresses = [made.grpc]
        for number in (2, 3):
            grpc = f"127.0.0.1:{free_port()}"
            addresses.append(grpc)
            listens = ("--grpc-listen", grpc, "--http-listen", f"127.0.0.1:{free_port()}")
            self.controllers.append(
                Program(f"controller-{number}", directory, "controller", "--store", store, *listens)
            )
        self.settings = ClientSettings(controllers=tuple(addresses), insecure=True)
        made.controllers = tuple(addresses)
        made.grpc = ",".join(addresses)  # for the agents
        self.replicas = 1

    def start(self) -> None:
        self.etcd.start()
        for controller in self.controllers:
            controller.start()
        for name, address in NODES:
            self.made.add_agent(name, address).start()
        (self.made.directory / "faults.yaml").write_text(COMPOSE)

    async def up(self) -> None:
        """The agents have registered, and the job's first task runs."""
        async with self.speaking():
            await self.made.until_ready(len(NODES))
            await self.made.run("up", "-f", "faults.yaml")

    @asynccontextmanager
    async def speaking(self) -> AsyncIterator[None]:
        """With a client of this event loop."""
        self.made.client = Client(self.settings)
        async with self.made.client:
            yield

    def end(self) -> None:
        for program in (*self.made.agents.values(), *self.controllers):
            with suppress(AssertionError):
                program.kill()
        end_processes_naming(self.made.directory)
        with suppress(AssertionError):
            self.etcd.thaw()
        self.etcd.kill()

    async def grow(self) -> dict[int, float]:
        """One task more: written, acknowledged, and carried out. The processes by pid, and when each began."""
        await self.order()
        return await self.processes()

    async def order(self) -> None:
        """One task more: acknowledged when this returns."""
        await self.made.client.scale("faults", [ScaleTarget(job="job", replicas=self.replicas + 1)])
        self.replicas += 1

    async def processes(self) -> dict[int, float]:
        (detail,) = await self.made.until("faults", lambda found: len(found) == 1 and healthy(found[0], self.replicas))
        pids = [int(view.task.status.runtime_id) for view in live(detail)]
        return {pid: psutil.Process(pid).create_time() for pid in pids}

    async def goes_on(self, before: dict[int, float]) -> None:
        """What was acknowledged is there, what ran is untouched, and the next write is carried out."""
        await self.made.until_ready(len(NODES))
        assert (await self.processes()).items() >= before.items()
        after = await self.grow()
        assert after.items() > before.items()


@pytest.fixture(scope="module")
def whole_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_etcd()
    stage = Stage(tmp_path_factory.mktemp("etcd-faults"))
    try:
        stage.start()
        asyncio.run(stage.up())
        yield stage
    finally:
        stage.end()


@pytest.fixture
async def stage(whole_stage: Stage) -> AsyncIterator[Stage]:
    async with whole_stage.speaking():
        yield whole_stage


@asynccontextmanager
async def own_stage(directory: Path) -> AsyncIterator[Stage]:
    require_etcd()
    stage = Stage(directory)
    try:
        await asyncio.to_thread(stage.start)
        await stage.up()
        async with stage.speaking():
            yield stage
    finally:
        await asyncio.to_thread(stage.end)


async def test_a_member_lost(stage: Stage) -> None:
    before = await stage.grow()
    follower = stage.etcd.sorted_by_role()[-1]
    await asyncio.to_thread(follower.kill)
    before = await stage.grow()  # two of three are enough
    checked = await asyncio.to_thread(stage.made.podium, "store", "check")
    assert f"etcd {follower.endpoint}: does not answer" in checked.stdout
    await asyncio.to_thread(follower.start)
    await stage.goes_on(before)


async def test_the_leading_member_lost(stage: Stage) -> None:
    before = await stage.grow()
    leader = stage.etcd.sorted_by_role()[0]
    await asyncio.to_thread(leader.kill)
    await stage.goes_on(before)
    await asyncio.to_thread(leader.start)


async def test_the_leading_member_frozen_for_five_seconds(stage: Stage) -> None:
    before = await stage.grow()
    leader = stage.etcd.sorted_by_role()[0]
    leader.freeze()
    try:
        await asyncio.sleep(5)  # what is tested is this time
    finally:
        leader.thaw()
    await stage.goes_on(before)


async def test_all_of_etcd_restarted_in_the_middle_of_a_write(stage: Stage) -> None:
    before = await stage.grow()
    await asyncio.to_thread(stage.etcd.kill)
    ordered = asyncio.create_task(stage.order())
    await asyncio.to_thread(stage.etcd.start)
    await ordered
    await stage.goes_on(before)


@beside(own_stage)
async def test_all_of_etcd_frozen_for_thirty_seconds(stage: Stage) -> None:
    before = await stage.grow()
    stage.etcd.freeze()
    try:
        await asyncio.sleep(30)  # ten leases: nobody leads, nobody can be elected
        assert all(psutil.Process(pid).create_time() == began for pid, began in before.items())
        assert [controller.name for controller in stage.controllers if controller.ended] == []
    finally:
        stage.etcd.thaw()
    await stage.goes_on(before)


async def test_a_full_etcd_takes_writes_again_after_what_operations_md_says(stage: Stage) -> None:
    before = await stage.grow()
    around = os.environ | {"ETCDCTL_ENDPOINTS": stage.etcd.endpoints}
    await asyncio.to_thread(fill, around, stage.made.directory)
    ordered = asyncio.create_task(stage.order())
    checked = await asyncio.to_thread(lambda: stage.made.podium("store", "check", code=1))
    assert "its space is used up (alarm NOSPACE)" in checked.stdout
    assert "`etcdctl defrag --cluster`" in checked.stdout
    assert not ordered.done()
    (block,) = re.findall(r"```console\n(\$ etcdctl compact.*?)```", OPERATIONS.read_text(), re.DOTALL)
    for line in ("etcdctl del --prefix /filler/", *block.splitlines()):
        command = ["sh", "-ec", line.removeprefix("$ ")]
        await asyncio.to_thread(subprocess.run, command, env=around, check=True, timeout=60)
    await ordered
    await stage.goes_on(before)
    said = "".join(controller.log() for controller in stage.controllers)
    assert "compacted, defragmented and its alarm disarmed" in said


def fill(around: dict[str, str], directory: Path) -> None:
    """Write until etcd has no space left."""
    filler = directory / "filler"
    filler.write_bytes(os.urandom(512 * 1024).hex().encode())
    for number in range(2 * QUOTA_BYTES // filler.stat().st_size):
        with filler.open("rb") as content:
            done = subprocess.run(
                ["etcdctl", "put", f"/filler/{number}"], stdin=content, env=around, capture_output=True, timeout=30
            )
        if b"database space exceeded" in done.stderr:
            return
    raise AssertionError(f"etcd never filled up: {done.stderr!r}")
