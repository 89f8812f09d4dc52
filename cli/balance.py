"""`what-if`, `rebalance` and `move`: one question or one order each, and the answer in the form that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cli import render_json, render_plan, render_table
from cli.errors import DONE, FAILED
from cli.messages import say
from cli.options import OutputFormat
from cli.output import lines, show
from cli.parsing import cpu_millis, invalid, scale_targets, size_bytes
from client.client import Client
from common.model.api import AddedNodes, ApplyRequest, Moves, Plan, WhatIfRequest
from common.model.resources import Resources

if TYPE_CHECKING:
    from client.compose import Project

PLAN_NOTHING, PLAN_CHANGES = 0, 1


def question(
    namespace: str, kill: Sequence[str], add: Sequence[str], scale: Sequence[str], project: Project | None
) -> WhatIfRequest:
    """Raises `Invalid` for what cannot be supposed."""
    if not (kill or add or scale or project):
        raise invalid("", "nothing is supposed: give --kill NODE, --add CPUS,MEMORY, --scale JOB=N or -f FILE")
    applied = ApplyRequest(namespace=project.name, specs=tuple(project.specs)) if project else None
    return WhatIfRequest(
        kill=tuple(kill),
        add=tuple(map(_added, add)),
        scale=tuple(scale_targets(scale)),
        namespace=namespace,
        apply=applied,
    )


def _added(text: str) -> AddedNodes:
    """`4,8G` or `4,8G,2`."""
    cpus, _, rest = text.partition(",")
    memory, _, count = rest.partition(",")
    try:
        cores, number = float(cpus), int(count or 1)
    except ValueError:
        cores, number = 0.0, 0
    if not memory or cores <= 0 or number < 1:
        raise invalid("add", f"{text!r} is not CPUS,MEMORY[,COUNT]: give e.g. 4,8G or 4,8G,2")
    capacity = Resources(cpu_millis=cpu_millis("add", cores), memory_bytes=size_bytes("add", memory))
    return AddedNodes(count=number, capacity=capacity)


async def what_if(client: Client, request: WhatIfRequest, project: Project | None, output: OutputFormat) -> int:
    if request.apply is not None and project is not None:
        specs = await client.assets.handed_in(project.name, project.specs, project.assets, dry_run=True)
        request = msgspec.structs.replace(request, apply=msgspec.structs.replace(request.apply, specs=specs))
    return _show(await client.what_if(request), output, "it would make no difference")


async def plan_rebalance(client: Client, moves: int, output: OutputFormat) -> int:
    return _show(await client.plan_rebalance(moves), output, "nothing would make it more even")


def _show(planned: Plan, output: OutputFormat, nothing: str) -> int:
    plain = render_json.plan(planned)
    changes = bool(planned.steps or planned.placements or planned.stops or planned.unplaced)
    if output is OutputFormat.NAME:
        lines(dict.fromkeys(one["job"] for one in (*plain["placements"], *plain["unplaced"])))
    else:
        show(output, plain, name=str, table=lambda: render_plan.plan(plain))
    if not changes:
        say(nothing)
    return PLAN_CHANGES if changes else PLAN_NOTHING


async def rebalance(client: Client, moves: int, output: OutputFormat) -> int:
    """Order it; 1 when something speaks against it."""
    done = await client.rebalance(moves)
    _show_moves(done, output)
    if done.held:
        say(f"error: nothing is moved now: {done.held}; `podium rebalance --plan` says what would be")
        return FAILED
    _say_what_follows(done)
    return DONE


async def move(client: Client, namespace: str, tasks: Sequence[str], node: str, output: OutputFormat) -> None:
    done = await client.move(namespace, tasks, node)
    _show_moves(done, output)
    _say_what_follows(done, there=True)


def _show_moves(done: Moves, output: OutputFormat) -> None:
    plain = render_json.moves(done)
    show(output, plain, name=lambda item: f"{item['job']}.{item['slot']}", table=lambda: render_plan.moves(plain))
    for note in done.notes:
        say(render_table.printable(note))


def _say_what_follows(done: Moves, *, there: bool = False) -> None:
    if done.moves:
        count = len(done.moves)
        say(f"ordered: {count} {'task moves' if count == 1 else 'tasks move'}, a few at a time; `podium ps` shows them")
    else:
        say("nothing to do: they are there already" if there else "nothing to do: nothing would make it more even")
