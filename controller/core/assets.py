"""Configs and secrets: what handing one in, rotating or removing it changes, and which versions may be forgotten.

A version stays as long as a kept version of a job names it, so that a rollback finds the content that went with the
code, and as the current one of an asset that was made by name. Pure: contents come sealed and digested.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from common.errors import Conflict, Fault, Invalid, NotFound
from common.model.api import ApplyRequest, JobChange
from common.model.asset import SHOWN_DIGEST_CHARACTERS, Asset, AssetKind, AssetMount, AssetVersion, asset_key
from common.model.asset_calls import (
    AssetVersionView,
    AssetView,
    ConfigContent,
    ListAssets,
    PutAsset,
    PutHow,
    ReadConfig,
    RemoveAsset,
)
from common.model.ids import Rng
from common.model.job import DesiredState, Job, JobSpec
from common.settings import LIMITS
from controller.asset_index import uses_of
from controller.core.apply import apply_one, jobs_of
from controller.core.certificates import routes, secret_of, showing
from controller.state import Erase, Group, State, Write

GRACE_S = 3_600.0
"""Between handing a content in and the job that uses it: a client sends one after the other."""
_REFRESH_S = GRACE_S / 2
"""An unused version that is handed in again is as good as new from this age on; before, there is time enough."""


class Sealer(Protocol):
    """Whoever seals and opens what is in secrets (`controller.security.vault`)."""

    def sealed(self, asset: Asset, content: bytes, now_s: float) -> tuple[Asset, AssetVersion]:
        """The secret and its version with this content. Raises `Invalid`."""

    def content(self, asset: Asset, version: AssetVersion) -> bytes:
        """Raises `Invalid`."""


class Putting(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...]
    stored: bool = False
    changes: tuple[JobChange, ...] = ()
    warnings: tuple[str, ...] = ()


# --- handing in


def named(state: State, request: PutAsset, now_s: float) -> Asset:
    """The asset as it is, or as it would begin."""
    known = state.assets.get(request.kind, request.namespace, request.asset)
    return known or Asset(kind=request.kind, namespace=request.namespace, name=request.asset, created_at_s=now_s)


def plain_config(asset: Asset, content: bytes, now_s: float) -> AssetVersion:
    return AssetVersion(
        kind=AssetKind.CONFIG,
        namespace=asset.namespace,
        name=asset.name,
        digest=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        stored_at_s=now_s,
        content=content,
    )


def put(state: State, request: PutAsset, asset: Asset, version: AssetVersion, now_s: float, rng: Rng) -> Putting:
    """`asset` and `version` hold the content as it is to be stored. Raises `Conflict`, `NotFound` or `Invalid`."""
    _check_how(request, asset, version.digest)
    known = state.assets.version(version.key, version.digest)
    after = _after(request, asset, version.digest, now_s)
    group: list[Write] = []
    if after != state.assets.named.get(asset.key):
        group.append(Write(after))
    if known is None:
        _check_room(state, asset, version)
        group.append(Write(version))
    elif not state.assets.uses(version.key, version.digest) and now_s - known.stored_at_s > _REFRESH_S:
        group.append(Write(version))
    done = Putting(groups=(tuple(group),), stored=known is None)
    return _changed_over(state, done, after, now_s, rng) if request.how is PutHow.ROTATE else done


def _check_how(request: PutAsset, asset: Asset, digest: str) -> None:
    name, word = asset.full_name, asset.kind.value
    match request.how:
        case PutHow.UPLOAD if asset.kept:
            text = f"{name} was made by name: say external: true to use it, or choose another name"
            raise Invalid([Fault(path=f"{word}s.{asset.name}", text=text)])
        case PutHow.CREATE if asset.kept and asset.current != digest:
            raise Conflict(f"{name} is there already: `podium {word} rotate {asset.name}` gives it another content")
        case PutHow.ROTATE if not asset.kept:
            raise NotFound(f"no {name} was made by name: `podium {word} create {asset.name}` makes it")
        case _:
            pass


def _after(request: PutAsset, asset: Asset, digest: str, now_s: float) -> Asset:
    if request.how is PutHow.UPLOAD or (asset.kept and asset.current == digest):
        return asset
    return msgspec.structs.replace(asset, kept=True, current=digest, changed_at_s=now_s)


def _check_room(state: State, asset: Asset, version: AssetVersion) -> None:
    inside = [other for other in state.assets.named.values() if other.namespace == asset.namespace]
    if asset.key not in state.assets.named and len(inside) >= LIMITS.assets_per_namespace:
        raise Conflict(f"namespace {asset.namespace} has {len(inside)} configs and secrets, as many as it may")
    held = sum(one.size_bytes for other in inside for one in state.assets.versions_of(other.key).values())
    if held + version.size_bytes > LIMITS.asset_bytes_per_namespace:
        raise Conflict(
            f"the configs and secrets of namespace {asset.namespace} are {held} bytes, with the versions that jobs may "
            f"go back to; {version.size_bytes} more would be over {LIMITS.asset_bytes_per_namespace}"
        )


def _changed_over(state: State, done: Putting, asset: Asset, now_s: float, rng: Rng) -> Putting:
    """Every service that runs with the asset gets a version with its new content."""
    groups, changes = list(done.groups), []
    stays: list[str] = []
    for job in jobs_of(state, asset.namespace):
        spec = with_current(state.spec_of(job), asset)
        if spec == state.spec_of(job) or job.removed or job.run_of is not None:
            continue
        if job.desired is DesiredState.STOP or (spec.mode.ends and spec.schedule is None):
            stays.append(job.name)
            continue
        as_it_is = msgspec.structs.replace(spec, replicas=job.replicas, priority=job.priority)
        group, change = apply_one(state, as_it_is, "", now_s, rng)
        groups.append(group)
        changes.append(change)
    warnings = (f"not changed over, since they do not run: {', '.join(stays)}",) if stays else ()
    return Putting(groups=tuple(groups), stored=done.stored, changes=tuple(changes), warnings=warnings)


def with_current(spec: JobSpec, asset: Asset) -> JobSpec:
    """The spec with the asset's current version wherever it names the asset."""
    container = spec.task.container

    def moved(mount: AssetMount) -> AssetMount:
        ours = mount.kind is asset.kind and mount.name == asset.name
        return msgspec.structs.replace(mount, digest=asset.current) if ours else mount

    mounts = tuple(map(moved, container.assets))
    if mounts == container.assets:
        return spec
    task = msgspec.structs.replace(spec.task, container=msgspec.structs.replace(container, assets=mounts))
    return msgspec.structs.replace(spec, task=task)


