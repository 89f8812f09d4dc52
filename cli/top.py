"""`podium top`: what nodes and tasks use, again and again on a terminal, once for programs. Changes nothing."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from cli import render_json, render_usage
from cli.options import OutputFormat
from cli.output import console, grid, line, show
from cli.render_table import Grid
from client.client import Client
from common.model.node import NodeStatus
from common.model.usage import UsageView

if TYPE_CHECKING:
    from rich.console import RenderableType

FIRST_LOOK_S = 0.5
FIRST_LIMIT_S = 6.0
"""Agents begin to measure when somebody asks: they hear of it with their next heartbeat, and need two readings."""


async def top(client: Client, namespace: str, job: str, output: OutputFormat, interval_s: float) -> None:
    """Live until ^C where a terminal draws it, else one table or object."""
    view = await _measured(client, namespace, job)
    if output is not OutputFormat.TABLE:
        plain = render_json.usage(view)
        show(output, plain, name=lambda _plain: "\n".join(task["id"] for task in plain["tasks"]), table=list)
    elif sys.stdout.isatty():
        await _live(client, namespace, job, view, interval_s)
    else:
        nodes, tasks = render_usage.grids(view)
        grid(nodes)
        line("")
        grid(tasks)


async def _measured(client: Client, namespace: str, job: str) -> UsageView:
    """Once every node that answers has been measured, or nobody would wait longer."""
    loop = asyncio.get_running_loop()
    limit_s = loop.time() + FIRST_LIMIT_S
    while True:
        view = await client.usage(namespace, job)
        waiting = [node for node in view.nodes if node.status is NodeStatus.READY and not node.measured]
        if not waiting or loop.time() >= limit_s:
            return view
        await asyncio.sleep(FIRST_LOOK_S)


async def _live(client: Client, namespace: str, job: str, view: UsageView, interval_s: float) -> None:
    from rich.live import Live

    with Live(_drawn(view), console=console(sys.stdout), screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval_s)
            live.update(_drawn(await client.usage(namespace, job)), refresh=True)


def _drawn(view: UsageView) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def table(drawn: Grid) -> Table:
        made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
        for heading in drawn.headings:
            made.add_column(Text(heading), no_wrap=True)
        for row in drawn.rows:
            made.add_row(*(Text(cell) for cell in row))
        return made

    nodes, tasks = render_usage.grids(view)
    return Group(table(nodes), Text(""), table(tasks))
