"""Renews a leader's lease from a thread of its own while the leader's event loop is too busy to.

A pass over thousands of tasks may keep the loop for a second or two: that is no reason to lose the term. A loop that
has not turned for longer than `limit_s` is another matter, so there the stand-in stops and the lease lapses. While the
loop turns it sends nothing. Shares no connection with the loop's client: that one's callbacks need the loop.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence

import grpc
from aetcd import rpc

from controller.store.etcd_client import METADATA, OPTIONS

logger = logging.getLogger(__name__)


class StandIn:
    """See the module. One for each term; `present` and `stop` are the loop's, all else is the thread's."""

    def __init__(
        self,
        endpoints: Sequence[str],
        credentials: grpc.ChannelCredentials | None,
        lease_id: int,
        *,
        period_s: float,
        limit_s: float,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._credentials = credentials
        self._lease_id = lease_id
        self._period_s = period_s
        self._limit_s = limit_s
        self._present_at_s = now_s()
        self._renewed_at_s = -math.inf
        self._loops_at_s = self._present_at_s
        """When the loop sent its own last renewal that succeeded."""
        self._current = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease stand-in", daemon=True)
        self._thread.start()

    def present(self) -> None:
        """The loop turns, and is about to renew the lease itself."""
        self._present_at_s = now_s()

    def renewed(self, sent_at_s: float) -> None:
        """The loop renewed the lease itself."""
        self._loops_at_s = sent_at_s

    def age_s(self) -> float:
        """How long ago the youngest renewal that succeeded here was sent; infinite when there is none."""
        return now_s() - self._renewed_at_s

    def stop(self) -> None:
        """Send nothing more, apart from what is on its way. Does not wait for that."""
        self._stopped.set()

    def _run(self) -> None:
        channel: grpc.Channel | None = None
        try:
            while not self._stopped.wait(self._period_s / 10):
                if channel is None:  # before it is needed: a busy interpreter would take long to connect
                    channel = self._connect()
                if self._is_due() and not self._renew(channel):
                    channel.close()
                    channel = None
        finally:
            if channel is not None:
                channel.close()

    def _is_due(self) -> bool:
        """A loop that turns, but so slowly that its own renewals take too long, needs the stand-in as well."""
        at_s = now_s()
        since_s = at_s - max(self._loops_at_s, self._renewed_at_s)
        return since_s >= 1.1 * self._period_s and at_s - self._present_at_s <= self._limit_s

    def _renew(self, channel: grpc.Channel) -> bool:
        """Whether this server can be asked again. The lease counts from before the request."""
        sent_at_s = now_s()
        request = rpc.LeaseKeepAliveRequest(ID=self._lease_id)
        stream = rpc.LeaseStub(channel).LeaseKeepAlive(iter((request,)), timeout=self._period_s, metadata=METADATA)
        try:
            left_s = next(stream).TTL
        except (grpc.RpcError, StopIteration) as error:
            logger.warning("the event loop is busy, and the lease was not renewed for it either: %s", error)
            return False
        if left_s > 0:
            self._renewed_at_s = sent_at_s
        return True

    def _connect(self) -> grpc.Channel:
        endpoint = self._endpoints[self._current % len(self._endpoints)]
        self._current += 1
        if self._credentials is None:
            channel = grpc.insecure_channel(endpoint, options=OPTIONS)
        else:
            channel = grpc.secure_channel(endpoint, self._credentials, options=OPTIONS)
        channel.subscribe(lambda _state: None, try_to_connect=True)
        return channel


def now_s() -> float:
    """Goes on counting while the machine sleeps, as the lease does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
