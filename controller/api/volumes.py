"""Which volumes nodes keep, who has them, and which one somebody means who wants it deleted."""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import Conflict, NotFound
from common.model.job import MountKind, TaskSpec
from common.model.node import Node
from common.model.volume import RemoveVolumeRequest, VolumeView
from common.mounts import volume_name
from controller.state import State, find_node


def volumes_kept(state: State, namespace: str = "") -> Iterator[VolumeView]:
    """By name, then node. Those of one namespace, or all."""
    wanted = _jobs_by_volume(state)
    kept = [(name, node) for node in state.nodes.values() for name in node.volumes]
    for name, node in sorted(kept, key=lambda pair: (pair[0], pair[1].name, pair[1].id)):
        if not namespace or name.startswith(volume_name(namespace, "")):
            yield VolumeView(
                name=name,
                node=node.name,
                node_id=node.id,
                jobs=tuple(sorted(wanted.get(name, ()))),
                tasks=tuple(sorted(_tasks(state, node, name))),
            )


def volume_to_remove(state: State, request: RemoveVolumeRequest) -> VolumeView:
    """Raises `NotFound`, or `Conflict` when it is on several nodes or a task has it."""
    node = find_node(state, request.node) if request.node else None
    own = volume_name(request.namespace, "")
    name = request.volume if request.volume.startswith(own) else own + request.volume
    found = [one for one in volumes_kept(state, request.namespace) if one.name == name]
    there = [one for one in found if node is None or one.node_id == node.id]
    if not there:
        where = f"node {node.name} keeps" if node is not None else "no node keeps"
        elsewhere = f"; it is on {', '.join(one.node for one in found)}" if found else ""
        no = "no volume" if node is not None else "a volume"
        raise NotFound(f"{where} {no} {name}{elsewhere}")
    if len(there) > 1:
        raise Conflict(f"volume {name} is on {', '.join(one.node for one in there)}: say on which one (--node)")
    if there[0].tasks:
        raise Conflict(f"volume {name} on {there[0].node}: {', '.join(there[0].tasks)} has it; stop that first")
    return there[0]


def _jobs_by_volume(state: State) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for job in state.jobs.values():
        version = state.versions_of(job.id).get(job.version)
        for name in _volumes(version.spec.task) if version is not None else ():
            found.setdefault(name, set()).add(job.full_name)
    return found


def _tasks(state: State, node: Node, name: str) -> Iterator[str]:
    for task in state.tasks_of_node(node.id).values():
        if not task.ended and name in _volumes(state.spec_of_task(task).task):
            yield f"{task.job_name}.{task.slot}"


def _volumes(task: TaskSpec) -> Iterator[str]:
    return (mount.source for mount in task.container.mounts if mount.kind is MountKind.VOLUME)
