"""Amounts of what a node has and a task needs."""

from __future__ import annotations

import msgspec


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """CPU in millicores (1000 is one core) and memory in bytes."""

    cpu_millis: int = 0
    memory_bytes: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis + other.cpu_millis, memory_bytes=self.memory_bytes + other.memory_bytes
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            cpu_millis=self.cpu_millis - other.cpu_millis, memory_bytes=self.memory_bytes - other.memory_bytes
        )

    def fits_in(self, free: Resources) -> bool:
        """Whether this amount can be taken from `free` in both dimensions."""
        return self.cpu_millis <= free.cpu_millis and self.memory_bytes <= free.memory_bytes


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a node really uses at the moment, as its agent measured it."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    tasks: int = 0
