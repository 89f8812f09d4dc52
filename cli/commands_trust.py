"""The commands about who belongs to a cluster and who may ask of it, as people type them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated

import typer

from cli.command import command, surroundings, with_client
from cli.options import Controller, Insecure, Namespace, Output, OutputFormat

if TYPE_CHECKING:
    from client.client import Client


class Machine(enum.Enum):
    AGENT = "agent"
    CONTROLLER = "controller"


class RoleName(enum.Enum):
    VIEWER = "viewer"
    DEPLOYER = "deployer"
    OPERATOR = "operator"
    ADMIN = "admin"


Names = Annotated[list[str], typer.Argument(metavar="NAME...", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]


def register(app: typer.Typer) -> None:
    _register_tokens(app)
    _register_users(app)
    _register_contexts(app)
    command(app, "podium audit", "podium audit --since 1h -o json")(audit)
    command(app, "podium whoami", "podium whoami -o json")(whoami)
    command(app, "podium can-i apply job -n shop", "podium can-i drain node", name="can-i")(can_i)


def _group(app: typer.Typer, name: str, text: str, *examples: str) -> typer.Typer:
    shown = "\n".join(f"  {example}" for example in examples)
    group = typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, epilog=f"\b\nExamples:\n{shown}")
    app.add_typer(group, name=name)
    return group


def _register_tokens(app: typer.Typer) -> None:
    text = "Tokens by which machines join the cluster."
    group = _group(app, "token", text, "podium token create --role agent", "podium token ls")
    command(group, "podium token create --role agent --ttl 1h --uses 3", name="create")(create_token)
    command(group, "podium token ls", name="ls")(list_tokens)
    command(group, "podium token revoke 4hkd", name="revoke")(revoke_token)


def _register_users(app: typer.Typer) -> None:
    text = "People and programs that may ask the cluster."
    group = _group(app, "user", text, "podium user add ann --role deployer --namespace shop", "podium user ls")
    command(group, "podium user add ann --role deployer --namespace shop", name="add")(add_user)
    command(group, "podium user ls", name="ls")(list_users)
    command(group, "podium user rotate ann", "podium user rotate ann --keep 1d", name="rotate")(rotate_user)
    command(group, "podium user rm ann", name="rm")(remove_user)


def _register_contexts(app: typer.Typer) -> None:
    text = "The clusters you know, and as whom you ask there."
    group = _group(
        app,
        "context",
        text,
        "podium context add prod --controller 10.0.0.1:7077 --token-file ann.token",
        "podium context ls",
    )
    command(group, "podium context ls", name="ls")(list_contexts)
    command(group, "podium context use prod", name="use")(use_context)
    command(
        group, "podium context add prod --controller 10.0.0.1:7077,10.0.0.2:7077 --token-file ann.token", name="add"
    )(add_context)
    command(group, "podium context rm prod", name="rm")(remove_context)


# --- tokens


def create_token(
    ctx: typer.Context,
    role: Annotated[Machine, typer.Option("--role", help="What may join by it.")] = Machine.AGENT,
    ttl: Annotated[str, typer.Option("--ttl", metavar="T", help="How long it counts, e.g. 30m, 1h, 7d.")] = "1h",
    uses: Annotated[int, typer.Option("--uses", metavar="N", help="How many machines may join by it.")] = 1,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Write it there, mode 0600, for --join-file; nothing is printed.",
            show_default=False,
        ),
    ] = "",
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Make a token by which a machine joins: `podium agent --join TOKEN`. It is shown once.

    One for controllers (`podium controller --join TOKEN`) hands out the cluster's keys: who has them is the cluster.
    """
    from cli import trust
    from cli.parsing import span_s
    from common.model.trust import Kind

    ttl_s = span_s("ttl", ttl)
    _run(ctx, controller, insecure, lambda client: trust.create_token(client, Kind(role.value), ttl_s, uses, out))


