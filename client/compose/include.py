"""Reads `include`: other projects whose services, volumes and so on become part of this one, each with a directory and
defaults for variables of its own. Says what is included and what may not meet; who reads the files is the caller."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from client.compose import keys
from client.compose.document import is_there
from client.compose.dotenv import read_variables
from client.compose.field import Field
from client.compose.merge import SERVICES
from client.compose.report import Report
from client.compose.tree import Entry, Fields, Node, Scalar, content
from common.errors import Invalid

INCLUDE = "include"
CHAIN = 32
"""Projects that include each other in a row."""
RESOURCES = (SERVICES, "volumes", "networks", "secrets", "configs", "models")
"""What is taken from an included project; its name is not."""

_WITH_PATHS = frozenset({SERVICES, "secrets", "configs"})
_ELSEWHERE = ("://", "git@", "oci:")


class Included(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `include`."""

    field: Field
    files: tuple[Path, ...]
    """Laid over each other; at least one."""
    directory: Path
    """Where the relative paths in them begin."""
    variables: Mapping[str, str]
    """Of its own: for those that the shell and the project that includes it do not have."""


def read_include(field: Field, variables: Mapping[str, str], report: Report) -> tuple[Included, ...]:
    """The entries that can be read; what is wrong with the others is in the report."""
    found = (_entry(item, variables, report) for item in field.items())
    return tuple(included for included in found if included is not None)


def _entry(item: Field, variables: Mapping[str, str], report: Report) -> Included | None:
    given = {"path": item} if isinstance(item.node, Scalar) else keys.honoured(item, keys.INCLUDE)
    files = _paths(given.get("path"))
    if not files:
        if not item.is_faulty:
            item.fault("path is missing: the file to include")
        return None
    directory = _paths(given.get("project_directory"))
    where = directory[0] if directory else files[0].parent
    return Included(
        field=item, files=files, directory=where, variables=_defaults(given.get("env_file"), where, variables, report)
    )


def _paths(field: Field | None) -> tuple[Path, ...]:
    """Relative to the directory of the project that says so."""
    found = []
    for item in field.one_or_items() if field is not None else ():
        text = item.text("a path")
        if text is not None and any(mark in text for mark in _ELSEWHERE):
            item.fault("only files of this machine are included: fetch it first, and give its path")
        elif text is not None:
            found.append(item.node.mark.source.directory / text)
    return tuple(found)


def _defaults(env_file: Field | None, directory: Path, variables: Mapping[str, str], report: Report) -> dict[str, str]:
    """Of the files that are named, later ones first, or else of `.env` in its directory where there is one."""
    named = _paths(env_file)
    usual = directory / ".env"
    found: dict[str, str] = {}
    for path in named if env_file is not None else (usual,) if is_there(usual) else ():
        if str(path) == os.devnull:
            continue
        try:
            found |= read_variables(path, str(path), {**found, **variables}, report)
        except Invalid as error:
            report.add(error.faults)
    return found


def with_included(root: Fields, parts: Iterable[Node], report: Report) -> Fields:
    """A project together with those it includes. What stands in several must be the same in each: a project that
    wants it otherwise says so in a further file."""
    entries = {key: entry for key, entry in root.entries.items() if key != INCLUDE}
    whole: dict[str, Entry] = {}
    for part in (*parts, msgspec.structs.replace(root, entries=entries)):
        for key, entry in part.entries.items() if isinstance(part, Fields) else ():
            if key in RESOURCES:
                whole[key] = _joined(key, whole.get(key), entry, report)
    return msgspec.structs.replace(root, entries=entries | whole)


def _joined(key: str, before: Entry | None, entry: Entry, report: Report) -> Entry:
    if before is None or not isinstance(before.value, Fields) or not isinstance(entry.value, Fields):
        return entry
    for name, one in entry.value.entries.items():
        other = before.value.entries.get(name)
        if other is not None and not _same(key, other.value, one.value):
            text = f"is given otherwise in {other.mark}, which is part of the same project: rename one of them"
            report.fault(one.mark, f"{key}.{name}", text)
    return Entry(entry.mark, msgspec.structs.replace(entry.value, entries=before.value.entries | entry.value.entries))


def _same(key: str, one: Node, other: Node) -> bool:
    """Whether two descriptions mean the same: paths do so only where they begin at the same directory."""
    alike_anywhere = key not in _WITH_PATHS
    return content(one) == content(other) and (
        alike_anywhere or one.mark.source.directory == other.mark.source.directory
    )
