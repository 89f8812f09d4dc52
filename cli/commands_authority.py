"""`podium ca`: the cluster's own keys, and how they are replaced while it runs, as people type it."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Output, OutputFormat


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        help="The cluster's authority and its cluster key.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog="\b\nExamples:\n  podium ca rotate\n  podium ca rotate --status\n  podium ca rotate-key",
    )
    command(group, "podium ca rotate", "podium ca rotate --status", "podium ca rotate --forget")(rotate)
    command(group, "podium ca rotate-key", "podium ca rotate-key --by-token", name="rotate-key")(rotate_key)
    app.add_typer(group, name="ca")


def rotate(
    ctx: typer.Context,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Have tokens and contexts made under earlier authorities find nobody any more."),
    ] = False,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Replace the authority that signs certificates, while everything runs.

    Both are believed until every node has a certificate of the new one; that goes on by itself, in batches, and ends
    with the earlier one believed no more. People's tokens and contexts stay good, until --forget.
    """
    from cli import authority

    settings = surroundings(ctx).settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: authority.rotate(client, output, status=status, forget=forget))


def rotate_key(
    ctx: typer.Context,
    by_token: Annotated[
        bool,
        typer.Option("--by-token", help="Shut the other controllers out: each that stays joins anew by a token."),
    ] = False,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Replace the cluster key: every controller gets the new one, then everything is sealed under it.

    The earlier one stays in the controllers' files, second, for backups of its time. Where a controller or the key was
    stolen, --by-token hands the new one to nobody by way of the store, which whoever has the earlier one could read.
    """
    from cli import authority

    settings = surroundings(ctx).settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: authority.rotate_key(client, output, by_token=by_token))
