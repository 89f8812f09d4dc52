"""The commands that change jobs, as people type them: up plan down run scale restart stop rm, validate; and those that
steer their rollouts: rollback pause resume promote."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from cli.command import Surroundings, command, surroundings, with_client
from cli.messages import report, say
from cli.options import (
    Controller,
    Detach,
    Files,
    Insecure,
    Namespace,
    Output,
    OutputFormat,
    Profiles,
    ProjectName,
    Timeout,
)

if TYPE_CHECKING:
    from client.client import Client
    from client.compose import Project
    from common.model.api import Changes

Jobs = Annotated[list[str], typer.Argument(metavar="JOB...", help="NAME or NAMESPACE/NAME.", show_default=False)]
RemoveOrphans = Annotated[
    bool, typer.Option("--remove-orphans", help="Remove the project's jobs that the file does not have.")
]


def register(app: typer.Typer) -> None:
    command(
        app, "podium up", "podium up -f compose.yaml -f production.yaml -p shop --timeout 120", "podium up --dry-run"
    )(up)
    command(app, "podium plan", "podium plan -f compose.yaml -o json")(plan)
    command(app, "podium down", "podium down -p shop")(down)
    command(
        app,
        "podium run nginx:1.27 --name web --replicas 3 -p 8080:80",
        "podium run - --name hello -p 8081:80 -- python3 -m http.server '${PORT}'",
    )(run)
    command(app, "podium scale shop/web=5", "podium scale web=5 api=2 -n shop")(scale)
    command(app, "podium restart shop/web")(restart)
    command(app, "podium rollback shop/web", "podium rollback web 3 -n shop")(rollback)
    command(app, "podium pause shop/web")(pause)
    command(app, "podium resume shop/web")(resume)
    command(app, "podium promote shop/web")(promote)
    command(app, "podium stop shop/web")(stop)
    command(app, "podium rm shop/web")(rm)
    command(app, "podium validate", "podium validate -f compose.yaml")(validate)


def up(
    ctx: typer.Context,
    file: Files = None,
    project_name: ProjectName = None,
    profile: Profiles = None,
    detach: Detach = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, as `podium plan`.")] = False,
    remove_orphans: RemoveOrphans = False,
    timeout: Timeout = 300.0,
    output: Annotated[
        OutputFormat, typer.Option("--output", "-o", help="How to print a dry run.")
    ] = OutputFormat.TABLE,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Deploy a Compose file and wait until everything is healthy."""
    if dry_run:
        _plan(ctx, file, project_name, profile, remove_orphans, output, namespace, controller, insecure)
    from cli import deploy

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    project = _project(around, file, project_name, profile, namespace)

    async def work(client: Client) -> int:
        specs = await client.assets.handed_in(project.name, project.specs, project.assets)
        return await deploy.up(
            client, project.name, specs, remove_orphans=remove_orphans, detach=detach, timeout_s=timeout
        )

    with deploy.faults_placed(project):
        code = with_client(ctx, settings, work)
    raise typer.Exit(code)


