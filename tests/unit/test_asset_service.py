"""Configs and secrets as engineers hand them in, and what a term does about them by itself."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from common.errors import Conflict, Invalid
from common.model.api import ApplyRequest
from common.model.asset import AssetKind
from common.model.asset_calls import ListAssets, PutAsset, PutHow, RemoveAsset
from common.model.trust import Authority
from common.settings import LIMITS
from controller.api.assets import NO_KEY, AssetsService
from controller.core.assets import GRACE_S
from controller.loops.assets import AssetLoop
from controller.security.sealing import ClusterKey, KeyRing
from controller.security.vault import Vault
from controller.state import Erase, Group, State, Write
from tests.api_rig import Api, api
from tests.unit.test_assets import NOW_S, VALUE, VAULT, Cluster, using
from tests.virtual_time import on_virtual_time

CONFIG, SECRET = AssetKind.CONFIG, AssetKind.SECRET


@asynccontextmanager
async def serving(vault: Vault | None = VAULT) -> AsyncIterator[tuple[Api, AssetsService]]:
    async with api() as a:
        with a.front.lead(dataclasses.replace(a.term, vault=vault)):
            yield a, AssetsService(a.front)


def put(kind: AssetKind = SECRET, content: bytes = VALUE, **fields: object) -> PutAsset:
    return PutAsset(**({"kind": kind, "namespace": "shop", "asset": "app", "content": content} | fields))


async def test_what_is_handed_in_can_be_named_by_a_job_and_only_that() -> None:
    async with serving() as (a, service):
        done = await service.put(put(CONFIG))
        request = ApplyRequest(namespace="shop", specs=(using(done.digest),))
        await a.jobs.apply(request)
        (view,) = (await service.list_assets(ListAssets(kind=CONFIG))).assets
        assert [(one.digest, one.jobs) for one in view.versions] == [(done.digest, ("shop/web",))]
        with pytest.raises(Invalid, match="is not there: hand it in first"):
            await a.jobs.apply(ApplyRequest(namespace="shop", specs=(using("0" * 64),)))


async def test_a_dry_run_tells_the_digest_and_keeps_nothing() -> None:
    async with serving() as (a, service):
        planned = await service.put(put(CONFIG, dry_run=True))
        assert planned.stored
        assert (await service.list_assets(ListAssets(kind=CONFIG))).assets == ()
        assert (await service.put(put(CONFIG))).digest == planned.digest
        assert not (await service.put(put(CONFIG, dry_run=True))).stored
        plan = await a.jobs.plan(ApplyRequest(namespace="shop", specs=(using("0" * 64),)))
        assert [change.action for change in plan.changes] == ["create"]


async def test_without_a_cluster_key_there_are_configs_and_no_secrets() -> None:
    async with serving(vault=None) as (_, service):
        await service.put(put(CONFIG))
        with pytest.raises(Conflict, match="has no cluster key") as error:
            await service.put(put())
        assert str(error.value) == NO_KEY


async def test_every_fault_is_told_by_its_field() -> None:
    async with serving() as (_, service):
        wrong = put(CONFIG, b"x" * (LIMITS.config_bytes + 1), namespace="no/thing", asset="../app")
        with pytest.raises(Invalid) as error:
            await service.put(wrong)
    assert [fault.path for fault in error.value.faults] == ["namespace", "name", "content"]


async def test_two_that_make_a_secret_at_once_agree_on_its_key() -> None:
    async with serving() as (_, service):
        one, other, third = await asyncio.gather(
            service.put(put()), service.put(put()), service.put(put(content=b"other"))
        )
        assert one.digest == other.digest != third.digest
        assert (await service.put(put())).digest == one.digest


@pytest.mark.parametrize("first", ["forget", "apply"])
async def test_nothing_is_forgotten_while_a_job_comes_to_use_it(first: str) -> None:
    """Both are decided on the same state; they must not go out in one commit."""
    async with serving() as (a, service):
        digest = (await service.put(put(CONFIG))).digest
        key = "config/shop/app"

        def forget(state: State) -> list[Group]:
            version = state.assets.version(key, digest)
            return [] if version is None or state.assets.uses(key, digest) else [(Erase(version),)]

        applying = a.jobs.apply(ApplyRequest(namespace="shop", specs=(using(digest),)))
        both = [a.rig.ledger.submit(forget), applying]
        outcomes = await asyncio.gather(*(both if first == "forget" else reversed(both)), return_exceptions=True)
        assert (a.rig.state.assets.version(key, digest) is None) == any(isinstance(one, Invalid) for one in outcomes)
        assert (a.rig.state.job_named("shop", "web") is None) == any(isinstance(one, Invalid) for one in outcomes)


async def test_one_made_by_name_is_removed_by_name() -> None:
    async with serving() as (_, service):
        for _ in range(3):
            await service.put(put(how=PutHow.CREATE))
        assert len((await service.list_assets(ListAssets(kind=SECRET))).assets) == 1
        await service.remove(RemoveAsset(kind=SECRET, namespace="shop", asset="app"))
        assert (await service.list_assets(ListAssets(kind=SECRET))).assets == ()


@asynccontextmanager
async def looping(cluster: Cluster, vault: Vault | None) -> AsyncIterator[tuple[Api, State]]:
    async with api(*cluster.state.records()) as a:
        a.rig.now_s = cluster.now_s
        loop = asyncio.create_task(
            AssetLoop(a.rig.ledger, vault, clock=lambda: NOW_S + asyncio.get_running_loop().time()).run()
        )
        try:
            yield a, a.rig.state
        finally:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop


@on_virtual_time
async def test_a_term_seals_secrets_under_the_cluster_key_that_the_authority_is_sealed_under() -> None:
    cluster = Cluster()
    cluster.put(VALUE, kind=SECRET)
    old, new = ClusterKey(secret=b"k" * 32), ClusterKey(secret=b"n" * 32)
    ring = KeyRing([old])
    authority = Authority(cluster_id="c1", certificates=(), private_key=ring.seal("authority", b"key"))
    async with looping(cluster, Vault(ring)) as (a, state):
        await asyncio.sleep(1.0)
        ring.know(new)
        ring.use(new.id)
        moved = msgspec.structs.replace(authority, private_key=ring.seal("authority", b"key"))
        await a.rig.ledger.submit(lambda _: [(Write(moved),)])
        await asyncio.sleep(1.0)
        (asset,) = state.assets.named.values()
        (version,) = state.assets.versions_of(asset.key).values()
        assert Vault(KeyRing([new])).content(asset, version) == VALUE


@on_virtual_time
async def test_a_term_forgets_what_the_last_version_of_a_job_has_left() -> None:
    cluster = Cluster()
    digest, _ = cluster.put(b"red")
    cluster.up(digest)
    cluster.up()
    async with looping(cluster, None) as (a, state):
        await asyncio.sleep(2 * GRACE_S)
        (asset,) = state.assets.named.values()
        assert state.assets.version(asset.key, digest) is not None
        job = state.job_named("shop", "web")
        assert job is not None
        await a.rig.ledger.submit(lambda known: [(Erase(known.versions_of(job.id)[1]),)])
        await asyncio.sleep(1.0)
        assert not state.assets.named
