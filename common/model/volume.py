"""What engineers ask about volumes and are answered: which there are, who has them, and taking one away."""

from __future__ import annotations

import msgspec


class ListVolumes(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str = ""
    """Empty: of all namespaces."""


class VolumeView(msgspec.Struct, frozen=True, kw_only=True):
    """One volume on one node. Without jobs it is an orphan: nothing needs it, and only people delete it."""

    name: str
    """As its node calls it: `namespace_name`."""
    node: str
    node_id: str
    jobs: tuple[str, ...] = ()
    """namespace/name of jobs whose spec has it."""
    tasks: tuple[str, ...] = ()
    """namespace/name.slot of tasks there that have it now."""


class VolumeList(msgspec.Struct, frozen=True, kw_only=True):
    volumes: tuple[VolumeView, ...] = ()


class RemoveVolumeRequest(msgspec.Struct, frozen=True, kw_only=True):
    namespace: str
    volume: str
    """As its node calls it, or without the namespace and its underscore."""
    node: str = ""
    """By name or id; empty: the one node that keeps it."""
