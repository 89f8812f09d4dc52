"""The store of several controllers: etcd elects the leader and guards every write of its.

Owns the keys' layout, the election, and what becomes of a commit whose answer was lost. Keys, all under one prefix:

    leader        the leader's record, bound to its lease; the key's create revision is the term
    generation    a number that a restore raises; absent means 0
    commit        marks the last commit; every commit requires the marker it knows and leaves its own
    records/...   what the ledger keeps
    controllers/  who runs (see `etcd_roster`)

The marker makes a lost answer decidable: to settle it, a transaction without operations replaces the marker. Where that
succeeds, the lost commit has not happened and, its guard now false, never will, however late it arrives.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import msgspec
from aetcd import rpc

from common.backoff import Backoff
from common.errors import Fenced, Invalid, OutcomeUnknown, Unavailable
from common.model.epoch import Epoch
from common.tls import TlsFiles
from controller.store.etcd_client import Answer, AnswerLost, EtcdClient, Message
from controller.store.etcd_examine import examine
from controller.store.etcd_pages import read_all
from controller.store.etcd_roster import EtcdRoster
from controller.store.etcd_stand_in import StandIn, now_s
from controller.store.interface import (
    Contents,
    Examination,
    LeaderRecord,
    Leadership,
    Operation,
    Put,
    Snapshot,
)
from controller.store.limits import check_operations

logger = logging.getLogger(__name__)


class EtcdSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long what may take, and how much history is kept."""

    lease_s: float = 3.0
    """Without a renewal the leader key lasts this long; etcd knows whole seconds and gives at least 2."""
    call_s: float = 2.0
    """One small request. An etcd that takes longer cannot keep a lease of 3 s alive either."""
    renewal_s: float = 1.0
    """A renewal: a lease has time for two to be lost."""
    patience_s: float = 0.3
    """Without an answer to a renewal or a look the next server is asked too: the one in use may be behind a cut cable,
    and a leader whose lease was not renewed for 2 s ends its term. Within one renewal three servers have their turn."""
    stand_in_s: float = 5.0
    """For a busy event loop the lease is renewed from a thread, for as long as a node's silence is death; no longer,
    since a leader that does nothing must be replaced."""
    commit_s: float = 3.0
    """Up to 1.5 MiB through the disks of a quorum; a leader whose lease is gone by then need not wait longer."""
    page_s: float = 10.0
    """One page of a load."""
    settle_s: float = 5.0
    """To find out what became of a commit: an election among etcd's members takes about 2 s."""
    look_s: float = 2.0
    """The leader key is read this often although a watch would tell: watches can be silent. Shorter than a lease: where
    the leader's host died with the server that was watched, its successor must not be the last to know."""
    again: Backoff = Backoff(first_s=0.05, limit_s=1.0)
    """Between tries while etcd does not answer."""
    compact_after: int = 10_000
    """Revisions after which a leader drops etcd's history, which nobody reads: it would fill the 2 GiB etcd allows."""
    compact_keeps: int = 1_000
    """Revisions kept at that, for the watches and page reads under way."""


class _View(msgspec.Struct, frozen=True):
    """The bookkeeping at one revision; keys as etcd gives them, None where there is none."""

    revision: int
    leader: Message | None
    marker: Message | None
    generation: int

    @property
    def term(self) -> int:
        """Of whoever leads; 0 while nobody does."""
        return 0 if self.leader is None else int(self.leader.create_revision)

    @property
    def marker_revision(self) -> int:
        return 0 if self.marker is None else int(self.marker.mod_revision)

    @property
    def marker_value(self) -> bytes:
        return b"" if self.marker is None else bytes(self.marker.value)


class _Term:
    """The term this store leads in, and where its commits stand."""

    def __init__(self, epoch: Epoch, marker_revision: int, stand_in: StandIn) -> None:
        self.epoch = epoch
        self.stand_in = stand_in
        self.marker_revision = marker_revision
        self.commits = 0
        self.in_doubt = False
        self.compacted_at = epoch.term


