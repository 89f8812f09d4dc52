"""The operator's commands, as people type them: cordon uncordon drain, brake release, and quota."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.command import command, guarded, surroundings, with_client
from cli.messages import report
from cli.options import Controller, Insecure, Output, OutputFormat

if TYPE_CHECKING:
    from client.client import Client

Nodes = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="Names, or ids (a unique prefix).", show_default=False)
]


def register(app: typer.Typer) -> None:
    command(app, "podium cordon node-b", "podium cordon node-b node-c -o json")(cordon)
    command(app, "podium uncordon node-b")(uncordon)
    command(
        app, "podium drain node-b --plan", "podium drain node-b --timeout 600", "podium drain node-b node-c --detach"
    )(drain)
    node = typer.Typer(
        help="Nodes for good; `podium nodes` lists them, `podium drain` empties them.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog="\b\nExamples:\n  podium node rm node-b",
    )
    command(node, "podium node rm node-b", "podium node rm node-b node-c --force", name="rm")(remove_nodes)
    app.add_typer(node, name="node")
    brake = typer.Typer(
        help="Replace what silent nodes ran although the brake holds; `podium cluster` says whether it does.",
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog="\b\nExamples:\n  podium brake release",
    )
    command(brake, "podium brake release", "podium brake release -o json")(release)
    app.add_typer(brake, name="brake")
    register_quota(app)


def register_quota(app: typer.Typer) -> None:
    quota = typer.Typer(
        help="What namespaces may have, and what their jobs ask for.",
        invoke_without_command=True,
        rich_markup_mode=None,
        epilog="\b\nExamples:\n  podium quota\n  podium quota -o json\n  podium quota set shop cpus=8 memory=32G",
    )
    quota.callback()(guarded(show_quotas))
    command(
        quota,
        "podium quota set shop cpus=8 memory=32G tasks=200",
        "podium quota set shop gpu=4",
        "podium quota set shop memory=none",
        name="set",
    )(set_quota)
    command(quota, "podium quota rm shop", name="rm")(remove_quota)
    app.add_typer(quota, name="quota")


def cordon(
    ctx: typer.Context,
    nodes: Nodes,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Put no new tasks on nodes; those they have stay."""
    from cli import operate

    _run(ctx, controller, insecure, lambda client: operate.cordon(client, nodes, output))


def uncordon(
    ctx: typer.Context,
    nodes: Nodes,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Let nodes take new tasks again. Ends a drain: what has not moved yet stays."""
    from cli import operate

    _run(ctx, controller, insecure, lambda client: operate.uncordon(client, nodes, output))


def remove_nodes(
    ctx: typer.Context,
    nodes: Nodes,
    force: Annotated[bool, typer.Option("--force", help="Also with tasks on it: they are replaced elsewhere.")] = False,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Remove nodes for good: their certificates count no more, and their sessions end at once.

    What still runs there goes on until somebody stops it there. A node comes back only by a new token.
    """
    from cli import operate

    _run(ctx, controller, insecure, lambda client: operate.remove_nodes(client, nodes, output, force=force))


def drain(
    ctx: typer.Context,
    nodes: Nodes,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done: 0 nothing, 1 changes.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Order it and do not wait.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=0, help="Wait at most so long; the drain goes on.")
    ] = 300.0,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Move every task off nodes, each only when its successor is healthy, and wait until they are empty.

    Stored: a new leader goes on with it, and the node stays empty until `podium uncordon`. Batch tasks are not moved,
    they are waited for.
    """
    from cli import operate

    if plan:
        _plan(ctx, controller, insecure, nodes, output)
    raise typer.Exit(
        _run(
            ctx,
            controller,
            insecure,
            lambda client: operate.drain(client, nodes, output, detach=detach, timeout_s=timeout),
        )
    )


def _plan(
    ctx: typer.Context, controller: str | None, insecure: bool | None, nodes: list[str], output: OutputFormat
) -> NoReturn:
    """Every error is 2 here, as of `podium plan`: 1 already means that something would change."""
    from cli import operate
    from cli.errors import USAGE
    from common.errors import PodiumError

    try:
        code = _run(ctx, controller, insecure, lambda client: operate.plan_drain(client, nodes, output))
    except PodiumError as error:
        report(error)
        code = USAGE
    raise typer.Exit(code)


def release(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Replace what the nodes ran that are silent now, although many fell silent at once.

    Holds for those nodes only: a later mass silence brakes anew.
    """
    from cli import operate

    _run(ctx, controller, insecure, lambda client: operate.release_brake(client, output))


def show_quotas(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show limits and use of every namespace that has limits."""
    from cli import quota

    if ctx.invoked_subcommand is None:
        _run(ctx, controller, insecure, lambda client: quota.quotas(client, "", output))


Namespace = Annotated[str, typer.Argument(metavar="NAMESPACE", help="A project.", show_default=False)]


def set_quota(
    ctx: typer.Context,
    namespace: Namespace,
    limits: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=LIMIT...",
            help="cpus, memory, tasks, or a kind of device; others stay as they are, `none` lifts one.",
            show_default=False,
        ),
    ],
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Limit what the jobs of a namespace may ask for in all.

    Stops nothing: what is there already stays, also when it is more; only growth is refused.
    """
    from cli import quota

    _run(ctx, controller, insecure, lambda client: quota.set_quota(client, namespace, limits, output))


def remove_quota(
    ctx: typer.Context,
    namespace: Namespace,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Lift all limits of a namespace."""
    from cli import quota

    _run(ctx, controller, insecure, lambda client: quota.lift(client, namespace, output))


def _run(
    ctx: typer.Context,
    controller: str | None,
    insecure: bool | None,
    work: Callable[[Client], Coroutine[None, None, int]],
) -> int:
    return with_client(ctx, surroundings(ctx).settings(controller, insecure, None), work)
