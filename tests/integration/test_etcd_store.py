"""The etcd store against what happens to networks and servers: lost answers, late requests, restarts, full disks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import msgspec
import pytest
from aetcd import rpc
from aetcd.rpc import rpc_pb2_grpc

from common.errors import Fenced, Invalid, OutcomeUnknown, Unavailable
from common.model.epoch import Epoch
from common.tls import TlsFiles
from controller.store import check
from controller.store.etcd import EtcdSettings, EtcdStore
from controller.store.etcd_client import EtcdClient, Message, check_version
from controller.store.etcd_pages import read_all
from controller.store.interface import Delete, LeaderRecord, Put
from tests.certificates import make as make_certificates
from tests.etcd import EtcdServer, require_etcd
from tests.ports import free_ports
from tests.tcp_proxy import TcpProxy

pytestmark = pytest.mark.etcd

ANN = LeaderRecord(controller_id="ann", address="10.0.0.1:7077")
BOB = LeaderRecord(controller_id="bob", address="10.0.0.2:7077")
PATIENT = EtcdSettings(lease_s=60, commit_s=30)
"""No lease runs out and no deadline strikes: a commit is lost when its connection breaks."""
HASTY = EtcdSettings(lease_s=60, call_s=0.5, commit_s=0.5, settle_s=1.0)

Connect = Callable[..., EtcdStore]


@pytest.fixture
async def connect(etcd_prefix: str) -> AsyncIterator[Connect]:
    """Opens stores of one prefix that are closed when the test is over."""
    async with AsyncExitStack() as stack:

        def open_one(*endpoints: str, settings: EtcdSettings = PATIENT, tls: TlsFiles | None = None) -> EtcdStore:
            store = EtcdStore(endpoints, prefix=etcd_prefix, settings=settings, tls=tls)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def raw(etcd_server: EtcdServer) -> AsyncIterator[EtcdClient]:
    """A way to the same etcd that no test disturbs."""
    client = EtcdClient([etcd_server.endpoint], None, check_timeout_s=5)
    yield client
    await client.close()


@pytest.fixture
async def proxy(etcd_server: EtcdServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(etcd_server.port) as running:
        yield running


async def revision_of(client: EtcdClient, key: str) -> int:
    """When `key` was last written; 0: never."""
    answer = await client.read(rpc.RangeRequest(key=key.encode()), timeout_s=5)
    return answer.kvs[0].mod_revision if answer.kvs else 0


async def written(client: EtcdClient, key: str, after: int) -> int:
    """Wait until `key` has been written; its revision."""
    while not (revision := await revision_of(client, key)):
        await client.wait_for_change(key.encode(), after=after, limit_s=10)
    return revision


# --- a commit without an answer


async def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient, etcd_prefix: str
) -> None:
    store = connect(proxy.address)
    leadership = await store.campaign(ANN)
    before = await store.commit(leadership, [Put("a", b"1")])
    proxy.swallow_answers()
    commit = asyncio.create_task(store.commit(leadership, [Put("a", b"2"), Put("b", b"2")]))
    at = await written(raw, f"{etcd_prefix}records/b", before)
    proxy.hang_up()
    assert await commit == at
    assert await store.commit(leadership, [Put("c", b"3")]) > at
    assert dict((await store.load(leadership)).values) == {"a": b"2", "b": b"2", "c": b"3"}


async def test_a_commit_that_never_arrived_is_found_to_be_lost(connect: Connect, proxy: TcpProxy) -> None:
    store = connect(proxy.address)
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"1")])
    proxy.hold_requests()
    commit = asyncio.create_task(store.commit(leadership, [Put("a", b"2")]))
    await proxy.request_held.wait()
    proxy.hang_up()
    with pytest.raises(Unavailable, match="nothing was written") as lost:
        await commit
    assert not isinstance(lost.value, OutcomeUnknown)
    await store.commit(leadership, [Put("b", b"3")])
    assert dict((await store.load(leadership)).values) == {"a": b"1", "b": b"3"}


@pytest.mark.parametrize("commits_before", [0, 1])
async def test_a_commit_found_to_be_lost_is_not_applied_when_it_arrives_late(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient, etcd_prefix: str, commits_before: int
) -> None:
    store = connect(proxy.address)
    leadership = await store.campaign(ANN)
    for _ in range(commits_before):
        await store.commit(leadership, [Put("a", b"1")])
    proxy.hold_requests()
    commit = asyncio.create_task(store.commit(leadership, [Put("late", b"2")]))
    await proxy.request_held.wait()
    proxy.hang_up()
    with pytest.raises(Unavailable, match="nothing was written"):
        await commit
    proxy.swallow_answers()
    await proxy.deliver()
    refused = asyncio.create_task(proxy.answered(b"/void"))  # the marker, which etcd tells when a guard fails
    applied = asyncio.create_task(written(raw, f"{etcd_prefix}records/late", leadership.epoch.term))
    await asyncio.wait({refused, applied}, return_when=asyncio.FIRST_COMPLETED)
    applied.cancel()
    assert refused.done()
    assert await revision_of(raw, f"{etcd_prefix}records/late") == 0


async def test_a_lost_commit_of_a_term_that_ended_meanwhile_is_told_apart(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient
) -> None:
    store = connect(proxy.address)
    leadership = await store.campaign(ANN)
    proxy.hold_requests()
    commit = asyncio.create_task(store.commit(leadership, [Put("a", b"2")]))
    await proxy.request_held.wait()
    await raw.revoke(leadership.lease_id, timeout_s=5)
    proxy.hang_up()
    with pytest.raises(Fenced, match="its last commit was not written"):
        await commit


async def test_a_commit_that_a_successor_wrote_over_is_of_unknown_outcome(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient, etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    store, other = connect(proxy.address), connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    proxy.swallow_answers()
    commit = asyncio.create_task(store.commit(leadership, [Put("a", b"2")]))
    await written(raw, f"{etcd_prefix}records/a", leadership.epoch.term)
    await raw.revoke(leadership.lease_id, timeout_s=5)
    present = await other.campaign(BOB)
    await other.commit(present, [Put("b", b"3")])
    proxy.hang_up()
    with pytest.raises(OutcomeUnknown, match=f"term {present.epoch.term} leads and has written since"):
        await commit


async def test_a_commit_that_cannot_be_read_back_is_of_unknown_outcome_and_the_terms_last(
    connect: Connect, own_etcd: EtcdServer
) -> None:
    store = connect(own_etcd.endpoint, settings=HASTY)
    leadership = await store.campaign(ANN)
    own_etcd.freeze()
    try:
        with pytest.raises(OutcomeUnknown):
            await store.commit(leadership, [Put("a", b"2")])
    finally:
        own_etcd.thaw()
    with pytest.raises(Fenced):
        await store.commit(leadership, [Put("b", b"2")])
    await store.resign(leadership)
    present = await store.campaign(ANN)
    await store.commit(present, [Put("c", b"2")])
    assert "b" not in (await store.load(present)).values


async def test_a_commit_waits_out_a_restart_of_etcd(connect: Connect, own_etcd: EtcdServer) -> None:
    store = connect(own_etcd.endpoint)
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"1")])
    await asyncio.to_thread(own_etcd.kill)
    commit = asyncio.create_task(store.commit(leadership, [Put("a", b"2")]))
    await asyncio.to_thread(own_etcd.start)
    with pytest.raises(Unavailable) as lost:
        await commit
    assert not isinstance(lost.value, OutcomeUnknown)
    await store.keep_alive(leadership)
    await store.commit(leadership, [Put("a", b"3")])


# --- the election


async def test_a_candidate_waits_for_an_etcd_that_is_not_there_yet(connect: Connect, own_etcd: EtcdServer) -> None:
    await asyncio.to_thread(own_etcd.kill)
    store = connect(own_etcd.endpoint)
    with pytest.raises(Unavailable, match=f"etcd {own_etcd.endpoint}"):
        await store.ping()
    candidacy = asyncio.create_task(store.campaign(ANN))
    await asyncio.to_thread(own_etcd.start)
    leadership = await asyncio.wait_for(candidacy, 20)
    await store.keep_alive(leadership)


async def test_an_election_whose_answer_was_lost_is_held_again(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient, etcd_prefix: str
) -> None:
    store = connect(proxy.address)
    await store.ping()
    proxy.swallow_answers_after(b"controller_id")
    candidacy = asyncio.create_task(store.campaign(ANN))
    lost_term = await written(raw, f"{etcd_prefix}leader", 1)
    proxy.hang_up()
    leadership = await asyncio.wait_for(candidacy, 20)  # the lost term's lease would last a minute
    assert leadership.epoch.term > lost_term
    await store.commit(leadership, [Put("a", b"1")])


async def test_a_candidacy_withdrawn_after_it_was_won_is_given_back(
    connect: Connect, proxy: TcpProxy, raw: EtcdClient, etcd_server: EtcdServer, etcd_prefix: str
) -> None:
    first, second = connect(proxy.address, settings=HASTY), connect(etcd_server.endpoint)
    await first.ping()
    proxy.swallow_answers_after(b"controller_id")
    candidacy = asyncio.create_task(first.campaign(ANN))
    await written(raw, f"{etcd_prefix}leader", 1)
    candidacy.cancel()
    await asyncio.wait({candidacy})
    assert candidacy.cancelled()
    await asyncio.wait_for(second.campaign(BOB), 20)


async def test_a_candidate_and_an_observer_outlast_a_restart_of_etcd(connect: Connect, own_etcd: EtcdServer) -> None:
    first, second = connect(own_etcd.endpoint), connect(own_etcd.endpoint)
    past = await first.campaign(ANN)
    leaders = second.observe_leader()
    assert (await anext(leaders) or BOB).epoch == past.epoch
    candidacy = asyncio.create_task(second.campaign(BOB))
    following = asyncio.ensure_future(anext(leaders))
    await asyncio.to_thread(own_etcd.kill)
    await asyncio.to_thread(own_etcd.start)
    await first.resign(past)
    present = await asyncio.wait_for(candidacy, 20)
    leader = await following
    if leader is None:  # it may have missed the moment without a leader
        leader = await anext(leaders)
    assert (leader or ANN).epoch == present.epoch


async def test_a_lease_that_is_not_renewed_runs_out(connect: Connect, etcd_server: EtcdServer) -> None:
    first = connect(etcd_server.endpoint, settings=EtcdSettings(lease_s=1.5))
    second = connect(etcd_server.endpoint)
    past = await first.campaign(ANN)
    assert past.lease_s == 2
    present = await asyncio.wait_for(second.campaign(BOB), 20)
    assert present.epoch > past.epoch
    with pytest.raises(Fenced, match="its lease ran out"):
        await first.keep_alive(past)


async def test_a_waiting_candidate_is_not_misled_by_a_compaction(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str
) -> None:
    """A watch from a compacted revision is cancelled and its stream stays open and silent."""
    store = connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    last = 0
    for number in range(5):
        last = await store.commit(leadership, [Put("a", b"%d" % number)])
    await raw.compact(last, timeout_s=5)
    key = f"{etcd_prefix}leader".encode()
    async with asyncio.timeout(20):
        await raw.wait_for_change(key, after=leadership.epoch.term, limit_s=60)


async def test_deleting_the_leader_key_by_hand_ends_the_term(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str
) -> None:
    store = connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    delete = rpc.DeleteRangeRequest(key=f"{etcd_prefix}leader".encode())
    await raw.transact(rpc.TxnRequest(success=[rpc.RequestOp(request_delete_range=delete)]), timeout_s=5)
    with pytest.raises(Fenced, match="its leader key is gone although its lease is not"):
        await store.keep_alive(leadership)


class WatchedReads(EtcdClient):
    """Counts the pages it reads, and lets a test do something between the first and the second."""

    def __init__(self, endpoint: str, between: Callable[[], Awaitable[None]]) -> None:
        super().__init__([endpoint], None, check_timeout_s=5)
        self.pages = 0
        self._between = between

    async def read(self, request: Message, *, timeout_s: float) -> Message:
        page = await super().read(request, timeout_s=timeout_s)
        self.pages += 1
        if self.pages == 1:
            await self._between()
        return page


async def test_a_load_is_of_one_revision_however_long_it_takes(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str
) -> None:
    store = connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    revision = 0
    for start in range(0, 1_000, 100):
        revision = await store.commit(leadership, [Put(f"{start + number:04d}", b"old") for number in range(100)])

    async def write() -> None:
        await store.commit(leadership, [Put("0999", b"new"), Put("0999x", b"new"), Delete("0998")])

    client = WatchedReads(etcd_server.endpoint, write)
    values = await read_all(client, f"{etcd_prefix}records/".encode(), revision=revision, page_timeout_s=5)
    await client.close()
    assert client.pages > 1
    assert values == {f"{number:04d}": b"old" for number in range(1_000)}


async def test_pages_grow_again_after_large_values(connect: Connect, etcd_server: EtcdServer, etcd_prefix: str) -> None:
    store = connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    revision = 0
    for number in range(8):
        revision = await store.commit(leadership, [Put(f"a/{number}", b"x" * 1_300_000)])
    for start in range(0, 3_000, 100):
        revision = await store.commit(leadership, [Put(f"b/{start + number}", b"y") for number in range(100)])

    async def nothing() -> None:
        pass

    client = WatchedReads(etcd_server.endpoint, nothing)
    values = await read_all(client, f"{etcd_prefix}records/".encode(), revision=revision, page_timeout_s=5)
    await client.close()
    assert len(values) == 3_008
    assert client.pages < 30


async def put(client: EtcdClient, key: str, value: bytes) -> None:
    request = rpc.RequestOp(request_put=rpc.PutRequest(key=key.encode(), value=value))
    await client.transact(rpc.TxnRequest(success=[request]), timeout_s=5)


async def test_a_generation_that_a_restore_left_is_part_of_the_epoch(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str
) -> None:
    await put(raw, f"{etcd_prefix}generation", b"7")
    store = connect(etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    assert leadership.epoch == Epoch(generation=7, term=await revision_of(raw, f"{etcd_prefix}leader"))
    leader = await anext(store.observe_leader())
    assert leader is not None
    assert leader.epoch == leadership.epoch


@pytest.mark.parametrize(("key", "complaint"), [("leader", "is no leader's record"), ("generation", "is no number")])
async def test_bookkeeping_that_somebody_overwrote_is_refused_by_name(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str, key: str, complaint: str
) -> None:
    await put(raw, f"{etcd_prefix}{key}", b"[]")
    with pytest.raises(Invalid, match=f"{etcd_prefix}{key}: .*{complaint}"):
        await anext(connect(etcd_server.endpoint).observe_leader())


# --- servers


async def test_a_server_that_is_gone_is_left_for_the_next(connect: Connect, etcd_server: EtcdServer) -> None:
    store = connect(f"127.0.0.1:{free_ports(1)[0]}", etcd_server.endpoint)
    leadership = await store.campaign(ANN)
    await store.commit(leadership, [Put("a", b"1")])


async def test_a_server_that_hangs_is_left_for_the_next(
    connect: Connect, own_etcd: EtcdServer, etcd_server: EtcdServer
) -> None:
    store = connect(own_etcd.endpoint, etcd_server.endpoint, settings=HASTY)
    await store.ping()
    own_etcd.freeze()
    try:
        await store.ping()
        await store.ping()
    finally:
        own_etcd.thaw()


async def test_a_renewal_asks_the_next_server_beside_one_behind_a_cut_cable(
    connect: Connect, proxy: TcpProxy, etcd_server: EtcdServer
) -> None:
    patient = msgspec.structs.replace(PATIENT, renewal_s=600, call_s=600)  # no deadline comes to help
    store = connect(proxy.address, etcd_server.endpoint, settings=patient)
    leadership = await store.campaign(ANN)
    proxy.hold_requests()
    for _ in range(2):
        await store.keep_alive(leadership)
        await store.ping()
    await store.commit(leadership, [Put("a", b"1")])


@asynccontextmanager
async def unconnected() -> AsyncIterator[EtcdClient]:
    """Knows three servers that nothing is sent to."""
    client = EtcdClient(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], None, check_timeout_s=1)
    yield client
    await client.close()


async def test_a_late_answer_counts_although_the_next_server_was_asked() -> None:
    asked, given_up = list[str](), list[str]()
    second_is_asked = asyncio.Event()
    async with unconnected() as client:

        async def ask() -> str:
            server = client.endpoints[0]
            asked.append(server)
            if len(asked) == 1:
                await second_is_asked.wait()
                return server
            second_is_asked.set()
            try:
                return await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                given_up.append(server)
                raise

        assert await client.first_answer(ask, patience_s=0.01) == "127.0.0.1:1"
    assert asked[:2] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert given_up == asked[1:]


async def test_each_server_is_asked_once_and_that_all_failed_is_told() -> None:
    asked: list[str] = []
    all_are_asked = asyncio.Event()
    async with unconnected() as client:

        async def ask() -> str:
            asked.append(client.endpoints[0])
            if len(asked) == 3:
                all_are_asked.set()
            await all_are_asked.wait()
            raise Unavailable("no")

        with pytest.raises(Unavailable):
            await client.first_answer(ask, patience_s=0.01)
    assert asked == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]


async def test_a_full_etcd_is_reported_and_the_leader_stays(connect: Connect, tmp_path: Path) -> None:
    require_etcd()
    server = EtcdServer(tmp_path, flags=("--quota-backend-bytes=1000000",))
    try:
        await asyncio.to_thread(server.start)
        store = connect(server.endpoint)
        leadership = await store.campaign(ANN)
        last = 0

        async def fill() -> None:
            nonlocal last
            for number in range(100):
                last = await store.commit(leadership, [Put(f"a/{number:03d}", b"x" * 100_000)])

        with pytest.raises(Unavailable, match="compacted, defragmented and its alarm disarmed") as refusal:
            await fill()
        assert not isinstance(refusal.value, OutcomeUnknown)
        await store.keep_alive(leadership)
        snapshot = await store.load(leadership)
        assert snapshot.revision == last
    finally:
        server.kill()


async def test_history_that_nobody_reads_is_dropped(
    connect: Connect, etcd_server: EtcdServer, raw: EtcdClient, etcd_prefix: str
) -> None:
    settings = EtcdSettings(lease_s=60, compact_after=20, compact_keeps=5)
    store = connect(etcd_server.endpoint, settings=settings)
    leadership = await store.campaign(ANN)
    first = await store.commit(leadership, [Put("a", b"first")])
    for number in range(25):
        await store.commit(leadership, [Put("a", b"%d" % number)])
    assert store._compaction is not None
    await store._compaction
    with pytest.raises(Unavailable, match="compacted"):
        await raw.read(rpc.RangeRequest(key=f"{etcd_prefix}records/a".encode(), revision=first), timeout_s=5)
    assert dict((await store.load(leadership)).values) == {"a": b"24"}


class OldEtcd(rpc_pb2_grpc.MaintenanceServicer):  # type: ignore[misc]
    """Says that it is some version of etcd, and serves nothing else."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def Status(self, request: object, context: object) -> object:  # noqa: N802  gRPC's name
        return rpc.StatusResponse(version=self._version)


