"""The commands that read: ask the controller, and print views in the form that was asked for. Changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import aclosing
from typing import assert_never

from cli import render_json, render_table
from cli.messages import say
from cli.options import OutputFormat
from cli.output import line, lines, painter, show
from cli.parsing import job_name
from cli.render_json import Plain
from client.client import Client
from common.model.event import Event
from common.model.session import LogLine


async def jobs(client: Client, namespace: str, output: OutputFormat, now_s: float) -> None:
    plain = [render_json.job(view) for view in await client.jobs(namespace)]
    show(output, plain, name=_full_name, table=lambda: render_table.jobs(plain, now_s))


def _full_name(plain: Plain) -> str:
    return f"{plain['namespace']}/{plain['name']}"


async def tasks(
    client: Client, namespace: str, job: str, output: OutputFormat, now_s: float, *, include_ended: bool
) -> None:
    listed = await client.tasks(namespace, job, include_ended=include_ended)
    names: dict[str, str] = {view.task.job_id: view.task.job_name for view in listed.tasks}
    if any(slot.job_id not in names for slot in listed.slots):
        names |= {view.job.id: view.job.full_name for view in await client.jobs(namespace)}
    plain = render_json.tasks(listed, names)
    show(output, plain, name=_id, table=lambda: render_table.tasks(plain, now_s, attempts=include_ended))


def _id(plain: Plain) -> str:
    return str(plain["id"])


async def nodes(client: Client, output: OutputFormat, now_s: float) -> None:
    plain = [render_json.node(view) for view in await client.nodes()]
    show(output, plain, name=_name, table=lambda: render_table.nodes(plain, now_s))
    if any(item["status"] == "unreachable" for item in plain):
        await _warn_of_brake(client)


async def _warn_of_brake(client: Client) -> None:
    """Only asked for when it could hold: a silent node is what it is about."""
    held = (await client.status(quick=True)).brake_reason
    if held:
        say(f"warning: the brake is engaged: {held}; nothing is replaced until it clears or `podium brake release`")


def _name(plain: Plain) -> str:
    return str(plain["name"])


async def inspect(client: Client, kind: str, namespace: str, name: str, output: OutputFormat) -> None:
    """One job, task or node whole. People get YAML: a table cannot hold it."""
    if output is OutputFormat.TABLE:
        output = OutputFormat.YAML
    naming: Callable[[Plain], str]
    match kind:
        case "job":
            detail = await client.inspect_job(*job_name(namespace, name))
            plain, naming = render_json.job_detail(detail), _full_name
        case "task":
            plain, naming = render_json.task_detail(await client.inspect_task(*job_name(namespace, name))), _id
        case _:
            plain, naming = render_json.node_detail(await client.inspect_node(name)), _name
    show(output, plain, name=naming, table=list)


async def why(client: Client, namespace: str, name: str, output: OutputFormat) -> None:
    plain = render_json.verdict(await client.why(*job_name(namespace, name)))
    show(output, plain, name=lambda item: str(item["verdict"]), table=lambda: render_table.why(plain))


async def cluster(client: Client, output: OutputFormat) -> None:
    plain = render_json.cluster(await client.status())
    show(output, plain, name=lambda item: str(item["leader"]), table=lambda: render_table.cluster(plain))


async def events(client: Client, namespace: str, output: OutputFormat, *, since_s: float, follow: bool) -> None:
    """With `follow`, each event as it happens: a line for people, a JSON line for programs."""
    async with aclosing(client.events(namespace=namespace, since_s=since_s, follow=follow)) as happened:
        if follow:
            async for event in happened:
                _print_event(event, output)
            return
        plain = [render_json.event(event) async for event in happened]
    show(output, plain, name=_subject, table=lambda: render_table.events(plain))


def _subject(plain: Plain) -> str:
    return str(plain["subject"])


def _print_event(event: Event, output: OutputFormat) -> None:
    plain = render_json.event(event)
    match output:
        case OutputFormat.JSON:
            line(json.dumps(plain, ensure_ascii=False))
        case OutputFormat.TABLE:
            line("  ".join(render_table.event(plain)))
        case OutputFormat.YAML | OutputFormat.NAME:
            show(output, [plain], name=_subject, table=list)
        case _:
            assert_never(output)
    sys.stdout.flush()


async def logs(
    client: Client, namespace: str, name: str, output: OutputFormat, *, tail: int, since_s: float, follow: bool
) -> None:
    """Print the output of a task or of all tasks of a job; what a program wrote to stderr goes to our stdout too:
    it is the data that was asked for."""
    several = _Several()
    found = client.logs(*job_name(namespace, name), tail=tail, since_s=since_s, follow=follow)
    async with aclosing(found) as batches:
        async for batch in batches:
            for warning in batch.warnings:
                say(f"warning: {warning}")
            if output is OutputFormat.TABLE:
                lines(several.prefixed(one) for one in batch.lines)
            else:
                lines(json.dumps(render_json.log_line(one), ensure_ascii=False) for one in batch.lines)


class _Several:
    """Prefixes of log lines: who said it, so that the lines of replicas can be told apart. In colours on a terminal."""

    def __init__(self) -> None:
        self._width = 0
        self._paint = painter(sys.stdout)
        self._places: dict[str, int] = {}

    def prefixed(self, one: LogLine) -> str:
        who = f"{one.job.rpartition('/')[2]}.{one.slot}" if one.job else render_table.short(one.task_id)
        self._width = max(self._width, len(who))
        place = self._places.setdefault(who, len(self._places))
        return f"{self._paint(who.ljust(self._width) + ' |', place)} {one.text}"
