"""Reads `volumes`: those a project names, and what a service mounts, in the short form `[SOURCE:]TARGET[:OPTIONS]` and
the long one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import msgspec

from client.compose import keys, optional, volume_keys
from client.compose.field import Field
from client.compose.tree import Fields, shown
from common.model.job import JobSpec, Mount, MountKind
from common.mounts import volume_name
from common.units import parse_bytes

KINDS: Mapping[str, MountKind] = {kind.value: kind for kind in MountKind}
FORMS = "TARGET, NAME:TARGET or PATH:TARGET, with :ro if need be"
_READ_ONLY: Mapping[str, bool] = {"ro": True, "rw": False}
_WITHOUT_MEANING = frozenset({"z", "Z", "cached", "delegated", "consistent", "nocopy", "volume-nocopy"})
"""Hints for other systems; `nocopy` asks for less than is done."""
_LOCAL = frozenset({"", "local", "default"})


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume that the project names."""

    name: str
    """As nodes call it."""
    shared: bool
    external: bool = False
    """It must be there already."""


class PlacedMount(msgspec.Struct, frozen=True):
    mount: Mount
    field: Field


def read_volumes(field: Field | None, namespace: str) -> dict[str, Volume]:
    """By the names that services use."""
    found = {}
    for key, inner in field.fields().items() if field is not None else ():
        given = {} if inner.is_null else keys.honoured(inner, volume_keys.VOLUME)
        if "driver" in given and optional.text(given["driver"]) not in _LOCAL:
            given["driver"].fault(
                f"only `local` is there: a volume is kept by its node; {volume_keys.VOLUME_ELSEWHERE}"
            )
        podium = keys.honoured(given["x-podium"], volume_keys.VOLUME_PODIUM) if "x-podium" in given else {}
        external, name = optional.external(given.get("external"), optional.text(given.get("name"), key))
        if not (external and name.startswith(volume_name(namespace, ""))):
            name = volume_name(namespace, name)
        found[key] = Volume(name=name, shared=optional.boolean(podium.get("shared")), external=external)
    return found


def read_mounts(field: Field | None, volumes: Mapping[str, Volume], *, active: bool) -> tuple[PlacedMount, ...]:
    """What a service mounts. A later file's mount takes the place of an earlier one's at the same target."""
    found: dict[str, PlacedMount] = {}
    for item in field.items() if field is not None else ():
        mount = _long(item, volumes, active) if isinstance(item.node, Fields) else _short(item, volumes, active)
        if mount is None:
            continue
        target = mount.target.rstrip("/")
        before = found.get(target)
        if before is not None and before.field.mark.source == item.mark.source:
            item.fault(f"{target} is mounted already, in line {before.field.mark.line}")
        found[target] = PlacedMount(mount, item)
    return tuple(found.values())


def _short(item: Field, volumes: Mapping[str, Volume], active: bool) -> Mount | None:
    text = item.text(f"a volume: {FORMS}")
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) == 1:
        _anonymous(item)
        return None
    if len(parts) > 3 or not all(parts):
        item.fault(f"{shown(text)} is not a volume: write {FORMS}")
        return None
    options = parts[2].split(",") if len(parts) == 3 else []
    read_only = False
    for option in options:
        if option in _READ_ONLY:
            read_only = _READ_ONLY[option]
        elif option not in _WITHOUT_MEANING:
            item.fault(f"option {shown(option)} is not supported: allowed are ro and rw")
    source = parts[0]
    if source.startswith(("/", ".", "~")):
        return Mount(kind=MountKind.BIND, source=_path(item, source), target=parts[1], read_only=read_only)
    return _named(item, source, parts[1], volumes, active, read_only=read_only)


def _long(item: Field, volumes: Mapping[str, Volume], active: bool) -> Mount | None:
    given = keys.honoured(item, volume_keys.MOUNT, active=active)
    kind = optional.choice(given.get("type"), KINDS, MountKind.VOLUME)
    target, source = optional.text(given.get("target")), optional.text(given.get("source"))
    read_only = optional.boolean(given.get("read_only"))
    for key, section in (("bind", volume_keys.MOUNT_BIND), ("volume", volume_keys.MOUNT_VOLUME)):
        if key in given:
            keys.honoured(given[key], section, active=active)
    if not target:
        item.fault("target is missing: where the container finds it")
        return None
    match kind:
        case MountKind.TMPFS:
            inside = keys.honoured(given["tmpfs"], volume_keys.MOUNT_TMPFS, active=active) if "tmpfs" in given else {}
            size = optional.parsed(inside.get("size"), parse_bytes, "a size such as 64M", 0)
            return Mount(kind=kind, target=target, size_bytes=size)
        case MountKind.BIND:
            if not source:
                item.fault("source is missing: a directory or file of the node")
                return None
            return Mount(kind=kind, source=_path(item, source), target=target, read_only=read_only)
        case MountKind.VOLUME:
            if source:
                return _named(item, source, target, volumes, active, read_only=read_only)
            _anonymous(item)
            return None


def _named(
    item: Field, name: str, target: str, volumes: Mapping[str, Volume], active: bool, *, read_only: bool
) -> Mount | None:
    volume = volumes.get(name)
    if volume is None:
        near = item.report.nearest(name, volumes)
        if active:
            item.fault(f"uses volume {shown(name)}, which the project does not name under volumes{near}")
        return None
    return Mount(
        kind=MountKind.VOLUME,
        source=volume.name,
        target=target,
        read_only=read_only,
        shared=volume.shared,
        external=volume.external,
    )


def _anonymous(item: Field) -> None:
    """Compose gives it a directory that goes with the container, as the container's own file system does."""
    item.warn("is ignored: a volume without a name ends with its container, like everything else in it; name it")


def _path(item: Field, path: str) -> str:
    """Absolute: relative to the file that says so. `~` is a home directory on another machine, so it is refused."""
    if path.startswith("~"):
        item.fault(f"{shown(path)} is a home directory of this machine, not of a node: write an absolute path")
    return os.path.normpath(item.mark.source.directory.absolute() / path)  # links are the node's to follow


def with_sharing(mounts_by_service: Mapping[str, tuple[Mount, ...]]) -> dict[str, tuple[Mount, ...]]:
    """A volume that several services of a project write is one that they share: they run where it is."""
    writers: dict[str, set[str]] = {}
    for service, mounts in mounts_by_service.items():
        for mount in _written(mounts):
            writers.setdefault(mount.source, set()).add(service)
    return {
        service: tuple(
            msgspec.structs.replace(mount, shared=mount.shared or len(writers.get(mount.source, ())) > 1)
            for mount in mounts
        )
        for service, mounts in mounts_by_service.items()
    }


def _written(mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    return (mount for mount in mounts if mount.kind is MountKind.VOLUME and not mount.read_only)


def shared(mounts: tuple[Mount, ...]) -> tuple[Mount, ...]:
    """The same, with volumes that several tasks may write."""
    return tuple(msgspec.structs.replace(mount, shared=True) for mount in mounts)


def with_mounts(spec: JobSpec, mounts: tuple[Mount, ...]) -> JobSpec:
    container = msgspec.structs.replace(spec.task.container, mounts=mounts)
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(spec.task, container=container))
