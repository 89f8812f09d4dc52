"""The commands about the state as a whole, as people type them: store backup restore raise-generation check strays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Output, OutputFormat

store_app = typer.Typer(
    name="store",
    help="Back up, restore and check the state of the whole cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExamples:\n  podium store backup cluster.backup\n  podium store check",
)

StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Read this store itself, without a controller: sqlite:///path or etcd://h1:2379,h2:2379.",
        show_default=False,
    ),
]
TargetStore = Annotated[
    str, typer.Option("--store", metavar="URL", help="sqlite:///path or etcd://h1:2379,h2:2379.", show_default=False)
]
Generation = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=2**31,
        help="At least this one: when agents have obeyed one that neither file nor store knows. [default: the next]",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    command(
        store_app, "podium store backup cluster.backup", "podium store backup - --store sqlite:///s.db | gzip >b.gz"
    )(backup)
    command(
        store_app,
        "podium store restore cluster.backup --store etcd://10.0.0.1:2379",
        "podium store restore cluster.backup --store sqlite:///var/lib/podium/controller.db --force",
    )(restore)
    command(
        store_app,
        "podium store raise-generation --store etcd://10.0.0.1:2379",
        "podium store raise-generation --store sqlite:///var/lib/podium/controller.db --generation 7",
        name="raise-generation",
    )(raise_generation)
    command(store_app, "podium store check", "podium store check --store etcd://10.0.0.1:2379 -o json")(check)
    command(store_app, "podium store strays", "podium store strays -o json")(strays)
    command(store_app, "podium store stop-strays 3f9a 77c1", "podium store stop-strays --all", name="stop-strays")(
        stop_strays
    )
    app.add_typer(store_app)


def backup(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="To write; - is stdout.", show_default=False)],
    store: StoreUrl = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.")] = False,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Write the whole state into one file: jobs, their versions, tasks, nodes.

    Asks the leading controller, which goes on meanwhile; with --store reads the store itself, also while a controller
    uses it. The file is of one moment, checks itself, and fits every kind of store. It holds what your Compose files
    do, secrets too: only you can read it.
    """
    from cli import store as work

    around = surroundings(ctx)
    if store:
        return work.backup_store(store, file, force=force, now_s=around.clock())
    settings = around.settings(controller, insecure, None)
    return with_client(ctx, settings, lambda client: work.backup_cluster(client, file, force=force))


def restore(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Of podium store backup.", show_default=False)],
    store: TargetStore,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what the store holds; that is backed up beside FILE first.")
    ] = False,
    generation: Generation = 0,
) -> None:
    """Put a backup into a store, of whatever kind, while no controller runs on it.

    FILE is checked whole before anything is written. The generation rises, so that every agent obeys the controllers
    you start then. What agents run and the backup does not know is kept running, and listed by `podium store strays`.
    A restore that breaks off leaves a store that controllers refuse: repeat it.
    """
    from cli import store as work

    work.restore(Path(file), store, force=force, generation=generation, now_s=surroundings(ctx).clock())


def raise_generation(store: TargetStore, generation: Generation = 0) -> None:
    """Let a store that came back by other means count again (a copied file, a snapshot of etcd, a new and empty one).

    While no controller runs on it. Like `restore`, without changing a record.
    """
    from cli import store as work

    work.raise_generation(store, generation)


def check(
    ctx: typer.Context,
    store: StoreUrl = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Read everything and say what is wrong with it, why that matters and what to do. Changes nothing.

    Every record, whether they fit together, whether the leader believes what is stored, and how SQLite or etcd are.
    Ends with 1 when something is wrong; warnings alone end with 0.
    """
    from cli import store as work

    if store:
        report = work.check_store(store)
    else:
        settings = surroundings(ctx).settings(controller, insecure, None)
        report = with_client(ctx, settings, lambda client: client.check_store())
    work.show_report(report, output)
    if any(finding.error for finding in report.findings):
        raise typer.Exit(1)


def strays(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """List tasks that nodes run and a restored state does not know: made after the backup. They get no traffic."""
    from cli import store as work

    settings = surroundings(ctx).settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: work.strays(client, output))


def stop_strays(
    ctx: typer.Context,
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[TASK]...", help="Ids, or unique prefixes.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Stop strays, once you have deployed again what is missing."""
    from cli import store as work

    settings = surroundings(ctx).settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: work.stop_strays(client, tuple(tasks or ()), every=every))
