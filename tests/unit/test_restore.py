"""Restores: what may be written over, what is raised, and what is left of one that broke off at any step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from common.errors import Conflict, Invalid, OutcomeUnknown, PodiumError
from common.model.epoch import Epoch
from controller.store import restore
from controller.store.archive import Archive, Header
from controller.store.interface import Contents, LeaderRecord, Operation
from controller.store.keys import RESTORING, encode, key_of
from controller.store.memory import Loss, MemoryDatabase, MemoryStore
from tests.builders import job, job_spec, node

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")


def values(count: int, *, cpu: float = 4) -> dict[str, bytes]:
    records = (node(f"n{number}", cpu=cpu) for number in range(count))
    return {key_of(record): encode(record) for record in records}


def archive(content: Mapping[str, bytes], *, generation: int = 0) -> Archive:
    header = Header(
        podium_backup=1,
        podium="0",
        taken_at="",
        store="sqlite",
        generation=generation,
        term=1,
        revision=1,
        records={"nodes": len(content)},
    )
    return Archive(header=header, values=dict(content))


class Saved:
    """What was saved before it was replaced."""

    def __init__(self) -> None:
        self.contents: list[Contents] = []

    def __call__(self, contents: Contents) -> None:
        self.contents.append(contents)


async def put_back(
    database: MemoryDatabase, content: Archive, *, force: bool = False, generation: int = 0, saved: Saved | None = None
) -> restore.Restored:
    store = MemoryStore(database)
    return await restore.restore(store, content, force=force, generation=generation, keep_before=saved or Saved())


async def test_an_empty_store_holds_what_the_backup_did() -> None:
    database = MemoryDatabase()
    done = await put_back(database, archive(values(300), generation=4))
    assert database.values == values(300)
    assert (done.generation, done.written, done.removed) == (5, 300, 0)
    assert database.generation == 5
    assert database.leader is None


async def test_a_store_that_holds_something_needs_force_and_is_saved_first() -> None:
    database, saved = MemoryDatabase(generation=6), Saved()
    database.values = dict(values(5, cpu=2))
    with pytest.raises(Conflict, match="holds 5 records already"):
        await put_back(database, archive(values(2)), saved=saved)
    assert database.values == values(5, cpu=2)
    assert database.generation == 6
    done = await put_back(database, archive(values(2), generation=1), force=True, saved=saved)
    assert database.values == values(2)
    assert (done.generation, done.removed) == (7, 3)
    (before,) = saved.contents
    assert before.snapshot.values == values(5, cpu=2)
    assert before.epoch.generation == 6


async def test_nothing_is_written_while_a_controller_leads() -> None:
    database = MemoryDatabase()
    await MemoryStore(database).campaign(ANN)
    with pytest.raises(Conflict, match=r"controller ann leads .*10\.0\.0\.1:7077.*stop every controller first"):
        await put_back(database, archive(values(2)), force=True)
    assert database.values == {}


@pytest.mark.parametrize("wanted", [1, 3, 4])
async def test_a_generation_that_is_too_low_is_refused_before_anything_is_written(wanted: int) -> None:
    database = MemoryDatabase(generation=2)
    with pytest.raises(Invalid, match="at least 5 is needed"):
        await put_back(database, archive(values(2), generation=4), generation=wanted)
    assert database.values == {}
    assert database.leader is None


async def test_a_higher_generation_may_be_asked_for() -> None:
    database = MemoryDatabase()
    assert (await put_back(database, archive(values(1)), generation=9)).generation == 9
    assert database.generation == 9


async def test_a_backup_no_controller_could_read_is_refused_with_all_that_is_wrong() -> None:
    job_record, _ = job(job_spec())
    wrong = {
        "nodes/x": b"{half",
        "floppies/1": b"{}",
        "jobs/other": encode(job_record),
        key_of(job_record): encode(job_record),
    }
    database = MemoryDatabase()
    with pytest.raises(Invalid) as refusal:
        await put_back(database, archive(wrong))
    assert len(refusal.value.faults) == 3
    assert database.values == {}


@pytest.mark.parametrize("loss", list(Loss))
async def test_a_restore_that_breaks_off_at_any_step_is_marked_and_can_be_repeated(loss: Loss) -> None:
    content = archive(values(300))
    for step in range(5):  # the mark, three batches, the end
        database, saved = MemoryDatabase(), Saved()
        database.values = dict(values(5, cpu=2)) | {"nodes/gone": b"{}"}
        before = dict(database.values)
        store = Breaking(database, step, loss)
        with pytest.raises(OutcomeUnknown):
            await restore.restore(store, content, force=True, generation=0, keep_before=saved)
        assert database.leader is None
        begun, finished = database.values != before, database.values == content.values
        assert finished or not begun or RESTORING in database.values
        assert finished == (step == 4 and loss is Loss.ANSWER) == (database.generation == 1)
        again = await put_back(database, content, force=finished or not begun, saved=saved)
        assert database.values == content.values
        assert database.generation == again.generation
        assert again.interrupted == (begun and not finished)
        assert saved.contents[0].snapshot.values == before


class Watched(MemoryStore):
    """Says when something was written, and takes its time."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.applied = asyncio.Event()
        self.delay_s = 0.05

    def _apply(self, epoch: Epoch, operations: Sequence[Operation], generation: int | None) -> int:
        self.applied.set()
        return super()._apply(epoch, operations, generation)


class Breaking(MemoryStore):
    """Loses the commit of one step."""

    def __init__(self, database: MemoryDatabase, step: int, loss: Loss) -> None:
        super().__init__(database)
        self._steps_left = step
        self._loss = loss

    def _apply(self, epoch: Epoch, operations: Sequence[Operation], generation: int | None) -> int:
        self._steps_left -= 1
        if self._steps_left < 0:
            self.lose_next_commit = self._loss
        return super()._apply(epoch, operations, generation)


async def test_the_lease_is_renewed_however_long_it_takes() -> None:
    database = MemoryDatabase(lease_s=1.0)
    store = MemoryStore(database)
    store.delay_s = 0.2
    await restore.restore(store, archive(values(600)), force=False, generation=0, keep_before=Saved())
    assert database.values == values(600)


async def test_a_generation_is_raised_alone_only_where_no_restore_broke_off() -> None:
    database = MemoryDatabase(generation=3)
    assert await restore.raise_generation(MemoryStore(database), generation=0) == 4
    assert await restore.raise_generation(MemoryStore(database), generation=9) == 9
    with pytest.raises(Invalid, match="at least 10"):
        await restore.raise_generation(MemoryStore(database), generation=9)
    database.values[RESTORING] = b"{}"
    with pytest.raises(Conflict, match="repeat it"):
        await restore.raise_generation(MemoryStore(database), generation=0)
    assert database.generation == 9


async def test_a_cut_restore_lets_go_of_the_leader_key() -> None:
    database = MemoryDatabase()
    store = Watched(database)
    restoring = asyncio.create_task(
        restore.restore(store, archive(values(600)), force=False, generation=0, keep_before=Saved())
    )
    await store.applied.wait()
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert database.leader is None
    with pytest.raises(PodiumError):
        restore.check_archive(archive(database.values))
