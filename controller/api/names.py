"""What a name in a request means: a job or a task, or nodes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from common.errors import Conflict, NotFound
from common.model.job import Job
from common.model.node import Node
from common.model.task import Task
from controller.state import State, find_job, find_node, find_task


def find_job_or_task(state: State, namespace: str, name: str) -> Job | Task:
    """A job by its name, else a task by `job.slot`, id or prefix, else a job by id or prefix; `ns/name` works too.

    Raises `NotFound` when it is neither, `Conflict` when a prefix fits several.
    """
    within, _, last = name.rpartition("/")
    namespace = within or namespace
    job = state.job_named(namespace, last)
    if job is not None:
        return job
    try:
        return find_task(state, namespace, last)
    except NotFound:
        pass
    try:
        return find_job(state, namespace, last)
    except NotFound:
        known = sorted(job.name for job in state.jobs.values() if job.namespace == namespace)
        has = f"; the namespace has {', '.join(known[:10])}" if known else "; the namespace has no jobs"
        raise NotFound(f"no job or task {last!r} in namespace {namespace!r}{has}") from None


def find_nodes(state: State, names: Iterable[str]) -> tuple[Node, ...]:
    """The nodes of these names, ids or unique prefixes of ids; one that is named twice comes once.

    Raises `NotFound` naming everything that is no node, with what it may have been meant for, and `Conflict` where
    several nodes have the name: an operator's move must hit the machine that was meant.
    """
    found: dict[str, Node] = {}
    missing: list[str] = []
    for name in names:
        try:
            node = _one_node(state, name)
        except NotFound:
            missing.append(f"no node {name!r}{_nearest(state, name)}")
        else:
            found[node.id] = node
    if missing:
        raise NotFound("; ".join(missing))
    return tuple(found.values())


def _one_node(state: State, name: str) -> Node:
    namesakes = [node for node in state.nodes.values() if node.name == name]
    if len(namesakes) > 1 and name not in state.nodes:
        ids = ", ".join(sorted(node.id for node in namesakes))
        raise Conflict(f"{len(namesakes)} nodes are named {name}: give the id of the one you mean ({ids})")
    return find_node(state, name)


def _nearest(state: State, name: str) -> str:
    names = sorted({node.name for node in state.nodes.values()})
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f" (did you mean {near[0]!r}?)"
    return f" (there are {', '.join(names[:10])})" if names else " (the cluster has no nodes)"
