"""Checks what a store holds, record by record and together, and what the store says of itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping

import msgspec

from common.errors import Invalid, Unavailable
from common.model.store import CheckReport, Finding
from controller.core import check as core
from controller.store.interface import MAX_COMMIT_BYTES, Examination, Snapshot, Store
from controller.store.keys import CONTENTS, RESTORING, Record, check_record

_WARN_RECORD_BYTES = MAX_COMMIT_BYTES // 2
_WARN_TOTAL_BYTES = 1024**3
_RECORDS_PER_TURN = 1_000
"""Decoded before the event loop may turn: about 10 ms."""


async def report(
    store: str, snapshot: Snapshot, examined: Examination, *, believed: Mapping[str, Record] | None = None
) -> CheckReport:
    """All that is known of a store's health; `believed` is what its leader has in memory, where that is comparable."""
    records: dict[str, Record] = {}
    found = [*examined.findings]
    for number, (key, value) in enumerate(snapshot.values.items(), 1):
        found += _decoded(key, value, records)
        if number % _RECORDS_PER_TURN == 0:
            await asyncio.sleep(0)
    found += [*_sizes(snapshot.values), *_differences(records, believed or {})]
    found += core.findings(core.Records.of(records.values()))
    counts = Counter(key.partition("/")[0] for key in snapshot.values)
    facts = {
        "revision": str(snapshot.revision),
        "records": ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())) or "none",
        "value bytes": str(_total_bytes(snapshot.values)),
        **examined.facts,
    }
    return CheckReport(store=store, facts=facts, findings=tuple(sorted(found, key=lambda finding: not finding.error)))


async def of_store(store: Store) -> CheckReport:
    """All that can be known of a store without its leader. Raises what the backend raises when it is none at all."""
    examined = await store.examine()
    try:
        snapshot = (await store.read()).snapshot
    except (Invalid, Unavailable) as error:
        unread = Finding(
            error=True,
            subject="store",
            text=f"cannot be read: {error}",
            why="no controller starts on it, and what it holds was not checked",
            advice="mend what is named here, or restore a backup",
        )
        examined = msgspec.structs.replace(examined, findings=(*examined.findings, unread))
        snapshot = Snapshot(revision=0, values={})
    return await report(store.kind, snapshot, examined)


def _decoded(key: str, value: bytes, records: dict[str, Record]) -> Iterator[Finding]:
    """Decode one value into `records`, or say why it cannot be read."""
    try:
        records[key] = check_record(key, value)
    except Invalid as error:
        unfinished = key == RESTORING
        advice = "restore a backup, or use the version of Podium that wrote it"
        yield Finding(
            error=True,
            subject=key,
            text=str(error),
            why="no controller starts on this store",
            advice="repeat the restore that was broken off" if unfinished else advice,
        )


def _differences(records: Mapping[str, Record], believed: Mapping[str, Record]) -> Iterator[Finding]:
    for key in sorted(records.keys() | believed.keys()) if believed else ():
        if records.get(key) != believed.get(key):
            yield Finding(
                error=True,
                subject=key,
                text="differs between the store and the leader's memory",
                why="the leader decides by something that is not so",
                advice="restart the leading controller, which reads everything anew; and report this",
            )


def _sizes(values: Mapping[str, bytes]) -> Iterator[Finding]:
    for key, value in values.items():
        if len(value) > _WARN_RECORD_BYTES and not key.startswith(CONTENTS):
            yield Finding(
                error=False,
                subject=key,
                text=f"has {len(value)} bytes; the store takes {MAX_COMMIT_BYTES} in one commit",
                why="when it grows further, it cannot be written any more",
                advice="look at it with podium inspect; and report this: records are meant to stay small",
            )
    if _total_bytes(values) > _WARN_TOTAL_BYTES:
        yield Finding(
            error=False,
            subject="store",
            text=f"holds {_total_bytes(values)} bytes",
            why="etcd allows 2 GiB unless told otherwise, and a new leader has to load all of it",
            advice="remove jobs that are not needed any more (podium jobs)",
        )


def _total_bytes(values: Mapping[str, bytes]) -> int:
    return sum(len(key) + len(value) for key, value in values.items())
