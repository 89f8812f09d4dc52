"""Gives nodes what is in the configs and secrets of the tasks that are theirs, and nothing else of it."""

from __future__ import annotations

import logging
from typing import Protocol

import msgspec

from common.errors import Invalid
from common.model.asset import Asset, AssetKind, AssetMount, AssetVersion, asset_key
from common.model.session import AssetContent, AssetRequest
from controller.state import State

logger = logging.getLogger(__name__)


WAITING_LIMIT = 32
"""A node that asks and does not read must not fill the leader's memory, a megabyte at a time."""


class Opener(Protocol):
    """Whoever can read what is in a secret (`controller.security.vault`)."""

    def content(self, asset: Asset, version: AssetVersion) -> bytes:
        """Raises `Invalid`."""


class AssetGiver:
    """Without `opener` this controller has no cluster key."""

    def __init__(self, state: State, opener: Opener | None) -> None:
        self._state = state
        self._opener = opener

    def answer(self, node_id: str, request: AssetRequest, waiting: int = 0) -> AssetContent:
        """What a node is told that asks, and has not taken `waiting` messages yet."""
        answer = AssetContent(task_id=request.task_id, kind=request.kind, name=request.name, digest=request.digest)
        if waiting > WAITING_LIMIT:
            return msgspec.structs.replace(answer, refusal="the node takes nothing that it is sent", later=True)
        mount, namespace = self._mount(node_id, request)
        if mount is None:
            logger.warning("node %s asked for a %s that no task of its uses", node_id, request.kind.value)
            return msgspec.structs.replace(answer, refusal="no task of this node uses it")
        key = asset_key(request.kind, namespace, request.name)
        version = self._state.assets.version(key, request.digest)
        if version is None:
            return msgspec.structs.replace(answer, refusal="this version of it is not there any more")
        try:
            return msgspec.structs.replace(answer, content=self._content(self._state.assets.named[key], version))
        except Invalid as error:
            logger.error("%s cannot be read: %s", key, error)
            return msgspec.structs.replace(answer, refusal="the controller cannot read it: see its log", later=True)

    def _mount(self, node_id: str, request: AssetRequest) -> tuple[AssetMount | None, str]:
        task = self._state.tasks.get(request.task_id)
        if task is None or task.node_id != node_id or task.ended:
            return None, ""
        wanted = (request.kind, request.name, request.digest)
        mounts = self._state.spec_of_task(task).task.container.assets
        named = (mount for mount in mounts if (mount.kind, mount.name, mount.digest) == wanted)
        return next(named, None), task.namespace

    def _content(self, asset: Asset, version: AssetVersion) -> bytes:
        if asset.kind is AssetKind.CONFIG:
            return version.content
        if self._opener is None:
            raise Invalid("this controller was given no cluster key")
        return self._opener.content(asset, version)
