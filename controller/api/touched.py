"""Which namespaces a request is about: the one it names, and those of every job or task it means by name or by id.

A name can carry a namespace (`shop/web`), and an id has one: both count, so that nobody reaches out of a namespace by
another way of naming things.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from common.errors import Conflict, NotFound
from common.model.api import ApplyRequest, ScaleRequest
from controller.api.names import find_job_or_task
from controller.state import State

_NAMING = ("name", "job", "jobs", "tasks")
"""Fields of requests that name jobs or tasks."""


def namespaces_of(state: State, request: msgspec.Struct) -> frozenset[str] | None:
    """None when it is about all of them: it names none."""
    named = getattr(request, "namespace", "")
    found = {named, *_meant(state, named, request)} - {""}
    if isinstance(request, ApplyRequest):
        found |= {spec.namespace for spec in request.specs}
    return frozenset(found) or None


def _meant(state: State, namespace: str, request: msgspec.Struct) -> Iterator[str]:
    for name in _names(request):
        yield name.rpartition("/")[0]
        with suppress(NotFound, Conflict):  # whoever asks is told so where it is looked up
            yield find_job_or_task(state, namespace, name).namespace


def _names(request: msgspec.Struct) -> Iterator[str]:
    if isinstance(request, ScaleRequest):
        yield from (target.job for target in request.targets)
    for field in _NAMING:
        value = getattr(request, field, ())
        yield from (value,) if isinstance(value, str) else value