def list_tokens(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show the tokens that still count."""
    from cli import trust

    _run(ctx, controller, insecure, lambda client: trust.tokens(client, output))


def revoke_token(
    ctx: typer.Context,
    tokens: Annotated[list[str], typer.Argument(metavar="TOKEN...", help="Ids.", show_default=False)],
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Let tokens count no more. Machines that joined by them stay."""
    from cli import trust

    _run(ctx, controller, insecure, lambda client: trust.revoke(client, tokens))


# --- users


def add_user(
    ctx: typer.Context,
    name: Name,
    role: Annotated[RoleName, typer.Option("--role", help="Each may do what those before it may.", show_default=False)],
    namespace: Annotated[
        list[str] | None,
        typer.Option("--namespace", "-n", metavar="N", help="Where the role counts [default: everywhere]; repeatable."),
    ] = None,
    ttl: Annotated[
        str,
        typer.Option("--ttl", metavar="T", help="How long the token counts [default: for ever].", show_default=False),
    ] = "",
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Let somebody ask the cluster: viewer, deployer, operator or admin. The token is shown once."""
    from cli import trust
    from cli.parsing import span_s
    from common.model.trust import Role

    ttl_s = span_s("ttl", ttl) if ttl else 0.0
    _run(
        ctx,
        controller,
        insecure,
        lambda client: trust.add_user(client, name, Role(role.value), namespace or [], ttl_s),
    )


def list_users(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show who may ask the cluster."""
    from cli import trust

    _run(ctx, controller, insecure, lambda client: trust.users(client, output))


def rotate_user(
    ctx: typer.Context,
    name: Name,
    keep: Annotated[
        str, typer.Option("--keep", metavar="T", help="How long the present token counts too.", show_default=False)
    ] = "",
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Give a user a new token, shown once; the present one counts no more, or for --keep."""
    from cli import trust
    from cli.parsing import span_s

    keep_s = span_s("keep", keep) if keep else 0.0
    _run(ctx, controller, insecure, lambda client: trust.rotate_user(client, name, keep_s))


def remove_user(ctx: typer.Context, names: Names, controller: Controller = None, insecure: Insecure = None) -> None:
    """Let users ask no more, from this moment on."""
    from cli import trust

    _run(ctx, controller, insecure, lambda client: trust.remove_users(client, names))


def whoami(
    ctx: typer.Context,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show as whom the cluster knows you."""
    from cli import trust

    _run(ctx, controller, insecure, lambda client: trust.who_am_i(client, output))


def audit(
    ctx: typer.Context,
    since: Annotated[
        str | None, typer.Option("--since", metavar="T", help="E.g. 10m, 2h or a time.", show_default=False)
    ] = None,
    tail: Annotated[int, typer.Option("--tail", metavar="N", help="At most so many, the latest.")] = 100,
    output: Output = OutputFormat.TABLE,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Show who changed what, who ran programs in tasks, and who was refused; as the leading controller saw it."""
    from cli import trust
    from cli.parsing import moment_s

    since_s = moment_s("since", since, surroundings(ctx).clock()) if since else 0.0
    _run(ctx, controller, insecure, lambda client: trust.audit(client, since_s, tail, output))


def can_i(
    ctx: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="VERB", help="E.g. read, apply, drain.", show_default=False)],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="E.g. job, node, user.", show_default=False)],
    namespace: Namespace = None,
    controller: Controller = None,
    insecure: Insecure = None,
) -> None:
    """Say whether you may: exit code 0 yes, 1 no with the reason, 2 when there is no such right."""
    from cli import trust

    chosen = surroundings(ctx).chosen_namespace(namespace)
    _run(ctx, controller, insecure, lambda client: trust.can_i(client, verb, kind, chosen))


# --- contexts


def list_contexts(ctx: typer.Context, output: Output = OutputFormat.TABLE) -> None:
    """Show the contexts; the one in use is marked."""
    from cli import context

    context.list_contexts(surroundings(ctx).environ, output)


def use_context(ctx: typer.Context, name: Name) -> None:
    """Talk to this cluster from now on."""
    from cli import context

    context.use(surroundings(ctx).environ, name)


def add_context(
    ctx: typer.Context,
    name: Name,
    controller: Controller = None,
    namespace: Namespace = None,
    token: Annotated[
        str, typer.Option("--token", envvar="PODIUM_TOKEN", help="Of a user of that cluster.", show_default=False)
    ] = "",
    token_file: Annotated[
        str, typer.Option("--token-file", metavar="FILE", help="Holds the token.", show_default=False)
    ] = "",
    insecure: Insecure = None,
) -> None:
    """Get to know a cluster, or change what is known of one; with a token it is looked up and remembered."""
    import asyncio

    from cli import context
    from cli.parsing import token_text
    from client.contexts import Context
    from client.settings import controllers

    around = surroundings(ctx)
    known = Context(
        controllers=controllers(around.environ, controller or around.controller),
        namespace=namespace or "",
        insecure=bool(insecure),
        token=token_text(token, token_file),
    )
    asyncio.run(context.add(around.environ, name, known))


def remove_context(ctx: typer.Context, name: Name) -> None:
    """Forget a cluster and the token for it."""
    from cli import context

    context.remove(surroundings(ctx).environ, name)


def _run(
    ctx: typer.Context,
    controller: str | None,
    insecure: bool | None,
    work: Callable[[Client], Coroutine[None, None, int]],
) -> None:
    code = with_client(ctx, surroundings(ctx).settings(controller, insecure, None), work)
    if code:
        raise typer.Exit(code)
