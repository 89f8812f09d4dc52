"""Reads `post_start` and `pre_stop`: programs to be run inside a service's containers at moments of their life."""

from __future__ import annotations

from client.compose import keys, optional
from client.compose.environment import EnvironmentReader
from client.compose.field import Field
from common.model.job import Hook


def read_hooks(field: Field | None, environments: EnvironmentReader, *, active: bool) -> tuple[Hook, ...]:
    """In the order of the file."""
    return tuple(_hook(item, environments, active) for item in (field.items() if field is not None else ()))


def _hook(item: Field, environments: EnvironmentReader, active: bool) -> Hook:
    given = keys.honoured(item, keys.HOOK, active=active)
    return Hook(
        command=given["command"].arguments() if "command" in given else (),
        user=optional.text(given.get("user")),
        working_dir=optional.text(given.get("working_dir")),
        environment=environments.read(given.get("environment"), None),
    )
