"""The `Assets` service over values: configs and secrets handed in, listed and removed. Never answers with a secret."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.asset_rules import asset_name_fault, content_fault
from common.errors import Conflict, Fault, Invalid
from common.model.asset import Asset, AssetKind, AssetVersion
from common.model.asset_calls import (
    AssetList,
    AssetPut,
    AssetRemoved,
    ConfigContent,
    ListAssets,
    PutAsset,
    ReadConfig,
    RemoveAsset,
)
from common.names import name_fault
from controller.api.requests import check_namespace
from controller.api.term import ApiFront, ApiTerm
from controller.core import assets
from controller.core.assets import Putting, plain_config
from controller.core.certificates import check_given
from controller.state import Group, State

NO_KEY = "this cluster has no cluster key, so it keeps no secrets: start it without --insecure or TLS files of your own"


class AssetsService:
    """Every method raises `NotLeader` where nobody leads, and what it says besides. Writes are compared by content, so
    repeating one changes nothing."""

    def __init__(self, front: ApiFront) -> None:
        self._front = front

    async def put(self, request: PutAsset) -> AssetPut:
        """Raises `Invalid`, `NotFound`, and `Conflict` also for a secret where there is no cluster key."""
        _refuse(_put_faults(request))
        term = self._front.term
        if request.kind is AssetKind.SECRET and term.vault is None:
            raise Conflict(NO_KEY)
        putting, digest = Putting(groups=()), ""

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal putting, digest
            now_s = term.clock()
            asset = assets.named(state, request, now_s)
            check_given(state, request, asset, now_s)
            asset, version = _stored_form(term, asset, request.content, now_s)
            putting, digest = assets.put(state, request, asset, version, now_s, term.rng), version.digest
            return () if request.dry_run else putting.groups

        await term.ledger.answer(transaction)
        return AssetPut(digest=digest, stored=putting.stored, changes=putting.changes, warnings=putting.warnings)

    async def list_assets(self, request: ListAssets) -> AssetList:
        check_namespace(request.namespace)
        return AssetList(assets=tuple(assets.views(self._front.term.state, request)))

    async def read_config(self, request: ReadConfig) -> ConfigContent:
        _refuse(_names(request.namespace, request.asset))
        return assets.config_content(self._front.term.state, request)

    async def remove(self, request: RemoveAsset) -> AssetRemoved:
        _refuse(_names(request.namespace, request.asset))
        left = 0

        def transaction(state: State) -> tuple[Group, ...]:
            nonlocal left
            group, left = assets.remove(state, request)
            return (group,)

        await self._front.term.ledger.answer(transaction)
        return AssetRemoved(kept_versions=left)


def _stored_form(term: ApiTerm, asset: Asset, content: bytes, now_s: float) -> tuple[Asset, AssetVersion]:
    if asset.kind is AssetKind.CONFIG:
        return asset, plain_config(asset, content, now_s)
    assert term.vault is not None, "asked before"
    return term.vault.sealed(asset, content, now_s)


def _put_faults(request: PutAsset) -> Iterator[Fault]:
    yield from _names(request.namespace, request.asset)
    if text := content_fault(request.kind, len(request.content)):
        yield Fault(path="content", text=text)


def _names(namespace: str, name: str) -> Iterator[Fault]:
    if text := name_fault(namespace):
        yield Fault(path="namespace", text=text)
    if text := asset_name_fault(name):
        yield Fault(path="name", text=text)


def _refuse(found: Iterable[Fault]) -> None:
    if faults := tuple(found):
        raise Invalid(faults)
