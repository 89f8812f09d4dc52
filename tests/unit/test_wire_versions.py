"""Agents and controllers of different versions: what one side has no word for is left out, and the session goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypeVar

import pytest
from google.protobuf.message import Message

from agent.session_grpc import _GrpcLink
from common import wire
from common.errors import Invalid
from common.model.epoch import Epoch
from common.model.node import NodeDescription
from common.model.session import AgentMessage, ControllerMessage, Heartbeat, HeartbeatAck, Register
from controller.dispatcher.grpc_adapter import GrpcLink
from protos.v1 import dispatcher_pb2

MessageT = TypeVar("MessageT", bound=Message)

UNKNOWN_FIELD = b"\xfa\x7f\x03new"
"""Number 2047, three bytes: of a version that is not written yet."""


class Stream:
    """One end of a gRPC stream: hands out these messages, in order."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._messages = list(messages)

    async def read(self) -> Message:
        return self._messages.pop(0)

    def peer(self) -> str:
        return "ipv4:10.0.0.1:5"


def of_a_newer_version(kind: type[MessageT], *known: bytes) -> list[MessageT]:
    """A body nobody knows, then the known ones, each with a field more."""
    return [kind.FromString(one + UNKNOWN_FIELD) for one in (b"", *known)]


async def test_a_controller_goes_on_with_an_agent_that_says_more(caplog: pytest.LogCaptureFixture) -> None:
    register = AgentMessage(body=Register(node=NodeDescription(id="n1", name="n1", address="10.0.0.1")))
    beat = AgentMessage(body=Heartbeat(sequence=3))
    known = [wire.encode(one).SerializeToString() for one in (register, beat)]
    link = GrpcLink(Stream(of_a_newer_version(dispatcher_pb2.AgentMessage, *known)), lambda _call: None)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert await link.receive() == register
        assert await link.receive() == beat
    assert "is not understood and left out" in caplog.text


async def test_an_agent_goes_on_with_a_controller_that_orders_more(caplog: pytest.LogCaptureFixture) -> None:
    epoch = wire.encode(ControllerMessage(epoch=Epoch(term=1), body=HeartbeatAck(sequence=3, next_period_s=1.0)))
    messages = of_a_newer_version(dispatcher_pb2.ControllerMessage, epoch.SerializeToString())
    link = _GrpcLink(Stream(messages))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert (await link.receive()).body == HeartbeatAck(sequence=3, next_period_s=1.0)
    assert "is not understood and left out" in caplog.text


async def test_an_empty_message_is_of_no_version() -> None:
    with pytest.raises(Invalid):
        await GrpcLink(Stream([dispatcher_pb2.AgentMessage()]), lambda _call: None).receive()  # type: ignore[arg-type]
