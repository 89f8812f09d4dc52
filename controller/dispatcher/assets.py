"""Gives nodes what is in the configs and secrets of the tasks that are theirs and the certificates of the routes they
serve, and nothing else of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from common.errors import Invalid
from common.model.asset import Asset, AssetKind, AssetVersion, asset_key
from common.model.endpoint import Service
from common.model.session import AssetContent, AssetRequest
from controller.core.audience import shows
from controller.core.certificates import Opener
from controller.state import State

logger = logging.getLogger(__name__)


WAITING_LIMIT = 32
"""A node that asks and does not read must not fill the leader's memory, a megabyte at a time."""


class AssetGiver:
    """Without `opener` this controller has no cluster key. `published` is what nodes are told of by its key."""

    def __init__(self, state: State, opener: Opener | None, published: Callable[[str], Service | None]) -> None:
        self._state = state
        self._opener = opener
        self._published = published

    def answer(self, node_id: str, request: AssetRequest, waiting: int = 0) -> AssetContent:
        """What a node is told that asks, and has not taken `waiting` messages yet."""
        answer = AssetContent(
            task_id=request.task_id,
            kind=request.kind,
            name=request.name,
            digest=request.digest,
            route=request.route,
        )
        if waiting > WAITING_LIMIT:
            return msgspec.structs.replace(answer, refusal="the node takes nothing that it is sent", later=True)
        namespace = self._shown_in(node_id, request) if request.route else self._used_in(node_id, request)
        if not namespace:
            user = "route that it serves" if request.route else "task of its"
            logger.warning("node %s asked for a %s that no %s uses", node_id, request.kind.value, user)
            user = "route that this node serves shows" if request.route else "task of this node uses"
            return msgspec.structs.replace(answer, refusal=f"no {user} it")
        key = asset_key(request.kind, namespace, request.name)
        version = self._state.assets.version(key, request.digest)
        if version is None:
            return msgspec.structs.replace(answer, refusal="this version of it is not there any more")
        try:
            return msgspec.structs.replace(answer, content=self._content(self._state.assets.named[key], version))
        except Invalid as error:
            logger.error("%s cannot be read: %s", key, error)
            return msgspec.structs.replace(answer, refusal="the controller cannot read it: see its log", later=True)

    def _used_in(self, node_id: str, request: AssetRequest) -> str:
        """The namespace of the node's task that uses it; empty: there is no such task."""
        task = self._state.tasks.get(request.task_id)
        if task is None or task.node_id != node_id or task.ended:
            return ""
        wanted = (request.kind, request.name, request.digest)
        mounts = self._state.spec_of_task(task).task.container.assets
        return task.namespace if any((one.kind, one.name, one.digest) == wanted for one in mounts) else ""

    def _shown_in(self, node_id: str, request: AssetRequest) -> str:
        """The namespace of the route that shows it, if the node serves that; else empty."""
        node, service = self._state.nodes.get(node_id), self._published(request.route)
        return service.namespace if service and node and shows(node, service, request) else ""

    def _content(self, asset: Asset, version: AssetVersion) -> bytes:
        if asset.kind is AssetKind.CONFIG:
            return version.content
        if self._opener is None:
            raise Invalid("this controller was given no cluster key")
        return self._opener.content(asset, version)
