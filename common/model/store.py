"""Requests and answers about the state as a whole (service Store)."""

from __future__ import annotations

import msgspec

from common.model.node import Stray


class BackupRequest(msgspec.Struct, frozen=True, kw_only=True):
    pass


class BackupPiece(msgspec.Struct, frozen=True, kw_only=True):
    content: bytes


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a store, or will be."""

    error: bool
    """Whether it is wrong already; otherwise a warning."""
    subject: str
    """A record's key, a member of etcd, a file."""
    text: str
    why: str
    """Why it matters."""
    advice: str
    """What to do."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    store: str
    """Its kind."""
    facts: dict[str, str] = {}
    """What was read and measured, by name."""
    findings: tuple[Finding, ...] = ()


class StopStraysRequest(msgspec.Struct, frozen=True, kw_only=True):
    tasks: tuple[str, ...] = ()
    """Task ids (a unique prefix is enough)."""
    every: bool = False
    idempotency_key: str = ""


class StoppedStray(msgspec.Struct, frozen=True, kw_only=True):
    stray: Stray
    node: str
    """Name of its node."""


class StraysStopped(msgspec.Struct, frozen=True, kw_only=True):
    stopped: tuple[StoppedStray, ...] = ()
