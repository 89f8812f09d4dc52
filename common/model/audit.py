"""What the audit log tells: every write and every exec, and everything that was refused. Never a value of a secret."""

from __future__ import annotations

import msgspec


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    time_s: float
    caller: str
    """`user ann`, `agent ID`, `anybody` (no access control) or `nobody` (who showed nothing that counts)."""
    address: str
    """Where the call came from, as the network says."""
    verb: str
    kind: str
    """The right that was asked for: `apply` `job`."""
    namespaces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Of jobs, tasks, nodes, users or tokens, as they were given; the first ones."""
    refusal: str = ""
    """Why it was refused; empty: it was let in."""


class AuditRequest(msgspec.Struct, frozen=True, kw_only=True):
    since_s: float = 0.0
    limit: int = 100
    """The latest ones."""


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    records: tuple[AuditRecord, ...] = ()
    """Oldest first."""
