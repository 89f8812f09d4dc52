"""The work of the store commands: files written and read, stores opened without a controller, reports printed."""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from cli.messages import say
from cli.options import OutputFormat
from cli.output import line, show
from cli.render_json import Plain, rfc3339
from cli.render_table import Grid, printable
from cli.serving import parts
from client.client import Client
from common.errors import Invalid, PodiumError, Unavailable
from common.model.node import Stray
from common.model.store import CheckReport
from common.version import own_version

if TYPE_CHECKING:
    from controller.store.archive import Header
    from controller.store.interface import Contents, Store

T = TypeVar("T")

_LEASE_S = 3.0
"""Of a restore that is killed: so long nobody can lead."""
_STDOUT = "-"
_TRIES = 3
"""A failover breaks a backup off; the next one comes from the new leader."""


# --- backups


async def backup_cluster(client: Client, file: str, *, force: bool) -> None:
    """From the leader, into a file that is checked before it gets its name."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return await _backup_cluster(client, file, force=force)
        except Unavailable:
            if not tries_left or file == _STDOUT:
                raise
    raise AssertionError("unreachable")


async def _backup_cluster(client: Client, file: str, *, force: bool) -> None:
    from controller.store import archive

    async with aclosing(client.backup()) as content:
        if file == _STDOUT:
            await _copy(content, sys.stdout.buffer.write)
            return
        with archive.being_written(Path(file), force=force) as temporary:
            with temporary.open("wb") as written:
                await _copy(content, written.write)
            header = archive.read(temporary).header
    _say_written(file, header)


async def _copy(content: AsyncGenerator[bytes, None], write: Callable[[bytes], object]) -> None:
    async for piece in content:
        write(piece)


def backup_store(url: str, file: str, *, force: bool, now_s: float) -> None:
    """From the store itself. A damaged one is backed up too, as it is."""
    from controller.store import archive

    contents, kind = _with_store(url, lambda store: _read(store))
    header = archive.header_of(contents, store=kind, version=_version(), now_s=now_s)
    if file == _STDOUT:
        for piece in archive.pieces(header, contents.snapshot.values):
            sys.stdout.buffer.write(piece)
        return
    archive.write(Path(file), header, contents.snapshot.values, force=force)
    _say_written(file, header)


async def _read(store: Store) -> tuple[Contents, str]:
    return await store.read(), store.kind


def _say_written(file: str, header: Header) -> None:
    say(f"{file}: {_what(header)}")


def _what(header: Header) -> str:
    records = ", ".join(f"{kind} {count}" for kind, count in header.records.items()) or "nothing"
    where = f"generation {header.generation}, term {header.term}, revision {header.revision}"
    return f"{records} of {header.taken_at} ({where})"


# --- restores


def restore(file: Path, url: str, *, force: bool, generation: int, now_s: float) -> None:
    from controller.store import archive
    from controller.store import restore as work

    content = archive.read(file)

    def keep_before(contents: Contents) -> None:
        stamp = datetime.datetime.fromtimestamp(now_s, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        path = file.with_name(f"{file.name}.before-restore-{stamp}")
        header = archive.header_of(contents, store="", version=_version(), now_s=now_s)
        archive.write(path, header, contents.snapshot.values)
        say(f"what the store held is in {path}")

    async def run(store: Store) -> work.Restored:
        return await work.restore(store, content, force=force, generation=generation, keep_before=keep_before)

    done = _with_store(url, run)
    if done.interrupted:
        say("an earlier restore into this store had been interrupted; this one replaced what it left")
    say(f"restored {_what(content.header)}")
    say(f"the store is of generation {done.generation} now: start the controllers, then look at `podium store strays`")


def raise_generation(url: str, generation: int) -> None:
    from controller.store import restore as work

    raised = _with_store(url, lambda store: work.raise_generation(store, generation=generation))
    say(f"the store is of generation {raised} now: start the controllers, then look at `podium store strays`")


# --- looking


def check_store(url: str) -> CheckReport:
    from controller.store import check

    return _with_store(url, check.of_store)


def show_report(report: CheckReport, output: OutputFormat) -> None:
    errors = sum(finding.error for finding in report.findings)
    plain: Plain = {
        "ok": not errors,
        "store": report.store,
        "facts": dict(sorted(report.facts.items())),
        "findings": [msgspec.to_builtins(finding) for finding in report.findings],
    }

    def table() -> list[str]:
        facts = [f"{name}: {text}" for name, text in {"store": report.store, **plain["facts"]}.items()]
        return [*facts, "", *(text for finding in plain["findings"] for text in _finding(finding)), _verdict(plain)]

    show(output, plain, name=lambda item: "ok" if item["ok"] else "wrong", table=table)


def _finding(finding: Plain) -> list[str]:
    kind = "error" if finding["error"] else "warning"
    return [
        printable(f"{kind}: {finding['subject']}: {finding['text']}"),
        printable(f"    why it matters: {finding['why']}"),
        printable(f"    what to do: {finding['advice']}"),
        "",
    ]


def _verdict(plain: Plain) -> str:
    errors = sum(finding["error"] for finding in plain["findings"])
    warnings = len(plain["findings"]) - errors
    return f"{errors} errors, {warnings} warnings" if plain["findings"] else "nothing is wrong"


async def strays(client: Client, output: OutputFormat) -> None:
    views = await client.nodes()
    plain = [_stray(stray, view.node.name) for view in views for stray in view.node.strays]

    headings = ("TASK", "JOB", "SLOT", "NODE", "RUNS AS", "FOUND")
    show(
        output,
        plain,
        name=lambda item: str(item["id"]),
        table=lambda: Grid(headings=headings, rows=tuple(map(_row, plain))),
    )


def _row(plain: Plain) -> tuple[str, ...]:
    texts = (
        plain["id"],
        plain["job"],
        plain["slot"],
        plain["node"],
        plain["runtime_id"][:12],
        plain["found_at"] or "-",
    )
    return tuple(map(str, texts))


def _stray(stray: Stray, node: str) -> Plain:
    return {
        "id": stray.task_id,
        "job": stray.job,
        "slot": stray.slot,
        "node": node,
        "runtime_id": stray.runtime_id,
        "found_at": rfc3339(stray.found_at_s),
    }


async def stop_strays(client: Client, tasks: tuple[str, ...], *, every: bool) -> None:
    answer = await client.stop_strays(tasks, every=every)
    for stopped in answer.stopped:
        line(f"{stopped.stray.task_id} ({stopped.stray.job or 'of an unknown job'}) on {stopped.node} is to stop")
    if not answer.stopped:
        say("there are no strays")


# --- stores without a controller


def _with_store(url: str, work: Callable[[Store], Awaitable[T]]) -> T:
    with parts("controller"):
        from controller.store.open import open_store

    async def run() -> T:
        store = open_store(url, lease_s=_LEASE_S)
        try:
            return await work(store)
        except Unavailable as error:
            raise PodiumError(str(error)) from None  # no controller would help: none was asked
        finally:
            await store.close()

    if url.startswith("memory:"):
        raise Invalid("a memory: store ends with its process; there is nothing to reach without its controller")
    return asyncio.run(run())


def _version() -> str:
    return own_version()