@asynccontextmanager
async def pretended_etcd(version: str) -> AsyncIterator[str]:
    server = grpc.aio.server()
    rpc_pb2_grpc.add_MaintenanceServicer_to_server(OldEtcd(version), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_an_etcd_that_corrupts_data_is_refused(connect: Connect) -> None:
    async with pretended_etcd("3.5.1") as endpoint:
        with pytest.raises(Invalid, match=rf"etcd {endpoint}: version 3\.5\.1 can corrupt its data .* upgrade"):
            await connect(endpoint).campaign(ANN)


async def test_a_check_names_an_etcd_that_corrupts_data_and_one_that_does_not_answer(
    connect: Connect, etcd_server: EtcdServer
) -> None:
    silent = f"127.0.0.1:{free_ports(1)[0]}"
    async with pretended_etcd("3.5.1") as bad:
        examined = await connect(etcd_server.endpoint, bad, silent, settings=HASTY).examine()
    told = [f"{finding.subject}: {finding.text}" for finding in examined.findings]
    assert any(text.startswith(f"etcd {bad}: ") and "3.5.1 can corrupt its data" in text for text in told)
    assert any(text.startswith(f"etcd {silent}: does not answer") for text in told)
    assert "leader" in examined.facts[f"etcd {etcd_server.endpoint}"]


async def test_a_check_of_an_etcd_that_is_not_there_fails_at_once(connect: Connect) -> None:
    with pytest.raises(Unavailable):
        await check.of_store(connect(f"127.0.0.1:{free_ports(1)[0]}", settings=HASTY))


@pytest.mark.parametrize("version", ["3.4.0", "3.4.23", "3.5.3", "3.5.17", "3.6.0-rc.1", "4.0.0"])
def test_sound_versions_are_accepted(version: str) -> None:
    check_version("h:2379", version)


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1-rc.0", "3.5.2", "3.3.25", "2.3.8", "", "unknown"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(Invalid, match="h:2379: version"):
        check_version("h:2379", version)


# --- TLS


@pytest.fixture
def certificates(tmp_path: Path) -> TlsFiles:
    """Of the same pair for etcd and for its client."""
    return make_certificates(tmp_path)["ours"]


@pytest.fixture
def tls_etcd(certificates: TlsFiles, tmp_path: Path) -> Iterator[EtcdServer]:
    require_etcd()
    files = {
        "trusted-ca-file": certificates.ca_file,
        "cert-file": certificates.cert_file,
        "key-file": certificates.key_file,
    }
    flags = ("--client-cert-auth", *(f"--{flag}={file}" for flag, file in files.items()))
    server = EtcdServer(tmp_path, scheme="https", flags=flags)
    try:
        server.start()
        yield server
    finally:
        server.kill()


async def test_mutual_tls(connect: Connect, tls_etcd: EtcdServer, certificates: TlsFiles) -> None:
    settings = EtcdSettings(lease_s=2)
    store = connect(f"localhost:{tls_etcd.port}", tls=certificates, settings=settings)
    leadership = await asyncio.wait_for(store.campaign(ANN), 20)
    await store.commit(leadership, [Put("a", b"1")])
    assert (await store.examine()).findings == ()
    async with asyncio.timeout(20):
        while store.renewal_age_s(leadership) > 2:  # noqa: ASYNC110  a thread renews, and tells nobody
            await asyncio.sleep(0.02)
    with pytest.raises(Unavailable):
        await connect(tls_etcd.endpoint).ping()
