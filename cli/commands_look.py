"""The commands that read or look inside: jobs ps nodes inspect why events cluster logs exec top."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Namespace, Output, OutputFormat

EVERYWHERE = typer.Option("--namespace", "-n", metavar="NAME", help="Of this namespace only [env: PODIUM_NAMESPACE].")


class Kind(enum.Enum):
    JOB = "job"
    TASK = "task"
    NODE = "node"


def register(app: typer.Typer) -> None:
    command(app, "podium jobs", "podium jobs -n shop -o json")(jobs)
    command(app, "podium ps", "podium ps shop/web --all", "podium ps -o json")(ps)
    command(app, "podium nodes", "podium nodes -o json")(nodes)
    command(app, "podium inspect job shop/web", "podium inspect task web.1 -n shop -o json", "podium inspect node n1")(
        inspect
    )
    command(app, "podium why shop/web", "podium why web.1 -n shop -o json")(why)
    command(app, "podium events --since 1h", "podium events -w -o json")(events)
    command(app, "podium cluster", "podium cluster -o json")(cluster)
    command(app, "podium logs shop/web --tail 20", "podium logs web.1 -n shop -f --since 10m")(logs)
    command(app, "podium exec web.1 -n shop -it -- sh", "echo hello | podium exec shop/web.1 -- cat", name="exec")(
        exec_
    )
    command(app, "podium top", "podium top shop/web", "podium top -n shop -o json")(top)


def jobs(
    ctx: typer.Context,
    namespace: Annotated[str | None, EVERYWHERE] = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """List jobs: of all namespaces, unless one is named."""
    from cli import read

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    chosen = around.chosen_namespace(namespace)
    with_client(ctx, settings, lambda client: read.jobs(client, chosen, output, around.clock()))


def ps(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only its tasks.", show_default=False)] = "",
    every: Annotated[
        bool, typer.Option("--all", "-a", help="Also ended tasks, and how each of their attempts ended.")
    ] = False,
    namespace: Annotated[str | None, EVERYWHERE] = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """List tasks: what runs where."""
    from cli import read
    from cli.parsing import job_name

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    where, name = job_name(settings.namespace, job) if job else (around.chosen_namespace(namespace), "")
    with_client(
        ctx, settings, lambda client: read.tasks(client, where, name, output, around.clock(), include_ended=every)
    )


def nodes(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """List nodes: their state, and what of them is reserved."""
    from cli import read

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: read.nodes(client, output, around.clock()))


def inspect(
    ctx: typer.Context,
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="job, task or node.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id (a unique prefix).")],
    namespace: Namespace = None,
    output: Output = OutputFormat.YAML,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show one job, task or node whole, crash records included."""
    from cli import read

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    with_client(ctx, settings, lambda client: read.inspect(client, kind.value, settings.namespace, name, output))


def why(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="JOB|TASK", help="A job, or a task as JOB.SLOT or by id.")],
    namespace: Namespace = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Say why something is not running, or why it is where it is."""
    from cli import read

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    with_client(ctx, settings, lambda client: read.why(client, settings.namespace, name, output))


def events(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on as things happen, until ^C.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="From then on: 10m, 2h, or RFC 3339.", show_default=False)
    ] = None,
    namespace: Annotated[str | None, EVERYWHERE] = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show what happened, oldest first."""
    from cli import read
    from cli.parsing import moment_s

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    chosen = around.chosen_namespace(namespace)
    since_s = moment_s("since", since, around.clock()) if since else 0.0
    with_client(ctx, settings, lambda client: read.events(client, chosen, output, since_s=since_s, follow=watch))


def cluster(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show who leads, how the nodes are, and what the cluster would survive."""
    from cli import read

    settings = surroundings(ctx).settings(controller, insecure, None)
    with_client(ctx, settings, lambda client: read.cluster(client, output))


def logs(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="JOB|TASK", help="A job, or a task as JOB.SLOT or by id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until ^C.")] = False,
    tail: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Begin with the last N lines.", show_default="all")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="From then on: 10m, 2h, or RFC 3339.", show_default=False)
    ] = None,
    namespace: Namespace = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show the output of a task, or of all tasks of a job."""
    from cli import read
    from cli.parsing import moment_s

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    since_s = moment_s("since", since, around.clock()) if since else 0.0
    lines = -1 if tail is None else tail
    with_client(
        ctx,
        settings,
        lambda client: read.logs(client, settings.namespace, name, output, tail=lines, since_s=since_s, follow=follow),
    )


def exec_(
    ctx: typer.Context,
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="As JOB.SLOT or by id; or a job that has one running task.")
    ],
    argv: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The program and its arguments, after --.")],
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Give it our input; a pipe or file is given in any case.")
    ] = False,
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give it our terminal.")] = False,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Run a program inside a running task, and end with its exit code.

    It has the task's user, folder and environment, and ends when this command does.
    """
    from cli import exec as running
    from cli.parsing import job_name

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    within, name = job_name(settings.namespace, task)
    code = with_client(
        ctx,
        settings,
        lambda client: running.run(client, within, name, tuple(argv), interactive=interactive, with_terminal=tty),
    )
    raise typer.Exit(code)


def top(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="[JOB]", help="Only its tasks.", show_default=False)] = "",
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.5, max=3600, help="Between two looks.")
    ] = 2.0,
    namespace: Annotated[str | None, EVERYWHERE] = None,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show what nodes and tasks use: live on a terminal until ^C, once otherwise."""
    from cli import top as watching
    from cli.parsing import job_name

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    where, name = job_name(settings.namespace, job) if job else (around.chosen_namespace(namespace), "")
    with_client(ctx, settings, lambda client: watching.top(client, where, name, output, interval))
