"""What a request is about: the namespaces it names, and those of every job or task it means by name or by id.

A name can carry a namespace (`shop/web`), and an id has one: both count, so that nobody reaches out of a namespace by
another way of naming things.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from common.errors import Conflict, NotFound
from common.model.api import ApplyRequest, RollbackRequest, ScaleRequest
from common.model.job import DesiredState, JobSpec
from common.model.program import BeginExec
from common.model.task import Task
from common.policy import needs_a_right
from controller.api.names import find_job_or_task
from controller.core.apply import existing, same_containers
from controller.core.steer import last_good
from controller.state import State

_NAMING = ("name", "job", "jobs", "tasks")
"""Fields of requests that name jobs or tasks."""
_OTHERS = ("nodes", "node", "kill", "id", "token_id", "asset")
"""Fields that name other things. Secrets are in none of these."""
_NAMES, _NAME_CHARACTERS = 20, 128


def namespaces_of(state: State, request: msgspec.Struct) -> frozenset[str] | None:
    """None when it is about all of them: it names none."""
    named = getattr(request, "namespace", "")
    found = {named, *_meant(state, named, request)} - {""}
    if isinstance(request, ApplyRequest):
        found |= {spec.namespace for spec in request.specs}
    return frozenset(found) or None


def asks_for_privileges(state: State, request: msgspec.Struct) -> bool:
    """Whether it is about tasks that are let out of their container: to deploy them, to go back to them, or to get into
    one.

    A service that runs already as its file says was granted to whoever deployed it: `up` of the whole file asks for
    nothing by it.
    """
    if isinstance(request, ApplyRequest):
        return any(needs_a_right(spec.task.container) and not _runs(state, spec) for spec in request.specs)
    if isinstance(request, RollbackRequest):
        return any(needs_a_right(spec.task.container) for spec in _gone_back_to(state, request))
    if isinstance(request, BeginExec):
        return any(needs_a_right(spec.task.container) for spec in _entered(state, request))
    return False


def _runs(state: State, spec: JobSpec) -> bool:
    job = state.job_named(spec.namespace, spec.name)
    if job is None or job.removed or job.desired is DesiredState.STOP:
        return False
    return same_containers(spec, state.spec_of(job))


def _gone_back_to(state: State, request: RollbackRequest) -> Iterator[JobSpec]:
    try:
        job = existing(state, request.namespace, request.job)
        version = request.version or last_good(state, job, state.spec_of(job))
    except (NotFound, Conflict):
        return  # there is nothing to go back to
    if version in state.versions_of(job.id):
        yield state.versions_of(job.id)[version].spec


def _entered(state: State, request: BeginExec) -> Iterator[JobSpec]:
    try:
        found = find_job_or_task(state, request.namespace, request.name)
    except (NotFound, Conflict):
        return  # nothing can be entered there
    tasks = (found,) if isinstance(found, Task) else state.tasks_of_job(found.id).values()
    yield from (state.spec_of_task(task) for task in tasks)


def names_of(request: msgspec.Struct) -> tuple[str, ...]:
    """What it names, for people; the first ones, and never more than a name."""
    given = [*_names(request), *(text for field in _OTHERS for text in _texts(getattr(request, field, ())))]
    if isinstance(request, ApplyRequest):
        given += [spec.name for spec in request.specs]
    return tuple(name[:_NAME_CHARACTERS] for name in given if name)[:_NAMES]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (item for item in value if isinstance(item, str))


def _meant(state: State, namespace: str, request: msgspec.Struct) -> Iterator[str]:
    for name in _names(request):
        yield name.rpartition("/")[0]
        with suppress(NotFound, Conflict):  # whoever asks is told so where it is looked up
            yield find_job_or_task(state, namespace, name).namespace


def _names(request: msgspec.Struct) -> Iterator[str]:
    if isinstance(request, ScaleRequest):
        yield from (target.job for target in request.targets)
    for field in _NAMING:
        yield from _texts(getattr(request, field, ()))
