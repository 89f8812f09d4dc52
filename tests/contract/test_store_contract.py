"""What every store keeps, whatever is under it: one suite over memory, SQLite and a real etcd."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from common.errors import Conflict, Fenced, Invalid, Unavailable
from common.model.epoch import Epoch
from controller.store.etcd import EtcdSettings, EtcdStore
from controller.store.etcd_client import EtcdClient
from controller.store.interface import (
    MAX_COMMIT_BYTES,
    MAX_OPERATIONS,
    Delete,
    LeaderRecord,
    Leadership,
    Operation,
    Put,
    Store,
)
from controller.store.memory import MemoryDatabase, MemoryStore
from controller.store.sqlite import SqliteStore
from tests.etcd import EtcdServer

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
BOB = LeaderRecord(controller_id="bob", address="10.0.0.2:7077")
LONG_LEASE_S = 60.0
"""No test waits for one to run out, so whatever happens at once happens for another reason."""


class Backend(ABC):
    """One database and the handles that a test has opened to it."""

    candidates_wait = True
    """Whether a candidate waits for its predecessor; if not, it is refused."""

    def __init__(self) -> None:
        self._opened: list[Store] = []

    def open(self) -> Store:
        store = self._connect()
        self._opened.append(store)
        return store

    async def close(self) -> None:
        for store in self._opened:
            await store.close()

    @abstractmethod
    def _connect(self) -> Store: ...

    @abstractmethod
    async def end_lease(self, leadership: Leadership) -> None:
        """Let others lead without telling the leader."""


class Memory(Backend):
    def __init__(self) -> None:
        super().__init__()
        self._database = MemoryDatabase(lease_s=LONG_LEASE_S)

    def _connect(self) -> Store:
        return MemoryStore(self._database)

    async def end_lease(self, leadership: Leadership) -> None:
        self._database.end_term()


class Sqlite(Backend):
    candidates_wait = False

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def _connect(self) -> Store:
        return SqliteStore(self._path)

    async def end_lease(self, leadership: Leadership) -> None:
        """There is none: but people remove lock files."""
        self._path.with_name(self._path.name + ".lock").unlink()


class Etcd(Backend):
    def __init__(self, endpoint: str, prefix: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._prefix = prefix

    def _connect(self) -> Store:
        return EtcdStore([self._endpoint], prefix=self._prefix, settings=EtcdSettings(lease_s=LONG_LEASE_S))

    async def end_lease(self, leadership: Leadership) -> None:
        client = EtcdClient([self._endpoint], None, check_timeout_s=5)
        await client.revoke(leadership.lease_id, timeout_s=5)
        await client.close()


@pytest.fixture(params=["memory", "sqlite", pytest.param("etcd", marks=pytest.mark.etcd)])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    made: Backend
    match request.param:
        case "memory":
            made = Memory()
        case "sqlite":
            made = Sqlite(tmp_path / "state.db")
        case _:
            server: EtcdServer = request.getfixturevalue("etcd_server")
            made = Etcd(server.endpoint, request.getfixturevalue("etcd_prefix"))
    yield made
    await made.close()


async def contents(store: Store, leadership: Leadership) -> dict[str, bytes]:
    return dict((await store.load(leadership)).values)


async def fill(store: Store, leadership: Leadership, puts: Sequence[Put], per_commit: int) -> None:
    for start in range(0, len(puts), per_commit):
        await store.commit(leadership, puts[start : start + per_commit])


# --- values


async def test_a_new_store_is_empty(backend: Backend) -> None:
    store = backend.open()
    await store.ping()
    assert await contents(store, await store.campaign(ANN)) == {}


async def test_what_was_committed_is_loaded_by_the_next_leader(backend: Backend) -> None:
    first, second = backend.open(), backend.open()
    leadership = await first.campaign(ANN)
    await first.commit(leadership, [Put("jobs/1", b"one"), Put("jobs/2", b"two"), Put("tasks/1", b"old")])
    await first.commit(leadership, [Delete("jobs/1"), Put("tasks/1", b"new"), Delete("jobs/absent")])
    await first.resign(leadership)
    assert await contents(second, await second.campaign(BOB)) == {"jobs/2": b"two", "tasks/1": b"new"}


async def test_revisions_rise_and_a_snapshot_carries_the_one_it_shows(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    revisions = [await store.commit(leadership, [Put("a", b"%d" % number)]) for number in range(3)]
    assert revisions == sorted(set(revisions))
    assert (await store.load(leadership)).revision == revisions[-1]


async def test_a_snapshot_does_not_change_with_later_commits(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"1")])
    snapshot = await store.load(leadership)
    await store.commit(leadership, [Put("a", b"2"), Put("b", b"2")])
    assert dict(snapshot.values) == {"a": b"1"}


@pytest.mark.parametrize(
    "key",
    [
        "jobs/größe",
        "ключ",
        "鍵/🔑",
        "with space",
        "nul\x00inside",
        "%_'\"\\",
        "leader",
        "commit",
        "generation",
        "/",
        "z" * 500,
    ],
)
async def test_any_text_is_a_key_and_any_bytes_are_a_value(backend: Backend, key: str) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    value = bytes(range(256)) + "Größe 🔑".encode()
    await store.commit(leadership, [Put(key, value), Put(key + "/empty", b"")])
    assert await contents(store, leadership) == {key: value, key + "/empty": b""}
    await store.commit(leadership, [Delete(key)])
    assert await contents(store, leadership) == {key + "/empty": b""}


async def test_a_load_may_be_larger_than_a_message(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    # In key order: many small ones, which tempt a reader into long pages, then large ones, and the largest possible.
    small = [Put(f"a/{number:05d}", b"x" * 40) for number in range(1_500)]
    large = [Put(f"b/{number:05d}", bytes([number]) * 200_000) for number in range(30)]
    largest = [Put(f"c/{number}", bytes([number]) * (MAX_COMMIT_BYTES - 3)) for number in range(4)]
    await fill(store, leadership, small, MAX_OPERATIONS)
    await fill(store, leadership, large, 6)
    await fill(store, leadership, largest, 1)
    assert await contents(store, leadership) == {put.key: put.value for put in small + large + largest}


# --- limits


async def test_a_commit_may_be_as_large_as_the_limits_say(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    share_bytes = MAX_COMMIT_BYTES // MAX_OPERATIONS
    operations = [Put(f"k{number:03d}", b"v" * (share_bytes - 4)) for number in range(MAX_OPERATIONS)]
    await store.commit(leadership, operations)
    assert len(await contents(store, leadership)) == MAX_OPERATIONS


@pytest.mark.parametrize(
    ("operations", "complaint"),
    [
        ([Put(f"k{number}", b"") for number in range(MAX_OPERATIONS + 1)], "121 operations in one commit; at most 120"),
        ([Put("k", b"v" * MAX_COMMIT_BYTES)], "1400001 bytes of keys and values in one commit; at most 1400000"),
        ([Put("fine", b""), Put("twice", b"1"), Delete("twice")], "twice: is written twice"),
        ([Put("fine", b""), Put("", b"1")], "key: is empty"),
        ([Put("fine", b""), Put("half \ud800", b"1")], "half a surrogate pair"),
    ],
)
async def test_a_commit_over_a_limit_is_refused_whole(
    backend: Backend, operations: list[Operation], complaint: str
) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    with pytest.raises(Invalid) as refusal:
        await store.commit(leadership, operations)
    assert complaint in str(refusal.value)
    await store.commit(leadership, [Put("next", b"")])
    assert await contents(store, leadership) == {"next": b""}


async def test_everything_wrong_with_a_commit_is_said_at_once(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    with pytest.raises(Invalid) as refusal:
        await store.commit(leadership, [Put("a", b""), Put("a", b""), Put("", b""), Put("b", b"v" * MAX_COMMIT_BYTES)])
    assert len(refusal.value.faults) == 3


# --- terms


async def test_terms_rise_with_every_election(backend: Backend) -> None:
    first, second = backend.open(), backend.open()
    epochs: list[Epoch] = []
    for store, candidate in ((first, ANN), (second, BOB), (second, BOB), (first, ANN)):
        leadership = await store.campaign(candidate)
        await store.commit(leadership, [Put("a", b"")])
        epochs.append(leadership.epoch)
        await store.resign(leadership)
    assert epochs == sorted(set(epochs))


async def test_a_lease_can_be_kept_alive(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    for _ in range(3):
        await store.keep_alive(leadership)
    await store.commit(leadership, [Put("a", b"")])


async def test_a_leader_that_was_replaced_writes_and_learns_nothing(backend: Backend) -> None:
    old, new = backend.open(), backend.open()
    past = await old.campaign(ANN)
    await old.commit(past, [Put("a", b"old"), Put("b", b"old")])
    await backend.end_lease(past)
    present = await new.campaign(BOB)
    assert present.epoch > past.epoch
    await new.commit(present, [Put("a", b"new")])
    for attempt in (
        old.commit(past, [Put("a", b"zombie"), Put("c", b"zombie"), Delete("b")]),
        old.keep_alive(past),
        old.load(past),
    ):
        with pytest.raises(Fenced):
            await attempt
    await old.resign(past)
    await new.keep_alive(present)
    await new.commit(present, [Put("d", b"new")])
    assert await contents(new, present) == {"a": b"new", "b": b"old", "d": b"new"}


async def test_a_resigned_leader_writes_nothing_and_may_resign_again(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    await store.resign(leadership)
    with pytest.raises(Fenced):
        await store.commit(leadership, [Put("a", b"zombie")])
    with pytest.raises(Fenced):
        await store.keep_alive(leadership)
    await store.resign(leadership)
    assert await contents(store, await store.campaign(ANN)) == {}


async def test_an_earlier_term_of_the_same_store_stays_over(backend: Backend) -> None:
    store = backend.open()
    past = await store.campaign(ANN)
    await store.resign(past)
    present = await store.campaign(ANN)
    with pytest.raises(Fenced):
        await store.commit(past, [Put("a", b"zombie")])
    await store.resign(past)
    await store.commit(present, [Put("a", b"")])
    assert await contents(store, present) == {"a": b""}


async def test_resigning_lets_the_next_candidate_lead_at_once(backend: Backend) -> None:
    first, second = backend.open(), backend.open()
    past = await first.campaign(ANN)
    if not backend.candidates_wait:
        with pytest.raises(Conflict):
            await second.campaign(BOB)
        await first.resign(past)
        assert (await second.campaign(BOB)).epoch > past.epoch
        return
    candidacy = asyncio.create_task(second.campaign(BOB))
    for _ in range(3):  # it has had every chance to lead too early
        await first.keep_alive(past)
    assert not candidacy.done()
    await first.resign(past)
    assert (await asyncio.wait_for(candidacy, LONG_LEASE_S / 2)).epoch > past.epoch


async def test_a_withdrawn_candidacy_is_never_won(backend: Backend) -> None:
    first, second, third = backend.open(), backend.open(), backend.open()
    past = await first.campaign(ANN)
    candidacy = asyncio.create_task(second.campaign(BOB))
    for _ in range(3):
        await first.keep_alive(past)
    candidacy.cancel()
    await asyncio.wait({candidacy})
    await first.resign(past)
    won = await asyncio.wait_for(third.campaign(ANN), LONG_LEASE_S / 2)
    await third.commit(won, [Put("a", b"")])


async def test_a_candidacy_withdrawn_while_it_is_being_won_is_given_back(backend: Backend) -> None:
    store = backend.open()
    await store.ping()
    for turns in range(12):  # cancelled before the request, under way, and after the answer
        candidacy = asyncio.create_task(store.campaign(ANN))
        for _ in range(turns):
            await asyncio.sleep(0)
        candidacy.cancel()
        await asyncio.wait({candidacy})
        if not candidacy.cancelled():
            await store.resign(candidacy.result())
    other = backend.open()
    await asyncio.wait_for(other.campaign(BOB), LONG_LEASE_S / 2)


async def test_a_cancelled_commit_is_the_terms_last(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("before", b"")])
    if isinstance(store, MemoryStore):
        store.delay_s = 0.01
    commit = asyncio.create_task(store.commit(leadership, [Put("cancelled", b"")]))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait({commit})
    assert commit.cancelled()
    with pytest.raises(Fenced):
        await store.commit(leadership, [Put("after", b"")])
    await store.resign(leadership)
    assert "after" not in await contents(store, await store.campaign(ANN))


# --- observers


async def test_an_observer_sees_who_leads(backend: Backend) -> None:
    first, second, onlooker = backend.open(), backend.open(), backend.open()
    leaders = onlooker.observe_leader()
    assert await anext(leaders) is None
    past = await first.campaign(ANN)
    seen = await anext(leaders)
    assert seen == LeaderRecord(controller_id="ann", address="10.0.0.1:7077", epoch=past.epoch)
    await first.resign(past)
    assert await anext(leaders) is None
    present = await second.campaign(BOB)
    seen = await anext(leaders)
    assert seen == LeaderRecord(controller_id="bob", address="10.0.0.2:7077", epoch=present.epoch)


async def test_an_observer_that_comes_late_sees_the_present_leader_first(backend: Backend) -> None:
    store, onlooker = backend.open(), backend.open()
    leadership = await store.campaign(ANN)
    leader = await anext(onlooker.observe_leader())
    assert leader is not None
    assert leader.epoch == leadership.epoch


async def test_a_leader_can_observe_itself(backend: Backend) -> None:
    store = backend.open()
    leaders = store.observe_leader()
    assert await anext(leaders) is None
    leadership = await store.campaign(ANN)
    leader = await anext(leaders)
    assert leader is not None
    assert leader.epoch == leadership.epoch


# --- the end


async def test_a_closed_store_says_so(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    await store.resign(leadership)
    await store.close()
    await store.close()
    for attempt in (store.ping(), store.load(leadership), store.campaign(ANN)):
        with pytest.raises(Unavailable, match="closed"):
            await attempt


# --- backups and restores


async def test_anybody_may_read_everything_while_another_leads(backend: Backend) -> None:
    leading, other = backend.open(), backend.open()
    leadership = await leading.campaign(ANN)
    revision = await leading.commit(leadership, [Put("jobs/1", b"one"), Put("tasks/1", b"two")])
    found = await other.read()
    assert found.snapshot.values == {"jobs/1": b"one", "tasks/1": b"two"}
    assert found.snapshot.revision == revision
    assert found.epoch == leadership.epoch
    assert found.leader is not None
    assert (found.leader.controller_id, found.leader.address) == (ANN.controller_id, ANN.address)
    await leading.commit(leadership, [Put("jobs/1", b"three")])


async def test_a_store_that_nobody_ever_led_on_has_no_value(backend: Backend) -> None:
    assert await backend.open().get("a") is None


async def test_anybody_may_read_one_value_while_another_leads(backend: Backend) -> None:
    leader, reader = backend.open(), backend.open()
    leadership = await leader.campaign(ANN)
    await leader.commit(leadership, [Put("a", b"1"), Put("b", b"2")])
    assert await reader.get("a") == b"1"
    assert await reader.get("absent") is None
    await leader.commit(leadership, [Put("a", b"3"), Delete("b")])
    assert await reader.get("a") == b"3"
    assert await leader.get("b") is None


async def test_whoever_reads_is_told_when_nobody_leads(backend: Backend) -> None:
    first, other = backend.open(), backend.open()
    leadership = await first.campaign(ANN)
    await first.commit(leadership, [Put("jobs/1", b"one")])
    await first.resign(leadership)
    found = await other.read()
    assert found.leader is None
    assert found.snapshot.values == {"jobs/1": b"one"}


async def test_a_raised_generation_comes_with_its_operations_and_outlives_the_term(backend: Backend) -> None:
    first, second = backend.open(), backend.open()
    leadership = await first.campaign(ANN)
    await first.commit(leadership, [Put("jobs/1", b"one"), Put("mark", b"")])
    await first.raise_generation(leadership, 7, [Put("jobs/2", b"two"), Delete("mark")])
    await first.resign(leadership)
    assert (await second.read()).epoch.generation == 7
    present = await second.campaign(BOB)
    assert present.epoch.generation == 7
    assert present.epoch > leadership.epoch
    assert await contents(second, present) == {"jobs/1": b"one", "jobs/2": b"two"}


async def test_a_term_that_is_over_raises_no_generation(backend: Backend) -> None:
    store = backend.open()
    past = await store.campaign(ANN)
    await store.resign(past)
    present = await store.campaign(ANN)
    with pytest.raises(Fenced):
        await store.raise_generation(past, 7, [Put("a", b"late")])
    await store.resign(present)
    found = await store.read()
    assert found.epoch.generation == 0
    assert found.snapshot.values == {}


async def test_a_sound_store_examines_itself_and_finds_nothing(backend: Backend) -> None:
    store = backend.open()
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"1")])
    found = await store.examine()
    assert found.findings == ()
    assert found.facts
    await store.commit(leadership, [Put("a", b"2")])
