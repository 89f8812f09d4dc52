"""`podium config` and `podium secret`: files for services, as people type them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Detach, Insecure, Namespace, Output, OutputFormat, Timeout

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `external: true` and `name` mean it in Compose files.")]
Source = Annotated[str, typer.Argument(metavar="[FILE]", help="Where its content is; `-` or nothing: standard input.")]
OneNamespace = Annotated[str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Of this namespace only.")]


def register(app: typer.Typer) -> None:
    for word, holds in (("config", "Files for services."), ("secret", "Files for services that nobody else may see.")):
        _register(app, word, holds)


def _register(app: typer.Typer, word: str, holds: str) -> None:
    group = typer.Typer(
        name=word,
        help=holds,
        no_args_is_help=True,
        rich_markup_mode=None,
        epilog=f"\b\nExamples:\n  podium {word} create app ./app.conf -n shop\n  podium {word} ls",
    )
    app.add_typer(group)
    command(group, f"podium {word} create app ./app.conf -n shop", f"podium {word} create app < app.conf")(
        _create(word)
    )
    command(group, f"podium {word} rotate app ./app.conf -n shop")(_rotate(word))
    command(group, f"podium {word} ls", f"podium {word} ls -n shop -o json")(_ls(word))
    command(group, f"podium {word} rm app -n shop")(_rm(word))
    if word == "config":
        command(group, "podium config show app -n shop", "podium config show app --version 3fb1")(show)


def _create(word: str) -> Callable[..., None]:
    def create(
        ctx: typer.Context,
        name: Name,
        file: Source = "-",
        namespace: Namespace = None,
        controller: Controller = None,
        insecure: Insecure = None,
    ) -> None:
        from cli import assets
        from common.model.asset import AssetKind

        settings = surroundings(ctx).settings(controller, insecure, namespace)
        kind = AssetKind(word)
        content = assets.content_of(kind, file)
        code = with_client(ctx, settings, lambda client: assets.create(client, kind, settings.namespace, name, content))
        raise typer.Exit(code)

    create.__doc__ = f"Make a {word} by name, for `external: true` in Compose files. There must be none of the name."
    return create


def _rotate(word: str) -> Callable[..., None]:
    def rotate(
        ctx: typer.Context,
        name: Name,
        file: Source = "-",
        detach: Detach = False,
        timeout: Timeout = 300.0,
        namespace: Namespace = None,
        controller: Controller = None,
        insecure: Insecure = None,
    ) -> None:
        from cli import assets
        from common.model.asset import AssetKind

        settings = surroundings(ctx).settings(controller, insecure, namespace)
        kind = AssetKind(word)
        content = assets.content_of(kind, file)
        code = with_client(
            ctx,
            settings,
            lambda client: assets.rotate(
                client, kind, settings.namespace, name, content, detach=detach, timeout_s=timeout
            ),
        )
        raise typer.Exit(code)

    rotate.__doc__ = (
        f"Give a {word} another content. The services that use it change over to it as to any new version: slot by "
        "slot, each only when it is healthy, and back again if it is not."
    )
    return rotate


def _ls(word: str) -> Callable[..., None]:
    def ls(
        ctx: typer.Context,
        namespace: OneNamespace = None,
        output: Output = OutputFormat.TABLE,
        controller: Controller = None,
        insecure: Insecure = None,
    ) -> None:
        from cli import assets
        from common.model.asset import AssetKind

        around = surroundings(ctx)
        settings = around.settings(controller, insecure, namespace)
        chosen = around.chosen_namespace(namespace)
        with_client(ctx, settings, lambda client: assets.ls(client, AssetKind(word), chosen, output))

    ls.__doc__ = f"List {word}s, their versions and who uses them. Those that came with a Compose file too."
    return ls


def _rm(word: str) -> Callable[..., None]:
    def rm(
        ctx: typer.Context,
        names: Annotated[list[str], typer.Argument(metavar="NAME...")],
        namespace: Namespace = None,
        controller: Controller = None,
        insecure: Insecure = None,
    ) -> None:
        from cli import assets
        from common.model.asset import AssetKind

        settings = surroundings(ctx).settings(controller, insecure, namespace)
        with_client(ctx, settings, lambda client: assets.rm(client, AssetKind(word), settings.namespace, names))

    rm.__doc__ = f"Remove {word}s that were made by name. Refused while a job uses one."
    return rm


def show(
    ctx: typer.Context,
    name: Name,
    version: Annotated[
        str, typer.Option("--version", metavar="DIGEST", help="Its first digits [default: the current or latest one].")
    ] = "",
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Print what is in a config."""
    from cli import assets

    settings = surroundings(ctx).settings(controller, insecure, namespace)
    with_client(ctx, settings, lambda client: assets.show_config(client, settings.namespace, name, version))
