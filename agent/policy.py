"""The node's own last word before anything is started: whether its policy allows what a task asks for.

The controller has placed by the same policy. It is asked again here, with links followed where they lead, so that not
even a controller that was taken over gets more of a node than its operator gave away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from common.errors import Fault, Invalid
from common.model.job import Container, MountKind
from common.model.privileges import NodePolicy, Privileges
from common.policy import BIND, ENGINE_SOCKETS, Ask, allows, exposes, refused

_NOTHING = Privileges()


class Guarded(msgspec.Struct, frozen=True, kw_only=True):
    """What of the machine is at stake besides what the policy names."""

    directories: tuple[str, ...]
    """The agent's own: whoever has its data is this node, and in memory it keeps the secrets of all its tasks."""
    sockets: tuple[str, ...] = ENGINE_SOCKETS
    """Where the node's engines listen."""


def check_policy(container: Container, policy: NodePolicy, guarded: Guarded) -> None:
    """Raises `Invalid` with everything that the policy does not allow, wherever its links lead."""
    if not container.mounts and container.privileges == _NOTHING:
        return
    plain = [(ask, ask.value) for ask in refused(policy, container)]
    known = {ask for ask, _ in plain}
    led = [(ask, where) for ask, where in _where_links_lead(container, policy, guarded) if ask not in known]
    if found := [Fault(path=ask.key, text=_refusal(ask, where)) for ask, where in (*plain, *led)]:
        raise Invalid(found)


def sockets_of(docker_host: str) -> tuple[str, ...]:
    """Where engines listen on a machine whose agent uses this one."""
    own = (docker_host.removeprefix("unix://"),) if docker_host.startswith("unix://") else ()
    return (*own, *ENGINE_SOCKETS)


def _where_links_lead(container: Container, policy: NodePolicy, guarded: Guarded) -> Iterator[tuple[Ask, str]]:
    """What the paths of a task really are, where that is not allowed."""
    real = _real(policy)
    for mount in container.mounts:
        if mount.kind is not MountKind.BIND:
            continue
        where = os.path.realpath(mount.source)
        ask = Ask(key=BIND, value=mount.source, read_only=mount.read_only)
        if not allows(real, msgspec.structs.replace(ask, value=where)):
            yield ask, where
        elif any(_meet(where, os.path.realpath(own)) for own in guarded.directories):
            yield ask, f"{where}, where the agent keeps its own"
        elif not policy.engine_socket and (socket := exposes(where, map(os.path.realpath, guarded.sockets))):
            yield Ask(key="engine_socket", value=socket), where
    for device in container.privileges.devices:
        where = os.path.realpath(device.source)
        ask = Ask(key="devices", value=device.source)
        if not allows(real, msgspec.structs.replace(ask, value=where)):
            yield ask, where


def _real(policy: NodePolicy) -> NodePolicy:
    """The policy with its own links followed."""
    return msgspec.structs.replace(
        policy,
        bind=tuple(msgspec.structs.replace(rule, path=os.path.realpath(rule.path)) for rule in policy.bind),
        devices=tuple(map(os.path.realpath, policy.devices)),
    )


def _meet(one: str, other: str) -> bool:
    """Whether one of two directories is in the other."""
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _refusal(ask: Ask, where: str) -> str:
    leads = f" (which leads to {where})" if where not in ("", ask.value) else ""
    return f"this node's policy does not allow {ask.words}{leads}; the operator may (podium agent --policy: {ask.line})"
