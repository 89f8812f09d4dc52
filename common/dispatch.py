"""The seam between agent and controller, above gRPC: two ends of one link, and the two things one does with them.

Everything here is values. The gRPC adapters of both sides and the simulator's network implement these protocols;
sessions are written against them and cannot tell which one they run on.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

from common.model.session import AgentMessage, ControllerMessage

Sent = TypeVar("Sent", contravariant=True)
Received = TypeVar("Received", covariant=True)


class Link(Protocol[Sent, Received]):
    """One end of a duplex, ordered, unreliable stream of values."""

    async def send(self, message: Sent) -> None:
        """Hand one message to the transport, waiting while it is full.

        Raises `Unavailable` when the link is gone. That it returned does not mean the message arrived.
        """

    async def receive(self) -> Received:
        """The next message. Raises `Unavailable` when the link ended, for whatever reason."""


AgentLink: TypeAlias = Link[AgentMessage, ControllerMessage]
ControllerLink: TypeAlias = Link[ControllerMessage, AgentMessage]


class Dispatcher(Protocol):
    """The controller's side: serves one agent for as long as the session lasts."""

    async def serve(self, link: ControllerLink, peer: str) -> None:
        """Run one session over `link` until it ends. `peer` names the other end, for logs."""


class Dialer(Protocol):
    """The agent's side: opens a session's link to one controller address."""

    def dial(self, address: str) -> AbstractAsyncContextManager[AgentLink]:
        """Connect to `address` (`host:port`). Entering raises `Unavailable` when nobody answers in time."""
