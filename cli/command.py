"""How every command is declared and run: its examples, its settings and client, and how its errors end it.

A command's function only reads its options and names what to do; this module decides nothing about jobs.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import typer

from cli.messages import ending

if TYPE_CHECKING:
    from client.client import Client
    from client.settings import ClientSettings
    from client.transport import Transport

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(kw_only=True)
class Surroundings:
    """What a command takes from outside; tests put their own here (typer's `obj`)."""

    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    transport: Transport | None = None
    """None: gRPC."""
    clock: Callable[[], float] = time.time
    own_process: bool = False
    """This process exists for the one command that it was started with, and may become something else for it."""
    controller: str | None = None
    """Options given before the command; those after it win."""
    insecure: bool | None = None
    namespace: str | None = None
    context: str | None = None

    def settings(self, controller: str | None, insecure: bool | None, namespace: str | None) -> ClientSettings:
        from client.settings import load

        return load(
            self.environ,
            controller=controller or self.controller,
            insecure=self.insecure if insecure is None else insecure,
            namespace=namespace or self.namespace,
            context=self.context,
        )

    def chosen_namespace(self, namespace: str | None) -> str:
        """The namespace somebody chose by option or environment; empty when nobody did: then lists show all."""
        return namespace or self.namespace or self.environ.get("PODIUM_NAMESPACE", "")


def surroundings(ctx: typer.Context) -> Surroundings:
    found = ctx.find_root().obj
    assert isinstance(found, Surroundings)
    return found


def command(app: typer.Typer, *examples: str, name: str | None = None) -> Callable[[Callable[P, None]], None]:
    """Register a function as a command whose help ends with `examples`, and whose errors become exit codes."""

    def register(function: Callable[P, None]) -> None:
        shown = "\n".join(f"  {example}" for example in examples)
        # \b keeps the lines as they are.
        app.command(name, epilog=f"\b\nExamples:\n{shown}")(guarded(function))

    return register


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, ending the process by the one table of errors."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ending(typer.Exit):
            return function(*args, **kwargs)

    return run


def with_client(ctx: typer.Context, settings: ClientSettings, work: Callable[[Client], Coroutine[None, None, R]]) -> R:
    """Run `work` with a connected client in an event loop of its own."""
    import asyncio

    from client.client import Client

    async def run() -> R:
        async with Client(settings, transport=surroundings(ctx).transport) as client:
            return await work(client)

    return asyncio.run(run())
