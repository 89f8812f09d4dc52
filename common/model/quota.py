"""Limits of a namespace: how much its jobs may ask for in all. The operator writes them, through the API."""

from __future__ import annotations

import msgspec

TASKS, CPU, MEMORY = "tasks", "cpu_millis", "memory_bytes"
DEVICES = "devices."
"""Before the kind: of devices thousandths are counted."""


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """One namespace's. What is not limited is not in it."""

    namespace: str
    limits: dict[str, int]
    """By resource: `tasks`, `cpu_millis`, `memory_bytes`, `devices.gpu` (in thousandths of a unit)."""
