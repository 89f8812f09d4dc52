"""What a config or secret may be called, and where and how a task may have it. Pure; part of `common.validation`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from common.model.asset import AssetKind, AssetMount
from common.model.job import Container, MountKind
from common.rules import Found, at_most, below, in_range, is_plain, one, shown
from common.settings import LIMITS

VARIABLE_PREFIXES = {AssetKind.CONFIG: "PODIUM_CONFIG_", AssetKind.SECRET: "PODIUM_SECRET_"}
SECRETS_FOLDER = "/run/secrets"
DEFAULT_MODES = {AssetKind.CONFIG: 0o444, AssetKind.SECRET: 0o400}
LARGEST_ID = 2**32 - 2
"""The highest number that a user or group can have."""
_TARGET_CHARACTERS = 1_024
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_SIZE_LIMITS = {AssetKind.CONFIG: LIMITS.config_bytes, AssetKind.SECRET: LIMITS.secret_bytes}


def asset_name_fault(name: str) -> str:
    """What is wrong with a name of a config or secret; empty when it can be one."""
    if _NAME.fullmatch(name):
        return ""
    allowed = "1 to 64 letters, digits and . _ -, beginning and ending with a letter or digit"
    return f"{shown(name)} is not a name: use {allowed}"


def content_fault(kind: AssetKind, size_bytes: int) -> str:
    """What is wrong with the size of a content; empty when nothing is."""
    limit = _SIZE_LIMITS[kind]
    return f"is {size_bytes} bytes; a {kind.value} has at most {limit}" if size_bytes > limit else ""


def default_target(kind: AssetKind, name: str) -> str:
    return f"{SECRETS_FOLDER}/{name}" if kind is AssetKind.SECRET else f"/{name}"


def variable(mount: AssetMount) -> str:
    """The variable that tells a task where the file is, e.g. `PODIUM_SECRET_DB_PASSWORD`."""
    return VARIABLE_PREFIXES[mount.kind] + re.sub(r"[^A-Z0-9]", "_", mount.name.upper())


def assets_faults(container: Container) -> Found:
    yield from at_most("assets", container.assets, LIMITS.assets_per_job)
    taken = dict(_other_targets(container))
    variables: dict[str, str] = {}
    for place, mount in enumerate(container.assets):
        path = f"assets[{place}]"
        yield from below(path, _mount(mount))
        yield from one(f"{path}.target", _taken_fault(mount.target, taken))
        taken.setdefault(mount.target, f"{mount.kind.value} {mount.name}")
        holder = variables.setdefault(variable(mount), mount.name)
        if holder != mount.name:
            text = f"{mount.name} and {holder} would both be told as {variable(mount)}: rename one of them"
            yield f"{path}.name", text


def _mount(mount: AssetMount) -> Found:
    yield from one("name", asset_name_fault(mount.name))
    if not _DIGEST.fullmatch(mount.digest):
        yield "digest", f"{shown(mount.digest)} is not a digest: 64 hexadecimal digits"
    yield from one("target", _target_fault(mount.target))
    for field, number in (("uid", mount.uid), ("gid", mount.gid)):
        if number is not None:
            yield from in_range(field, number, 0, LARGEST_ID)
    if not 0 <= mount.mode <= 0o777:
        yield "mode", f"{mount.mode:#o} is out of range: allowed is 0 to 0777, in octal"


def _target_fault(target: str) -> str:
    if len(target) > _TARGET_CHARACTERS or not is_plain(target) or "\n" in target:
        return f"{shown(target)} is not a path: at most {_TARGET_CHARACTERS} characters on one line"
    if ".." in target.split("/"):
        return f"{shown(target)} leads out of where it begins: write the path without .."
    if not target.startswith("/") or target == "/" or posixpath.normpath(target) != target:
        return f"{shown(target)} is not the absolute path of a file, like /etc/app.conf"
    return ""


def _other_targets(container: Container) -> Iterator[tuple[str, str]]:
    for mount in container.mounts:
        yield mount.target.rstrip("/"), "a volume" if mount.kind is MountKind.VOLUME else f"a {mount.kind.value} mount"
    for entry in container.tmpfs:
        yield entry.partition(":")[0].rstrip("/"), "a tmpfs"


def _taken_fault(target: str, taken: dict[str, str]) -> str:
    """A file cannot lie where something else does, nor below or above another file."""
    if target in taken:
        return f"{target} is where {taken[target]} is already: choose another target"
    for other, holder in taken.items():
        if holder.startswith(("config ", "secret ")) and other.startswith(f"{target}/"):
            return f"{target} cannot be a file, since {holder} is at {other}"
        if holder.startswith(("config ", "secret ")) and target.startswith(f"{other}/"):
            return f"{target} cannot be there, since {holder} is the file {other}"
    return ""
