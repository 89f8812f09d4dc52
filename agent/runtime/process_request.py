"""What a request means for a plain process: its arguments, environment and user, or why it cannot run so.

Asks the system about users and folders, and nothing else; makes nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

from agent.runtime.interface import ContainerIdentity, ContainerRequest
from agent.runtime.process_files import User
from common.errors import Fault, Invalid
from common.model.job import Container

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MARK = "PODIUM_CONTAINER"
"""Variable by which a task's processes are found when their supervisor was killed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def container_key(identity: ContainerIdentity) -> str:
    """The name of a container's directory and control groups. Raises `Invalid` for a task id that is no plain word."""
    if not _NAME.fullmatch(identity.task_id):
        raise Invalid([Fault(path="identity.task_id", text=f"{identity.task_id!r} is not a task id")])
    return f"{identity.task_id}.{identity.attempt}"


def check(request: ContainerRequest, node_id: str) -> None:
    """Raise `Invalid` with all that keeps this request from ever running as a process of this node."""
    if faults := tuple(_faults(request, node_id)):
        raise Invalid(faults)


def _faults(request: ContainerRequest, node_id: str) -> Iterator[Fault]:
    container = request.container
    if request.identity.node_id != node_id:
        yield Fault(path="identity.node_id", text=f"{request.identity.node_id} is not this node, {node_id}")
    if container.image:
        yield Fault(path="image", text="the process runtime runs no images; leave it out or run it on a Docker node")
    if not arguments(container):
        yield Fault(path="command", text="is empty; without an image there is nothing else to run")
    if container.working_dir and not Path(container.working_dir).is_dir():
        yield Fault(path="working_dir", text=f"{container.working_dir} is not a directory of this node")
    if container.read_only or container.tmpfs:
        field = "read_only" if container.read_only else "tmpfs"
        yield Fault(path=field, text="needs an image: a plain process runs on the node's own file system")
    for binding in request.bindings:
        if not binding.host_port:
            yield Fault(path="bindings", text=f"port {binding.container_port}: a process must be told its port")


def arguments(container: Container) -> tuple[str, ...]:
    return (*container.entrypoint, *container.command)


def environment(container: Container, key: str, home: Path) -> dict[str, str]:
    """The task's own variables, over the few that programs count on."""
    base = {"PATH": os.environ.get("PATH", DEFAULT_PATH), "HOME": str(home)}
    return {**base, **container.environment, MARK: key}


def mark(key: str) -> str:
    return f"{MARK}={key}"


def resolve_user(text: str) -> User | None:
    """Who `NAME`, `UID`, `NAME:GROUP` or `UID:GID` is; None for whoever the agent runs as. Raises `Invalid`."""
    if not text:
        return None
    name, _, group = text.partition(":")
    found = _passwd(name)
    if found is None and not name.isdecimal():
        raise _wrong_user(f"user {name} does not exist on this node")
    uid = found.pw_uid if found else int(name)
    gid = _gid(group) if group else (found.pw_gid if found else 0)
    if os.geteuid() != 0:
        if (uid, gid) == (os.geteuid(), os.getegid()):
            return None
        raise _wrong_user(f"only an agent that runs as root can run a task as {text}")
    groups = tuple(os.getgrouplist(found.pw_name, gid)) if found and not group else (gid,)
    return User(uid=uid, gid=gid, groups=groups)


def _passwd(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except KeyError:
        return None


def _gid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise _wrong_user(f"group {name} does not exist on this node") from None


def _wrong_user(text: str) -> Invalid:
    return Invalid([Fault(path="user", text=text)])