def plan(
    ctx: typer.Context,
    file: Files = None,
    project_name: ProjectName = None,
    profile: Profiles = None,
    remove_orphans: RemoveOrphans = False,
    output: Output = OutputFormat.TABLE,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show what `up` would do, step by step. Exit code: 0 nothing, 1 changes, 2 error."""
    _plan(ctx, file, project_name, profile, remove_orphans, output, namespace, controller, insecure)


def _plan(
    ctx: typer.Context,
    file: list[str] | None,
    project_name: str | None,
    profile: list[str] | None,
    remove_orphans: bool,
    output: OutputFormat,
    namespace: str | None,
    controller: str | None,
    insecure: bool | None,
) -> NoReturn:
    """Every error is 2 here: 1 already means that something would change."""
    from cli import deploy
    from cli.errors import USAGE
    from common.errors import PodiumError

    around = surroundings(ctx)
    try:
        settings = around.settings(controller, insecure, namespace)
        project = _project(around, file, project_name, profile, namespace)

        async def work(client: Client) -> int:
            specs = await client.assets.handed_in(project.name, project.specs, project.assets, dry_run=True)
            return await deploy.plan(client, project.name, specs, remove_orphans=remove_orphans, output=output)

        with deploy.faults_placed(project):
            code = with_client(ctx, settings, work)
    except PodiumError as error:
        report(error)
        code = USAGE
    raise typer.Exit(code)


def _project(
    around: Surroundings,
    file: list[str] | None,
    project_name: str | None,
    profile: list[str] | None,
    namespace: str | None,
) -> Project:
    """The files' project, in the namespace that was chosen: -p, then -n, then PODIUM_NAMESPACE, then the file."""
    from cli import deploy

    name = project_name or around.chosen_namespace(namespace) or None
    return deploy.load_project(file or (), name, profile or (), around.environ, Path())


def down(
    ctx: typer.Context,
    file: Files = None,
    project_name: ProjectName = None,
    detach: Detach = False,
    timeout: Timeout = 60.0,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Stop and remove a project: all jobs of its namespace."""
    from cli import deploy

    around = surroundings(ctx)
    settings = around.settings(controller, insecure, namespace)
    chosen = project_name or around.chosen_namespace(namespace)
    name = chosen or _project(around, file, None, None, None).name
    raise typer.Exit(
        with_client(ctx, settings, lambda client: deploy.down(client, name, detach=detach, timeout_s=timeout))
    )


def run(
    ctx: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="Image to run; - runs CMD as a plain process.", show_default=False)
    ],
    cmd: Annotated[
        list[str] | None,
        typer.Argument(metavar="CMD", help="After --: what to run instead of the image's own.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Of the job [default: after the image].", show_default=False)
    ] = None,
    replicas: Annotated[int, typer.Option(metavar="N", min=0, help="How many.")] = 1,
    publish: Annotated[
        list[str] | None,
        typer.Option("--publish", "-p", metavar="8080:80", help="Publish a port on every node.", show_default=False),
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", metavar="K=V", help="Set a variable.", show_default=False)
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", metavar="KIND=N", help="Devices for each task: gpu=2, or gpu=0.5 of one.", show_default=False
        ),
    ] = None,
    detach: Detach = False,
    timeout: Timeout = 300.0,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Run one job without a file, and wait until it is healthy."""
    from cli import deploy

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    spec = deploy.run_spec(
        settings.namespace,
        "" if image == "-" else image,
        name=name,
        replicas=replicas,
        ports=publish or (),
        environment=env or (),
        devices=device or (),
        command=cmd or (),
    )

    def work(client: Client) -> Coroutine[None, None, int]:
        return deploy.up(client, spec.namespace, (spec,), remove_orphans=False, detach=detach, timeout_s=timeout)

    raise typer.Exit(with_client(ctx, settings, work))


def scale(
    ctx: typer.Context,
    targets: Annotated[list[str], typer.Argument(metavar="JOB=N...", help="Jobs and replicas.", show_default=False)],
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Set the number of replicas of jobs."""
    from cli.parsing import scale_targets

    wanted = scale_targets(targets)
    _change(ctx, controller, insecure, namespace, lambda client, where: client.scale(where, wanted))


def restart(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Replace every task of jobs by a new one, slot by slot."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.restart(where, jobs))


def rollback(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="NAME or NAMESPACE/NAME.", show_default=False)],
    version: Annotated[
        int | None,
        typer.Argument(metavar="[VERSION]", min=1, help="Which [default: the last good one].", show_default=False),
    ] = None,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Make an earlier version of a job the wanted one."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.rollback(where, job, version or 0))


def pause(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Let the rollouts of jobs stand still where they are."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.pause(where, jobs))


def resume(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Let the rollouts of jobs go on that were paused or failed."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.resume(where, jobs))


def promote(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Begin the next step of the rollouts of jobs, without waiting for the rest of its time."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.promote(where, jobs))


def stop(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Stop the tasks of jobs and keep the jobs; `up` or `restart` brings them back."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.stop(where, jobs))


def rm(
    ctx: typer.Context,
    jobs: Jobs,
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Stop the tasks of jobs and forget the jobs."""
    _change(ctx, controller, insecure, namespace, lambda client, where: client.remove(where, jobs))


def _change(
    ctx: typer.Context,
    controller: str | None,
    insecure: bool | None,
    namespace: str | None,
    write: Callable[[Client, str], Coroutine[None, None, Changes]],
) -> None:
    """One write, and what it did. Jobs of other namespaces are named in full; the controller knows both forms."""
    from cli.deploy import print_changes

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    print_changes(with_client(ctx, settings, lambda client: write(client, settings.namespace)))


def validate(
    ctx: typer.Context,
    file: Files = None,
    project_name: ProjectName = None,
    profile: Profiles = None,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Check a Compose file without a controller; prints the jobs it makes."""
    from cli import render_json
    from cli.output import show

    project = _project(surroundings(ctx), file, project_name, profile, None)
    plain = [render_json.spec(spec) for spec in project.specs]
    names = [f"{spec.full_name}" for spec in project.specs]
    show(output, plain, name=lambda item: f"{item['namespace']}/{item['name']}", table=lambda: names)
    say(f"{project.name}: {len(names)} {'job' if len(names) == 1 else 'jobs'}, nothing wrong")
