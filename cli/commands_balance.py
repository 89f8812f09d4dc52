"""What would be if, and moving tasks, as people type it: what-if, rebalance and move."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.command import command, surroundings, with_client
from cli.messages import report
from cli.options import Controller, Files, Insecure, Namespace, Output, OutputFormat

if TYPE_CHECKING:
    from client.client import Client
    from common.model.api import WhatIfRequest

Most = Annotated[int, typer.Option("--moves", metavar="N", min=0, max=100, help="At most so many [0: all].")]


def register(app: typer.Typer) -> None:
    command(
        app,
        "podium what-if --kill node-b",
        "podium what-if --add 4,8G,2 --scale shop/web=12",
        "podium what-if -f compose.yaml -o json",
        name="what-if",
    )(what_if)
    command(app, "podium rebalance --plan", "podium rebalance", "podium rebalance --moves 3")(rebalance)
    command(app, "podium move web.3 --to node-b -n shop", "podium move shop/web.1 shop/web.2 --to node-c")(move)


def what_if(
    ctx: typer.Context,
    kill: Annotated[
        list[str] | None, typer.Option("--kill", metavar="NODE", help="Suppose that it is lost.", show_default=False)
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="CPUS,MEMORY[,COUNT]", help="Suppose that such nodes join.", show_default=False),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", metavar="JOB=N", help="Suppose that many replicas.", show_default=False),
    ] = None,
    file: Files = None,
    namespace: Namespace = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Simulate on the live state, with the decisions the controller would take; changes nothing.

    Exit code: 0 nothing would change, 1 something would, 2 error.
    """
    from cli import balance
    from cli.deploy import load_project

    def ask() -> int:
        around = surroundings(ctx)
        settings = around.settings(controller, insecure, namespace)
        chosen = around.chosen_namespace(namespace) or None
        project = load_project(file, chosen, (), around.environ, Path()) if file else None
        request: WhatIfRequest = balance.question(settings.namespace, kill or (), add or (), scale or (), project)
        return with_client(ctx, settings, lambda client: balance.what_if(client, request, project, output))

    _as_plan(ask)


def rebalance(
    ctx: typer.Context,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done: 0 nothing, 1 changes.")] = False,
    moves: Most = 0,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Move as few tasks as make the cluster more even, each only when its successor is healthy, a few at a time.

    Stored with the tasks: a new leader goes on with it. Nothing is moved that would have to stop first.
    """
    from cli import balance

    def run(work: Callable[[Client], Coroutine[None, None, int]]) -> int:
        return with_client(ctx, surroundings(ctx).settings(controller, insecure, None), work)

    if plan:
        _as_plan(lambda: run(lambda client: balance.plan_rebalance(client, moves, output)))
    raise typer.Exit(run(lambda client: balance.rebalance(client, moves, output)))


def move(
    ctx: typer.Context,
    tasks: Annotated[list[str], typer.Argument(metavar="TASK...", help="As JOB.SLOT or by id.", show_default=False)],
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="Where they should run.", show_default=False)],
    namespace: Namespace = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Move tasks to a node, each only when its successor there is healthy.

    Refused, with the reason, when one of them cannot run there; given up when its successor does not come up.
    """
    from cli import balance

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    with_client(ctx, settings, lambda client: balance.move(client, settings.namespace, tasks, to, output))


def _as_plan(ask: Callable[[], int]) -> NoReturn:
    """Every error is 2 here, as of `podium plan`: 1 already means that something would change."""
    from cli.errors import USAGE
    from common.errors import PodiumError

    try:
        code = ask()
    except PodiumError as error:
        report(error)
        code = USAGE
    raise typer.Exit(code)