class EtcdStore:
    """See the module. `endpoints` as `host:port`; with TLS when `tls` is given."""

    kind = "etcd"

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        prefix: str = "/podium/v1/",
        tls: TlsFiles | None = None,
        settings: EtcdSettings | None = None,
    ) -> None:
        assert prefix.endswith("/"), "keys are folders"
        self._settings = settings or EtcdSettings()
        self._client = EtcdClient(endpoints, tls, check_timeout_s=self._settings.call_s)
        self._leader_key = f"{prefix}leader".encode()
        self._generation_key = f"{prefix}generation".encode()
        self._marker_key = f"{prefix}commit".encode()
        self._records = f"{prefix}records/".encode()
        self.roster = EtcdRoster(self._client, prefix)
        self._term: _Term | None = None
        self._compaction: asyncio.Task[None] | None = None

    # --- the election

    async def campaign(self, candidate: LeaderRecord) -> Leadership:
        """Also waits while etcd does not answer. Raises `Invalid` for an etcd that must not be used."""
        failures = 0
        while True:
            try:
                view = await self._look()
                if view.leader is not None:
                    await self._leader_may_have_changed(view)
                elif leadership := await self._stand(candidate):
                    return leadership
                failures = 0
            except Unavailable as error:
                failures += 1
                await self._wait_out("the campaign waits", failures, error)

    async def keep_alive(self, leadership: Leadership) -> None:
        """Renews the lease and looks whether the key is still there: somebody may have deleted it by hand."""
        stand_in = None
        if self._term is not None and self._term.epoch == leadership.epoch:
            stand_in = self._term.stand_in
            stand_in.present()
        sent_at_s = now_s()
        left_s = await self._first_answer(
            lambda: self._client.renew(leadership.lease_id, timeout_s=self._settings.renewal_s)
        )
        if left_s <= 0:
            raise Fenced(f"term {leadership.epoch.term} is over: its lease ran out or was revoked")
        if (await self._look()).term != leadership.epoch.term:
            raise Fenced(f"term {leadership.epoch.term} is over: its leader key is gone although its lease is not")
        if stand_in is not None:
            stand_in.renewed(sent_at_s)

    def renewal_age_s(self, leadership: Leadership) -> float:
        term = self._term
        return math.inf if term is None or term.epoch != leadership.epoch else term.stand_in.age_s()

    async def resign(self, leadership: Leadership) -> None:
        """Revokes the lease, which takes the leader key with it."""
        if self._term is not None and self._term.epoch == leadership.epoch:
            self._end_term()
        await self._client.revoke(leadership.lease_id, timeout_s=self._settings.call_s)

    async def observe_leader(self) -> AsyncIterator[LeaderRecord | None]:
        first, failures = True, 0
        seen: LeaderRecord | None = None
        while True:
            try:
                view = await self._look()
                leader = self._leader_of(view)
                if leader == seen and not first:
                    await self._leader_may_have_changed(view)
                failures = 0
            except Unavailable as error:
                failures += 1
                await self._wait_out("cannot see who leads", failures, error)
                continue
            if leader != seen or first:
                first, seen = False, leader
                yield leader

    async def _stand(self, candidate: LeaderRecord) -> Leadership | None:
        """Try to create the leader key; None when somebody else was faster.

        However this ends without winning, cancelled or not knowing: revoking the lease takes back what may have been
        created, and keeps a request that is still on its way from creating it.
        """
        lease_id, lease_s = await self._client.grant(math.ceil(self._settings.lease_s), timeout_s=self._settings.call_s)
        won = False
        try:
            answer = await self._client.transact(self._election(candidate, lease_id), timeout_s=self._settings.call_s)
            won = bool(answer.succeeded)
        finally:
            if not won:
                await self._give_back(lease_id, lease_s)
        if not won:
            return None
        view = self._view(answer)
        epoch = Epoch(generation=view.generation, term=view.term)
        self._end_term()
        self._term = _Term(epoch, view.marker_revision, self._stand_in(lease_id, lease_s))
        return Leadership(epoch=epoch, lease_s=lease_s, lease_id=lease_id)

    def _stand_in(self, lease_id: int, lease_s: float) -> StandIn:
        client, limit_s = self._client, self._settings.stand_in_s
        return StandIn(client.endpoints, client.credentials, lease_id, period_s=lease_s / 3, limit_s=limit_s)

    def _end_term(self) -> None:
        if self._term is not None:
            self._term.stand_in.stop()
            self._term = None

    def _election(self, candidate: LeaderRecord, lease_id: int) -> Message:
        record = {"controller_id": candidate.controller_id, "address": candidate.address}
        put = rpc.PutRequest(key=self._leader_key, value=msgspec.json.encode(record), lease=lease_id)
        return rpc.TxnRequest(
            compare=[_created_at(self._leader_key, 0)],
            success=[rpc.RequestOp(request_put=put), *self._bookkeeping()],
        )

    async def _give_back(self, lease_id: int, lease_s: float) -> None:
        """Tried again for as long as one call may take: what lost us the answer may have broken this connection too."""
        last: Unavailable | None = None
        try:
            async with asyncio.timeout(self._settings.call_s):
                while True:
                    try:
                        return await self._client.revoke(lease_id, timeout_s=self._settings.call_s)
                    except Unavailable as error:
                        last = error
                    await asyncio.sleep(self._settings.again.ceiling_s(1))
        except TimeoutError:
            logger.warning("a lease was not revoked (%s): it runs out within %g s", last or "no answer", lease_s)

    async def _leader_may_have_changed(self, view: _View) -> None:
        await self._client.wait_for_change(self._leader_key, after=view.revision, limit_s=self._settings.look_s)

    async def _wait_out(self, what: str, failures: int, error: Unavailable) -> None:
        if self._client.closed:
            raise error
        if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th in a row: an outage must not fill the log
            logger.warning("%s: %s", what, error)
        await asyncio.sleep(self._settings.again.ceiling_s(failures))

    def _leader_of(self, view: _View) -> LeaderRecord | None:
        leader = view.leader
        if leader is None:
            return None
        try:
            record = msgspec.json.decode(leader.value, type=LeaderRecord)
        except msgspec.DecodeError as error:
            raise Invalid(f"etcd key {self._leader_key.decode()}: is no leader's record ({error}); delete it") from None
        return msgspec.structs.replace(record, epoch=Epoch(generation=view.generation, term=view.term))

    # --- reading

    async def load(self, leadership: Leadership) -> Snapshot:
        view = await self._look()
        if view.term != leadership.epoch.term:
            raise Fenced(f"term {leadership.epoch.term} is over: {_successor(view)}")
        return await self._read(view)

    async def read(self) -> Contents:
        view = await self._look()
        term = view.term or int(view.marker_value.partition(b"/")[0] or 0)
        return Contents(
            snapshot=await self._read(view),
            epoch=Epoch(generation=view.generation, term=term),
            leader=self._leader_of(view),
        )

    async def _read(self, view: _View) -> Snapshot:
        values = await read_all(
            self._client, self._records, revision=view.revision, page_timeout_s=self._settings.page_s
        )
        return Snapshot(revision=view.revision, values=values)

    async def get(self, key: str) -> bytes | None:
        wanted = rpc.RangeRequest(key=self._records + key.encode())
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=wanted)])
        answer = await self._first_answer(lambda: self._client.transact(request, timeout_s=self._settings.call_s))
        found = _only(answer.responses[0].response_range)
        return None if found is None else bytes(found.value)

    async def examine(self) -> Examination:
        return await examine(self._client, timeout_s=self._settings.call_s)

    async def ping(self) -> None:
        await self._look()

    async def _look(self) -> _View:
        """A linearizable read: a member without a quorum cannot answer it."""
        request = rpc.TxnRequest(success=self._bookkeeping())
        return self._view(
            await self._first_answer(lambda: self._client.transact(request, timeout_s=self._settings.call_s))
        )

    async def _first_answer(self, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        return await self._client.first_answer(ask, patience_s=self._settings.patience_s)

    def _bookkeeping(self) -> list[Message]:
        keys = (self._leader_key, self._marker_key, self._generation_key)
        return [rpc.RequestOp(request_range=rpc.RangeRequest(key=key)) for key in keys]

    def _view(self, answer: Message) -> _View:
        """What a transaction that ended with `_bookkeeping` has read."""
        leader, marker, generation = (_only(response.response_range) for response in answer.responses[-3:])
        return _View(
            answer.header.revision, leader, marker, self._number(b"0" if generation is None else generation.value)
        )

    def _number(self, generation: bytes) -> int:
        if not generation.isdigit():
            raise Invalid(f"etcd key {self._generation_key.decode()}: {generation!r} is no number; restore it")
        return int(generation)

    # --- writing

    async def commit(self, leadership: Leadership, operations: Sequence[Operation]) -> int:
        check_operations(operations)
        return await self._commit(leadership, [self._request(operation) for operation in operations])

    async def raise_generation(
        self, leadership: Leadership, generation: int, operations: Sequence[Operation] = ()
    ) -> int:
        check_operations(operations)
        raising = rpc.PutRequest(key=self._generation_key, value=b"%d" % generation)
        requests = [self._request(operation) for operation in operations]
        return await self._commit(leadership, [*requests, rpc.RequestOp(request_put=raising)])

    async def _commit(self, leadership: Leadership, requests: list[Message]) -> int:
        term = self._term
        if term is None or term.epoch != leadership.epoch:
            raise Fenced(f"term {leadership.epoch.term} is over: this store does not lead it")
        if term.in_doubt:
            raise Fenced("the outcome of an earlier commit is unknown, so this term must end")
        try:
            term.marker_revision = await self._write(term, requests)
        except (asyncio.CancelledError, OutcomeUnknown):
            term.in_doubt = True
            raise
        self._compact_in_time(term)
        return term.marker_revision

    async def _write(self, term: _Term, requests: list[Message]) -> int:
        term.commits += 1
        mark = f"{term.epoch.term}/{term.commits}".encode()
        request = self._guarded(term, mark, requests)
        try:
            answer = await self._client.transact(request, timeout_s=self._settings.commit_s)
        except AnswerLost as lost:
            return await self._settle(term, mark, lost)
        if answer.succeeded:
            return int(answer.header.revision)
        view = self._view(answer)
        if view.term == term.epoch.term:
            raise Fenced(f"somebody else wrote {self._marker_key.decode()} in our term, so this term must end")
        raise Fenced(f"term {term.epoch.term} is over: {_successor(view)}")

    async def _settle(self, term: _Term, mark: bytes, lost: AnswerLost) -> int:
        """What became of a commit without an answer: its revision, or an error that says what is known."""
        void = mark + b"/void"
        try:
            async with asyncio.timeout(self._settings.settle_s):
                view = self._view(await self._insist(self._replacing(term, void)))
        except (TimeoutError, Unavailable, Invalid) as error:
            raise OutcomeUnknown(f"a commit was not acknowledged ({lost}) and nothing could be read back") from error
        if view.marker_value == mark:
            return view.marker_revision
        if view.marker_value == void:
            term.marker_revision = view.marker_revision
            raise Unavailable(f"the commit was lost, nothing was written: {lost}")
        if view.marker_revision == term.marker_revision:
            raise Fenced(f"term {term.epoch.term} is over and its last commit was not written: {_successor(view)}")
        raise OutcomeUnknown(f"a commit was not acknowledged ({lost}), and {_successor(view)} and has written since")

    async def _insist(self, request: Message) -> Message:
        """Send until an answer comes; only for a request whose repetition does no harm."""
        failures = 0
        while True:
            try:
                return await self._client.transact(request, timeout_s=self._settings.call_s)
            except Unavailable:
                if self._client.closed:
                    raise
                failures += 1
            await asyncio.sleep(self._settings.again.ceiling_s(failures))

    def _replacing(self, term: _Term, mark: bytes) -> Message:
        """Replaces the marker if it is the one we know, and tells the marker in any case. Harmless when repeated."""
        request = self._guarded(term, mark, [])
        request.success.extend(self._bookkeeping())
        return request

    def _guarded(self, term: _Term, mark: bytes, requests: list[Message]) -> Message:
        """The transaction that carries `requests` out, if the term lasts and the last commit is the one we know."""
        marking = rpc.PutRequest(key=self._marker_key, value=mark)
        return rpc.TxnRequest(
            compare=[
                _created_at(self._leader_key, term.epoch.term),
                _modified_at(self._marker_key, term.marker_revision),
            ],
            success=[*requests, rpc.RequestOp(request_put=marking)],
            failure=self._bookkeeping(),
        )

    def _request(self, operation: Operation) -> Message:
        key = self._records + operation.key.encode()
        if isinstance(operation, Put):
            return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=operation.value))
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))

    # --- history

    def _compact_in_time(self, term: _Term) -> None:
        due = term.marker_revision - term.compacted_at >= self._settings.compact_after
        if due and (self._compaction is None or self._compaction.done()):
            term.compacted_at = term.marker_revision
            revision = term.marker_revision - self._settings.compact_keeps
            self._compaction = asyncio.create_task(self._compact(revision), name="etcd compaction")

    async def _compact(self, revision: int) -> None:
        try:
            await self._client.compact(revision, timeout_s=self._settings.page_s)
        except Unavailable as error:  # somebody else may have compacted further; if not, the next one does
            logger.info("etcd's history was not compacted: %s", error)

    async def close(self) -> None:
        self._end_term()
        if self._compaction is not None:
            self._compaction.cancel()
            await asyncio.wait({self._compaction})
        await self._client.close()


def _created_at(key: bytes, revision: int) -> Message:
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key, create_revision=revision)


def _modified_at(key: bytes, revision: int) -> Message:
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=revision)


def _only(found: Message) -> Message | None:
    return found.kvs[0] if found.kvs else None


def _successor(view: _View) -> str:
    return f"term {view.term} leads" if view.term else "nobody leads"
