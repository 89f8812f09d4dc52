"""Why a task is not running, or why it is where it is: reasons with numbers, never bare booleans."""

from __future__ import annotations

import msgspec


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who has what is short on a node."""

    job: str
    tasks: int = 1
    amount: str = ""
    """In the unit of `need`; empty where it is one thing that somebody has or has not."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One ground, on one node or on several that share it."""

    reason: str
    """A stable word for scripts: `resource`, `constraint`, `status`, `availability`, `runtime`, `max-per-node`, ..."""
    node: str = ""
    """Name of the node; empty when the reason is shared by `nodes` nodes or concerns none."""
    nodes: int = 1
    """How many nodes share this reason."""
    resource: str = ""
    """`cpu_millis` or `memory_bytes` when `reason` is `resource`, the attribute when it is `constraint`."""
    need: str = ""
    have: str = ""
    short: str = ""
    text: str = ""
    """The whole sentence for people."""
    held_by: tuple[Holder, ...] = ()
    """The jobs that have most of it on this node, or on the one that comes closest."""


class Fix(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    command: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `podium why`."""

    subject: str
    verdict: str
    """One sentence."""
    reasons: tuple[Reason, ...] = ()
    fixes: tuple[Fix, ...] = ()