# --- jobs


def check_known(state: State, request: ApplyRequest) -> None:
    """Raises `Invalid` for specs that name versions which are not there."""
    faults = [fault for spec in request.specs for fault in _unknown(state, spec)]
    if faults:
        raise Invalid(faults)


def _unknown(state: State, spec: JobSpec) -> Iterator[Fault]:
    for mount in spec.task.container.assets:
        key = asset_key(mount.kind, spec.namespace, mount.name)
        if state.assets.version(key, mount.digest) is None:
            version = mount.digest[:SHOWN_DIGEST_CHARACTERS] or "(none)"
            what = f"{mount.kind.value} {spec.namespace}/{mount.name}"
            text = f"version {version} of {what} is not there: hand it in first"
            yield Fault(path=f"services.{spec.name}.{mount.kind.value}s", text=text)


# --- removal and what may be forgotten


def remove(state: State, request: RemoveAsset) -> tuple[Group, int]:
    """The changes, and how many versions stay for jobs that may go back to them. Raises `NotFound` or `Conflict`."""
    asset = existing(state, request.kind, request.namespace, request.asset)
    if not asset.kept:
        raise Conflict(f"{asset.full_name} came with a Compose file: it goes when no job uses it any more")
    users = [job.full_name for job in _present_users(state, asset)]
    if users:
        raise Conflict(f"{asset.full_name} is used by {', '.join(users)}: take it out of their file first")
    versions = state.assets.versions_of(asset.key)
    unused = [version for version in versions.values() if not state.assets.uses(asset.key, version.digest)]
    left = len(versions) - len(unused)
    loose = msgspec.structs.replace(asset, kept=False, current="")
    return (*map(Erase, unused), Write(loose) if left else Erase(asset)), left


