"""The commands about podium itself: version and completion."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Output, OutputFormat

ASK_LIMIT_S = 1.0
"""For the controller's version: nice to know, not worth waiting for."""


class Shell(enum.Enum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    command(app, "podium version", "podium version -o json")(version)
    command(app, 'eval "$(podium completion bash)"', "podium completion zsh > ~/.zfunc/_podium")(completion)


def version(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Print this program's version, and the controller's when one answers."""
    import platform

    from cli.output import show
    from common.version import own_version

    own = own_version()
    plain = {"client": own, "python": platform.python_version(), "controller": _controller(ctx, controller, insecure)}

    def table() -> list[str]:
        return [f"podium {own}"] + ([f"controller {plain['controller']}"] if plain["controller"] else [])

    show(output, plain, name=lambda item: str(item["client"]), table=table)


def _controller(ctx: typer.Context, controller: str | None, insecure: bool | None) -> str | None:
    import msgspec

    from common.errors import PodiumError

    settings = surroundings(ctx).settings(controller, insecure, None)
    hurried = msgspec.structs.replace(
        settings,
        connect_timeout_s=ASK_LIMIT_S,
        answer_timeout_s=ASK_LIMIT_S,
        silence_limit_s=0.0,
        deadline_s=ASK_LIMIT_S,
    )
    try:
        return with_client(ctx, hurried, lambda client: client.status()).version
    except PodiumError:
        return None


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the completion script of a shell."""
    from typer import completion as scripts

    script: str = scripts.get_completion_script(  # type: ignore[attr-defined]  # public, but not re-exported
        prog_name="podium", complete_var="_PODIUM_COMPLETE", shell=shell.value
    )
    typer.echo(script)
