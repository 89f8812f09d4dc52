"""What nodes and tasks use, as rows of text: the busiest tasks first."""

from __future__ import annotations

from cli.render_table import Grid, short, size
from common.model.usage import NodeUse, TaskUse, UsageView

UNKNOWN = "-"
"""Not measured (yet): an agent of an older version, or one that has only just been asked."""


def grids(view: UsageView) -> tuple[Grid, Grid]:
    """Nodes, then tasks."""
    nodes = Grid(
        headings=("NODE", "STATUS", "CPU", "CPU%", "MEMORY", "MEMORY%", "TASKS"),
        rows=tuple(_node(node) for node in view.nodes),
    )
    busiest = sorted(
        view.tasks, key=lambda task: (-task.usage.cpu_millis, -task.usage.memory_bytes, task.job, task.slot)
    )
    tasks = Grid(
        headings=("TASK", "ID", "NODE", "CPU", "CPU%", "MEMORY", "MEMORY%", "PROCESSES"),
        rows=tuple(_task(task) for task in busiest),
    )
    return nodes, tasks


def _node(node: NodeUse) -> tuple[str, ...]:
    use, has = node.usage, node.capacity
    return (
        node.node,
        node.status.value,
        f"{_cores(use.cpu_millis)} / {_cores(has.cpu_millis)}",
        _share(use.cpu_millis, has.cpu_millis),
        f"{size(use.memory_bytes)} / {size(has.memory_bytes)}",
        _share(use.memory_bytes, has.memory_bytes),
        str(use.tasks) if node.measured else UNKNOWN,
    )


def _task(task: TaskUse) -> tuple[str, ...]:
    use, limits = task.usage, task.limits
    return (
        f"{task.job}.{task.slot}",
        short(use.task_id),
        task.node,
        _cores(use.cpu_millis) + (f" / {_cores(limits.cpu_millis)}" if limits.cpu_millis else ""),
        _share(use.cpu_millis, limits.cpu_millis),
        size(use.memory_bytes) + (f" / {size(limits.memory_bytes)}" if limits.memory_bytes else ""),
        _share(use.memory_bytes, limits.memory_bytes),
        str(use.processes),
    )


def _cores(cpu_millis: int) -> str:
    return f"{cpu_millis / 1000:.2f}"


def _share(used: int, whole: int) -> str:
    """Of what it has; nothing of what has no limit."""
    return f"{100 * used / whole:.0f}" if whole else UNKNOWN
