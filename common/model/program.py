"""The engineer's call that runs a program inside a task: what begins it. Output comes as `ExecOutput`, its
`request_id` left empty: the call itself is the program's."""

from __future__ import annotations

import msgspec

from common.model.session import ExecInput, Program


class BeginExec(msgspec.Struct, frozen=True, kw_only=True):
    """First message of the engineer's call. `name` is a task, or a job that has one running task."""

    namespace: str
    name: str
    program: Program


class ExecRequest(msgspec.Struct, frozen=True, kw_only=True):
    body: BeginExec | ExecInput
