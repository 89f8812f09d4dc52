"""Reads everything under a prefix at one revision, in pages that fit into a message. Decides only the pages' sizes."""

from __future__ import annotations

import grpc
from aetcd import rpc

from controller.store.etcd_client import EtcdClient, Refused

_PAGE_BYTES = 1024 * 1024
"""Aimed at; gRPC's limit for one message is 4 MiB, and values may be up to 1.4 MB."""
_FIRST_PAGE_KEYS = 500
_MOST_KEYS = 10_000
"""Of tiny records: a page of more would keep the event loop from turning for tens of milliseconds."""


async def read_all(client: EtcdClient, prefix: bytes, *, revision: int, page_timeout_s: float) -> dict[str, bytes]:
    """All values by their keys without the prefix, which ends with a slash.

    Raises `Unavailable`, also when the revision has been compacted away meanwhile.
    """
    values: dict[str, bytes] = {}
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    start, limit = prefix, _FIRST_PAGE_KEYS
    while True:
        request = rpc.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
        try:
            page = await client.read(request, timeout_s=page_timeout_s)
        except Refused as error:
            if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or limit == 1:
                raise
            limit = max(1, limit // 4)  # values here are larger than those before: the page did not fit
            continue
        for record in page.kvs:
            values[record.key[len(prefix) :].decode()] = record.value
        if not page.more:
            return values
        start = page.kvs[-1].key + b"\x00"
        limit = _next_limit(limit, page.ByteSize())


def _next_limit(limit: int, page_bytes: int) -> int:
    """As many keys as would have filled a page just now; at most twice as many as before."""
    return max(1, min(2 * limit, _MOST_KEYS, limit * _PAGE_BYTES // page_bytes))