def existing(state: State, kind: AssetKind, namespace: str, name: str) -> Asset:
    asset = state.assets.get(kind, namespace, name)
    if asset is None:
        names = sorted(
            one.name for one in state.assets.named.values() if (one.kind, one.namespace) == (kind, namespace)
        )
        known = f"; the namespace has {', '.join(names[:10])}" if names else ""
        raise NotFound(f"no {kind.value} {namespace}/{name}{known}")
    return asset


def _present_users(state: State, asset: Asset) -> Iterator[Job]:
    """Jobs whose wanted version names it, as a file or as the certificate of a route."""
    routed = {job.id for job, _ in showing(state, asset)}
    for job in jobs_of(state, asset.namespace):
        version = state.versions_of(job.id).get(job.version)
        named = version is not None and any(key == asset.key for key, _ in uses_of(version))
        if not job.removed and (named or job.id in routed):
            yield job


class Forgettable(msgspec.Struct, frozen=True, kw_only=True):
    groups: tuple[Group, ...]
    next_s: float
    """When (Unix time) more may be, if nothing changes; infinite for never."""


def forgettable(state: State, now_s: float) -> Forgettable:
    """Versions that no version of a job names and nobody has just handed in, and assets without any version."""
    groups: list[Group] = []
    next_s = math.inf
    for key, asset in state.assets.named.items():
        versions = state.assets.versions_of(key)
        loose = [version for version in versions.values() if _loose(state, asset, version)]
        over = [version for version in loose if version.stored_at_s + GRACE_S <= now_s]
        waits = (version.stored_at_s + GRACE_S for version in loose if version.stored_at_s + GRACE_S > now_s)
        next_s = min(next_s, *waits, math.inf)
        groups += [(Erase(version),) for version in over]
        if len(over) == len(versions) and not asset.kept:
            groups.append((Erase(asset),))
    return Forgettable(groups=tuple(groups), next_s=next_s)


def _loose(state: State, asset: Asset, version: AssetVersion) -> bool:
    needed = asset.kept and asset.current == version.digest
    return not needed and not state.assets.uses(version.key, version.digest)


# --- views


def views(state: State, request: ListAssets) -> Iterable[AssetView]:
    """By namespace and name."""
    wanted = [
        asset
        for asset in state.assets.named.values()
        if asset.kind is request.kind
        and request.namespace in ("", asset.namespace)
        and request.asset in ("", asset.name)
    ]
    users = _users(state) if wanted else {}
    for asset in sorted(wanted, key=lambda one: (one.namespace, one.name)):
        versions = sorted(state.assets.versions_of(asset.key).values(), key=lambda one: -one.stored_at_s)
        yield AssetView(
            kind=asset.kind,
            namespace=asset.namespace,
            name=asset.name,
            kept=asset.kept,
            current=asset.current,
            created_at_s=asset.created_at_s,
            changed_at_s=asset.changed_at_s,
            versions=tuple(
                AssetVersionView(
                    digest=version.digest,
                    size_bytes=version.size_bytes,
                    stored_at_s=version.stored_at_s,
                    jobs=tuple(sorted(users.get((asset.key, version.digest), ()))),
                )
                for version in versions
            ),
        )


def _users(state: State) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for job in state.jobs.values():
        for version in state.versions_of(job.id).values():
            for use in uses_of(version):
                found.setdefault(use, set()).add(job.full_name)
        for secret in (secret_of(state, job.namespace, route) for route in routes(state.spec_of(job))):
            if secret is not None and not job.removed:
                found.setdefault((secret.key, secret.current), set()).add(job.full_name)
    return found


def config_content(state: State, request: ReadConfig) -> ConfigContent:
    """Raises `NotFound`, or `Conflict` for a beginning that several versions have."""
    asset = existing(state, AssetKind.CONFIG, request.namespace, request.asset)
    wanted = request.digest or asset.current
    versions = sorted(state.assets.versions_of(asset.key).values(), key=lambda one: -one.stored_at_s)
    found = [version for version in versions if version.digest.startswith(wanted)]
    if not found:
        known = ", ".join(version.digest[:SHOWN_DIGEST_CHARACTERS] for version in versions)
        raise NotFound(f"{asset.full_name} has no version {wanted!r}" + (f"; it has {known}" if known else ""))
    if wanted and len(found) > 1:
        raise Conflict(f"{len(found)} versions of {asset.full_name} begin with {wanted!r}: give more digits")
    return ConfigContent(digest=found[0].digest, content=found[0].content)
