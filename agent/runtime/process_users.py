"""Whom a node lets its process tasks run as: each its own user, or the one whom the operator's policy names.

Only an agent that runs as root has a choice; any other runs them as itself. A user of its own is a number without a
name, which nobody else on the machine has: one task neither reads what another has nor signals it. Tasks with named
volumes share one for each namespace, since what they wrote outlives them. Numbers follow from a secret of the node:
whoever chooses names and ids of tasks cannot aim at another's. Asks the system about users, nothing else.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from agent.runtime.process_files import User
from agent.runtime.process_request import resolve_user
from common.errors import Fault, Invalid
from common.model.job import Container, MountKind
from common.model.privileges import OWN_USER

FIRST, COUNT = 1_900_000_000, 200_000_000
"""Beyond what systemd-nspawn gives to containers (up to 1,879,048,191) and subuid files to people, below 2**31: some
programs count so far."""
FALLBACK = "nobody"
"""Where the machine, itself a container, has no such numbers."""


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """Names as in `user` of a job. Without a default tasks run as the agent itself, or as whoever they ask for."""

    default: str = ""
    others: tuple[str, ...] = ()
    secret: bytes = b""
    """Of the node, where the default is `OWN_USER`."""

    def of(self, container: Container, task_id: str, namespace: str) -> User | None:
        """Whom this task runs as, with the user that it asks for or with none; None: as the agent. Raises `Invalid`."""
        asked = container.user
        if os.geteuid() != 0 or not self.default:
            return resolve_user(asked)
        if not asked:
            return self._own(container, task_id, namespace) if self.default == OWN_USER else resolve_user(self.default)
        wanted = resolve_user(asked)
        if wanted not in self._allowed():
            named = ", ".join(self._named())
            allowed = f"{named} only" if named else "users of their own only"
            text = f"{asked} is asked for; this node's policy lets processes run as {allowed} (processes: users)"
            raise Invalid([Fault(path="user", text=text)])
        return wanted

    def _own(self, container: Container, task_id: str, namespace: str) -> User:
        kept = any(mount.kind is MountKind.VOLUME for mount in container.mounts)
        number = own_number(self.secret, f"namespace {namespace}" if kept else f"task {task_id}")
        return User(uid=number, gid=number, groups=(number,))

    def _named(self) -> tuple[str, ...]:
        return self.others if self.default == OWN_USER else (self.default, *self.others)

    def _allowed(self) -> Iterator[User | None]:
        for name in self._named():
            try:
                yield resolve_user(name)
            except Invalid:
                continue  # one that this machine does not know


def own_number(secret: bytes, whose: str) -> int:
    """Between two of a thousand there is one chance in four hundred that they are the same."""
    digest = hmac.digest(secret, whose.encode(), "sha256")
    return FIRST + int.from_bytes(digest[:8]) % COUNT


def has_own_numbers(read: Callable[[str], str] = lambda name: Path("/proc/self", name).read_text()) -> bool:
    """Whether this machine knows the numbers: one that is itself a container may have fewer."""
    return all(any(_covers(line) for line in read(name).splitlines()) for name in ("uid_map", "gid_map"))


def _covers(line: str) -> bool:
    """A line of such a map: the first number inside, the first one outside, and how many."""
    inside, _, count = map(int, line.split())
    return inside <= FIRST and inside + count >= FIRST + COUNT
