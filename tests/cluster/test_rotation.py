"""Everything that a cluster trusts is replaced while it serves: authority, cluster key, certificates, tokens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from client.client import Client
from client.settings import ClientSettings
from common.errors import Unauthenticated
from common.model.joining import AuthorityView
from common.model.trust import Role
from controller.security.cluster_key import read_keys
from tests.cluster.hello import Hello
from tests.cluster.load import load
from tests.cluster.processes import PATIENCE_S, Cluster, cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NODES = [("n1", "127.0.0.21"), ("n2", "127.0.0.22")]


async def until(client: Client, holds: Callable[[AuthorityView], bool]) -> AuthorityView:
    async with asyncio.timeout(PATIENCE_S):
        while not holds(seen := await client.trust.authority()):  # noqa: ASYNC110  another process
            await asyncio.sleep(0.1)
    return seen


def certificates(made: Cluster) -> dict[str, str]:
    """Which authority each node's certificate is of, as the node keeps it."""
    files = {name: made.directory / name / "identity.json" for name, _ in NODES}
    return {name: json.loads(file.read_text())["signer"] for name, file in files.items()}


async def test_all_of_it_under_load_costs_no_request_and_no_task(tmp_path: Path) -> None:
    store, keys = f"sqlite://{tmp_path}/controller.db", tmp_path / "keys" / "cluster.key"
    async with cluster(tmp_path, store, "process", NODES, "--tune", "spread=1", secure=True) as made:
        hello, client = Hello(made), made.client
        await hello.up()
        before, pids = await client.trust.authority(), await hello.pids()
        old_token = (await client.trust.add_user("ann", Role.VIEWER)).token
        (first,) = read_keys(keys)
        async with load(hello.targets, per_second=50) as seen:
            await made.run("ca", "rotate")
            after = await until(client, lambda now: now.believed == 1 and now.fingerprint != before.fingerprint)
            await made.run("ca", "rotate-key")
            await until(client, lambda now: now.key_id != before.key_id and not now.next_key_id)
            new_token = (await client.trust.rotate_user("ann", keep_s=3_600.0)).token
            for token in (old_token, new_token):  # both count for a while
                async with Client(ClientSettings(controllers=made.controllers, token=token)) as ann:
                    assert (await ann.trust.who_am_i()).name == "ann"
            reached = seen.answers
            await seen.until(lambda now: now.answers > reached + 50)
        assert seen.failures == []
        assert await hello.pids() == pids
        assert (after.waiting, after.nodes, after.retired) == ((), 2, 1)
        assert certificates(made) == {"n1": after.fingerprint, "n2": after.fingerprint}
        assert [key.id for key in read_keys(keys)] == [(await client.trust.authority()).key_id, first.id]
        # Whoever comes back finds everything: an agent, a controller, and commands that know the first authority only.
        made.agents["n1"].kill()
        made.agents["n1"].start()
        made.controller.kill()
        made.controller.start()
        await made.until_ready(2)
        assert await hello.pids() == pids
        old_ann = Client(ClientSettings(controllers=made.controllers, token=old_token))
        async with old_ann:
            assert (await old_ann.trust.who_am_i()).name == "ann"
            await made.run("ca", "rotate", "--forget")
        await made.run("nodes")
        await made.run("user", "rm", "ann")
        async with Client(ClientSettings(controllers=made.controllers, token=new_token)) as ann:
            with pytest.raises(Unauthenticated):
                await ann.trust.who_am_i()
