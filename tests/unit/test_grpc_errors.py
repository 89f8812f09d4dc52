"""Errors survive the way over gRPC: what a server raises is what its client raises."""

from __future__ import annotations

import grpc
import pytest

from common.errors import (
    Conflict,
    Fault,
    Fenced,
    Invalid,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    PodiumError,
    Unavailable,
)
from common.grpc_errors import FAULTS_LIMIT_BYTES, error_of, status_of


def over_the_wire(error: PodiumError) -> PodiumError:
    status = status_of(error)
    return error_of(
        grpc.aio.AioRpcError(
            status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*status.trailing), details=status.details
        )
    )


@pytest.mark.parametrize(
    "error",
    [
        Invalid([Fault(path="services.web.replicas", text="-1 is negative", file="compose.yaml", line=7)]),
        NotFound("no job 'x'"),
        Conflict("port 8080 is taken by shop/web"),
        Fenced("term 7 is over"),
        Unavailable("the store does not answer"),
        OutcomeUnknown("the answer was lost"),
    ],
)
def test_an_error_arrives_as_itself(error: PodiumError) -> None:
    arrived = over_the_wire(error)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


def test_not_leader_carries_the_leader() -> None:
    arrived = over_the_wire(NotLeader("10.0.0.1:7077"))
    assert isinstance(arrived, NotLeader)
    assert arrived.leader == "10.0.0.1:7077"


def test_faults_keep_their_places() -> None:
    faults = (Fault(path="a.b", text="wrong", file="f.yaml", line=3), Fault(path="", text="also wrong"))
    arrived = over_the_wire(Invalid(faults))
    assert isinstance(arrived, Invalid)
    assert arrived.faults == faults


def test_too_many_faults_are_counted_rather_than_break_the_answer() -> None:
    error = Invalid(Fault(path=f"specs[{place}].name", text="x" * 60) for place in range(1000))
    status = status_of(error)
    assert all(len(value) <= FAULTS_LIMIT_BYTES for _, value in status.trailing)
    arrived = over_the_wire(error)
    assert isinstance(arrived, Invalid)
    shown = len(arrived.faults) - 1
    assert shown > 10
    assert arrived.faults[-1].text == f"and {1000 - shown} more faults"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Invalid),
        (grpc.StatusCode.UNIMPLEMENTED, Invalid),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.UNKNOWN, OutcomeUnknown),
    ],
)
def test_statuses_of_grpc_itself_become_what_a_caller_can_do(code: grpc.StatusCode, kind: type[PodiumError]) -> None:
    arrived = error_of(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=""))
    assert type(arrived) is kind
    assert str(arrived)
