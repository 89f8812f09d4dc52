"""What nodes say of the volumes they keep goes into their records; what is to be deleted goes to them.

A record is written only when a list changed. Nothing is deleted but what somebody asked for by name.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec

from common.errors import Conflict, Unavailable
from common.model.ids import Rng, new_id
from common.model.session import RemoveVolume, VolumeRemoved, VolumeReport
from common.settings import LIMITS
from controller.dispatcher.logs import Post
from controller.ledger import Ledger
from controller.state import Group, State, Write

REMOVE_TIMEOUT_S = 60.0
"""Deleting takes as long as there is to delete."""


class VolumeRouter:
    """See the module."""

    def __init__(self, ledger: Ledger, post: Post, rng: Rng) -> None:
        self._ledger = ledger
        self._post = post
        self._rng = rng
        self._reported: dict[str, tuple[str, ...]] = {}
        self._arrived = asyncio.Event()
        self._asked: dict[str, tuple[str, asyncio.Future[str]]] = {}
        """By request: whose node, and what it says: why not, or nothing."""

    async def run(self) -> None:
        """Until cancelled; part of the term's work."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            reported, self._reported = self._reported, {}
            await self._ledger.submit(partial(_changes, reported))

    def report(self, node_id: str, report: VolumeReport) -> None:
        self._reported[node_id] = report.volumes[: LIMITS.volumes_per_node]
        self._arrived.set()

    async def remove(self, node_id: str, name: str) -> None:
        """Have a node delete a volume. Raises `Unavailable` when it does not answer, `Conflict` when it refuses."""
        request_id, answer = new_id(self._rng), asyncio.get_running_loop().create_future()
        if not self._post(node_id, RemoveVolume(request_id=request_id, name=name)):
            raise Unavailable("its node is not connected: nothing can be deleted there")
        self._asked[request_id] = node_id, answer
        try:
            async with asyncio.timeout(REMOVE_TIMEOUT_S):
                error = await answer
        except TimeoutError:
            raise Unavailable(f"its node did not say within {REMOVE_TIMEOUT_S:g} s that it is deleted") from None
        finally:
            del self._asked[request_id]
        if error:
            raise Conflict(error)

    def removed(self, node_id: str, answer: VolumeRemoved) -> None:
        whose, future = self._asked.get(answer.request_id, ("", None))
        if whose == node_id and future is not None and not future.done():
            future.set_result(answer.error)

    def node_left(self, node_id: str) -> None:
        for whose, future in self._asked.values():
            if whose == node_id and not future.done():
                future.set_result("the node's connection broke: ask again what it keeps")


def _changes(reported: dict[str, tuple[str, ...]], state: State) -> tuple[Group, ...]:
    known = [(state.nodes.get(node_id), volumes) for node_id, volumes in reported.items()]
    return tuple(
        (Write(msgspec.structs.replace(node, volumes=volumes)),)
        for node, volumes in known
        if node is not None and node.volumes != volumes
    )
