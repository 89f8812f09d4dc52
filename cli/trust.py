"""`podium token`, `user`, `whoami` and `can-i`: who belongs to the cluster and who may ask of it, told and changed."""

from __future__ import annotations

from pathlib import Path

from cli import render_trust
from cli.errors import DONE, FAILED
from cli.messages import say
from cli.options import OutputFormat
from cli.output import line, show
from client.client import Client
from common.model.joining import TokenView, UserView
from common.model.trust import Kind, Role
from common.private_files import write_private


async def create_token(client: Client, kind: Kind, ttl_s: float, uses: int, out: str) -> int:
    """The token alone goes to stdout, so that a script can take it; or into the file `out`."""
    made = await client.trust.create_token(kind, ttl_s, uses)
    if out:
        write_private(Path(out), made.token + "\n")
    else:
        line(made.token)
    times = "once" if uses == 1 else f"{uses} times"
    say(f"joins {'an agent' if kind is Kind.AGENT else 'a controller'} {times}, until {_until(made.view.expires_at_s)}")
    return DONE


async def tokens(client: Client, output: OutputFormat) -> int:
    return _show_tokens(await client.trust.tokens(), output)


async def revoke(client: Client, token_ids: list[str]) -> int:
    for token_id in token_ids:
        await client.trust.revoke_token(token_id)
        line(f"token {token_id} revoked: who joined with it stays")
    return DONE


async def add_user(client: Client, name: str, role: Role, namespaces: list[str], ttl_s: float) -> int:
    made = await client.trust.add_user(name, role, namespaces, ttl_s)
    line(made.token)
    where = f" in {', '.join(made.view.namespaces)}" if made.view.namespaces else ""
    say(f"{name} is {role.value}{where}; the token is not shown again: `podium context add NAME --token ...` takes it")
    return DONE


async def rotate_user(client: Client, name: str, keep_s: float) -> int:
    line((await client.trust.rotate_user(name, keep_s)).token)
    say("the token before counts no more" if not keep_s else f"the token before counts for {keep_s:g} s more")
    return DONE


async def users(client: Client, output: OutputFormat) -> int:
    return _show_users(await client.trust.users(), output)


async def remove_users(client: Client, names: list[str]) -> int:
    for name in names:
        await client.trust.remove_user(name)
        line(f"user {name} removed: the token counts no more")
    return DONE


async def who_am_i(client: Client, output: OutputFormat) -> int:
    plain = render_trust.caller(await client.trust.who_am_i())
    show(output, plain, name=lambda known: str(known["name"]), table=lambda: render_trust.caller_grid(plain))
    return DONE


async def can_i(client: Client, verb: str, kind: str, namespace: str) -> int:
    """0 yes, 1 no."""
    answer = await client.trust.can_i(verb, kind, namespace)
    line("no" if answer.refusal else "yes")
    if answer.refusal:
        say(answer.refusal)
    return FAILED if answer.refusal else DONE


async def audit(client: Client, since_s: float, limit: int, output: OutputFormat) -> int:
    plain = [render_trust.audit_record(record) for record in await client.trust.audit(since_s, limit)]
    show(output, plain, name=lambda record: str(record["caller"]), table=lambda: render_trust.audit_grid(plain))
    return DONE


def _show_tokens(views: tuple[TokenView, ...], output: OutputFormat) -> int:
    plain = [render_trust.token(view) for view in views]
    show(output, plain, name=lambda token: str(token["id"]), table=lambda: render_trust.token_grid(plain))
    return DONE


def _show_users(views: tuple[UserView, ...], output: OutputFormat) -> int:
    plain = [render_trust.user(view) for view in views]
    show(output, plain, name=lambda user: str(user["name"]), table=lambda: render_trust.user_grid(plain))
    return DONE


def _until(moment_s: float) -> str:
    return render_trust.rfc3339(moment_s) or "it is revoked"
