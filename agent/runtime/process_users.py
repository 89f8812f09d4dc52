"""Whom a node lets its process tasks run as: one user, whom the operator's policy names, and perhaps a few others.

Only an agent that runs as root has a choice; any other runs them as itself. Asks the system about users, nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from agent.runtime.process_files import User
from agent.runtime.process_request import resolve_user
from common.errors import Fault, Invalid


class Users(msgspec.Struct, frozen=True, kw_only=True):
    """Names as in `user` of a job. Without a default tasks run as the agent itself, or as whoever they ask for."""

    default: str = ""
    others: tuple[str, ...] = ()

    def of(self, asked: str) -> User | None:
        """Whom a task runs as that asks for this user, or for none; None: as the agent. Raises `Invalid`."""
        if os.geteuid() != 0 or not self.default:
            return resolve_user(asked)
        if not asked:
            return resolve_user(self.default)
        wanted = resolve_user(asked)
        if wanted not in self._allowed():
            allowed = ", ".join((self.default, *self.others))
            text = f"{asked} is asked for; this node's policy lets processes run as {allowed} only (processes: users)"
            raise Invalid([Fault(path="user", text=text)])
        return wanted

    def _allowed(self) -> Iterator[User | None]:
        for name in (self.default, *self.others):
            try:
                yield resolve_user(name)
            except Invalid:
                continue  # one that this machine does not know
