"""Which controllers run on one etcd: each keeps a key of its own under a lease of its own. Decides nothing.

Beside the leader's records, never guarded, never loaded: for people who ask who stands by. Costs a renewal of the
lease per controller every few seconds, and no write.

    controllers/<controller id>     the controller's record
"""

from __future__ import annotations

import asyncio
import logging

import msgspec
from aetcd import rpc

from common.backoff import Backoff
from common.errors import Unavailable
from controller.store.etcd_client import EtcdClient
from controller.store.etcd_pages import read_all
from controller.store.interface import LeaderRecord

logger = logging.getLogger(__name__)


class RosterSettings(msgspec.Struct, frozen=True, kw_only=True):
    lease_s: int = 10
    """A controller that died stays listed for this long."""
    renewals: int = 3
    """Per lease: two may be lost."""
    call_s: float = 2.0
    again: Backoff = Backoff(first_s=1.0, limit_s=10.0)
    """Before it is tried again: nothing depends on the list."""


class EtcdRoster:
    """See the module. `prefix` ends with a slash."""

    def __init__(self, client: EtcdClient, prefix: str, settings: RosterSettings | None = None) -> None:
        self._client = client
        self._folder = f"{prefix}controllers/".encode()
        self._settings = settings or RosterSettings()

    async def attend(self, controller: LeaderRecord) -> None:
        """Until cancelled: be listed. Leaving takes the key away, if etcd answers."""
        failures = 0
        while True:
            try:
                await self._attend_for_one_lease(controller)
                failures = 0
            except Unavailable as error:
                failures += 1
                logger.debug("not listed among the controllers for now: %s", error)
            await asyncio.sleep(self._settings.again.ceiling_s(failures))

    async def attending(self) -> tuple[LeaderRecord, ...]:
        """The controllers that run, by address. Raises `Unavailable`."""
        found = await read_all(self._client, self._folder, revision=0, page_timeout_s=self._settings.call_s)
        records = []
        for controller_id, value in found.items():
            try:
                records.append(msgspec.json.decode(value, type=LeaderRecord))
            except msgspec.DecodeError as error:
                logger.warning("controller %s is listed by what is no record (%s)", controller_id, error)
        return tuple(sorted(records, key=lambda record: (record.address, record.controller_id)))

    async def _attend_for_one_lease(self, controller: LeaderRecord) -> None:
        """Returns when the lease is gone; raises `Unavailable` where etcd does not answer."""
        settings = self._settings
        lease_id, lease_s = await self._client.grant(settings.lease_s, timeout_s=settings.call_s)
        try:
            await self._client.transact(self._listing(controller, lease_id), timeout_s=settings.call_s)
            left_s = lease_s
            while left_s > 0:
                await asyncio.sleep(lease_s / settings.renewals)
                left_s = await self._client.renew(lease_id, timeout_s=settings.call_s)
        finally:
            await self._give_back(lease_id)

    def _listing(self, controller: LeaderRecord, lease_id: int) -> rpc.TxnRequest:
        record = {"controller_id": controller.controller_id, "address": controller.address}
        key = self._folder + controller.controller_id.encode()
        put = rpc.PutRequest(key=key, value=msgspec.json.encode(record), lease=lease_id)
        return rpc.TxnRequest(success=[rpc.RequestOp(request_put=put)])

    async def _give_back(self, lease_id: int) -> None:
        try:
            await self._client.revoke(lease_id, timeout_s=self._settings.call_s)
        except Unavailable as error:
            logger.debug("the lease of the list of controllers runs out by itself: %s", error)
