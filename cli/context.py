"""`podium context`: the clusters that a person knows, each with its controllers, and as whom one asks there.

A context with a token also keeps the cluster's authority, which is found once, by the digest that the token pins.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cli.errors import DONE
from cli.messages import say
from cli.options import OutputFormat
from cli.output import line, show
from cli.parsing import invalid
from cli.render_json import Plain
from cli.render_table import Grid
from client.contexts import Context, Contexts, contexts, write_contexts
from common.errors import NotFound, PodiumError, Unavailable
from common.tokens import USER, parse_token

_FIND_S = 5.0


def list_contexts(environ: Mapping[str, str], output: OutputFormat) -> int:
    known = contexts(environ)
    plain = [_plain(name, known.contexts[name], current=name == known.current) for name in sorted(known.contexts)]
    show(output, plain, name=lambda context: str(context["name"]), table=lambda: _grid(plain))
    return DONE


def use(environ: Mapping[str, str], name: str) -> int:
    known = contexts(environ)
    _named(known, name)
    write_contexts(environ, msgspec.structs.replace(known, current=name))
    line(f"context {name} is in use")
    return DONE


async def add(environ: Mapping[str, str], name: str, context: Context) -> int:
    """Add or replace a context, and use it when it is the first. Raises `Invalid` for a token of another cluster."""
    if not context.controllers:
        raise invalid("controller", "is missing: name at least one controller of the cluster (--controller)")
    if context.token:
        context = msgspec.structs.replace(context, authority=await _authority(context))
    known = contexts(environ)
    changed = Contexts(current=known.current or name, contexts={**known.contexts, name: context})
    path = write_contexts(environ, changed)
    line(f"context {name} {'changed' if name in known.contexts else 'added'}")
    if changed.current != name:
        say(f"{changed.current} stays in use; `podium context use {name}` changes that")
    say(f"kept in {path}")
    return DONE


def remove(environ: Mapping[str, str], name: str) -> int:
    known = contexts(environ)
    _named(known, name)
    left = {other: context for other, context in known.contexts.items() if other != name}
    write_contexts(environ, Contexts(current="" if known.current == name else known.current, contexts=left))
    line(f"context {name} removed")
    return DONE


async def _authority(context: Context) -> str:
    """Of the cluster, shown by any of its controllers that answers."""
    from common.pinning import pinned_authority

    token = parse_token(context.token, USER)
    errors: list[PodiumError] = []
    for address in context.controllers:
        try:
            return await pinned_authority(address, token.pin, timeout_s=_FIND_S)
        except Unavailable as error:
            errors.append(error)
    raise Unavailable("no controller shows that it is of the token's cluster: " + "; ".join(map(str, errors)))


def _named(known: Contexts, name: str) -> None:
    if name not in known.contexts:
        there = ", ".join(sorted(known.contexts)) or "none"
        raise NotFound(f"no context {name!r} (there: {there})")


def _plain(name: str, context: Context, *, current: bool) -> Plain:
    """Without the token: what lists show ends in screenshots."""
    user = parse_token(context.token, USER).id if context.token else ""
    return {
        "name": name,
        "current": current,
        "controllers": list(context.controllers),
        "namespace": context.namespace,
        "user": user,
        "insecure": context.insecure,
    }


def _grid(plain: list[Plain]) -> Grid:
    return Grid(
        headings=("", "CONTEXT", "CONTROLLERS", "USER", "NAMESPACE"),
        rows=tuple(
            (
                "*" if one["current"] else "",
                one["name"],
                ", ".join(one["controllers"]),
                one["user"] or ("(nobody asks)" if one["insecure"] else ""),
                one["namespace"],
            )
            for one in plain
        ),
    )
