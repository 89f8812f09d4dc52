"""Configs and secrets on a node: files in memory, made whole, of the right owner, and gone with their task."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.asset_requests import AssetAsker, ContentAway
from agent.assets import AssetKeeper
from agent.container_request import request_of
from agent.memory import leave_memory, make_in_memory, memory_directory
from agent.runtime.interface import Owner
from common.errors import Invalid
from common.model.asset import AssetKind, AssetMount
from common.model.job import Container, DesiredState, TaskSpec
from common.model.session import AssetContent, AssetRequest, Assignment
from tests.virtual_time import on_virtual_time

CONFIG, SECRET = AssetKind.CONFIG, AssetKind.SECRET
DIGEST = "d" * 64
NODE = "node-1"


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def mount(
    kind: AssetKind = SECRET, name: str = "db", target: str = "", mode: int = 0o400, uid: int | None = None
) -> AssetMount:
    return AssetMount(kind=kind, name=name, digest=DIGEST, target=target or f"/run/secrets/{name}", mode=mode, uid=uid)


def wanted() -> AssetRequest:
    return AssetRequest(task_id="t1", kind=SECRET, name="db", digest=DIGEST)


def assignment(*mounts: AssetMount, image: str = "") -> Assignment:
    return Assignment(
        task_id="t1",
        namespace="shop",
        job="web",
        slot=1,
        version=1,
        desired=DesiredState.RUN,
        task=TaskSpec(container=Container(image=image, assets=mounts)),
    )


def content(request: AssetRequest, **fields: object) -> AssetContent:
    given = {"content": f"{request.kind.value} {request.name}".encode()} | fields
    return AssetContent(task_id=request.task_id, kind=request.kind, name=request.name, digest=request.digest, **given)


@asynccontextmanager
async def answering(asker: AssetAsker, **fields: object) -> AsyncIterator[list[AssetRequest]]:
    """A session whose controller answers everything at once; what it was asked."""
    asked: list[AssetRequest] = []

    async def send(request: AssetRequest) -> None:
        asked.append(request)
        asker.take(content(request, **fields))

    session = asyncio.create_task(asker.run(send))
    try:
        yield asked
    finally:
        session.cancel()
        with suppress(asyncio.CancelledError):
            await session


async def nobody() -> Owner | None:
    return None


async def test_files_lie_in_memory_as_the_container_sees_them(memory: Path) -> None:
    keeper = AssetKeeper(str(memory), NODE, AssetAsker())
    both = assignment(mount(), mount(CONFIG, "app", "/etc/app/app.conf", 0o444))
    async with answering(keeper.asker):
        place = await keeper.ensure(both, nobody)
    assert place == memory / NODE / "t1"
    assert (place / "run/secrets/db").read_text() == "secret db"
    assert (place / "etc/app/app.conf").read_text() == "config app"
    modes = [stat.S_IMODE((place / name).stat().st_mode) for name in ("run/secrets/db", "etc/app/app.conf")]
    assert modes == [0o400, 0o444]
    keeper.forget("t1")
    assert not place.exists()
    keeper.close()
    assert not (memory / NODE).exists()


async def test_what_is_there_needs_no_controller(memory: Path) -> None:
    """An agent that was restarted, with every controller gone."""
    first = AssetKeeper(str(memory), NODE, AssetAsker())
    async with answering(first.asker) as asked:
        await first.ensure(assignment(mount()), nobody)
    assert len(asked) == 1
    second = AssetKeeper(str(memory), NODE, AssetAsker(answer_s=0.0))
    second.sweep(["t1"])
    assert await second.ensure(assignment(mount()), nobody) == memory / NODE / "t1"
    second.sweep([])
    assert not (memory / NODE / "t1").exists()


@on_virtual_time
async def test_without_a_controller_it_says_what_it_waits_for(memory: Path) -> None:
    keeper = AssetKeeper(str(memory), NODE, AssetAsker())
    with pytest.raises(ContentAway, match="waits for secret db: no controller has answered"):
        await keeper.ensure(assignment(mount()), nobody)
    assert not list((memory / NODE).iterdir())


@on_virtual_time
async def test_what_was_asked_in_a_session_that_ended_is_asked_in_the_next() -> None:
    asker = AssetAsker()
    asked: list[AssetRequest] = []

    async def into_the_void(request: AssetRequest) -> None:
        asked.append(request)

    fetching = asyncio.create_task(asker.fetch(wanted()))
    first = asyncio.create_task(asker.run(into_the_void))
    await asyncio.sleep(1.0)
    first.cancel()
    async with answering(asker) as again:
        assert await fetching == b"secret db"
    assert asked == again


@on_virtual_time
async def test_every_question_is_sent_however_soon_it_follows_an_answer() -> None:
    asker = AssetAsker()
    tasks = [f"t{number}" for number in range(20)]
    async with answering(asker) as asked:
        for task_id in tasks:
            await asker.fetch(replace(wanted(), task_id=task_id))
    assert [request.task_id for request in asked] == tasks


@on_virtual_time
async def test_a_refusal_is_final_unless_it_is_the_controllers_own() -> None:
    asker = AssetAsker()
    async with answering(asker, content=b"", refusal="no task of this node uses it"):
        with pytest.raises(Invalid, match="secret db: no task of this node uses it"):
            await asker.fetch(wanted())
    async with answering(asker, content=b"", refusal="the controller cannot read it", later=True):
        with pytest.raises(ContentAway, match="waits for secret db: the controller cannot read it"):
            await asker.fetch(wanted())


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
async def test_a_file_belongs_to_whom_the_program_runs_as(memory: Path) -> None:
    async def owner() -> Owner | None:
        return Owner(uid=1234, gid=1235)

    keeper = AssetKeeper(str(memory), NODE, AssetAsker())
    mounts = (mount(), mount(name="given", uid=99), mount(CONFIG, "app", "/app", 0o444))
    async with answering(keeper.asker):
        place = await keeper.ensure(assignment(*mounts), owner)
    assert place is not None
    owners = [((place / name).stat().st_uid, (place / name).stat().st_gid) for name in ("run/secrets/db", "app")]
    assert owners == [(1234, 1235), (1234, 1235)]
    assert (place / "run/secrets/given").stat().st_uid == 99


async def test_nothing_is_kept_where_it_would_be_written_to_a_disk(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="kept in memory only, and none of /proc is on a tmpfs"):
        memory_directory("/proc")
    trap = Path(tempfile.mkdtemp(dir="/dev/shm"))
    (trap / NODE).symlink_to(tmp_path)
    try:
        with pytest.raises(Invalid, match="belongs to somebody else"):
            await AssetKeeper(str(trap), NODE, AssetAsker()).ensure(assignment(mount()), nobody)
    finally:
        (trap / NODE).unlink()
        trap.rmdir()


def test_programs_are_told_where_their_files_are() -> None:
    mounts = (mount(name="db-password"), mount(CONFIG, "app", "/etc/app.conf", 0o444))

    def environment(image: str) -> dict[str, str]:
        request = request_of(
            assignment(*mounts, image=image), 1, (), node_id=NODE, node_name="n", address="h", files=Path("/mem/t1")
        )
        assert [file.source for file in request.files] == ["/mem/t1/run/secrets/db-password", "/mem/t1/etc/app.conf"]
        return request.container.environment

    process, container = environment(""), environment("a")
    assert process["PODIUM_SECRET_DB_PASSWORD"] == "/mem/t1/run/secrets/db-password"
    assert container["PODIUM_SECRET_DB_PASSWORD"] == "/run/secrets/db-password"
    assert container["PODIUM_CONFIG_APP"] == "/etc/app.conf"


def test_a_place_is_left_when_it_is_empty_and_what_an_operator_gave_stays(memory: Path) -> None:
    own = memory / "given" / "own"
    make_in_memory(own, 0o700)
    (own / "file").touch()
    leave_memory(own)
    assert (own / "file").exists()
    (own / "file").unlink()
    leave_memory(own)
    assert list((memory / "given").iterdir()) == []
