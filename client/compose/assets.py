"""Reads `configs` and `secrets`: those that a project names, and what of them a service is given, in the short form (a
name) and the long one. What is in one is read where a service needs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from client.compose import asset_keys, keys, optional
from client.compose.document import read_bytes
from client.compose.field import Field
from client.compose.tree import Fields, Mark, shown
from common.asset_rules import (
    DEFAULT_MODES,
    LARGEST_ID,
    SECRETS_FOLDER,
    asset_name_fault,
    content_fault,
    default_target,
)
from common.errors import Invalid
from common.model.asset import AssetKind, AssetMount

_SECTIONS = {AssetKind.CONFIG: asset_keys.CONFIG, AssetKind.SECRET: asset_keys.SECRET}
_USED = {AssetKind.CONFIG: asset_keys.USED_CONFIG, AssetKind.SECRET: asset_keys.USED_SECRET}
_SOURCES = ("file", "content", "environment", "external")
_OCTAL = re.compile(r"0o?[0-7]{1,4}")


VariablesOf = Callable[[Mark], Mapping[str, str]]
"""Of the shell and `.env`, by the place where they are asked for."""


class ProjectAsset(msgspec.Struct, frozen=True, kw_only=True):
    """A config or secret that some service of the project uses, as a file or as the certificate of a route."""

    kind: AssetKind
    name: str
    """As the cluster calls it."""
    path: str
    """Where the project names it, e.g. `secrets.db`."""
    content: bytes | None
    """None: it is `external`."""

    def __repr__(self) -> str:
        """Tracebacks must not tell the content."""
        return f"ProjectAsset({self.path})"


class PlacedAsset(msgspec.Struct, frozen=True):
    mount: AssetMount
    field: Field


class _Defined(msgspec.Struct, frozen=True, kw_only=True):
    kind: AssetKind
    name: str
    field: Field
    given: Mapping[str, Field]


class AssetReader:
    """What the project names, and what of it was used so far."""

    def __init__(
        self, configs: Field | None, secrets: Field | None, variables: Callable[[Mark], Mapping[str, str]]
    ) -> None:
        self._variables = variables
        self._defined = {
            AssetKind.CONFIG: _all(AssetKind.CONFIG, configs),
            AssetKind.SECRET: _all(AssetKind.SECRET, secrets),
        }
        self._used: dict[str, ProjectAsset] = {}

    @property
    def used(self) -> tuple[ProjectAsset, ...]:
        """By services that are active, in the order in which they came."""
        return tuple(self._used.values())

    def mounts(self, configs: Field | None, secrets: Field | None, *, active: bool) -> tuple[PlacedAsset, ...]:
        """What a service is given. A later file's takes the place of an earlier one's at the same target."""
        found: dict[str, PlacedAsset] = {}
        for kind, field in ((AssetKind.CONFIG, configs), (AssetKind.SECRET, secrets)):
            for item in field.items() if field is not None else ():
                mount = self._mount(kind, item, active)
                if mount is None:
                    continue
                before = found.get(mount.target)
                if before is not None and before.field.mark.source == item.mark.source:
                    item.fault(f"{mount.target} is a file already, in line {before.field.mark.line}")
                found[mount.target] = PlacedAsset(mount, item)
        return tuple(found.values())

    def certificate(self, field: Field, *, active: bool) -> str:
        """The name of a route's certificate for the cluster. Where the project names a secret of this name, it is that
        one; it need not, since nodes may have files of that name."""
        name = optional.text(field)
        defined = self._defined[AssetKind.SECRET].get(name)
        if defined is None:
            return name
        if "external" in defined.given:
            if active:
                self._use(defined)
        elif active and not defined.field.is_faulty:
            field.fault(
                f"names secret {shown(name)}, whose content comes with this file; a certificate is renewed apart from "
                f"the code: make it with `podium secret create {defined.name} FILE`, and write external: true"
            )
        return defined.name

    def _mount(self, kind: AssetKind, item: Field, active: bool) -> AssetMount | None:
        long = isinstance(item.node, Fields)
        given = keys.honoured(item, _USED[kind], active=active) if long else {}
        source = optional.text(given.get("source")) if long else item.text(f"the name of a {kind.value}")
        if not source:
            if long and "source" not in given:
                item.fault(f"source is missing: which {kind.value}")
            return None
        defined = self._defined[kind].get(source)
        if defined is None:
            if active:
                near = item.report.nearest(source, self._defined[kind])
                word = kind.value
                item.fault(f"uses {word} {shown(source)}, which the project does not name under {word}s{near}")
            return None
        if active:
            self._use(defined)
        return AssetMount(
            kind=kind,
            name=defined.name,
            target=_target(kind, source, optional.text(given.get("target"))),
            uid=_number(given.get("uid")),
            gid=_number(given.get("gid")),
            mode=optional.parsed(given.get("mode"), _mode, "permissions in octal, e.g. 0440", DEFAULT_MODES[kind]),
        )

    # --- what is in them

    def _use(self, defined: _Defined) -> None:
        path = defined.field.path
        if path in self._used or defined.field.is_faulty:
            return
        content = None if "external" in defined.given else self._content(defined)
        for other in self._used.values():
            if (other.kind, other.name) == (defined.kind, defined.name) and other.content != content:
                defined.field.fault(f"is {defined.name} for the cluster, and so is {other.path}: give one another name")
        self._used[path] = ProjectAsset(kind=defined.kind, name=defined.name, path=path, content=content)

    def _content(self, defined: _Defined) -> bytes:
        """Faults go to the report; what is faulty is empty."""
        found = b""
        for source, field in defined.given.items():
            if source == "content":
                found = (field.text() or "").encode()
            elif source == "environment":
                found = self._variable(field)
            elif source == "file":
                found = _file(field)
            if text := content_fault(defined.kind, len(found)):
                field.fault(text)
        return found

    def _variable(self, field: Field) -> bytes:
        name = field.text("the name of a variable")
        variables = self._variables(field.mark)
        if name is not None and name not in variables:
            field.fault(f"variable {shown(name)} is not set, neither in the environment nor in .env")
        return b"" if name is None else variables.get(name, "").encode(errors="surrogateescape")


def _all(kind: AssetKind, field: Field | None) -> dict[str, _Defined]:
    found = {}
    for key, inner in field.fields().items() if field is not None else ():
        given = keys.honoured(inner, _SECTIONS[kind])
        external, name = optional.external(given.get("external"), optional.text(given.pop("name", None), key))
        if "external" in given and not external and not given["external"].is_faulty:
            del given["external"]
        sources = [name for name in _SOURCES if name in given]
        if len(sources) != 1 and not inner.is_faulty:
            allowed = ", ".join(name for name in _SOURCES if name in _SECTIONS[kind].honoured)
            said = f"says {' and '.join(sources)}" if sources else "does not say where its content is"
            inner.fault(f"{said}: give one of {allowed}")
        if text := asset_name_fault(name):
            inner.fault(text)
        found[key] = _Defined(kind=kind, name=name, field=inner, given=given)
    return found


def _file(field: Field) -> bytes:
    name = field.text("a path")
    if not name:
        return b""
    path = field.node.mark.source.directory / name
    try:
        return read_bytes(path, str(path))
    except Invalid as error:
        field.fault(f"{str(path)!r} {'; '.join(fault.text for fault in error.faults)}")
        return b""


def _target(kind: AssetKind, source: str, given: str) -> str:
    if not given:
        return default_target(kind, source)
    if given.startswith("/"):
        return given
    return f"{SECRETS_FOLDER}/{given}" if kind is AssetKind.SECRET else f"/{given}"


def _number(field: Field | None) -> int | None:
    return None if field is None else field.integer(0, LARGEST_ID)


def _mode(text: str) -> int:
    if not _OCTAL.fullmatch(text):
        raise Invalid(f"{shown(text)} is not permissions: write them in octal with a zero before, e.g. 0440")
    return int(text.replace("o", ""), 8)
