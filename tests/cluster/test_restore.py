"""Yesterday's backup, restored: agents obey, what is older goes on untouched, what is newer is named and kept.

The store changes its kind on the way: SQLite is what one begins with, etcd is how one grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.cluster.beside import beside
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import PATIENT, Cluster, cluster, healthy, live
from tests.etcd import EtcdServer, require_etcd
from tests.process_table import lives, until_ended

pytestmark = [pytest.mark.slow, pytest.mark.etcd, pytest.mark.timeout(300)]

BESIDE = "broken files"
NODES = [("n1", "127.0.0.51"), ("n2", "127.0.0.52")]
LATE = """
name: late
services:
  job: {command: ["sleep", "1000"], deploy: {replicas: 2}}
"""


async def late_pids(made: Cluster) -> dict[str, int]:
    (detail,) = await made.until("late", lambda found: len(found) == 1 and healthy(found[0], 2))
    return {view.task.id: int(view.task.status.runtime_id) for view in live(detail)}


async def gone(pids: list[int]) -> None:
    await asyncio.to_thread(until_ended, [psutil.Process(pid) for pid in pids if lives(pid)])


@asynccontextmanager
async def two_stores(directory: Path) -> AsyncIterator[tuple[Cluster, str, str]]:
    """A cluster on SQLite, and the addresses of its store and of an etcd."""
    require_etcd()
    etcd, sqlite = EtcdServer(directory), f"sqlite://{directory}/controller.db"
    try:
        await asyncio.to_thread(etcd.start)
        async with cluster(directory, sqlite, "process", NODES, *PATIENT) as made:
            yield made, sqlite, f"etcd://{etcd.endpoint}"
    finally:
        etcd.kill()


@beside(two_stores)
async def test_what_is_newer_than_a_restored_backup_is_kept_until_somebody_decides(
    staged: tuple[Cluster, str, str],
) -> None:
    made, sqlite, etcd = staged
    hello = Hello(made)
    await hello.up()
    await made.run("store", "backup", "yesterday")
    old = await hello.pids()
    (made.directory / "late.yaml").write_text(LATE)
    await made.run("up", "-f", "late.yaml")
    late = await late_pids(made)
    refused = await made.run("store", "restore", "yesterday", "--store", sqlite, code=1)
    assert f"leads on this store (at {made.grpc}" in refused.stderr

    async with load(hello.targets, per_second=20) as seen:
        await asyncio.to_thread(made.controller.end)
        await made.run("store", "restore", "yesterday", "--store", etcd)
        arguments = list(made.controller.arguments)
        arguments[arguments.index("--store") + 1] = etcd
        made.controller.arguments = tuple(arguments)
        made.controller.start()
        await made.until_ready(2)
        assert await hello.pids() == old
        await kept(made, late)
        made.agents["n1"].kill()
        made.controller.kill()
        made.controller.start()
        made.agents["n1"].start()
        await made.until_ready(2)
        await kept(made, late)
        assert await hello.pids() == old
        answered = seen.answers
        await seen.until(lambda seen: seen.answers > answered + 20)
    assert seen.failures == []

    assert made.read("cluster")["epoch"]["generation"] == 1
    assert made.read("cluster")["strays"] == 2
    checked = made.read("store", "check")
    assert [(finding["error"], "does not know" in finding["text"]) for finding in checked["findings"]] == [
        (False, True)
    ] * 2
    await made.run("up", "-f", "late.yaml")
    again = await late_pids(made)
    assert not again.keys() & late.keys()
    await made.run("store", "stop-strays", "--all")
    await gone(list(late.values()))
    assert made.read("store", "strays") == []
    assert await late_pids(made) == again
    assert await hello.pids() == old


async def kept(made: Cluster, late: dict[str, int]) -> None:
    """Every task that the state does not know is listed with what it runs as, and still runs."""
    strays = await asyncio.to_thread(made.read, "store", "strays")
    assert {stray["id"]: int(stray["runtime_id"]) for stray in strays} == late
    assert {stray["job"] for stray in strays} == {"late/job"}
    assert all(lives(pid) for pid in late.values())
