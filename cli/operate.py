"""`cordon`, `uncordon`, `drain` and `brake release`: one write each, and for a drain the waiting until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cli import render_json, render_plan, render_table
from cli.draw import Drawing, drawing
from cli.errors import DONE, FAILED
from cli.messages import say
from cli.options import OutputFormat
from cli.output import lines, show
from cli.progress import Phase, Row
from client.client import Client
from common.errors import Unavailable
from common.model.api import DrainedNode, LeftTask, NodeChanges

LOOK_S = 0.5
"""Between two looks at what is left: each is one small request."""
STUCK_GRACE_S = 10.0
"""That all that is left has to be without a place before we stop waiting, as for a deployment: nodes may be joining."""
PLAN_NOTHING, PLAN_CHANGES = 0, 1


async def cordon(client: Client, nodes: Sequence[str], output: OutputFormat) -> int:
    return _show(await client.cordon(nodes), output)


async def uncordon(client: Client, nodes: Sequence[str], output: OutputFormat) -> int:
    return _show(await client.uncordon(nodes), output)


async def remove_nodes(client: Client, nodes: Sequence[str], output: OutputFormat, *, force: bool) -> int:
    return _show(await client.remove_nodes(nodes, force=force), output)


def _show(done: NodeChanges, output: OutputFormat) -> int:
    plain = render_json.node_changes(done)
    show(output, plain, name=lambda item: str(item["node"]), table=lambda: render_table.node_changes(plain))
    return DONE


# --- drain


async def plan_drain(client: Client, nodes: Sequence[str], output: OutputFormat) -> int:
    """Print what draining would do; 0 when that is nothing, 1 when it changes something."""
    planned = await client.plan_drain(nodes)
    plain = render_json.plan(planned)
    if output is OutputFormat.NAME:
        lines(dict.fromkeys(stop["job"] for stop in plain["stops"]))
    else:
        show(output, plain, name=str, table=lambda: render_plan.plan(plain))
    if planned.unplaced:
        say("warning: not all of it has a place elsewhere; what has none stays where it is, unless it is stopped first")
    changes = planned.steps or planned.placements or planned.stops or planned.unplaced
    return PLAN_CHANGES if changes else PLAN_NOTHING


async def drain(client: Client, nodes: Sequence[str], output: OutputFormat, *, detach: bool, timeout_s: float) -> int:
    """Order it, then show how far it is until the nodes are empty, nothing can move any more, or time is up."""
    done = await client.drain(nodes)
    _show(done, output)
    if detach:
        return DONE
    try:
        with drawing() as picture:
            left = await _watch(client, [change.node_id for change in done.changes], picture, timeout_s)
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped watching; the drain goes on: `podium nodes` shows it, `podium uncordon` ends it")
        raise
    return _conclude(left)


async def _watch(client: Client, node_ids: Sequence[str], picture: Drawing, timeout_s: float) -> list[DrainedNode]:
    """What is left at the end on each node that is not empty."""
    clock = asyncio.get_running_loop().time
    deadline_s = clock() + timeout_s
    stuck_since_s: float | None = None
    at_first: dict[str, int] = {}
    while True:
        try:
            seen = (await client.drain_status(node_ids)).nodes
        except Unavailable:
            if clock() >= deadline_s:
                raise
            continue  # the client waits by itself; a leader may be dying, the next one goes on with the drain
        for node in seen:
            at_first.setdefault(node.node_id, len(node.left))
        picture.update(tuple(_row(node, at_first[node.node_id]) for node in seen))
        left = [node for node in seen if node.left]
        if not left or any(node.availability.value != "draining" for node in left):
            return left
        stuck_since_s = (stuck_since_s or clock()) if all(task.stuck for node in left for task in node.left) else None
        now_s = clock()
        if now_s >= deadline_s or (stuck_since_s is not None and now_s - stuck_since_s >= STUCK_GRACE_S):
            return left
        await asyncio.sleep(min(LOOK_S, max(0.0, deadline_s - now_s)))


def _row(node: DrainedNode, at_first: int) -> Row:
    """Tasks that were there at first and those that left; more may be there for a moment while they change."""
    left = len(node.left)
    total = max(at_first, left)
    text = "empty" if not left else _first(node.left)
    return Row(job=node.node, phase=Phase.WORKING if left else Phase.DONE, done=total - left, desired=total, text=text)


def _first(left: Sequence[LeftTask]) -> str:
    """What one task waits for says enough while it goes on: first what is stuck."""
    task = max(left, key=lambda task: task.stuck)
    return f"{task.job}.{task.slot}: {task.text}"


def _conclude(left: Sequence[DrainedNode]) -> int:
    """Say what is left and why; the exit code."""
    for node in left:
        tasks = f"{len(node.left)} {'task' if len(node.left) == 1 else 'tasks'}"
        if node.availability.value != "draining":
            say(f"error: {node.node} is not being drained any more; {tasks} stay there")
            continue
        say(f"error: {node.node} is not empty, {tasks} left; the drain goes on, `podium uncordon {node.node}` ends it")
        for task in node.left:
            say(render_table.printable(f"  {task.job}.{task.slot}: {task.text}"))
    return FAILED if left else DONE


# --- the brake


async def release_brake(client: Client, output: OutputFormat) -> int:
    plain = render_json.brake_released(await client.release_brake())
    show(output, plain, name=lambda item: "\n".join(item["nodes"]), table=lambda: render_table.brake_released(plain))
    return DONE
