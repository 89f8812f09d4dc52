"""`podium volume`: what nodes keep of their tasks' data, as people type it."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Namespace, Output, OutputFormat


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="volume",
        help="Volumes that nodes keep.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog="\b\nExamples:\n  podium volume ls\n  podium volume rm data -n shop",
    )
    app.add_typer(group)
    command(group, "podium volume ls", "podium volume ls -n shop -o json")(ls)
    command(group, "podium volume rm data -n shop", "podium volume rm shop_data --node node-b")(rm)


def ls(
    ctx: typer.Context,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Of this namespace only.")
    ] = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """List volumes: where they are, and who has them. Those without a job are only kept."""
    from cli import volumes

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    chosen = around.chosen_namespace(namespace)
    with_client(ctx, settings, lambda client: volumes.ls(client, chosen, output))


def rm(
    ctx: typer.Context,
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="With or without its namespace and underscore.")],
    node: Annotated[
        str, typer.Option("--node", metavar="NODE", help="On this node, where several keep one of the name.")
    ] = "",
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Delete a volume and what is in it. Refused while a task has it; nothing else ever deletes one."""
    from cli import volumes

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    with_client(ctx, settings, lambda client: volumes.rm(client, settings.namespace, volume, node))
