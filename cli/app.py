"""The command line of `podium`: puts the commands together. Knows nothing of what they do."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import (
    commands_assets,
    commands_authority,
    commands_balance,
    commands_jobs,
    commands_look,
    commands_operate,
    commands_self,
    commands_serve,
    commands_store,
    commands_trust,
    commands_volume,
)
from cli.command import Surroundings
from cli.options import Controller, Insecure, Namespace

app = typer.Typer(
    name="podium",
    no_args_is_help=True,
    # Plain help: rich alone would take most of the time that `podium --help` may take.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n  podium dev\n  podium up -f compose.yaml\n  podium ps",
)


@app.callback()
def podium(
    ctx: typer.Context,
    controller: Controller = None,
    insecure: Insecure = None,
    namespace: Namespace = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Cluster of the contexts file [env: PODIUM_CONTEXT].", show_default=False),
    ] = None,
) -> None:
    """Podium runs the applications of your Compose files on the machines you have.

    Start with `podium dev`, then `podium up`. PODIUM_CONFIG names the contexts file
    (default ~/.config/podium/config.yaml).
    """
    if not isinstance(ctx.obj, Surroundings):
        ctx.obj = Surroundings()
    ctx.obj.controller, ctx.obj.insecure = controller, insecure
    ctx.obj.namespace, ctx.obj.context = namespace, context


for _commands in (
    commands_serve,
    commands_jobs,
    commands_look,
    commands_operate,
    commands_balance,
    commands_self,
    commands_store,
    commands_trust,
    commands_authority,
    commands_volume,
    commands_assets,
):
    _commands.register(app)
