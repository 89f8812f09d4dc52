"""The part of the client that is about configs and secrets: handing them in, and specs that name what was handed in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from client.transport import LIST_ASSETS, PUT_ASSET, READ_CONFIG, REMOVE_ASSET
from client.trust import Ask
from common.errors import Conflict, Fault, Forbidden, Invalid
from common.model.asset import AssetKind, AssetMount
from common.model.asset_calls import (
    AssetPut,
    AssetRemoved,
    AssetView,
    ConfigContent,
    ListAssets,
    PutAsset,
    PutHow,
    ReadConfig,
    RemoveAsset,
)
from common.model.job import JobSpec

if TYPE_CHECKING:
    from client.compose.assets import ProjectAsset


class AssetCalls:
    """`ask` reaches whoever leads. Names are within a namespace; writes are compared by content."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def put(
        self,
        kind: AssetKind,
        namespace: str,
        name: str,
        content: bytes,
        how: PutHow = PutHow.UPLOAD,
        *,
        dry_run: bool = False,
    ) -> AssetPut:
        """Raises `Conflict` for a secret in a cluster without a cluster key."""
        request = PutAsset(kind=kind, namespace=namespace, asset=name, content=content, how=how, dry_run=dry_run)
        return await self._ask(PUT_ASSET, request)

    async def list_assets(self, kind: AssetKind, namespace: str = "", name: str = "") -> tuple[AssetView, ...]:
        """Of one namespace, or all."""
        return (await self._ask(LIST_ASSETS, ListAssets(kind=kind, namespace=namespace, asset=name))).assets

    async def read_config(self, namespace: str, name: str, digest: str = "") -> ConfigContent:
        """What is in a config. Of secrets there is no such thing."""
        return await self._ask(READ_CONFIG, ReadConfig(namespace=namespace, asset=name, digest=digest))

    async def remove(self, kind: AssetKind, namespace: str, name: str) -> AssetRemoved:
        """Raises `Conflict` while a job uses it."""
        return await self._ask(REMOVE_ASSET, RemoveAsset(kind=kind, namespace=namespace, asset=name))

    async def handed_in(
        self, namespace: str, specs: Iterable[JobSpec], assets: Iterable[ProjectAsset], *, dry_run: bool = False
    ) -> tuple[JobSpec, ...]:
        """The specs with the digests of the project's configs and secrets, which a controller has then.

        With `dry_run` it is given nothing to keep. Raises `Invalid` with the fault of every one that it does not take.
        """
        digests: dict[tuple[AssetKind, str], str] = {}
        faults: list[Fault] = []
        for asset in assets:
            try:
                digests[asset.kind, asset.name] = await self._digest(namespace, asset, dry_run=dry_run)
            except (Invalid, Conflict, Forbidden) as error:
                texts = [fault.text for fault in error.faults] if isinstance(error, Invalid) else [str(error)]
                faults += [Fault(path=asset.path, text=text) for text in texts]
        if faults:
            raise Invalid(faults)
        return tuple(_with_digests(spec, digests) for spec in specs)

    async def _digest(self, namespace: str, asset: ProjectAsset, *, dry_run: bool) -> str:
        if asset.content is not None:
            return (await self.put(asset.kind, namespace, asset.name, asset.content, dry_run=dry_run)).digest
        found = await self.list_assets(asset.kind, namespace, asset.name)
        current = found[0].current if found else ""
        if not current:
            word = asset.kind.value
            text = f"no {word} {asset.name} was made in namespace {namespace}: `podium {word} create {asset.name}` does"
            raise Invalid(text)
        return current


def _with_digests(spec: JobSpec, digests: dict[tuple[AssetKind, str], str]) -> JobSpec:
    def given(mount: AssetMount) -> AssetMount:
        return msgspec.structs.replace(mount, digest=digests.get((mount.kind, mount.name), mount.digest))

    container = spec.task.container
    container = msgspec.structs.replace(container, assets=tuple(map(given, container.assets)))
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container))
