"""`podium ca`: begins a replacement, and shows how far it is."""

from __future__ import annotations

from cli import render_trust
from cli.errors import DONE
from cli.messages import say
from cli.options import OutputFormat
from cli.output import show
from client.client import Client
from common.errors import Invalid
from common.model.joining import AuthorityView


async def rotate(client: Client, output: OutputFormat, *, status: bool, forget: bool) -> int:
    if status and forget:
        raise Invalid("--status changes nothing, and --forget does: give one of them")
    if status:
        return _show(await client.trust.authority(), output)
    code = _show(await client.trust.rotate_authority(forget=forget), output)
    say("earlier authorities are shown no more" if forget else "it goes on by itself: `podium ca rotate --status`")
    return code


async def rotate_key(client: Client, output: OutputFormat, *, by_token: bool) -> int:
    code = _show(await client.trust.rotate_key(by_token=by_token), output)
    if by_token:
        say("every other controller ends now: start those that stay with --join TOKEN (`podium token create --role")
        say("controller`), and go on with `podium ca rotate`")
    else:
        say("it goes on by itself: `podium ca rotate --status`")
    return code


def _show(view: AuthorityView, output: OutputFormat) -> int:
    plain = render_trust.authority(view)
    show(output, plain, name=lambda one: str(one["fingerprint"]), table=lambda: render_trust.authority_grid(plain))
    return DONE
