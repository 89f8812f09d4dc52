"""`podium config` and `podium secret`: made, listed, given another content and removed. What is in a secret is read
from a file, from standard input or without echo, never from the command line, and never printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cli.deploy import print_changes, wait_well
from cli.errors import DONE
from cli.messages import say
from cli.options import OutputFormat
from cli.output import line, show
from cli.parsing import invalid
from cli.progress import Deployment
from cli.render_json import Plain, rfc3339
from cli.render_table import Grid, size
from client.client import Client
from common.asset_rules import content_fault
from common.model.api import Changes
from common.model.asset import SHOWN_DIGEST_CHARACTERS, AssetKind
from common.model.asset_calls import AssetView, PutHow

_MOST_BYTES = 4 * 1024 * 1024
"""What is larger is not even read to its end."""


def content_of(kind: AssetKind, source: str) -> bytes:
    """Of a file, or of standard input (`-`). Raises `Invalid`."""
    if source != "-":
        try:
            with Path(source).open("rb") as file:
                content = file.read(_MOST_BYTES)
        except OSError as error:
            raise invalid("file", f"{source} cannot be read: {error.strerror}") from None
    elif sys.stdin.isatty() and kind is AssetKind.SECRET:
        from getpass import getpass

        content = getpass("its content (not shown): ").encode()
    else:
        content = sys.stdin.buffer.read(_MOST_BYTES)
    if text := content_fault(kind, len(content)):
        raise invalid("file", f"{'standard input' if source == '-' else source} {text}")
    return content


async def create(client: Client, kind: AssetKind, namespace: str, name: str, content: bytes) -> int:
    made = await client.assets.put(kind, namespace, name, content, PutHow.CREATE)
    line(f"{kind.value} {namespace}/{name} {_shown(made.digest)}")
    return DONE


async def rotate(
    client: Client, kind: AssetKind, namespace: str, name: str, content: bytes, *, detach: bool, timeout_s: float
) -> int:
    """The exit code is that of the services' change."""
    made = await client.assets.put(kind, namespace, name, content, PutHow.ROTATE)
    line(f"{kind.value} {namespace}/{name} {_shown(made.digest)}{'' if made.stored else ' (as it was)'}")
    for warning in made.warnings:
        say(warning)
    print_changes(Changes(changes=made.changes))
    if detach or not made.changes:
        return DONE
    versions = {change.job.rpartition("/")[2]: change.version for change in made.changes}
    return await wait_well(client, namespace, Deployment(versions), timeout_s)


async def ls(client: Client, kind: AssetKind, namespace: str, output: OutputFormat) -> int:
    plain = [_plain(view) for view in await client.assets.list_assets(kind, namespace)]
    show(output, plain, name=lambda one: f"{one['namespace']}/{one['name']}", table=lambda: _grid(kind, plain))
    return DONE


async def rm(client: Client, kind: AssetKind, namespace: str, names: Sequence[str]) -> int:
    for name in names:
        gone = await client.assets.remove(kind, namespace, name)
        left = f"; {gone.kept_versions} of its versions stay for jobs that can go back to them"
        line(f"{kind.value} {namespace}/{name} removed{left if gone.kept_versions else ''}")
    return DONE


async def show_config(client: Client, namespace: str, name: str, version: str) -> int:
    found = await client.assets.read_config(namespace, name, version)
    sys.stdout.buffer.write(found.content)
    sys.stdout.buffer.flush()
    return DONE


def _plain(view: AssetView) -> Plain:
    return {
        "kind": view.kind.value,
        "namespace": view.namespace,
        "name": view.name,
        "external": view.kept,
        "current": view.current,
        "created_at": rfc3339(view.created_at_s),
        "changed_at": rfc3339(view.changed_at_s),
        "versions": [
            {
                "digest": version.digest,
                "size_bytes": version.size_bytes,
                "stored_at": rfc3339(version.stored_at_s),
                "jobs": list(version.jobs),
            }
            for version in view.versions
        ],
    }


def _grid(kind: AssetKind, plain: list[Plain]) -> Grid:
    rows = []
    for one in plain:
        latest = next((each for each in one["versions"] if each["digest"] == one["current"]), one["versions"][0])
        jobs = sorted({job for version in one["versions"] for job in version["jobs"]})
        rows.append(
            (
                f"{one['namespace']}/{one['name']}",
                _shown(latest["digest"]),
                size(latest["size_bytes"]),
                str(len(one["versions"])),
                "by name" if one["external"] else "with a file",
                ", ".join(jobs) or "-",
            )
        )
    return Grid(headings=(kind.value.upper(), "LATEST", "SIZE", "VERSIONS", "MADE", "JOBS"), rows=tuple(rows))


def _shown(digest: str) -> str:
    return digest[:SHOWN_DIGEST_CHARACTERS]
